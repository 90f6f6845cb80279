"""What one caption becomes: the rules of sd-scripts, drawn beforehand, the same on every machine."""

from collections import Counter

import pytest
from impasto.dataset.caption_variants import CaptionRules, variants

TAGS = "boat, river, sky, trees, clouds"


def texts(caption, count=4, seed="picture", **rules):
    return variants(caption, CaptionRules(**rules), seed, count)


def parts(text):
    return text.split(", ")


def test_a_caption_without_rules_is_one_text_letter_by_letter():
    assert texts("a red boat,on  a river {calm}") == ("a red boat,on  a river {calm}",)


def test_of_several_lines_the_first_is_used_and_with_wildcards_every_one_equally_often():
    assert texts("one\ntwo\nthree") == ("one",)
    assert Counter(texts("one\ntwo\nthree", enable_wildcard=True)) == {"one": 1, "two": 1, "three": 1}
    weighted = Counter(texts("plain\na {red|blue} one", enable_wildcard=True))
    assert weighted == {"plain": 2, "a red one": 1, "a blue one": 1}


def test_every_line_is_used_even_where_there_are_more_than_asked_for():
    lines = [f"line {number}" for number in range(9)]
    assert set(texts("\n".join(lines), count=2, enable_wildcard=True)) == set(lines)


def test_wildcards_become_all_their_combinations_or_as_many_as_asked_for():
    assert set(texts("{a|b} {c|d}", enable_wildcard=True)) == {"a c", "a d", "b c", "b d"}
    drawn = texts("{a|b|c} {d|e|f}", enable_wildcard=True)
    assert len(drawn) == 4
    assert set(drawn) <= {f"{first} {second}" for first in "abc" for second in "def"}
    many = Counter(
        text for number in range(300) for text in texts("{a|b|c}{d|e|f}", 1, str(number), enable_wildcard=True)
    )
    assert len(many) == 9 and min(many.values()) > 15


def test_doubled_braces_are_braces():
    assert texts("{{retro}} {a|b}", enable_wildcard=True) == ("{retro} a", "{retro} b")


def test_shuffling_moves_whole_parts_and_keeps_the_first():
    found = texts(TAGS, shuffle_caption=True, keep_tokens=2)
    assert len(set(found)) > 1
    for text in found:
        assert parts(text)[:2] == ["boat", "river"]
        assert Counter(parts(text)) == Counter(parts(TAGS))


def test_every_order_comes_up():
    orders = Counter(texts("a, b, c", 1, str(number), shuffle_caption=True)[0] for number in range(300))
    assert len(orders) == 6 and min(orders.values()) > 25


def test_the_texts_depend_on_seed_and_rules_alone():
    assert texts(TAGS, shuffle_caption=True) == texts(TAGS, shuffle_caption=True)
    assert texts(TAGS, shuffle_caption=True) != texts(TAGS, shuffle_caption=True, seed="another picture")
    # Drawn by SHA-256, so that no other version of Python or of a library draws others.
    assert texts(TAGS, 1, shuffle_caption=True) == ("sky, clouds, trees, boat, river",)


def test_what_the_separator_fences_off_stays_in_front_and_behind():
    caption = "mntgrdn, garden ||| pond, bridge, willow ||| in oil"
    for text in texts(caption, shuffle_caption=True, caption_tag_dropout_rate=0.5, keep_tokens_separator="|||"):
        assert parts(text)[:2] == ["mntgrdn", "garden"]
        assert parts(text)[-1] == "in oil"
        assert set(parts(text)[2:-1]) <= {"pond", "bridge", "willow"}


def test_what_the_secondary_separator_joins_moves_and_goes_as_one():
    for text in texts("a, sky;cloud;day, b", 8, shuffle_caption=True, secondary_separator=";"):
        assert "sky,cloud,day" in text
    assert texts("a, sky;day", secondary_separator=";") == ("a, sky,day",)


def test_parts_are_dropped_by_their_rate_but_for_those_that_are_kept():
    found = [texts(TAGS, 1, str(number), caption_tag_dropout_rate=0.3, keep_tokens=1)[0] for number in range(400)]
    assert all(text.startswith("boat") for text in found)
    kept = Counter(part for text in found for part in parts(text))
    assert all(240 < kept[part] < 320 for part in ("river", "sky", "trees", "clouds"))


@pytest.mark.parametrize("caption", ["", "boat"])
def test_a_caption_without_parts_to_move_is_one_text(caption):
    assert texts(caption, shuffle_caption=True, keep_tokens=1) == (caption,)
