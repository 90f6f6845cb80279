"""Prompt Set with the prompts of a category, in ComfyUI's own user folder."""

from __future__ import annotations

import pytest


def test_a_category_is_added_behind_the_lines_and_edited_in_the_users_folder(comfyui):
    from impasto.errors import SettingsError
    from impasto.nodes.prompt_files import categories_folder
    from impasto.nodes.prompt_sets import PromptSet

    plain = PromptSet.execute("a mill", 7).args[1]
    added = PromptSet.execute("a mill", 7, category="portrait", of_category=2).args
    assert plain == ["a mill"] and added[1][0] == "a mill" and len(added[1]) == 3 and set(added[2]) == {7}
    folder = categories_folder()
    assert folder == comfyui.base / "user" / "impasto" / "prompts" / "categories"
    before = PromptSet.fingerprint_inputs(category="portrait")
    (folder / "portrait.txt").write_text("a portrait of a miller\n")
    assert PromptSet.fingerprint_inputs(category="portrait") != before
    assert PromptSet.execute("", 7, category="portrait").args[1] == ["a portrait of a miller"]
    assert PromptSet.validate_inputs(category="of tomorrow") is True
    with pytest.raises(SettingsError, match="no category of prompts 'of tomorrow'"):
        PromptSet.execute("", 7, category="of tomorrow")
