"""Settings are validated where they enter, and what is refused is named with its value and its range."""

import dataclasses
from pathlib import Path

import pytest
import tomlkit
import torch
from impasto.errors import SettingsError
from impasto.files import content_hash
from impasto.trainers import objective
from impasto.trainers.attention import ATTENTION_BACKENDS
from impasto.trainers.lora.targets import TARGETS
from impasto.trainers.optimization import make_optimizer, make_scheduler
from impasto.trainers.optimizers import OPTIMIZERS
from impasto.trainers.presets import PRESETS
from impasto.trainers.settings import (
    LOSS_WEIGHTINGS,
    RANGES,
    SCHEDULERS,
    TIMESTEP_SAMPLINGS,
    Settings,
    check_learning_rate,
)

HELP = Path(__file__).resolve().parents[2] / "web" / "docs"


def explained(page: str) -> list[list[str]]:
    """The cells of each row of the tables on a help page."""
    lines = (HELP / f"Impasto{page}.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


@pytest.mark.parametrize("name", RANGES)
def test_a_value_outside_its_range_is_refused_with_name_value_and_range(name):
    low, high = RANGES[name]
    for value in (low - 1, high * 2 + 1, float("nan")):
        with pytest.raises(SettingsError) as refusal:
            Settings(**{name: value})
        assert name in str(refusal.value) and repr(value) in str(refusal.value) and f"{high:g}" in str(refusal.value)


@pytest.mark.parametrize(
    "name", ["optimizer", "scheduler", "timestep_sampling", "precision", "targets", "attention_backend"]
)
def test_an_unknown_choice_is_refused_with_the_choices_there_are(name):
    with pytest.raises(SettingsError, match=f"{name} is 'nonsense'. Choose one of: "):
        Settings(**{name: "nonsense"})


@pytest.mark.parametrize("name", ["sage", "_sage_qk_int8_pv_fp16_cuda", "sage_hub", "flash_3", "_flash_varlen_3"])
def test_attention_that_gives_no_gradient_is_refused_by_that_reason(name):
    with pytest.raises(SettingsError, match=f"attention_backend is '{name}'.*without a backward pass.*native_flash"):
        Settings(attention_backend=name)


def test_more_warmup_than_steps_is_refused():
    with pytest.raises(SettingsError, match="warmup_steps is 20, but the run has only 10 steps"):
        Settings(steps=10, warmup_steps=20)


@pytest.mark.parametrize("rate", [1e-4, 0.0099])
def test_prodigy_with_a_learning_rate_that_trains_next_to_nothing_is_refused_with_the_remedy(rate):
    with pytest.raises(SettingsError, match=f"learning_rate is {rate:g}.*prodigy.*Set learning_rate to 1"):
        check_learning_rate(Settings(optimizer="prodigy", learning_rate=rate))
    check_learning_rate(Settings(optimizer="prodigy", learning_rate=0.01))


def test_settings_survive_toml_with_the_largest_seed():
    settings = Settings(seed=2**64 - 1, learning_rate=3.14e-5, targets="attention")
    assert Settings.from_dict(tomlkit.parse(tomlkit.dumps(settings.to_dict())).unwrap()) == settings


def test_a_misspelt_setting_is_named():
    with pytest.raises(SettingsError, match="learning_rat"):
        Settings.from_dict({"learning_rat": 1e-4})


@pytest.mark.parametrize(
    ("name", "values", "other", "idle", "used"),
    [
        ("mode_scale", (0.5, 1.5), "timestep_sampling", ("sigmoid", "uniform", "flux_shift", "shift"), ("mode",)),
        ("timestep_shift", (2.0, 3.0), "timestep_sampling", ("sigmoid", "uniform", "flux_shift", "mode"), ("shift",)),
        ("timestep_mean", (0.5, 1.0), "timestep_sampling", ("uniform", "mode"), ("sigmoid", "flux_shift", "shift")),
        ("timestep_scale", (0.5, 2.0), "timestep_sampling", ("uniform", "mode"), ("sigmoid", "flux_shift", "shift")),
    ],
)
def test_a_setting_of_noise_decides_exactly_where_it_changes_the_sigmas(name, values, other, idle, used):
    def drawn(settings):
        return objective.sample_sigmas(100, settings, 1024, objective.generator(0)).tolist()

    for choice in (*idle, *used):
        one, two = (Settings(**{name: value, other: choice}) for value in values)
        assert (one.deciding() == two.deciding()) == (drawn(one) == drawn(two)) == (choice in idle)


@pytest.mark.parametrize("optimizer", ["adamw", "schedule_free_adamw"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    "change", [{"scheduler": "linear"}, {"scheduler_cycles": 2}, {"steps": 30}, {"warmup_steps": 5}], ids=str
)
def test_a_setting_of_the_schedule_decides_exactly_where_it_changes_the_weights(optimizer, scheduler, change):
    def trained(settings):
        weight = torch.nn.Parameter(torch.zeros(()))
        steps = make_optimizer([weight], settings)
        schedule = make_scheduler(steps, settings)
        if optimizer == "schedule_free_adamw":
            steps.train()
        weights = []
        for _ in range(15):
            weight.grad = torch.ones(())
            steps.step()
            schedule.step()
            weights.append(weight.item())
        return weights

    before = Settings(steps=20, optimizer=optimizer, scheduler=scheduler)
    after = dataclasses.replace(before, **change)
    assert (before.deciding() == after.deciding()) == (trained(before) == trained(after))


def test_the_preset_that_settings_began_as_does_not_decide():
    assert Settings(preset="8 GB").deciding() == Settings().deciding()


def test_a_run_of_default_settings_has_the_id_that_it_always_had():
    assert content_hash(Settings().deciding(), 8) == "67a37391"


@pytest.mark.parametrize(
    ("page", "choices"),
    [
        ("TrainingSettings", (*TARGETS, *SCHEDULERS, *OPTIMIZERS)),
        ("NoiseSettings", (*TIMESTEP_SAMPLINGS, *LOSS_WEIGHTINGS)),
        ("MemorySettings", tuple(ATTENTION_BACKENDS)),
    ],
)
def test_the_help_page_explains_every_choice(page, choices):
    assert not set(choices) - {name.strip() for row in explained(page) for name in row[0].split(",")}


def test_the_help_page_says_of_every_preset_what_it_sets():
    said = {row[0]: row[2:] for row in explained("TrainingPreset") if row[0] in PRESETS}
    assert said == {
        name: [
            f"{preset.settings.steps:,}",
            f"{preset.settings.rank}",
            preset.settings.precision,
            preset.settings.targets,
            f"{preset.width} × {preset.height}",
        ]
        for name, preset in PRESETS.items()
    }
    assert all(preset.settings.alpha == preset.settings.rank for preset in PRESETS.values())


@dataclasses.dataclass(frozen=True)
class LaterSettings(Settings):
    """As a later version may have them."""

    loss: str = "mse"


def test_a_setting_that_is_added_leaves_the_ids_and_files_of_runs_without_it_as_they_are():
    assert LaterSettings().to_dict() == Settings().to_dict()
    assert LaterSettings().deciding() == Settings().deciding()
    other = LaterSettings(loss="huber", rank=8)
    assert other.deciding()["loss"] == "huber"
    assert LaterSettings.from_dict(other.to_dict()) == other
    assert LaterSettings.from_dict(Settings(rank=8).to_dict()) == LaterSettings(rank=8)
