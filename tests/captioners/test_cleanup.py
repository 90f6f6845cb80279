"""Clean-up, held against what Florence-2, Gemini and local models say and what a person would make of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from impasto.captioners.captioner import Caption, Kind
from impasto.captioners.cleanup import Rules, clean, read_words
from impasto.captioners.lint import flags, lint, lint_report
from impasto.captioners.runner import caption_dataset
from impasto.errors import SettingsError

CORPUS = [
    json.loads(line) for line in Path(__file__).with_name("corpus.jsonl").read_text(encoding="utf-8").splitlines()
]


def test_the_corpus_is_large_and_of_all_three():
    assert len(CORPUS) >= 200
    assert {entry["captioner"] for entry in CORPUS} == {"florence-2", "gemini", "local"}


@pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: entry["raw"][:50])
def test_an_answer_is_cleaned_as_a_person_would(entry):
    assert clean(entry["raw"]) == entry["expected"]


@pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: entry["raw"][:50])
def test_cleaning_twice_changes_nothing(entry):
    assert clean(entry["expected"]) == entry["expected"]


def test_each_rule_can_be_left_out():
    raw = "The image shows a pond by Claude Monet, painted in oils."
    assert clean(raw) == "A pond."
    assert clean(raw, Rules(lead_ins=False)) == "The image shows a pond."
    assert clean(raw, Rules(artists=False, style_words=False)) == "A pond by Claude Monet, painted in oils."
    assert clean("I'm sorry, I can't help with that.", Rules(refusals=False))
    assert clean("A red barn in Tuscany.", Rules(words=("red", "in Tuscany"))) == "A barn."


@pytest.mark.parametrize(
    "piece",
    [
        *("a painting of ", "oil, ", "oil ", "loose, ", "vibrant ", "impressionist and ", "in the style of ", "A"),
        *("van ", "the image is a ", "<s>", "this ", "painted "),
    ],
)
def test_no_answer_takes_long_to_clean(piece):
    began = time.process_time()
    clean(piece * (8_000 // len(piece)))
    assert time.process_time() - began < 0.5


def test_json_nested_too_deeply_is_cleaned_as_text(monkeypatch):
    def too_deep(text):
        raise RecursionError

    monkeypatch.setattr("impasto.files.json.loads", too_deep)
    assert clean('{"a": {"a": "a boat"}}')
    monkeypatch.undo()
    assert isinstance(clean('{"a":' * 5_000), str)


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("A plan of it.</think>A boat.", "A boat."),
        ("<think>one</think> two </think> A boat.", "A boat."),
        ("<think>" + "long " * 3_000 + "</think>A boat.", "A boat."),
        ("<think>never ended", ""),
        ("The plan.</think>", ""),
    ],
)
def test_only_what_follows_the_last_thinking_is_the_caption(raw, cleaned):
    assert clean(raw) == cleaned


def test_flags_name_the_words():
    assert flags("A girl in a garden, watching oil lamps.") == {}
    assert flags("An oil painting by Claude Monet") == {"style words": ("oil painting",), "artists": ("Claude Monet",)}
    assert flags('A boat, "The Boating Party".')["titles"] == ('"The Boating Party"',)
    assert flags("") == {"empty": ("no caption",)}
    assert flags("oil painting style, a boat", trigger_word="oil painting style") == {}
    assert flags("oil painting style, an oil painting", trigger_word="oil painting style")["style words"]
    assert "refusal" in flags("I'm sorry, I can't see it.")


def test_the_lint_report_counts_every_kind():
    captions = {
        "a": "",
        "b": "a boat",
        "c": "a boat",
        "d": "an impressionist garden",
        "e": "a pond by Monet",
        "f": "word " * 80,
        "g": "word " * 600,
        "h": 'a hill, titled "Spring"',
    }
    found = lint(captions)
    assert found.empty == ("a",) and found.duplicates == {"a boat": ("b", "c")}
    assert set(found.style_words) == {"d"} and set(found.artists) == {"e"} and set(found.titles) == {"h"}
    assert found.too_long_for_clip == ("f", "g") and found.too_long_for_t5 == ("g",)
    report = lint_report(found)
    for part in ("8 captions", "1 empty", "2 × a boat", "impressionist (1)", "Monet (1)", "77", "512", "titled"):
        assert part in report, part
    assert lint_report(lint({"a": "a boat", "b": "a barn"})) == "2 captions, nothing doubtful in them."


def test_exact_counts_replace_the_least_there_can_be():
    captions = {"a": "a boat", "b": "a barn"}
    found = lint(captions, lambda text: (78, 513) if text == "a barn" else (77, 512))
    assert found.too_long_for_clip == found.too_long_for_t5 == ("b",)
    assert flags("a barn", lambda text: (78, 512)) == {"too long for CLIP": ("78 tokens",)}


def test_lint_is_ended_by_what_its_check_raises():
    class Cancelled(BaseException):
        pass

    looked = []

    def check():
        looked.append(1)
        if len(looked) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        lint({str(number): "a boat" for number in range(10)}, check=check)
    assert len(looked) == 3


def test_words_of_ones_own_are_bounded():
    assert read_words("red, in Tuscany\n red,,") == ("red", "in Tuscany")
    for wrong in (",".join(map(str, range(201))), "x" * 101):
        with pytest.raises(SettingsError):
            read_words(wrong)


class Says:
    """A captioner that says the same of every picture."""

    model, batch_size, concurrency, counted = "", 2, 1, False

    def __init__(self, text: str, name: str = "says"):
        self.text, self.name, self.asked = text, name, 0

    def prompt(self, picture):
        return "0"

    async def caption(self, pictures, check, sending):
        self.asked += len(pictures)
        return [Caption(self.text) for _ in pictures]

    async def close(self):
        pass


def test_what_clean_up_empties_is_refused_or_goes_to_the_fallback(make_dataset):
    import asyncio

    dataset = make_dataset(3)
    refusing = Says("I'm sorry, but I can't help with that.")
    alone = asyncio.run(caption_dataset(dataset, refusing, trigger_word="t"))
    assert [refusal.kind for refusal in alone.refused.values()] == [Kind.NO_ANSWER] * 3
    assert not any(record.text for record in alone.dataset.records())
    both = asyncio.run(
        caption_dataset(dataset, refusing, trigger_word="t", fallback=Says("a painting of a cat", "two"))
    )
    assert [record.text for record in both.dataset.records()] == ["t, A cat"] * 3
    assert refusing.asked == 3 and "3 pictures share 1 captions" in both.report


def test_cancel_is_heard_while_thousands_of_kept_answers_are_cleaned(make_dataset, monkeypatch):
    import asyncio

    class Cancelled(BaseException):
        pass

    monkeypatch.setattr("impasto.clock.POLL", 0.0)
    dataset, captioner = make_dataset(20), Says("The image shows a cat.")
    asyncio.run(caption_dataset(dataset, captioner, rules=None))
    cleaned = []

    def counting(raw, rules):
        cleaned.append(raw)
        return raw

    monkeypatch.setattr("impasto.captioners.runner.clean", counting)

    def cancel(done, total, text="", preview=None):
        if len(cleaned) == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        asyncio.run(caption_dataset(dataset, captioner, cancel))
    assert len(cleaned) == 5


def test_clean_up_can_change_without_a_call_because_the_ledger_keeps_answers_as_they_came(make_dataset):
    import asyncio

    dataset, captioner = make_dataset(1), Says("The image shows a cat.")
    raw = asyncio.run(caption_dataset(dataset, captioner, rules=None))
    cleaned = asyncio.run(caption_dataset(dataset, captioner))
    assert raw.dataset.records()[0].text == "The image shows a cat."
    assert cleaned.dataset.records()[0].text == "A cat." and captioner.asked == 1
