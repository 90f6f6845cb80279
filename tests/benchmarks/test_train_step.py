"""The benchmark of a training step runs and tells all it should; what it measures here means nothing."""

import importlib
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.trainers.flux import detection, loading
from impasto.trainers.flux.forward import predict_velocity
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

REPOSITORY = Path(__file__).resolve().parents[2]
CHECKPOINTED = {
    "Impasto",
    "diffusers + PEFT",
    "TrainLoraNode, depth 1 (its default)",
    "TrainLoraNode, depth 2",
    "TrainLoraNode, bypass, depth 1",
    "TrainLoraNode, bypass, depth 2",
}
OWN_MODES = {
    *(("Impasto, " + name, "yes") for name in ("bf16", "fp8", "int8", "nf4", "6 blocks streamed")),
    ("Impasto", "1 in 2"),
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
    # Without the set `compile`: a C++ compiler takes longer than all the others.
    return benchmark("--batches", "2", "--sets", "trainers", "precision", "checkpointing", "streaming")


def benchmark(*options: str) -> str:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "train_step.py"), "--quick", *options]
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


def test_every_trainer_has_a_row_with_and_without_checkpointing_and_ours_one_for_each_mode(printed):
    expected = {(n, "yes") for n in CHECKPOINTED} | {(n, "no") for n in KEPT} | OWN_MODES
    assert rows(printed, "trainer").keys() == expected


def test_every_mode_of_ours_is_a_ratio_to_both_alternatives(printed):
    modes = rows(printed, "mode of Impasto")
    assert modes.keys() == OWN_MODES
    assert all(len(cells) == 4 and all(float(cell) > 0 for cell in cells) for cells in modes.values())


def test_a_trainer_that_failed_says_why(printed):
    failed = {key for key, cells in rows(printed, "trainer").items() if "fails" in cells}
    assert not failed & OURS_AND_THE_BARE_LOOP
    for name, checkpointing in failed:
        state = "with" if checkpointing == "yes" else "without"
        assert f"{name}, {state} gradient checkpointing, fails: " in printed


def test_our_ratios_to_all_that_trained_are_positive_numbers(printed):
    trained = {key for key, cells in rows(printed, "trainer").items() if "fails" not in cells}
    ratios = rows(printed, "Impasto divided by")
    assert ratios.keys() >= {(name, checkpointing) for name, checkpointing in trained if "Impasto" not in name}
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


@pytest.fixture
def step_work(monkeypatch):
    """What the benchmark asks, as a module."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("step_work")


def work_of(step_work, folder, side: int, tokens: int, batch: int):
    sizes = {"hidden_size": 128, "double_blocks": 1, "single_blocks": 1, "context_width": 64}
    steps = {"rank": 4, "warmup": 1, "steps": 2, "attention": "pytorch"}
    return step_work.Work(str(folder), width=side, height=side, batch=batch, tokens=tokens, **sizes, **steps)


def test_the_operations_of_a_step_are_those_that_a_real_pass_does(step_work, tmp_path):
    """In which only the inputs want a gradient, and attention is written out so that it is counted."""
    work = work_of(step_work, tmp_path, side=64, tokens=16, batch=2)
    save_file(transformer_weights(hidden_size=128, double_blocks=1, single_blocks=1, context_width=64), work.weights)
    transformer = loading.load_transformer(work.weights, "fp32")
    latents, t5 = torch.randn(2, 16, 8, 8, requires_grad=True), torch.randn(2, 16, 64, requires_grad=True)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        predict_velocity(transformer, latents, torch.rand(2), t5, torch.randn(2, 64)).sum().backward()
    assert step_work.step_flops(work) == counter.get_total_flops()


def test_the_operations_of_flux_dev_are_those_of_its_layers(step_work, tmp_path, monkeypatch):
    """A block's matrices have 12 times the square of the width; forward and backward pass do 4 operations with each."""
    full_size = importlib.import_module("full_size")
    dev = full_size.architecture(full_size.DEV_WIDTH, full_size.DEV_BLOCKS)
    monkeypatch.setattr(detection, "inspect", lambda path: dev)
    tokens = 1024 + 512
    matrices = 4 * 57 * 12 * 3072**2 * tokens
    attention = 3 * 57 * 4 * tokens**2 * 3072
    counted = step_work.step_flops(work_of(step_work, tmp_path, side=512, tokens=512, batch=1))
    assert counted == pytest.approx(matrices + attention, rel=0.01)


def test_a_preset_on_a_simulated_card_has_what_was_planned_and_what_was_taken():
    table = benchmark("--cap", "8", "--presets", "8 GB")
    header, _, *lines = (line for line in table.splitlines() if line.startswith("|"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, *lines)]
    assert cells[0][-4:] == ["planned GB", "peak GB", "reserved GB", "s/step"] and len(lines) == 1
    assert cells[1][:5] == ["8 GB", "8", "64 x 64", "1", "nf4"]
    assert all(float(cells[1][place]) > 0 for place in (-4, -3, -1))
    assert float(cells[1][-2]) > 0 or not torch.cuda.is_available()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_profile_names_the_operators_that_take_the_time():
    printed = benchmark("--profile", "--sets", "checkpointing")
    assert "Impasto, checkpointing: 1 in 2; 64 px, batch 1" in printed
    assert "aten::addmm" in printed and "Self CPU %" in printed


def test_the_full_size_is_refused_where_it_cannot_be_measured():
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "train_step.py"), "--full-size"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "needs a CUDA device" in done.stderr
