"""Names that people give: what is there is found by listing, whatever it is called; nothing leads out of its root."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from pathlib import Path

import pytest
from impasto.errors import NameRefused
from impasto.paths import (
    MOST_OFFERED,
    as_listed,
    checked_name,
    child_in,
    child_of,
    choice,
    existing_child,
    in_a_row,
    offered,
)

GIVEN_BY_PEOPLE = [
    *("Monet (1874)", "sea [final]", "boats, harbours", "Monet's garden", "Monet’s garden", "black & white", "#3 best"),
    *("me@home", "Nymphéas", "Münchner Straße", "मोने के चित्र", "印象・日の出", "Мане, 1863", "حديقة‌ها", "50% off!"),
    *("wait..", "etc.", "a  b", "St. Rémy; 1889", "🌻 sunflowers", "-rf", "{a|b}", "$HOME", "a = b", "+", "Ångström"),
]
NO_NAMES = [
    *("..", ".", "...", "", " ", "\n", "../a", "/etc", "a/b", "a/../b", "..\\a", "C:\\a", "a\\b", "~", "~root", ".git"),
    *("a\0b", "a\nb", "a\x1b[2J", "a\x85b", "a\ud83d", "\udce9", "a\u202egpj", "a\u2028b", "a\u2066b", "a\ufeffb"),
    *("CON", "con.txt", "NUL", "aux.d", "COM1", "LPT9.toml", "prn .txt", "a" * 256),
]


@pytest.mark.parametrize("name", GIVEN_BY_PEOPLE)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_what_is_there_is_found_by_its_name_in_any_unicode_form(tmp_path, name, form):
    there = tmp_path / unicodedata.normalize(form, name)
    there.mkdir()
    for typed in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name), f" {name} "):
        assert existing_child(tmp_path, typed) == there
        assert child_of(tmp_path, typed) == there
    assert offered(tmp_path) == [there.name]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_is_refused_though_something_is_called_so(tmp_path, name):
    (tmp_path / "root").mkdir()
    with contextlib.suppress(OSError, ValueError):  # no system has it
        (tmp_path / "root" / name).mkdir(parents=True)
    for find in (existing_child, child_of):
        with pytest.raises(NameRefused):
            find(tmp_path / "root", name)
        with pytest.raises(NameRefused):
            find(tmp_path / "root", "a", name)
    assert name not in offered(tmp_path / "root")


@pytest.mark.parametrize("name", ["Monet (1874)", "sea [final]", "a,b", "Monet's", "a&b", "#3", "a@b", "wait.."])
def test_what_is_to_be_made_has_a_plain_name(tmp_path, name):
    assert existing_child(tmp_path, name) is None
    with pytest.raises(NameRefused, match="must be a plain name"):
        child_of(tmp_path, name)
    (tmp_path / name).mkdir()
    assert child_of(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["a\n", "\ta", "a\r"])
def test_control_characters_at_the_ends_are_no_spaces(tmp_path, name):
    (tmp_path / name).mkdir()
    assert existing_child(tmp_path, "a") is None and offered(tmp_path) == []


@pytest.mark.parametrize("name", ["मोने के चित्र", "ภาพวาด", "Nymphe\u0301as", "สี่"])
def test_letters_bear_what_stands_on_them_in_new_names_too(tmp_path, name):
    assert checked_name(f" {name} ") == name
    assert child_of(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["\u0301a", "\u0947", "a\u0301/b", ".\u0301.", "..\u0301", "a.\u0301"])
def test_a_mark_alone_is_no_letter(name):
    with pytest.raises(NameRefused):
        checked_name(name)


def test_two_that_differ_in_form_alone_are_each_found_as_written(tmp_path):
    names = {form: unicodedata.normalize(form, "Nymphéas") for form in ("NFC", "NFD")}
    for name in names.values():
        (tmp_path / name).mkdir(exist_ok=True)
    if len(list(tmp_path.iterdir())) == 2:
        for name in names.values():
            assert existing_child(tmp_path, name).name == name


def test_another_case_is_the_same_name_where_the_file_system_says_so(tmp_path, monkeypatch):
    (tmp_path / "Monet (1874)").mkdir()
    blind = (tmp_path / "MONET (1874)").exists()
    assert (existing_child(tmp_path, "monet (1874)") is not None) == blind
    if not blind:
        # No other can be had here: what a file system without case answers.
        monkeypatch.setattr("impasto.paths.os.path.lexists", lambda path: True)
    assert existing_child(tmp_path, "monet (1874)") == tmp_path / "Monet (1874)"
    assert existing_child(tmp_path, "monet 1874") is None


def test_a_link_out_of_the_root_is_refused_at_any_level_and_not_offered(tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "back").mkdir(parents=True)
    (root / "inside").mkdir(parents=True)
    os.symlink(outside, root / "out (of here)")
    os.symlink(root, root / "itself")
    os.symlink(root / "inside", root / "within")
    for find in (existing_child, child_of):
        for names in (["out (of here)"], ["out (of here)", "back"], ["itself"]):
            with pytest.raises(NameRefused, match="Remove that link"):
                find(root, *names)
        assert find(root, "within") == root / "inside"
    assert offered(root) == ["inside", "within"]


def test_every_choice_that_is_offered_is_accepted(tmp_path):
    for name in [*GIVEN_BY_PEOPLE, ".hidden", "~home", "aux", "new\nline"]:
        (tmp_path / name).mkdir()
    os.mkdir(os.fsencode(tmp_path) + b"/Mus\xe9e")
    names = offered(tmp_path)
    assert sorted(names) == sorted(GIVEN_BY_PEOPLE)
    assert all(existing_child(tmp_path, name) == tmp_path / name for name in names)


def test_the_choice_is_from_the_deepest_folder_that_is_there(tmp_path):
    for place in ("france/Monet (1874)", "france/Manet", "spain"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "france" / "a.toml").touch()
    (tmp_path / "b.TOML").touch()
    assert choice(tmp_path, ["x"], otherwise="") == "Choose one of these: france, spain."
    assert choice(tmp_path, ["france", "x"], otherwise="") == "Choose one of these: france/Manet, france/Monet (1874)."
    assert choice(tmp_path, ["spain", "x"], otherwise="") == "Choose one of these: france, spain."
    assert choice(tmp_path, ["france", "x"], ".toml", otherwise="") == "Choose one of these: france/a.toml."
    assert choice(tmp_path, ["x"], ".toml", otherwise="") == "Choose one of these: b.TOML."
    assert choice(tmp_path / "gone", ["x"], otherwise="Make one.") == "Make one."


def test_names_with_a_comma_are_told_apart_and_very_many_are_counted():
    assert in_a_row(["a", "b, c"]) == "a, 'b, c'"
    assert in_a_row(list("ab") * MOST_OFFERED).endswith(f", b and {MOST_OFFERED} more")


def test_a_path_of_the_owners_is_found_in_another_unicode_form_at_any_level(tmp_path):
    there = tmp_path / unicodedata.normalize("NFD", "Musée") / unicodedata.normalize("NFD", "Nymphéas (1)")
    there.mkdir(parents=True)
    typed = tmp_path / "x" / ".." / unicodedata.normalize("NFC", "Musée") / unicodedata.normalize("NFC", "Nymphéas (1)")
    (tmp_path / "x").mkdir()
    assert os.path.samefile(as_listed(typed), there)
    assert as_listed(tmp_path / "none" / "a") == tmp_path / "none" / "a"
    assert as_listed(tmp_path / ("a" * 300)).name == "a" * 300


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "new", tmp_path / "old"]
    for folder in folders:
        folder.mkdir()
    return folders


def test_a_name_is_found_in_the_first_root_that_has_it_and_a_new_one_goes_into_the_first(roots):
    (roots[1] / "monets").mkdir()
    assert child_in(roots, "monets") == roots[1] / "monets"
    assert child_in(roots, "manets") == roots[0] / "manets"
    (roots[0] / "monets").touch()
    assert child_in(roots, "monets") == roots[0] / "monets"
    assert child_in(roots, "monets", holds=Path.is_dir) == roots[1] / "monets"


def test_a_single_root_is_one_of_several(roots):
    (roots[1] / "monets").mkdir()
    assert child_in(roots[0], "monets") == roots[0] / "monets"


def test_no_name_leads_out_of_the_root_that_it_is_found_in(roots, tmp_path):
    (roots[0] / "out").symlink_to(tmp_path)
    for name in ("../old", "out", "", "a/b"):
        with pytest.raises(NameRefused):
            child_in(roots, name)
    (roots[1] / "out").mkdir()
    assert child_in(roots, "out") == roots[1] / "out"
    with pytest.raises(NameRefused):
        child_in(roots[:1], "out")
