"""The results of `card.py`: lines of JSON in a file, each beside what was aimed at, and the table of them."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from full_size import REPOSITORY
from step_report import table

RESULTS = REPOSITORY / "card-results.jsonl"
GIB = 2**30
# (part, what is measured) -> the name of the number, whether it shall be at least or at most, and the aim. RESULTS.md
# keeps them beside the results. Steps per second are those of an H200.
AIMS: dict[tuple[str, str], tuple[str, str, float]] = {
    ("step", "Impasto, bf16, 1024 px"): ("steps_per_second", ">=", 3.0),
    ("compiled", "Impasto, bf16, compiled, 1024 px"): ("steps_per_second", ">=", 3.0),
    ("products", "Impasto, int8 products, compiled, 1024 px"): ("steps_per_second", ">=", 4.0),
    ("products", "Impasto, fp8 products, compiled, 1024 px"): ("steps_per_second", ">=", 4.0),
    ("step", "Impasto, bf16, 512 px"): ("steps_per_second", ">=", 11.0),
    ("compiled", "Impasto, bf16, compiled, 512 px"): ("steps_per_second", ">=", 11.0),
    ("presets", "8 GB, time to no streaming"): ("ratio", "<=", 1.3),
}
PLANNED_WITHIN = 0.05  # of what the process takes of the card at most, its context aside


def append(results: Path, record: dict[str, Any]) -> None:
    """Write one line, so that it is on disk whatever comes next."""
    with open(results, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(results: Path) -> list[dict[str, Any]]:
    """Every whole line; a process that was killed may have left a torn one."""
    found = []
    for line in results.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def report(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: what was measured beside the aims, then what failed or was left out."""
    header = ("part", "measured", "s/step", "steps/s", "of matmul", "peak GB", "reserved GB", "taken GB", "planned GB")
    header += ("aim",)
    lines, others, failures = [], [], []
    for record in records:
        where = f"{record['part']}: {record['what']}"
        if "failure" in record:
            said = record["failure"].strip() or "without a word"
            failures.append(f"{where} failed: {said.splitlines()[-1]}")
        elif "seconds_per_step" in record:
            share = record.get("of_matmul")
            memory = [record.get(name) for name in ("peak", "reserved", "taken", "planned")]
            lines.append(
                (
                    record["part"],
                    record["what"],
                    f"{record['seconds_per_step']:.4f}",
                    f"{record['steps_per_second']:.2f}",
                    f"{share:.1%}" if share else "-",
                    *(f"{size / GIB:.2f}" if size else "-" for size in memory),
                    verdict(record),
                )
            )
        else:
            known = {name: value for name, value in record.items() if name not in ("part", "what")}
            aim = verdict(record)
            others.append(f"{where}: {json.dumps(known)}{f' (aim: {aim})' if aim else ''}")
    told = [table(header, lines)] if lines else []
    return "\n\n".join([*told, "\n".join(others), "\n".join(failures)]).strip()


def verdict(record: dict[str, Any]) -> str:
    """What was aimed at and whether it was reached; "" where nothing was."""
    said = []
    name, sign, aim = AIMS.get((record["part"], record["what"]), ("", "", math.nan))
    if name in record:
        met = record[name] >= aim if sign == ">=" else record[name] <= aim
        said.append(f"{name.replace('_', ' ')} {sign} {aim:g} {'met' if met else 'missed'}")
    if record.get("planned") and record.get("taken"):
        off = record["planned"] / record["taken"] - 1
        said.append(
            f"plan within {PLANNED_WITHIN:.0%} {'met' if abs(off) <= PLANNED_WITHIN else f'missed ({off:+.0%})'}"
        )
    return ", ".join(said)
