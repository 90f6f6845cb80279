"""Settings are validated where they enter, and what is refused is named with its value and its range."""

import pytest
import tomlkit
from impasto.errors import SettingsError
from impasto.trainers.settings import RANGES, Settings


@pytest.mark.parametrize("name", RANGES)
def test_a_value_outside_its_range_is_refused_with_name_value_and_range(name):
    low, high = RANGES[name]
    for value in (low - 1, high * 2 + 1, float("nan")):
        with pytest.raises(SettingsError) as refusal:
            Settings(**{name: value})
        assert name in str(refusal.value) and repr(value) in str(refusal.value) and f"{high:g}" in str(refusal.value)


@pytest.mark.parametrize("name", ["optimizer", "scheduler", "timestep_sampling", "precision", "targets"])
def test_an_unknown_choice_is_refused_with_the_choices_there_are(name):
    with pytest.raises(SettingsError, match=f"{name} is 'nonsense'. Choose one of: "):
        Settings(**{name: "nonsense"})


def test_more_warmup_than_steps_is_refused():
    with pytest.raises(SettingsError, match="warmup_steps is 20, but the run has only 10 steps"):
        Settings(steps=10, warmup_steps=20)


def test_settings_survive_toml_with_the_largest_seed():
    settings = Settings(seed=2**64 - 1, learning_rate=3.14e-5, targets="attention")
    assert Settings.from_dict(tomlkit.parse(tomlkit.dumps(settings.to_dict())).unwrap()) == settings


def test_a_misspelt_setting_is_named():
    with pytest.raises(SettingsError, match="learning_rat"):
        Settings.from_dict({"learning_rat": 1e-4})
