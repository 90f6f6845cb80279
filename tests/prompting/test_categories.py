"""Prompts by category: what is shipped, and what becomes of it in its owner's hands."""

from __future__ import annotations

from pathlib import Path

import pytest
from impasto.errors import SettingsError
from impasto.prompting.categories import SHIPPED, fingerprint, names, prompts_of
from impasto.prompting.prompt_set import prompt_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prompts" / "categories"


def test_every_shipped_category_is_a_set_of_prompts_each_once(folder):
    assert {"landscape", "portrait", "still_life", "cityscape"} <= set(names(folder))
    every = [prompt.text for name in names(folder) for prompt in prompt_set(prompts_of(folder, name), 1)]
    assert len(every) == len(set(every)) >= 80
    assert not [text for text in every if " --" in text or "oil paint" in text or "style" in text]


def test_they_are_the_owners_from_the_first_use_on(folder):
    assert not folder.exists() and names(folder) == sorted(path.stem for path in SHIPPED.glob("*.txt"))
    before = fingerprint(folder, "landscape")
    assert prompts_of(folder, "landscape").startswith("a wide valley") and fingerprint(folder, "landscape") == before
    (folder / "landscape.txt").write_text("\ufeff# mine\r\na hill {at dawn|at dusk}\r\n", encoding="utf-8")
    (folder / "trams.txt").write_text("a red tram\n\na yellow tram\n")
    (folder / "portrait.txt").unlink()
    assert prompts_of(folder, "landscape") == "a hill {at dawn|at dusk}" and fingerprint(folder, "landscape") != before
    assert prompts_of(folder, "trams") == "a red tram\na yellow tram"
    assert "portrait" not in names(folder) and "trams" in names(folder)
    with pytest.raises(SettingsError, match=r"no category of prompts 'portrait' .* There are: .*trams"):
        prompts_of(folder, "portrait")


def test_some_of_a_category_are_chosen_by_the_seed_and_stay_in_their_order(folder):
    every = prompts_of(folder, "landscape").split("\n")
    some = prompts_of(folder, "landscape", 3, seed=1).split("\n")
    assert some == sorted(some, key=every.index) and len(some) == 3
    assert some == prompts_of(folder, "landscape", 3, seed=1).split("\n")
    assert len({prompts_of(folder, "landscape", 3, seed=seed) for seed in range(20)}) > 5
    assert prompts_of(folder, "landscape", 1000).split("\n") == every


@pytest.mark.parametrize("name", ["../secret", "", "/etc/passwd", "landscape.txt", "\0"])
def test_no_name_leads_out_of_the_folder(folder, name):
    (folder.parent).mkdir()
    (folder.parent / "secret.txt").write_text("a secret")
    with pytest.raises(SettingsError, match="no category"):
        prompts_of(folder, name)
