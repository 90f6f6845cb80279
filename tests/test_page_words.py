"""Every sentence of the panels in ComfyUI's page has its French, with the same values in it."""

import json
import re
from pathlib import Path

from impasto.captioners.lint import flags
from impasto.curation.quality import CALLED

WEB = Path(__file__).resolve().parent.parent / "web"
TEXT = r'"(?:[^"\\]|\\.)*"'
# Where a sentence of people stands in the page's code: as an element's text, in its names and hints, and in dialogs.
SHOWN_AS = (
    rf'element\("\w+", \{{[^{{}}]*\}}, ({TEXT})',
    rf'(?:"aria-label"|title|placeholder|summary): ({TEXT})',
    rf"(?:openDialog|say|Error)\(({TEXT})",
)
NAMES = {'"Impasto"', '"IMPASTO_TOKEN"'}  # the same in every language


def page(name: str = "*") -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in sorted(WEB.glob(f"{name}.js")))


def said() -> set[str]:
    found = {json.loads(text) for text in re.findall(rf"\b(?:t|phrase)\(\s*({TEXT})", page())}
    assert len(found) > 100
    doubtful = 'I cannot describe it: a painting, "Mona Lisa", by Leonardo da Vinci. ' + "word " * 600
    return found | set(CALLED.values()) | set(flags(doubtful)) | set(flags(" "))


def french() -> dict[str, str]:
    rows = re.findall(rf"^  ({TEXT}):\s+({TEXT}),$", page("words"), re.MULTILINE)
    assert len(rows) == len(dict(rows)) == page("words").count('":')
    return {json.loads(english): json.loads(words) for english, words in rows}


def test_every_sentence_of_the_panels_has_its_french_and_none_is_left_over():
    assert said() == french().keys()


def test_a_sentence_holds_the_same_values_in_french():
    values = re.compile(r"\{\w+\}")
    for english, words in french().items():
        assert sorted(values.findall(english)) == sorted(values.findall(words)), english


def test_no_sentence_is_shown_without_its_french():
    bare = {text for pattern in SHOWN_AS for text in re.findall(pattern, page())} - NAMES
    assert not {text for text in bare if re.search(r"[A-Za-z]{2}", text)}


def test_the_pages_modules_are_few_lines():
    assert len(page().splitlines()) <= 2500
