"""The ids of training runs, and settings.toml: another id begins a half-trained run anew."""

from __future__ import annotations

import pytest

from . import current

INPUTS = {
    "features_folder": "/features/0123456789abcdef",
    "features_key": "0123456789abcdef",
    "weights": "/models/flux1-dev.safetensors",
    "fingerprint": "fedcba9876543210",
}
# A value that is not the default for every setting; those with a few choices have each of them.
OTHERS = {
    "steps": 1500,
    "learning_rate": 4e-4,
    "rank": 8,
    "alpha": 8.0,
    "weight_decay": 0.1,
    "warmup_steps": 100,
    "max_grad_norm": 0.0,
    "gradient_accumulation": 4,
    "caption_dropout": 0.0,
    "guidance": 3.5,
    "gradient_checkpointing": False,
    "checkpoint_every": 100,
    "sample_steps": 0,
    "seed": 2**64 - 1,
    "lora_dropout": 0.1,
    "rslora": True,
    "dora": True,
    "block_ranks": "double 0-4: 8; single 10-37: 4; rest: 0",
    "scheduler_cycles": 3,
    "timestep_mean": 0.5,
    "timestep_scale": 0.5,
    "timestep_shift": 2.0,
    "mode_scale": 0.8,
    "ema_decay": 0.99,
    "prior_loss_weight": 0.5,
    "checkpointing_interval": 2,
    "streamed_blocks": 12,
    "compile": True,
    "checkpoint_epochs": 2,
    "keep_checkpoints": 3,
    "early_stop_patience": 5,
    "preset": "24 GB",
    "eight_bit_products": True,
}
NONE_OF_0_1 = {"eight_bit_products": False}  # what is written for "everything" was, by an earlier version
TOGETHER = {
    "cosine over 1500 steps": {"scheduler": "cosine", "steps": 1500},
    "linear over 1500 steps": {"scheduler": "linear", "steps": 1500, "warmup_steps": 50},
    "restarts": {"scheduler": "cosine_with_restarts", "scheduler_cycles": 4},
    "restarts without restarts": {"scheduler": "cosine", "scheduler_cycles": 4},
    "schedule-free with an idle schedule": {"optimizer": "schedule_free_adamw", "scheduler": "cosine", "steps": 700},
    "shift": {"timestep_sampling": "shift", "timestep_shift": 2.0, "timestep_mean": 0.3},
    "uniform with an idle mean": {"timestep_sampling": "uniform", "timestep_mean": 0.3},
    "mode": {"timestep_sampling": "mode", "mode_scale": 0.8},
    "DoRA of chosen blocks": {"dora": True, "rslora": True, "block_ranks": "single: 4; rest: 8", "rank": 12},
    "QLoRA": {"precision": "nf4", "optimizer": "paged_adamw8bit", "targets": "image attention", "rank": 4},
    "memory and keeping only": {"streamed_blocks": -1, "compile": True, "keep_checkpoints": 2, "tracker": "wandb"},
    "everything": OTHERS | {"scheduler": "cosine", "timestep_sampling": "shift", "precision": "int8"} | NONE_OF_0_1,
    "8-bit products": {"precision": "int8", "eight_bit_products": True},
    "8-bit products of another base": {"precision": "bf16", "eight_bit_products": True},
}
OTHER_INPUTS = {
    "started from a LoRA": {"start_lora": "/loras/monet.safetensors", "start_hash": "0011223344556677"},
    "continued": {"continued_from": "golden-01234567", "first_step": 500},
    "other features": {"features_folder": "/features/ffffffffffffffff", "features_key": "ffffffffffffffff"},
    "other weights": {"weights": "/models/flux1-schnell.safetensors", "fingerprint": "0000000000000000"},
    "the same contents elsewhere": {"features_folder": "/elsewhere/0123456789abcdef", "weights": "/elsewhere/flux"},
    "with prompts": {"prompts": "prompts-0123456789abcdef.json"},
}
NAMES = ("Claude Monet 2.1", "Été à Giverny", "x" * 100)


def settings_of_all_cases():
    """Name -> the settings that are not the default."""
    cases = {"defaults": {}}
    cases |= {f"{name} {value}": {name: value} for name, value in OTHERS.items()}
    cases |= {f"{name} {choice}": {name: choice} for name, choices in current.CHOICES.items() for choice in choices}
    cases |= {f"targets {name}": {"targets": name} for name in current.targets()}
    for name, preset in current.presets().items():
        cases[f"preset {name}"] = {setting: value for setting, value in preset.items() if setting != "dataset"}
    return cases | TOGETHER


def test_every_setting_is_among_the_cases():
    assert {*OTHERS, *current.CHOICES, "targets"} == current.training_defaults().keys()


def test_run_ids(golden, tmp_path):
    ids = {
        case: current.begin_run(tmp_path, "golden", settings, INPUTS).name
        for case, settings in settings_of_all_cases().items()
    }
    for case, inputs in OTHER_INPUTS.items():
        ids[case] = current.begin_run(tmp_path, "golden", {}, INPUTS | inputs).name
    ids |= {f"called {name}": current.begin_run(tmp_path, name, {}, INPUTS).name for name in NAMES}
    golden("run_ids", ids)


@pytest.mark.parametrize("case", ["defaults", "everything", "started from a LoRA", "continued"])
def test_settings_toml(golden, tmp_path, case):
    settings = TOGETHER.get(case, {})
    run = current.begin_run(tmp_path, "golden", settings, INPUTS | OTHER_INPUTS.get(case, {}))
    golden(f"settings_toml/{case.replace(' ', '-')}", {"lines": (run / "settings.toml").read_text().splitlines()})
    asked = current.asked_for(run)
    assert asked["settings"] == current.training_defaults() | settings | {"seed": settings.get("seed", 0)}
    assert {name: asked[name] for name in INPUTS} == INPUTS


def test_a_continued_run_is_found_under_its_id(golden, tmp_path, base_weights):
    inputs = INPUTS | {"weights": str(base_weights), "fingerprint": current.fingerprint(base_weights)}
    first = current.begin_run(tmp_path, "golden", {"steps": 4}, inputs)
    adapter = first / "checkpoints" / "step-000004" / "adapter.safetensors"
    adapter.parent.mkdir(parents=True)
    adapter.touch()
    ids = {"the earlier": first.name}
    changed = {"as before": {}, "slower": {"learning_rate": 5e-5}, "falling": {"scheduler": "cosine"}}
    for case, changes in changed.items():
        run = current.continue_run(tmp_path, first, 8, base_weights, **changes)
        ids[case] = run.name
        assert (run / "checkpoints" / "step-000004" / "adapter.safetensors").is_file()
        assert current.asked_for(run)["first_step"] == 4
    golden("continued_run_ids", ids)


def test_presets(golden):
    golden("presets", current.presets())
