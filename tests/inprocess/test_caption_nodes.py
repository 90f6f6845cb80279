"""The caption nodes as ComfyUI and saved graphs see them: inputs in order, clean-up by rule, exact token counts."""

from __future__ import annotations

import asyncio
import json

import pytest
from impasto.captioners.captioner import Caption
from impasto.captioners.runner import unanswered
from impasto.tests.captioners.conftest import write_pictures

CLEAN_UP = ["remove_lead_ins", "remove_style_words", "remove_artists", "remove_refusals", "remove_words"]
INPUTS = {  # a saved graph holds widgets by their place: names may be added at the end, and nowhere else
    "ImpastoGeminiCaptioner": [
        *("dataset", "projects", "model", "trigger_word", "clean_up", "estimate_only", "ask_again", "system_prompt"),
        *("media_resolution", "requests_per_minute", "requests_per_day", "tokens_per_minute", "fallback", *CLEAN_UP),
    ],
    "ImpastoFlorence2Captioner": [
        *("dataset", "model", "download", "task", "trigger_word", "clean_up", "num_beams", "max_new_tokens"),
        *("batch_size", "fallback", *CLEAN_UP),
    ],
    "ImpastoOpenAICaptioner": [
        *("dataset", "server", "model", "trigger_word", "clean_up", "ask_again", "system_prompt", "concurrency"),
        *("fallback", *CLEAN_UP),
    ],
    "ImpastoMetadataCaptioner": ["dataset", "trigger_word", "name_artist"],
    "ImpastoCaptionEditor": [
        *("dataset", "trigger_word", "prefix", "suffix", "replacements", "remove_tags", "overrides", "watched")
    ],
}
RAW = "The image shows a pond with red lilies by Claude Monet, painted in oils."


def test_an_estimate_is_made_anew_at_every_queueing(comfyui):
    from impasto.nodes.gemini import GeminiCaptioner

    seen = [GeminiCaptioner.fingerprint_inputs(estimate_only=True) for _ in range(2)]
    assert seen[0] != seen[1]
    kept = [GeminiCaptioner.fingerprint_inputs(estimate_only=False) for _ in range(2)]
    assert kept[0] == kept[1]


class Says:
    """A captioner in this process that says the same of every picture."""

    name, model, batch_size, concurrency, counted = "says", "", 8, 1, False

    def __init__(self, text: str):
        self.text = text

    def prompt(self, picture) -> str:
        return "0"

    async def caption(self, pictures, check, sending):
        return [Caption(self.text) for _ in pictures]

    async def close(self):
        pass


@pytest.fixture
def dataset(comfyui, tmp_path):
    return write_pictures(tmp_path / "paintings", 2)


def captioned(dataset, text: str = RAW, **common) -> tuple[list[str], str]:
    from impasto.nodes.captions import captioned

    settings = {"trigger_word": "", "clean_up": True} | common
    done, report, _ = asyncio.run(captioned(Says(text), dataset, **settings)).args
    return [record.text for record in done.records()], report


def test_inputs_keep_their_names_and_order(comfyui):
    from impasto.nodes import caption_editor, captions, florence, gemini, openai_compatible

    nodes = [
        node for module in (caption_editor, captions, florence, gemini, openai_compatible) for node in module.NODES
    ]
    found = {node.GET_SCHEMA().node_id: [socket.id for socket in node.GET_SCHEMA().inputs] for node in nodes}
    assert found == INPUTS


def test_every_rule_of_clean_up_is_on_and_has_a_switch(dataset):
    assert captioned(dataset)[0] == ["A pond with red lilies."] * 2
    assert captioned(dataset, remove_lead_ins=False)[0][0] == "The image shows a pond with red lilies."
    assert captioned(dataset, remove_artists=False, remove_style_words=False)[0][0].endswith(
        "by Claude Monet, painted in oils."
    )
    assert captioned(dataset, remove_words="red, with")[0][0] == "A pond lilies."
    assert captioned(dataset, clean_up=False)[0][0] == RAW


def test_a_refusal_in_words_is_no_caption_unless_its_rule_is_off(dataset):
    said = "I'm sorry, I can't help with that."
    assert captioned(dataset, said)[0] == ["", ""]
    assert captioned(dataset, said, remove_refusals=False)[0] == [said] * 2


def test_the_report_says_what_clean_up_did(dataset):
    report = captioned(dataset, remove_artists=False)[1]
    assert "Clean-up (lead-ins, style words, refusals) changed 2 of its captions." in report


def test_too_long_is_told_to_the_token(dataset):
    from impasto.nodes.captions import token_counts

    clip = {count: " ".join(["pond"] * (count - 2)) for count in (77, 78)}
    assert [token_counts(text)[0] for text in clip.values()] == [77, 78]
    assert "CLIP's 77" not in captioned(dataset, clip[77], clean_up=False)[1]
    rare = " ".join(["Schleswig-Holsteinisches"] * 12)  # few words, many tokens
    assert "2 longer than CLIP's 77" in captioned(write_pictures(dataset.manifest.parents[2] / "b", 2), rare)[1]


def test_the_tokenizers_agree_with_those_of_transformers(comfyui):
    from impasto.nodes.captions import token_counts
    from transformers import CLIPTokenizer, T5TokenizerFast

    tokenizers = (
        CLIPTokenizer.from_pretrained(comfyui.path / "comfy" / "sd1_tokenizer"),
        T5TokenizerFast.from_pretrained(comfyui.path / "comfy" / "text_encoders" / "t5_tokenizer"),
    )
    for text in (RAW, "", "Zwei Häuser am Rhein, 1889. " * 40, "Nicodemus (John 3:16), (1906) \\(fate\\)"):
        assert token_counts(text) == tuple(len(tokenizer(text)["input_ids"]) for tokenizer in tokenizers)


def test_the_editors_table_tells_too_long_captions_by_their_tokens(dataset):
    from impasto.nodes.caption_editor import CaptionEditor

    long = dataset.with_texts({record.sha256: "pond " * 90 for record in dataset.records()})
    given = {"trigger_word": "", "prefix": "", "suffix": "", "replacements": "", "remove_tags": "", "overrides": ""}
    rows = json.loads(CaptionEditor.execute(long, **given).args[2])
    assert [row["flags"] for row in rows] == [{"too long for CLIP": ["92 tokens"]}] * 2


def test_labels_caption_through_the_same_ledger_and_are_a_captioner_for_others(dataset):
    from impasto.nodes.captions import MetadataCaptioner

    done, report, labels = asyncio.run(MetadataCaptioner.execute("mntgrdn", dataset=dataset)).args
    assert [record.text for record in done.records()] == ["mntgrdn, a picture"] * 2
    assert "metadata: 2 of 2 pictures captioned" in report
    assert asyncio.run(MetadataCaptioner.execute("mntgrdn")).args[2] == labels
    assert not unanswered(dataset, labels)
