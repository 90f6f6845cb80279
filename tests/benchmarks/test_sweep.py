"""The benchmark of the sweep runs, goes on where it was and counts truly; what a quick run measures means nothing."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="Optuna is not installed: pip install optuna")

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "sweep.py"


@pytest.fixture
def benchmark_of_sweeps(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("benchmark_of_sweeps", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for their types
    spec.loader.exec_module(module)
    return module


def rows(text: str, first: str) -> dict[str, str]:
    """The row that begins with `first`, by the heads of its table."""
    head = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line[:1] == "|" and cells[0] in ("seed", "way"):
            head = cells
        elif cells[0] == first:
            return dict(zip(head, cells, strict=True))
    raise AssertionError(f"There is no row {first} in:\n{text}")


def test_a_quick_run_tells_what_halving_found_and_what_the_grid_did(tmp_path):
    command = [sys.executable, str(SCRIPT), "--quick", "--folder", str(tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("held-out loss after 4: ") == 4
    row = rows(first.stdout, "0")
    assert row["grid's winner"].endswith("rate 0.001") and row["halving's"].endswith("rate 0.001")
    assert row["steps"] == "67%"  # four settings for 4 steps, two of them for 8 more, of four for 12
    again = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert again.stdout == first.stdout


def test_regret_draws_and_noise_are_counted_as_they_are_told(benchmark_of_sweeps):
    losses = {"a": {27: 3.0, 81: 1.0}, "b": {27: 1.0, 81: 2.0}, "c": {27: 2.0, 81: 4.0}}
    found = benchmark_of_sweeps.Found(0, losses, "b", 1 / 3)
    assert (found.winner, found.regret("b"), found.best_after(27)) == ("a", 1.0, "b")
    assert found.drawn(1) == (1 / 3, (0 + 1 + 3) / 3)
    assert found.drawn(2) == (2 / 3, (0 + 0 + 1) / 3)
    said = benchmark_of_sweeps.told([found])
    assert rows(said, "0") == {
        "seed": "0",
        "grid's winner": "a",
        "halving's": "b",
        "same": "no",
        "regret": "1.0000",
        "steps": "33%",
    }
    assert rows(said, "all for 27 steps")["winner found"] == "0%"
    assert said.endswith("missed.")

    shifted = {name: {81: loss[81] + 7, 27: loss[27]} for name, loss in losses.items()}
    other = benchmark_of_sweeps.Found(1, shifted, "a", 1 / 3)
    assert benchmark_of_sweeps.noise_floor([found, other]) < 1e-9  # the seed moves all alike
    right = benchmark_of_sweeps.Found(2, losses, "a", 1 / 3)
    assert benchmark_of_sweeps.told([right]).endswith("met.")
