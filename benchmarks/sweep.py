"""Whether Training Sweep's successive halving finds the full grid's winner, and at which share of its steps.

    .impasto/venv/bin/python benchmarks/sweep.py               nine settings, five seeds: 3,645 steps of the tiny FLUX
    .impasto/venv/bin/python benchmarks/sweep.py --seeds 7 8   other seeds
    .impasto/venv/bin/python benchmarks/sweep.py --quick       four settings, 12 steps; shows that it runs, no more

A seed decides a LoRA's first weights, the order of the data and the noise. With each, every setting is trained whole
on impressionist pictures, a fifth of which are held out and give the loss. The rate is constant, so that the first
steps of a run are the run of so many steps: what `trainers.sweep.search` asks for is taken from the whole runs, and it
decides as it does for the node. Beside it stand two ways to spend as many steps or more: settings drawn at random and
trained whole (the mean over all draws), and all settings trained for a third of the steps. Regret is how far the
held-out loss of what was chosen lies above that of the grid's winner, both trained whole; the noise floor is how much a
setting's loss varies with the seed, once what all settings have in common is taken away.

Runs lie in --folder; begun again, it goes on. ComfyUI is the one in COMFYUI_PATH, else in .impasto/ComfyUI.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import math
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from full_size import REPOSITORY, load_pack
from step_report import table
from step_trainers import comfyui_folder

if TYPE_CHECKING:
    from impasto.trainers.features.index import Features
    from impasto.trainers.settings import Settings

SPACE = "rank: 2, 8, 32\nalpha: rank\nlearning_rate: 1e-4, 1e-3, 4e-3"
STEPS, SEEDS = 81, (1, 2, 3, 4, 5)  # how halving promotes was settled with 0, 1 and 2
QUICK_SPACE, QUICK_STEPS, QUICK_SEEDS = "rank: 2, 4\nalpha: rank\nlearning_rate: 1e-8, 1e-3", 12, (0,)
HELD_OUT = 0.2  # of forty pictures
AIM = 0.35  # share of the full grid's steps
FOLDER = REPOSITORY / ".impasto" / "sweep-benchmark"

Losses = Mapping[int, float]  # after so many steps


@dataclass(frozen=True)
class Found:
    """What came of one seed.

    Attributes:
        grid: each setting's held-out losses, trained whole.
        chosen: what halving chose, and `share` the steps that it took of the grid's.
    """

    seed: int
    grid: Mapping[str, Losses]
    chosen: str
    share: float

    @property
    def steps(self) -> int:
        return max(next(iter(self.grid.values())))

    @property
    def winner(self) -> str:
        return self.best_after(self.steps)

    def best_after(self, steps: int) -> str:
        return min(self.grid, key=lambda name: self.grid[name][steps])

    def regret(self, chosen: str) -> float:
        return self.grid[chosen][self.steps] - self.grid[self.winner][self.steps]

    def drawn(self, count: int) -> tuple[float, float]:
        """Of the best of `count` settings drawn at random: how often it is the winner, and the mean regret."""
        regrets = [min(map(self.regret, names)) for names in itertools.combinations(self.grid, count)]
        return count / len(self.grid), statistics.mean(regrets)


def named(settings: Settings) -> str:
    return f"rank {settings.rank}, rate {settings.learning_rate:g}"


def searched(space: str, steps: int, seed: int, features: Features, runs_root: Path) -> Found:
    """Train the grid whole, and let the sweep decide by what it sees of it on the way."""
    from impasto.embedded import lesson
    from impasto.trainers import search_space, sweep
    from impasto.trainers.settings import Settings

    grid: dict[str, Losses] = {}

    def train(asked: Settings, label: str) -> sweep.Reached:
        name = named(asked)
        if name not in grid:
            whole = dataclasses.asdict(dataclasses.replace(asked, steps=steps, keep_checkpoints=1))
            run = lesson.begin(features, runs_root, **whole)
            lesson.learn(run)
            grid[name] = dict(run.evaluations())
            told = "; ".join(f"{step}: {loss:.4f}" for step, loss in grid[name].items())
            print(f"seed {seed}, {name}, held-out loss after {told}", flush=True)
        return sweep.Reached(asked.steps, grid[name][asked.steps])

    base = Settings(**lesson.SETTINGS | {"steps": steps, "seed": seed})
    with tempfile.TemporaryDirectory() as journals:
        plan = sweep.SweepPlan(search_space.read_space(space))
        outcome = sweep.search(plan, base, Path(journals), [seed], train)
    return Found(seed, grid, named(outcome.best), outcome.share)


def noise_floor(found: Sequence[Found]) -> float:
    """Standard deviation over the seeds of a setting's last loss, less the mean of its seed; NaN with one seed."""
    if len(found) < 2:
        return math.nan
    names = list(found[0].grid)
    rows = [[each.grid[name][each.steps] for name in names] for each in found]
    apart = [[loss - statistics.mean(row) for loss in row] for row in rows]
    return math.sqrt(statistics.mean(statistics.variance(column) for column in zip(*apart, strict=True)))


