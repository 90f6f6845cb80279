import random

import pytest
from impasto.errors import SettingsError
from impasto.prompting.fitting import GROUPS, fit, segments, unmarked
from impasto.prompting.flux_prompt import flux_prompt
from impasto.prompting.tokens import TextEncoder, closed, flux_encoders, token_count

PROMPT = (
    "a woman reading a letter, in a garden by the sea, soft morning light, wide shot from above, "
    "oil painting with thick brushstrokes, masterpiece of the highest quality"
)


def words(limit: int) -> TextEncoder:
    """An encoder whose tokens are words; the weights of parentheses cost none."""
    return TextEncoder("words", lambda text: len(text.replace("(", " ").replace(")", " ").split()), limit, 0)


def test_segments_are_grouped_by_their_meaning():
    groups = [segment.group for segment in segments(PROMPT)]
    assert groups == ["subject", "setting", "light", "composition", "style", "quality"]


def test_a_mark_wins_over_the_words():
    marked = segments("a boat, [subject] masterpiece of light, ~a woman, !oil painting, [Light] a dog")
    assert [segment.group for segment in marked] == ["subject", "subject", "~", "!", "light"]
    assert unmarked("a boat, !oil painting, [light] a dog") == "a boat, oil painting, a dog"


def test_the_marks_are_no_part_of_the_text_that_fits():
    fitted = fit("!impasto style, a boat", words(20))
    assert fitted.text == "impasto style, a boat"
    assert fitted.cuts == ()


@pytest.mark.parametrize(
    "text", [PROMPT, "a (red, blue:1.2) boat, sea", "one. two! three", "a\nb,, c;d", "", " x , y "]
)
def test_a_text_that_fits_is_left_as_it_is(text):
    assert fit(text, words(100)).text == text.strip()


def test_the_least_important_is_shortened_first_and_the_order_is_kept():
    fitted = fit(PROMPT, words(25))
    assert (
        fitted.text
        == (
            "a woman reading a letter, in a garden by the sea, soft morning light, wide shot from above, "
            "oil painting with thick brushstrokes, masterpiece of"
        )[: len(fitted.text)]
    )
    assert [cut.group for cut in fitted.cuts] == ["quality"]
    assert len(fitted.text.replace(",", "").split()) == 25


def test_what_is_cut_away_whole_is_told_too():
    fitted = fit(PROMPT, words(11))
    assert fitted.text == "a woman reading a letter, in a garden by the sea"
    assert [cut.group for cut in fitted.cuts] == ["light", "composition", "style", "quality"]
    assert all(cut.before and not cut.after for cut in fitted.cuts)


def test_a_marked_segment_outlives_the_subject():
    assert fit("a very long subject of many words, !oil painting", words(3)).text == "a, oil painting"


def test_what_goes_first_is_what_was_marked_so():
    assert fit("a boat, ~a dog, best quality", words(4)).text == "a boat, best quality"


def test_of_many_segments_only_a_few_texts_are_counted():
    """Counting takes time in proportion to the text: once a segment would be a minute for a long prompt."""
    counted = []
    plain = words(75)
    encoder = TextEncoder("words", lambda text: counted.append(text) or plain.count(text), plain.limit, plain.extra)
    fitted = fit(", ".join(f"masterpiece {n}" for n in range(5000)), encoder)
    assert len(fitted.text.replace(",", "").split()) == 75
    assert len(counted) < 20


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_shortened_before_what_is_less_important_is_gone(seed: int):
    draw = random.Random(seed)
    kinds = ("a boat", "in a garden by the sea", "soft light", "wide shot", "oil painting", "best quality", "~grain")
    fitted = fit(", ".join(draw.choices(kinds, k=30)), words(40))
    assert 37 <= len(fitted.text.replace(",", "").split()) <= 40
    importance = ["subject", *list(GROUPS)[1:], "~"]
    ranks = [importance.index(segment.group) for segment in segments(fitted.text) if segment.text != "grain"]
    assert max(ranks) <= min(importance.index(cut.group) for cut in fitted.cuts)


def test_a_weight_stays_around_what_is_left():
    assert fit("a boat, (soft morning light:1.2)", words(4)).text == "a boat, (soft morning:1.2)"


def test_more_marked_than_fits_is_refused():
    with pytest.raises(SettingsError, match="marked with '!'"):
        fit("!one two three, !four five", words(4))


def test_an_unknown_group_is_named():
    with pytest.raises(SettingsError, match=r"\[colour\].*subject, setting"):
        segments("a boat, [colour] red")


def test_a_comma_in_parentheses_does_not_cut():
    assert [segment.text for segment in segments(r"a (b, c:1.2), d \(e, f\)")] == ["a (b, c:1.2)", r" d \(e", r" f\)"]


@pytest.mark.parametrize("smile", [":(", "(", "((", ") ("])
def test_a_parenthesis_without_a_partner_holds_nothing_together(smile: str):
    pieces = [segment.text for segment in segments(f"a boat {smile}, sea, (red, blue:1.2) sky")]
    assert pieces == [f"a boat {smile}", " sea", " (red, blue:1.2) sky"]
    assert fit(f"a boat {smile} of red wood in a harbour, sea", words(2)).text.startswith("a boat")


def test_a_count_tells_the_words_past_the_limit():
    counted = token_count("one two three four five", words(3))
    assert (counted.tokens, counted.limit, counted.past) == (5, 3, "four five")
    assert token_count("one two three", words(3)).past == ""
    assert token_count("(one two three four:1.2) five", words(2)).past == "three four:1.2) five"


def test_an_open_parenthesis_is_closed_for_counting():
    assert closed("a ((b c") == "a ((b c))"
    assert closed(r"a \(b") == r"a \(b"
    assert closed("a) (b)") == "a) (b)"


def test_a_negative_prompt_comes_with_the_cfg_that_makes_it_act():
    encoders = flux_encoders(words(0).count, words(0).count, 512)
    without = flux_prompt("a boat", "", "  ", 3.0, encoders, True)
    assert (without.negative, without.cfg) == ("", 1.0)
    assert "Negative" not in without.report
    having = flux_prompt("a boat", "", "blurry", 3.0, encoders, True)
    assert (having.negative, having.cfg) == ("blurry", 3.0)
    assert "true CFG" in having.report


def test_each_encoder_gets_a_text_that_it_takes_in():
    encoders = flux_encoders(words(0).count, words(0).count, 256)
    prompt = flux_prompt("a boat, " + "masterpiece " * 200, "", "", 3.0, encoders, True)
    assert len(prompt.clip_l.split()) == 75
    assert len(prompt.t5xxl.split()) == 202
    assert "CLIP-L: 77 of 77 tokens\n  shortened quality" in prompt.report
    assert "T5: 203 of 256 tokens" in prompt.report


def test_an_unshortened_text_is_passed_on_whole_and_told():
    encoders = flux_encoders(words(0).count, words(0).count, 256)
    prompt = flux_prompt("word " * 300, "for clip", "", 3.0, encoders, False)
    assert prompt.clip_l == "for clip"
    assert len(prompt.t5xxl.split()) == 300
    assert f"T5: 301 of 256 tokens; past the limit: '{'word ' * 44}word'" in prompt.report
