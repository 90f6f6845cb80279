"""When the prompt nodes read the wildcard files."""

from pathlib import Path

import pytest


@pytest.fixture
def broken(comfyui, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user folder with a wildcard file that is not UTF-8."""
    from impasto.nodes.host import folders

    monkeypatch.setattr(folders, "user_root", lambda: tmp_path)
    (tmp_path / "wildcards").mkdir()
    (tmp_path / "wildcards" / "colour.txt").write_bytes(b"\xff")


def fingerprint(text: str | None, expansion: str) -> str:
    from impasto.nodes.prompts import PromptManager

    return PromptManager.fingerprint_inputs(text=text, clip_l_text="", negative="", expansion=expansion)


@pytest.mark.parametrize(
    ("text", "expansion"), [("a __colour__ boat", "as written"), ("a {red|blue} boat", "at random")]
)
def test_a_prompt_that_names_no_wildcard_reads_none(broken, text: str, expansion: str):
    assert fingerprint(text, expansion) == fingerprint(text, expansion)


@pytest.mark.parametrize("text", ["a __colour__ boat", None])
def test_a_prompt_that_may_name_one_is_told_which_file_is_broken(broken, text: str | None):
    from impasto.errors import SettingsError

    with pytest.raises(SettingsError, match="colour.txt cannot be read: line 1 is not UTF-8"):
        fingerprint(text, "at random")
