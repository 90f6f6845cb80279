"""Keys, shapes, types and metadata of LoRA files, as other programs read them, and how a LoRA begins."""

from __future__ import annotations

import pytest
import torch

from . import current
from .test_features import CONFIGS, encoded, make_pictures
from .test_run_ids import INPUTS

PLAIN = {"rank": 4, "alpha": 2.0, "targets": "image attention", "seed": 3}
VARIANTS = {
    **{f"targets {name}": PLAIN | {"targets": name} for name in current.targets()},
    "rsLoRA": PLAIN | {"rslora": True},
    "DoRA": PLAIN | {"dora": True},
    "DoRA and rsLoRA": PLAIN | {"dora": True, "rslora": True},
    "DoRA of every layer": PLAIN | {"dora": True, "targets": "all linear"},
    "ranks by block": PLAIN | {"block_ranks": "double 0: 2; single: 8; rest: 0", "targets": "attention"},
    "without the single blocks": PLAIN | {"block_ranks": "single: 0", "targets": "attention"},
}
DESCRIBED = {
    "defaults": {},
    "rsLoRA": {"rslora": True, "rank": 16, "alpha": 8.0},
    "DoRA": {"dora": True, "targets": "attention", "scheduler": "cosine", "warmup_steps": 10, "seed": 2**64 - 1},
}


def described(state) -> dict:
    kinds = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    return {key: f"{kinds[tensor.dtype]} {list(tensor.shape)}" for key, tensor in state.items()}


@pytest.mark.parametrize("case", VARIANTS)
def test_tensors(golden, base_weights, case):
    state = current.lora_of(base_weights, VARIANTS[case])
    found = {"diffusers": described(state)}
    for format in current.lora_formats():
        # sd-scripts has no DoRA, and ComfyUI's layout holds one of whole fused layers alone.
        if not VARIANTS[case].get("dora") or (format, case) == ("comfyui", "DoRA of every layer"):
            found[format] = described(current.converted(state, format))
    golden(f"lora_files/{case.replace(' ', '-')}", found)


def test_the_first_weights_are_drawn_from_the_seed(golden, base_weights):
    """Rounded: processors differ in the last digit."""
    found = {}
    for case in ("targets image attention", "DoRA and rsLoRA", "ranks by block"):
        state = current.lora_of(base_weights, VARIANTS[case])
        found[case] = {key: round(tensor.flatten()[-1].item(), 5) for key, tensor in state.items()}
    golden("first_weights", found)


def test_metadata(golden, base_weights, tmp_path):
    make_pictures(tmp_path)
    folder, key, _ = encoded(tmp_path / "dataset.toml", CONFIGS["held out"])
    (tmp_path / "with a trigger").mkdir()
    make_pictures(tmp_path / "with a trigger")
    triggered = encoded(tmp_path / "with a trigger" / "dataset.toml", CONFIGS["repeated with a prefix"])[:2]
    found = {}
    for case, settings in DESCRIBED.items():
        run = current.begin_run(tmp_path / "runs", "golden", settings, INPUTS)
        found[case] = current.lora_metadata(run, 250, folder, key, guidance=True)
    found["with a trigger, of schnell"] = current.lora_metadata(run, 250, *triggered, guidance=False)
    golden("lora_metadata", found)
