"""Run by torchrun as a module, `<run folder>`: training whose last process is asked to stop once a step is saved, which
is while that step is measured; then, in the same processes, the training that goes on from there.

How the run stood in between is left in its `stopped.json`.
"""

import json
import os
import sys
from pathlib import Path

from .. import conftest  # noqa: F401 (makes `impasto` importable)


def main(folder: str) -> None:
    from impasto.trainers.recipe import FluxLoraRecipe
    from impasto.trainers.run.folder import Run

    run = Run(Path(folder).name, folder)
    last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    for stop_requested in (lambda: last and bool(run.checkpoints()), lambda: False):
        recipe = FluxLoraRecipe(run, cpu=True, stop_requested=stop_requested)
        recipe.setup()
        recipe.train()
        if not last and not run.finished:
            stood = {"checkpoints": list(run.checkpoints()), "evaluations": run.evaluations()} | run.status()
            (run.path / "stopped.json").write_text(json.dumps(stood))
        recipe.accelerator.wait_for_everyone()
    recipe.cleanup()


if __name__ == "__main__":
    main(*sys.argv[1:])
