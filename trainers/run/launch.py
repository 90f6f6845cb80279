"""Starts the trainer's process, follows it, and turns Cancel into: finish this step, save, stop."""

from __future__ import annotations

import contextlib
import logging
import math
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import variance
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ... import worker
from ...errors import TrainingError
from ...files import appearing, parsed_json, writing
from ...progress import duration
from . import requests
from .failure import killed
from .folder import Job, Run
from .launch_profiles import SINGLE_PROCESS

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...progress import Progress

logger = logging.getLogger(__name__)

LAUNCHER = "accelerate.commands.launch"
PROCESS = Path(__file__).with_name("process.py")
DEFAULT_LAUNCHER = ("--config_file", str(SINGLE_PROCESS))  # one process
POLL_SECONDS = 0.1
STOP_SECONDS = 300.0  # a step with a streamed 12 B model on a slow card, and the writing of its checkpoint
PREVIEW = "preview.png"  # beside a sample's latents
STARTING = "Starting the trainer"
TREND_STEPS = 100  # of either half that the trend of the loss compares
TREND_LEAST = 5  # with fewer, chance alone decides
CLOCK_AFTER = 3.0  # seconds that one thing takes before it is told for how long it has been going on
LOG_TAIL = 20_000  # bytes of train.log looked at when the process died without a word


def arguments(run: Run, cpu: bool, launcher: Sequence[str]) -> list[str]:
    """The arguments of accelerate's launcher that train `run`.

    Args:
        launcher: arguments of `accelerate launch`, from `launch_profiles.launch_arguments`.
    """
    on = ["--cpu"] if cpu else []
    return [*launcher, *on, str(PROCESS), run.folder, "--stop-at-eof", *on]


