"""The commands that need no server: they read and train what lies in the folders of runs.

What they say of a run is what the routes answer, since they call the same functions.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path
from typing import Any

from .. import worker
from ..api import runs as told
from ..api.routing import Call, Places
from ..errors import TrainingError
from ..files import appearing
from ..trainers.run.checkpoints import ADAPTER_FILE
from ..trainers.run.folder import Job, Run
from .shown import Output, ProgressBar, run_line, run_text

RUNS = Path("output", "impasto", "runs")  # in ComfyUI's folder
ENDED = ("finished", "stopped", "failed")  # states of a run in which no trainer is at work on it
EVERY = 1.0  # seconds between two looks at a run that is followed


def listed(asked: argparse.Namespace, output: Output) -> int:
    root = Path(asked.runs) if asked.runs else _runs_here()
    if not root.is_dir():
        raise TrainingError(f"There is no folder {root}. Give the folder of runs: output/impasto/runs of ComfyUI's.")
    answer = told.listed(Call(_places(root))).value
    output.say(answer, "\n".join(map(run_line, answer["runs"])) or f"There is no run in {root}.")
    return 0


def status(asked: argparse.Namespace, output: Output) -> int:
    run = run_at(asked.run)
    now = _described(run)
    output.say(now, run_text(now))
    while asked.follow and now["state"] not in ENDED:
        time.sleep(EVERY)
        before, now = now, _described(run)
        if now != before:
            output.say(now, run_text(now))
    return 0 if not asked.follow or now["state"] == "finished" else 1


def train(asked: argparse.Namespace, output: Output) -> int:
    from ..trainers.run import launch
    from ..trainers.run.publish import chosen_step, publish

    run = run_at(asked.run)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill saves and stops as Ctrl-C does
    launcher = ("--config_file", os.path.abspath(asked.profile)) if asked.profile else launch.DEFAULT_LAUNCHER
    bar = ProgressBar()
    try:
        # In the pack's folder and not in the present one, which may be the run's: see `worker`.
        launch.train(run, asked.cpu, bar, launcher=launcher, folder=worker.PACK)
    finally:
        bar.close()
    lora = run.checkpoints()[chosen_step(run) or max(run.checkpoints())] / ADAPTER_FILE
    if asked.publish:
        lora = publish(run, Job.read(run).name, Path(asked.publish)) or lora
    now = _described(run)
    output.say(now | {"lora": str(lora)}, f"{run_line(now)}\n    {lora}")
    return 0


def report(asked: argparse.Namespace, output: Output) -> int:
    from ..evaluation.run_page import loss_of, write_page

    run = run_at(asked.run)
    file = Path(asked.to or f"{run.id}.html")
    if file.suffix.lower() == ".png":
        with appearing(file) as temporary:
            loss_of(run).save(temporary, "PNG")
    else:
        write_page(run, file)
    output.say({"report": os.path.abspath(file)}, str(file))
    return 0


def is_folder(run: str) -> bool:
    """Whether a run is named by its folder, which may be none, not by its id."""
    return os.sep in run or "/" in run or run.startswith(".") or (Path(run) / "settings.toml").is_file()


def run_at(folder: str) -> Run:
    """The run in a folder.

    Raises:
        TrainingError: the folder is no run's.
    """
    path = Path(os.path.abspath(folder))  # which has a name also where "." was given
    run = Run(path.name, str(path))
    Job.read(run)
    return run


def _described(run: Run) -> dict[str, Any]:
    return told.described(Call(_places(run.path.parent), {"run_id": run.path.name})).value


def _runs_here() -> Path:
    """The folder of runs of a ComfyUI: of the one called from its folder, else of the one that the pack lies in."""
    return next((path for path in (Path.cwd() / RUNS, worker.PACK.parents[1] / RUNS) if path.is_dir()), RUNS)


def _places(root: Path) -> Places:
    """For routes that look at nothing but runs."""
    return Places(runs_root=root, loras_root=root, datasets_roots=(), user_root=root)
