"""The trainer's process: `accelerate launch trainers/child.py <run folder>`.

It loads the pack from the folder it lies in, so that nothing needs to be installed for it. With `--stop-at-eof` it
takes the end of its standard input as the request to finish the step, save and stop: the end comes when the parent
closes the pipe, and also when the parent dies.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
import threading
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent


def load_pack() -> None:
    """Make the pack's folder importable as `impasto`."""
    spec = importlib.util.spec_from_file_location(
        "impasto", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["impasto"] = package
    spec.loader.exec_module(package)


def end_of_input() -> threading.Event:
    """An event that is set when standard input ends."""
    ended = threading.Event()

    def wait() -> None:
        # Not through sys.stdin: its lock, held by this thread, would abort the interpreter when it ends.
        while os.read(0, 1):
            pass
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    return ended


def main() -> int:
    """Train the run. Exit status: 0 finished or stopped as asked, 1 failed (status.json says why)."""
    parser = argparse.ArgumentParser(description="Train one Impasto run.")
    parser.add_argument("run", type=Path, help="the run's folder, holding settings.toml")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU")
    parser.add_argument("--stop-at-eof", action="store_true", help="stop when standard input ends")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stop = end_of_input() if arguments.stop_at_eof else threading.Event()
    load_pack()
    from impasto.errors import ImpastoError
    from impasto.trainers.failure import SAID
    from impasto.trainers.recipe import train_run
    from impasto.trainers.runs import Run, sole_trainer

    run = Run(arguments.run.name, str(arguments.run.resolve()))
    try:
        with sole_trainer(run, stop.is_set):
            return 0 if train_run(run, arguments.cpu, stop.is_set) else 1
    except ImpastoError as error:  # of the lock or the settings; the run's status may be another trainer's
        sys.stderr.write(f"\n{SAID}{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
