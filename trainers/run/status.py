"""What status.json says of a run while it is trained, for whoever follows it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...files import write_whole
from ...hardware.memory import peak_device_memory, peak_host_memory
from . import failure
from .lock import is_first_process

if TYPE_CHECKING:
    from .folder import Job, Run


@dataclass
class Status:
    """The state of a run in its trainer's process.

    Attributes:
        run: whose status it is.
        job: what it is asked to do.
        plan: what the run needs of the memory.
        doing: what is done before the first step.
        warning: what went wrong beside the training.
        finished_early: whether a person had it finish before its last step.
    """

    run: Run
    job: Job
    plan: str = ""
    doing: str = ""
    warning: str = ""
    finished_early: bool = False
    reported: float = field(default=0.0, init=False)  # when loading was last reported, in seconds of a clock

    def report(self, state: str, step: int = 0, error: str | None = None) -> None:
        """Write status.json; of several processes the first does, and the others print what went wrong in them.

        Args:
            state: "starting", "training", "finished", "stopped" or "failed".
            step: the last that was trained.
            error: what to tell the person.
        """
        settings = self.job.settings
        status = {
            "state": state,
            "name": self.job.name,
            "step": step,
            "total": settings.steps,
            "patience": settings.early_stop_patience,
            "best_step": self.run.best_step(),
            "plan": self.plan,
            "doing": self.doing,
            "warning": self.warning,
            "peak_memory": peak_host_memory(),
            "peak_device_memory": peak_device_memory(),
        }
        if self.finished_early:
            status["finished_early"] = True
        if error:
            status["error"] = error
        if is_first_process():
            write_whole(self.run.path / "status.json", json.dumps(status, indent=1))
        elif error:
            failure.say(error)

    def loading(self, done: int, total: int, text: str) -> None:
        """Say how far loading is, once a second."""
        if time.monotonic() - self.reported > 1:
            self.reported = time.monotonic()
            self.doing = f"{text}: {100 * done // total} %"
            self.report("starting")