def train(
    run: Run,
    cpu: bool,
    progress: Progress,
    preview: Callable[[Path], Image] | None = None,
    launcher: Sequence[str] = DEFAULT_LAUNCHER,
    folder: Path = worker.PACK,
    about: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Train `run` in a process of its own, until it is finished; returns at once when it already is.

    Args:
        run: made by `create.create_run`.
        cpu: train on the CPU whatever accelerators there are.
        progress: told of every step; whatever it raises (Cancel) stops the training after the step it is in, with a
            checkpoint, and is raised again.
        preview: makes a picture of a sample's latents file.
        launcher: as for `arguments`.
        folder: the trainer's working directory, where wandb and mlflow keep what they keep; never the run's folder,
            in which requests can write.
        about: as for `requests.Trainer`.

    Raises:
        StoppedOnRequest: somebody asked for it by `requests`; the step is saved.
        TrainingError: the process failed or was killed; the text says why and what to do.
    """
    if run.finished:
        return
    total = Job.read(run).settings.steps
    progress(0, total, STARTING)
    before = _stamp(run)
    follower = _Follower(run, total, progress, preview, before)
    log_file = run.path / "train.log"
    with writing(log_file):
        log = open(log_file, "ab")  # noqa: SIM115
    with log:
        start_of_log = log.tell()
        process = worker.start(
            LAUNCHER, *arguments(run, cpu, launcher), folder=folder, output=log, errors=subprocess.STDOUT
        )
        try:
            with requests.listening(run, process, about) as trainer:
                _follow(trainer, follower)
        except BaseException:
            follower.say_stopped()
            raise
    follower.look()
    if run.finished:
        return
    status = run.status()
    if status.get("state") == "failed" and _stamp(run) != before:
        raise TrainingError(str(status.get("error", "Training failed; train.log in the run's folder says why.")))
    raise TrainingError(killed(_text_from(run.path / "train.log", start_of_log)))


class StoppedOnRequest(TrainingError):
    """The training was stopped, and saved, because somebody asked for it."""


def _follow(trainer: requests.Trainer, follower: _Follower) -> None:
    """Until its process has ended, be it because whatever `follower` tells raised."""
    run, process = trainer.run, trainer.process
    try:
        while process.poll() is None:
            follower.look()
            if trainer.asked_to_stop.is_set():
                raise StoppedOnRequest(f"The training of '{run.id}' was stopped. Queue again to go on.")
            time.sleep(POLL_SECONDS)
    finally:
        trainer.stopping = True
        at_once = _stamp(run) == follower.before or run.status().get("state") == "starting"
        if process.poll() is None and not at_once:
            follower.say_stopping()
        stop(process, at_once)


def _stamp(run: Run) -> int:
    """Tells whether status.json was written anew: what an earlier trainer said is not this one's word."""
    try:
        return (run.path / "status.json").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _text_from(log: Path, start: int) -> str:
    with open(log, "rb") as file:
        file.seek(max(start, file.seek(0, 2) - LOG_TAIL))
        return file.read().decode(errors="replace")


def stop(process: subprocess.Popen, at_once: bool = False) -> None:
    """Ask the process to finish its step, save and end; after `STOP_SECONDS`, end it.

    Args:
        at_once: end it without waiting, because it has not begun to train and has nothing to save.
    """
    process.stdin.close()
    try:
        process.wait(0 if at_once else STOP_SECONDS)
    except subprocess.TimeoutExpired:
        if not at_once:
            logger.warning("The trainer did not stop within %.0f s and is ended; its checkpoints stay", STOP_SECONDS)
        _kill_all(process)


def _kill_all(process: subprocess.Popen) -> None:
    """End the launcher and what it has started, which would outlive it."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()


def trend(losses: Sequence[float]) -> str:
    """The mean of the newer half of these losses, and whether it differs from the older half's by more than the noise.

    The loss of one step says little: it depends above all on the noise level that was drawn for it.
    """
    half = min(TREND_STEPS, len(losses) // 2)
    newer = losses[-half:] if half else losses
    mean = sum(newer) / len(newer)
    if half < TREND_LEAST:
        return f"{mean:.3f}"
    older = losses[-2 * half : -half]
    rise = mean - sum(older) / half
    noise = math.sqrt((variance(newer) + variance(older)) / half)  # standard error of the difference of two means
    if abs(rise) <= noise:
        return f"{mean:.3f}, level"
    return f"{mean:.3f}, {'rising' if rise > 0 else 'falling'}"


class _Follower:
    """Reads what the trainer writes and tells it on; `before` is the stamp of what an earlier trainer said last."""

    def __init__(
        self, run: Run, total: int, progress: Progress, preview: Callable[[Path], Image] | None, before: int = 0
    ) -> None:
        self.run, self.total, self.progress, self.preview, self.before = run, total, progress, preview, before
        self.offset = 0
        self.seconds: list[float] = []
        self.shown: set[Path] = set()
        self.last: dict[str, Any] = {}
        self.losses: list[float] = []  # of the steps that the trend looks at
        self.best = math.inf, 0  # held-out loss and its step
        self.doing, self.doing_since = "", 0.0

    def look(self) -> None:
        """Tell `progress` where the run is. Called also when nothing happened, so that Cancel is noticed at once."""
        for record in self.new_records():
            self.last |= record
            if record.get("held_out_loss", self.best[0]) < self.best[0]:
                self.best = record["held_out_loss"], record["step"]
            if "held_out_loss" in record:
                measured = (record["step"], record["held_out_loss"], *self.best)
                logger.info("%s: step %d, held-out loss %.4f (best %.4f at step %d)", self.run.id, *measured)
            if "loss" in record:
                self.losses = [*self.losses[1 - 2 * TREND_STEPS :], record["loss"]]
            if "seconds" in record:
                self.seconds = [*self.seconds[-19:], record["seconds"]]
        self.progress(self.last.get("step", 0), self.total, self.text(), self.new_preview())

    def say_stopping(self) -> None:
        """Say at once that Cancel was heard: the step that the trainer is in may take long."""
        self._say(self.last.get("step", 0), "Stopping after this step, then saving")

    def say_stopped(self) -> None:
        """Leave on the node what became of the run in place of how long it would have taken."""
        saved = max(self.run.checkpoints(), default=0)
        where = f"Stopped at step {saved}, saved" if saved else "Stopped, with no step saved yet"
        self._say(saved, f"{where}\nQueue again to go on")

    def _say(self, step: int, text: str) -> None:
        with contextlib.suppress(BaseException):  # Cancel was pressed twice: the first is already being told
            self.progress(step, self.total, text)

    def new_records(self) -> list[dict[str, Any]]:
        try:
            with open(self.run.path / "metrics.jsonl", "rb") as file:
                if file.seek(0, 2) < self.offset:  # rewritten on resuming
                    self.offset = 0
                file.seek(self.offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        try:
            records = [parsed_json(line) for line in whole.splitlines()]
        except ValueError:  # rewritten, and already longer than before
            self.offset = 0
            return []
        self.offset += len(whole) + len(newline)
        return records

    def text(self) -> str:
        """How far training is, or what is done before it begins and what it will need; a thought a line."""
        # What the files hold before this trainer's first word is told by the one before it.
        status = {"state": "starting"} if _stamp(self.run) == self.before else self.run.status()
        if "loss" not in self.last or status.get("state") == "starting":
            return "\n".join(filter(None, [self.clocked(status.get("doing") or STARTING), status.get("plan")]))
        lines = [f"Step {self.last['step']} of {self.total}", f"Loss {trend(self.losses)}"]
        if "held_out_loss" in self.last:
            lines.append(f"Held-out {self.last['held_out_loss']:.3f}, best {self.best[0]:.3f} at step {self.best[1]}")
        if self.seconds:
            left = (self.total - self.last["step"]) * sum(self.seconds) / len(self.seconds)
            lines.append(f"{duration(left)} left")
        return "\n".join(filter(None, [*lines, status.get("warning")]))

    def clocked(self, doing: str) -> str:
        """What is being done, and once it takes long, for how long."""
        now = time.monotonic()
        if doing != self.doing:
            self.doing, self.doing_since = doing, now
        elapsed = now - self.doing_since
        return f"{doing}, {duration(elapsed)}" if elapsed > CLOCK_AFTER else doing

    def new_preview(self) -> Image | None:
        """The picture of the newest sample, if there is a new one; each is kept beside its sample."""
        picture = None
        for sample in self.run.samples().values() if self.preview else ():
            if sample in self.shown:
                continue
            self.shown.add(sample)
            kept = sample.with_name(PREVIEW)
            try:
                if not kept.exists():
                    picture = self.preview(sample)
                    with appearing(kept) as temporary:
                        picture.save(temporary, "PNG")
            except Exception as error:  # of a damaged sample or a full disk; training does not depend on it
                logger.warning("There is no preview of %s: %s", sample, error)
        return picture
