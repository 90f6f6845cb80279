"""Everything that only a card can show, in the order of its value, within some minutes.

    python benchmarks/card.py --minutes 8               on a machine with a CUDA device
    python benchmarks/card.py --parts step products     some of it
    python benchmarks/card.py --pretend                 every line of it on the CPU, with a tiny model
    python benchmarks/card.py --table results.jsonl     the table of what was measured before

Each result is a line of JSON in the file named by --results the moment it is known; the table comes at the end, or at
the cut. A part is a process of its own: one that fails, hangs or loses the device costs itself alone, and its traceback
is in the file. While it runs, the next one already imports. Weights of FLUX.1-dev's size are drawn on the card, in the
layout that the loader reads: nothing is written but the results, and nothing is ever downloaded. What is missing is
said at the start. RESULTS.md says how to bring it to a machine without internet.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from card_bench import Bench
from card_parts import PARTS, Part
from card_results import RESULTS, append, read, report
from full_size import REPOSITORY, load_pack
from step_report import machine

BROUGHT = REPOSITORY / ".card" / "packages"  # unpacked from the zip that `card_kit.py` makes: what the machine lacks
GRACE = 5.0  # seconds that a part has to end by itself before it is killed
NEEDED = {
    "torch": "everything",
    "accelerate": "everything",
    "diffusers": "everything but the rates of matrix products",
    "peft": "everything but the rates of matrix products",
    "bitsandbytes": "nf4 and the presets, whose optimiser is adamw8bit",
    "pytest": "the tests that wait for a card",
}


def missing() -> dict[str, str]:
    """Packages that cannot be imported, and what is left out without them."""
    return {name: lost for name, lost in NEEDED.items() if importlib.util.find_spec(name) is None}


def use_brought() -> None:
    """Make packages importable that were brought along; what the machine has goes first."""
    zipped = BROUGHT.with_suffix(".zip")
    if zipped.is_file() and not BROUGHT.is_dir():
        half = BROUGHT.with_suffix(".part")
        zipfile.ZipFile(zipped).extractall(half)
        half.rename(BROUGHT)
    sys.path.append(str(BROUGHT))


def start(parts: Sequence[Part], results: Path, pretend: bool) -> subprocess.Popen[str]:
    """A process that imports, and then waits to be told how many seconds it has."""
    names = [part.name for part in parts]
    command = [sys.executable, __file__, "--measure", *names, "--results", str(results)]
    with open(results.with_suffix(".log"), "a", encoding="utf-8") as log:
        return subprocess.Popen(
            [*command, *(["--pretend"] if pretend else [])], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
        )


def measure(names: Sequence[str], results: Path, pretend: bool) -> None:
    """What such a process does."""
    logging.basicConfig(level=logging.INFO)
    work = [(part, Bench(part.name, results, pretend)) for part in PARTS if part.name in names]
    for part, bench in work:
        if part.needs:
            import peft  # noqa: F401 (what takes long, before there is anything to wait for)
            from impasto.trainers import preflight, step  # noqa: F401
        bench.attempt("getting ready", lambda part=part, bench=bench: part.ready(bench))
    asked = sys.stdin.readline()
    if not asked:  # whoever started it is gone
        return
    for part, bench in work:
        bench.begin(float(asked))
        bench.attempt("the whole part", lambda part=part, bench=bench: part.measure(bench))


def run(groups: Sequence[Sequence[Part]], results: Path, seconds: float, pretend: bool = False) -> None:
    """One process after the other, each with its share of the time that is left."""
    deadline = time.monotonic() + seconds
    waiting = start(groups[0], results, pretend)
    try:
        for number, group in enumerate(groups):
            child, later = waiting, groups[number + 1 :]
            if later:
                waiting = start(later[0], results, pretend)
            left = deadline - time.monotonic()
            own = sum(part.seconds for part in group)
            share = own / (own + sum(part.seconds for parts in later for part in parts))
            finish(child, group, results, left * share)
    finally:
        waiting.kill()
        waiting.wait()


def finish(child: subprocess.Popen[str], group: Sequence[Part], results: Path, seconds: float) -> None:
    """Let a process measure for so many seconds, and write down how it ended if not by itself."""
    names = ", ".join(part.name for part in group)
    began, failure = time.monotonic(), ""
    try:
        child.communicate(f"{max(seconds - GRACE, seconds / 2)}\n", timeout=max(seconds, 0.1))
        if child.returncode:
            log = results.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
            failure = f"{log[-3000:]}\nThe process ended with status {child.returncode}"
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        failure = f"Cut off after its {seconds:.0f} seconds"
    finally:
        child.kill()  # nothing where it has ended
    took = time.monotonic() - began
    append(results, {"part": names, "what": "process", "seconds": took, **({"failure": failure} if failure else {})})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [part.name for part in PARTS]
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything (default: 8)")
    parser.add_argument("--parts", nargs="+", choices=known, default=known, help="some of it, in this order of value")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"lines of JSON (default: {RESULTS.name})")
    parser.add_argument("--pretend", action="store_true", help="a tiny model on the CPU: shows that it runs, no more")
    parser.add_argument("--table", type=Path, metavar="RESULTS", help="only print the table of such a file")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.table:
        print(report(read(arguments.table)))
        return 0
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    use_brought()
    load_pack()
    if arguments.measure:
        measure(arguments.measure, arguments.results, arguments.pretend)
        return 0
    lost = missing()
    for package, what in lost.items():
        print(f"{package} is not here. Left out: {what}.", flush=True)
    if "torch" in lost:
        return 2
    import torch

    if not arguments.pretend and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --pretend shows on the CPU that it runs")
    parts = [part for part in PARTS if part.name in arguments.parts]
    left_out = [part.name for part in parts if set(part.needs) & lost.keys()]
    append(arguments.results, {"part": "start", "what": machine(), "missing": sorted(lost), "left_out": left_out})
    asked = [part for part in parts if part.name not in left_out]
    groups = [asked] if arguments.pretend else [[part] for part in asked]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the table is printed then, too
    try:
        if asked:
            run(groups, arguments.results, 60 * arguments.minutes, arguments.pretend)
    finally:
        print(report(read(arguments.results)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
