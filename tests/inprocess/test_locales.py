"""The words of every node in each language: English as the schemas have it, the others with the same keys.

After a change of words: IMPASTO_REWRITE_GOLDENS=1 with this file, then the same keys in the other languages.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

LOCALES = Path(__file__).resolve().parents[2] / "locales"
FILE = "nodeDefs.json"


@pytest.fixture(scope="module")
def english(comfyui) -> dict[str, Any]:
    """Of each node by its id, as ComfyUI's page looks words up (`nodeDefs` of vue-i18n)."""
    from impasto.nodes import ImpastoExtension

    nodes = asyncio.run(ImpastoExtension().get_node_list())
    schemas = sorted((node.GET_SCHEMA() for node in nodes), key=lambda schema: schema.node_id)
    return {
        schema.node_id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {given.id.replace(".", "_"): named(given, given.id) for given in schema.inputs},
            "outputs": {str(place): named(given, named_output(given)) for place, given in enumerate(schema.outputs)},
        }
        for schema in schemas
    }


def named_output(given: Any) -> str:
    """What the page calls an output without a name in words; ComfyUI fills in ids like `_0_MODEL_`."""
    return given.get_io_type() if not given.id or given.id.startswith("_") else given.id


def named(given: Any, otherwise: str) -> dict[str, str]:
    told = {"name": given.display_name or otherwise}
    return told | ({"tooltip": given.tooltip} if given.tooltip else {})


def flat(words: dict[str, Any], at: str = "") -> dict[str, str]:
    found = {}
    for key, value in words.items():
        found |= flat(value, f"{at}{key}/") if isinstance(value, dict) else {f"{at}{key}": value}
    return found


def read(language: str) -> dict[str, Any]:
    return json.loads((LOCALES / language / FILE).read_text(encoding="utf-8"))


def test_the_english_words_are_those_of_the_schemas(english):
    if os.environ.get("IMPASTO_REWRITE_GOLDENS"):
        text = json.dumps(english, ensure_ascii=False, indent=1) + "\n"
        (LOCALES / "en" / FILE).write_text(text, encoding="utf-8")
    assert read("en") == english


@pytest.mark.parametrize("language", sorted(path.name for path in LOCALES.iterdir() if path.name != "en"))
def test_a_language_has_every_word_and_none_left_over(english, language: str):
    ours, wanted = flat(read(language)), flat(english)
    assert ours.keys() == wanted.keys()
    assert not [key for key, text in ours.items() if not text.strip()]
    same = [key for key, text in ours.items() if text == wanted[key] and len(text.split()) > 4]
    assert not same, "not translated"
