"""Wildcard files: lines of text, and the lists of YAML and JSON that other packs read."""

import pytest
from impasto.errors import SettingsError
from impasto.prompting import wildcard_files
from impasto.prompting.dynamic import combinations
from impasto.prompting.wildcard_files import read_wildcards


def test_wildcards_are_read_from_a_folder_by_their_path(tmp_path):
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "cat.txt").write_text("\ufeff# cats\n tabby \n\nsiamese\n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no wildcard")
    assert read_wildcards(tmp_path) == {"animals/cat": ("tabby", "siamese")}


def test_a_folder_that_is_not_there_has_no_wildcards(tmp_path):
    assert read_wildcards(tmp_path / "none") == {}


def test_wildcard_files_are_read_by_their_mark_and_in_any_case_of_the_ending(tmp_path):
    (tmp_path / "Animal.TXT").write_bytes(b"\xff\xfe" + "caf\u00e9 cat\r\nowl".encode("utf-16-le"))
    (tmp_path / "place.txt").write_text("a\u2028b\n", encoding="utf-8")
    assert read_wildcards(tmp_path) == {"Animal": ("caf\u00e9 cat", "owl"), "place": ("a\u2028b",)}


def test_a_wildcard_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "colour.txt").write_bytes("grün\n".encode("latin-1"))
    with pytest.raises(SettingsError, match="colour.txt cannot be read: line 1 is not UTF-8 .byte 0xfc"):
        read_wildcards(tmp_path)


def write(folder, **files):
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")


def test_each_list_of_a_yaml_file_is_a_wildcard_by_the_keys_that_lead_to_it(tmp_path):
    write(
        tmp_path,
        all_yaml="hair:\n  - long\n  - no\n  - 1.50\n  -\ncoat:\n  wool: [grey, {text: red, weight: 3}]\nsky: blue\n",
    )
    found = read_wildcards(tmp_path)
    assert found == {"hair": ("long", "no", "1.50"), "coat/wool": ("grey", "3::red"), "sky": ("blue",)}
    assert combinations("a __coat/*__ coat", found) == ["a grey coat", "a red coat"]


def test_values_of_yaml_are_read_as_dynamic_prompts(tmp_path):
    write(tmp_path, a_yml="boat:\n  - '{red|blue} boat'\n  - __colour__ ship\ncolour:\n  - 2::white\n")
    assert combinations("__boat__", read_wildcards(tmp_path)) == ["red boat", "blue boat", "white ship"]


def test_json_and_a_file_that_is_one_list_are_read_too(tmp_path):
    (tmp_path / "sub").mkdir()
    write(
        tmp_path / "sub",
        birds_yaml="- owl\n- wren\n",
        fish_json='{"fish": {"sea": ["cod", 7, "ray\\ud83d"]}, "none": []}',
    )
    assert read_wildcards(tmp_path) == {"sub/birds": ("owl", "wren"), "fish/sea": ("cod", "7", "ray"), "none": ()}


def test_one_name_in_several_files_has_all_their_values(tmp_path):
    write(tmp_path, colour_txt="red\n", more_yaml="colour: [blue]\n", empty_yaml="")
    assert read_wildcards(tmp_path) == {"colour": ("red", "blue")}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a:\n  - Monet: water lilies\n", "Value 1 of 'a' in the wildcard file .*a.yaml is .*into quotes"),
        ("a:\n  - x\n  - [b, c]\n", "Value 2 of 'a'"),
        ("a:\n  - {red|blue} boat\n", r"a.yaml cannot be read \(.*line 2.*into quotes"),
        ("a:\n\t- x\n", "a.yaml cannot be read .*line 2"),
        ("[" * 3000, "a.yaml cannot be read"),
    ],
)
def test_what_is_no_list_of_texts_is_named_with_its_place(tmp_path, text, told):
    write(tmp_path, a_yaml=text)
    with pytest.raises(SettingsError, match=told):
        read_wildcards(tmp_path)


def test_lists_that_repeat_one_another_end(tmp_path, monkeypatch):
    monkeypatch.setattr(wildcard_files, "MOST_VALUES", 1000)
    lines = ["a0: &a0 [x, x, x, x]"]
    lines += [f"a{n}: &a{n} {{{', '.join(f'k{k}: *a{n - 1}' for k in range(9))}}}" for n in range(1, 9)]
    write(tmp_path, a_yaml="\n".join(lines))
    with pytest.raises(SettingsError, match="more than 1,000 values"):
        read_wildcards(tmp_path)


def test_no_tag_of_yaml_makes_anything(tmp_path):
    write(tmp_path, a_yaml="a:\n  - !!python/object/apply:os.getcwd []\n  - !!python/name:os.system x\n")
    with pytest.raises(SettingsError, match="Value 1 of 'a'"):
        read_wildcards(tmp_path)
