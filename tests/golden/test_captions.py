"""What a captioner's ledger knows an answer by: another question asks, and pays for, everything again."""

from __future__ import annotations

from . import current

LABELS = {"genre": "genre_painting", "title": "L'étang_1", "artist": "Claude Monet"}


def test_questions(golden, tmp_path):
    florence = tmp_path / "Florence-2-base"
    florence.mkdir()
    (florence / "config.json").write_text("{}")
    (florence / "model.safetensors").write_bytes(bytes(range(256)) * 300)
    found = {}
    for case, captioner in current.captioners(florence).items():
        prompts = {
            "of a bare picture": captioner.prompt(current.picture()),
            "of a labelled one": captioner.prompt(current.picture(**LABELS)),
        }
        found[case] = {"captioner": captioner.name, "model": captioner.model, "prompt": prompts}
    golden("caption_questions", found)


def test_lines_of_the_ledger(golden, tmp_path):
    ledger = tmp_path / "captions.jsonl"
    question = {"image": "0" * 64, "captioner": "gemini", "model": "gemini-3", "prompt": "0123456789abcdef"}
    said = {
        "text": "un étang",
        "finish_reason": "stop",
        "tokens": 20,
        "seconds": 1.5,
        "time": "2026-11-29T22:00:00+00:00",
    }
    current.answer(ledger, question, said)
    refused = said | {"text": "", "finish_reason": "prompt blocked", "reason": "SAFETY", "prompt_tokens": 1120}
    current.answer(ledger, question | {"image": "1" * 64}, refused)
    golden("ledger", {"lines": ledger.read_text(encoding="utf-8").splitlines()})
