"""The benchmark of a training step runs and tells all it should; what it measures here means nothing."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CHECKPOINTED = {
    "Impasto",
    "diffusers + PEFT",
    "TrainLoraNode, depth 1 (its default)",
    "TrainLoraNode, depth 2",
    "TrainLoraNode, bypass, depth 1",
    "TrainLoraNode, bypass, depth 2",
}
KEPT = {"Impasto", "diffusers + PEFT", "TrainLoraNode", "TrainLoraNode, bypass"}
OURS_AND_THE_BARE_LOOP = {
    ("Impasto", "yes"),
    ("Impasto", "no"),
    ("diffusers + PEFT", "yes"),
    ("diffusers + PEFT", "no"),
}


@pytest.fixture(scope="module")
def printed() -> str:
    if not sys.platform.startswith("linux"):
        pytest.skip("the benchmark reads memory from /proc")
    comfyui = Path(os.environ.get("COMFYUI_PATH") or REPOSITORY / ".impasto" / "ComfyUI")
    assert (comfyui / "comfy_extras" / "nodes_train.py").is_file(), f"No ComfyUI in {comfyui}: run ./test.sh."
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "train_step.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(printed: str, header: str) -> dict[tuple[str, str], list[str]]:
    """The cells of the Markdown table whose first column is called `header`, by trainer and checkpointing."""
    lines = iter(printed.splitlines())
    assert any(line.startswith(f"| {header} ") for line in lines)
    next(lines)  # the rule
    found = {}
    for line in lines:
        if not line.startswith("|"):
            break
        name, checkpointing, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found[name, checkpointing] = cells
    return found


def test_every_trainer_has_a_row_with_and_without_checkpointing(printed):
    assert rows(printed, "trainer").keys() == {(n, "yes") for n in CHECKPOINTED} | {(n, "no") for n in KEPT}


def test_a_trainer_that_failed_says_why(printed):
    failed = {key for key, cells in rows(printed, "trainer").items() if "fails" in cells}
    assert not failed & OURS_AND_THE_BARE_LOOP
    for name, checkpointing in failed:
        state = "with" if checkpointing == "yes" else "without"
        assert f"{name}, {state} gradient checkpointing, fails: " in printed


def test_our_ratios_to_all_that_trained_are_positive_numbers(printed):
    trained = {key for key, cells in rows(printed, "trainer").items() if "fails" not in cells}
    ratios = rows(printed, "Impasto divided by")
    assert ratios.keys() >= {(name, checkpointing) for name, checkpointing in trained if name != "Impasto"}
    for cells in ratios.values():
        numbers = [float(cell) for cell in cells[:-1]]
        assert len(numbers) == 5
        assert all(math.isfinite(number) and number > 0 for number in numbers)


def test_what_cannot_train_without_checkpointing_is_held_against_ours_without(printed):
    failed = {name for (name, _), cells in rows(printed, "trainer").items() if "fails" in cells}
    ratios = rows(printed, "Impasto divided by")
    assert not failed or ("TrainLoraNode, depth 1 (its default)", "no / yes") in ratios


def test_the_same_layers_are_trained_as_in_the_bare_loop(printed):
    trained = rows(printed, "trainer")
    assert len({trained[key][-1] for key in OURS_AND_THE_BARE_LOOP}) == 1