def told(found: Sequence[Found]) -> str:
    """What halving found seed by seed, and beside it the two other ways."""
    header = ("seed", "grid's winner", "halving's", "same", "regret", "steps")
    rows = []
    for each in found:
        same, regret = "yes" if each.chosen == each.winner else "no", f"{each.regret(each.chosen):.4f}"
        rows.append((f"{each.seed}", each.winner, each.chosen, same, regret, f"{each.share:.0%}"))
    share, whole = max(each.share for each in found), len(found[0].grid)
    drawn, third = math.ceil(round(share * whole, 6)), found[0].steps // 3
    chances, regrets = zip(*(each.drawn(drawn) for each in found), strict=True)
    early = [each.best_after(third) for each in found]
    ways = [
        way("successive halving", [each.chosen == each.winner for each in found], _regrets(found), share),
        way(f"{drawn} drawn, trained whole", chances, regrets, drawn / whole),
        way(
            f"all for {third} steps",
            [name == each.winner for name, each in zip(early, found, strict=True)],
            [each.regret(name) for name, each in zip(early, found, strict=True)],
            third / found[0].steps,
        ),
    ]
    spread = statistics.mean(max(map(each.regret, each.grid)) for each in found)
    met = all(each.chosen == each.winner for each in found) and share <= AIM
    return "\n\n".join(
        (
            table(header, rows),
            table(("way", "winner found", "mean regret", "largest regret", "steps"), ways),
            f"From the best to the worst of the grid: {spread:.4f}. Noise floor: {noise_floor(found):.4f}.",
            f"Aim, the winner of every seed at no more than {AIM:.0%} of the steps: {'met' if met else 'missed'}.",
        )
    )


def _regrets(found: Sequence[Found]) -> list[float]:
    return [each.regret(each.chosen) for each in found]


def way(name: str, hits: Sequence[float], regrets: Sequence[float], share: float) -> tuple[str, ...]:
    mean, most = statistics.mean(regrets), max(regrets)
    return name, f"{statistics.mean(hits):.0%}", f"{mean:.4f}", f"{most:.4f}", f"{share:.0%}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="see that it runs: four settings, 12 steps, one seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS, help="of a whole run")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for pictures and runs, which are gone on with")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    load_pack()
    from impasto.embedded import lesson

    space, steps, seeds = (
        (QUICK_SPACE, QUICK_STEPS, QUICK_SEEDS) if arguments.quick else (SPACE, arguments.steps, arguments.seeds)
    )
    pictures = arguments.folder / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    features = lesson.prepare(pictures, "impressionist", comfyui_folder(), held_out=HELD_OUT)
    found = []
    for seed in seeds:
        found.append(searched(space, steps, seed, features, arguments.folder / "runs"))
        print(f"\n{told(found)}\n", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
