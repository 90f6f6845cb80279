"""The trainer's process: `accelerate launch trainers/run/process.py <run folder>`.

It loads the pack from the folder it lies in, so that nothing needs to be installed for it. With `--stop-at-eof` it
takes the end of its standard input as the request to finish the step, save and stop: the end comes when the parent
closes the pipe, and also when the parent dies. A polite signal is the same request. What comes before the end are the
letters of `requests`.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType

PACK = Path(__file__).resolve().parents[2]


def worker_module() -> ModuleType:
    """The pack's module of that name, which makes the rest of the pack importable."""
    spec = importlib.util.spec_from_file_location("worker", PACK / "worker.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Train the run. Exit status: 0 finished or stopped as asked, 1 failed (status.json says why)."""
    parser = argparse.ArgumentParser(description="Train one Impasto run.")
    parser.add_argument("run", type=Path, help="the run's folder, holding settings.toml")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU")
    parser.add_argument("--stop-at-eof", action="store_true", help="stop when standard input ends")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    process = worker_module()
    process.leave_out(Path(__file__).resolve().parent)
    inbox = SimpleQueue()
    stop = process.end_of_input(inbox.put) if arguments.stop_at_eof else threading.Event()
    process.load_pack()
    from impasto.errors import ImpastoError
    from impasto.trainers.recipe import train_run
    from impasto.trainers.run import failure
    from impasto.trainers.run.folder import Job, Run
    from impasto.trainers.run.lock import sole_trainer
    from impasto.trainers.run.requests import Inbox

    folder = Path(os.path.abspath(arguments.run))  # which has a name also where "." was given
    run = Run(folder.name, str(folder))
    try:
        Job.read(run)  # before a lock is put into a folder that is no run's
        with sole_trainer(run, stop.is_set):
            return 0 if train_run(run, arguments.cpu, stop.is_set, Inbox(inbox)) else 1
    except ImpastoError as error:  # of the lock or the settings; the run's status may be another trainer's
        failure.say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
