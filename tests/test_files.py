"""Files that appear whole: also while somebody reads what they replace, as Windows sees it."""

import os

import pytest
from impasto import files


@pytest.fixture
def read_by_another(monkeypatch):
    """How often a file is refused to be replaced, as Windows does while it is open; counts down."""
    replace, refusals = os.replace, [3]

    def refusing(source, target):
        if refusals[0]:
            refusals[0] -= 1
            raise PermissionError(13, "Access is denied", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    return refusals


def test_on_windows_a_file_that_is_being_read_is_replaced_once_it_is_closed(tmp_path, monkeypatch, read_by_another):
    monkeypatch.setattr(files, "_WINDOWS", True)
    files.write_whole(tmp_path / "status.json", "new")
    assert (tmp_path / "status.json").read_text() == "new" and read_by_another == [0]


def test_a_file_that_may_not_be_replaced_is_an_error_and_nothing_is_left_behind(tmp_path, read_by_another):
    (tmp_path / "status.json").write_text("old")
    with pytest.raises(PermissionError):
        files.write_whole(tmp_path / "status.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    assert (tmp_path / "status.json").read_text() == "old"


HOSTILE_JSON = ["[" * 100_000, '{"a": ' * 50_000, '{"time": ' + "9" * 5_000 + "}", '{"torn": ']


@pytest.mark.parametrize("text", HOSTILE_JSON)
def test_json_that_python_cannot_hold_is_a_value_error_and_costs_its_line_alone(tmp_path, text):
    with pytest.raises(ValueError):
        files.parsed_json(text)
    (tmp_path / "lines.jsonl").write_text(f'{{"a": 1}}\n{text}\n{{"b": 2}}\n')
    assert files.read_jsonl(tmp_path / "lines.jsonl") == [{"a": 1}, {"b": 2}]
