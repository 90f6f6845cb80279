"""Token counts against transformers' own tokenizers, over ComfyUI's tokenizer files."""

import random
import re

import pytest
from impasto.prompting.tokens import flux_encoders, token_count

PROMPTS = 1000
WORDS = re.split(
    " ",
    "a the quiet harbour painting of light impasto brushstrokes masterpiece, 8k red-green well-lit don't it's café "
    "naïve Straße 日本の庭 картина لوحة 🎨 👩‍🎨 🇫🇷 e=mc² 100% #1 <lora> $5 & @home \\ / C++ :) ... -- — “quoted” ½ ﬁne "
    "antidisestablishmentarianism xyzzy_42 3.14159 newline\n tab\t double  space ! ? ; : '' \"",
)


def prompts() -> list[str]:
    """Prompts of 0 to 400 words: plain, unicode, emoji, punctuation, long."""
    draw = random.Random(7)
    return ["", " ", "a", *(" ".join(draw.choices(WORDS, k=draw.choice((3, 12, 40, 90, 400)))) for _ in range(PROMPTS))]


@pytest.fixture(scope="module")
def tokenizers(comfyui):
    from transformers import CLIPTokenizer, T5TokenizerFast

    return (
        CLIPTokenizer.from_pretrained(comfyui.path / "comfy" / "sd1_tokenizer"),
        T5TokenizerFast.from_pretrained(comfyui.path / "comfy" / "text_encoders" / "t5_tokenizer"),
    )


@pytest.fixture(scope="module")
def counters(comfyui):
    from impasto.nodes.host.encoders import token_counters

    return token_counters(None)


def test_counts_equal_those_of_transformers(tokenizers, counters):
    for name, tokenizer, encoder in zip(("CLIP-L", "T5"), tokenizers, flux_encoders(*counters, 512), strict=True):
        for text in prompts():
            # Parentheses are weights to ComfyUI: transformers gets the text without any.
            plain = text.replace("(", "").replace(")", "")
            expected = len(tokenizer(plain)["input_ids"])
            assert token_count(plain, encoder).tokens == expected, (name, plain[:80])


@pytest.mark.parametrize(
    ("weighted", "pieces"),
    [
        ("(a red boat:1.2)", ["a red boat"]),
        ("a (red:1.3) boat", ["a ", "red", " boat"]),
        ("((red))", ["red"]),
        ("(a (red:0.5) boat:1.2) here", ["a ", "red", " boat", " here"]),
        (r"a \(red\) boat", ["a (red) boat"]),
        ("(🎨 café:0.9), 日本", ["🎨 café", ", 日本"]),
        ("(red:warm)", ["red:warm"]),
    ],
)
def test_a_weight_costs_no_token(tokenizers, counters, weighted, pieces):
    """ComfyUI gives each piece of another weight to the tokenizer by itself."""
    for tokenizer, encoder in zip(tokenizers, flux_encoders(*counters, 512), strict=True):
        expected = sum(len(tokenizer(piece)["input_ids"]) - encoder.extra for piece in pieces) + encoder.extra
        assert token_count(weighted, encoder).tokens == expected


def test_counts_equal_those_of_transformers_with_weights_too(tokenizers, counters):
    """The same prompts, with a weight on some words in the middle."""
    for tokenizer, encoder in zip(tokenizers, flux_encoders(*counters, 512), strict=True):
        for text in prompts()[3:]:
            words = text.replace("(", "").replace(")", "").split(" ")
            third = len(words) // 3
            pieces = [
                " ".join(words[:third]) + " ",
                " ".join(words[third:-third]) or "boat",
                " " + " ".join(words[-third:]),
            ]
            expected = sum(len(tokenizer(piece)["input_ids"]) - encoder.extra for piece in pieces) + encoder.extra
            counted = token_count(f"{pieces[0]}({pieces[1]}:1.2){pieces[2]}", encoder)
            assert counted.tokens == expected, pieces[1][:80]


def test_the_words_past_the_limit_are_exactly_those_that_do_not_fit(tokenizers, counters):
    clip_l, _ = flux_encoders(*counters, 512)
    for text in prompts()[3:100]:
        counted = token_count(text, clip_l)
        if counted.past:
            kept = text[: text.rindex(counted.past)].rstrip()
            following = text[len(kept) :].split()[0]
            assert len(tokenizers[0](kept)["input_ids"]) <= 77 < len(tokenizers[0](f"{kept} {following}")["input_ids"])


def test_a_flux_clip_counts_as_the_files_do(comfyui, counters):
    """The CLIP's own tokenizers, here those of a CLIP without weights."""
    from types import SimpleNamespace

    from comfy.text_encoders.flux import FluxTokenizer
    from impasto.nodes.host.encoders import token_counters

    from_clip = token_counters(SimpleNamespace(tokenizer=FluxTokenizer()))
    for text in prompts()[:50]:
        assert [count(text) for count in from_clip] == [count(text) for count in counters]


def test_another_models_clip_is_refused(comfyui):
    from types import SimpleNamespace

    from impasto.errors import ModelError
    from impasto.nodes.host.encoders import token_counters

    with pytest.raises(ModelError, match="SimpleNamespace.*not FLUX"):
        token_counters(SimpleNamespace(tokenizer=SimpleNamespace(clip_g=None)))


def test_cancel_is_seen_at_each_counting(comfyui, counters):
    import comfy.model_management as management

    for count in counters:
        management.interrupt_current_processing()
        with pytest.raises(management.InterruptProcessingException):
            count("a boat")
        assert count("a boat")
