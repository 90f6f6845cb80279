"""Captions are counted and looked over while they are written, as they would go out."""

from pathlib import Path

import pytest
from impasto.api.routing import Call, Places
from impasto.api.table import ROUTES
from impasto.errors import ImpastoError

PLACES = Places(Path("/none"), Path("/none"), (), Path("/none"))


def check(body: object, count=None) -> dict:
    route = next(route for route in ROUTES if route.path == "/impasto/captions/check")
    return route(Call(PLACES, {}, {}, body, count)).value


def test_a_caption_is_counted_with_what_is_put_around_it():
    words = {"trigger_word": "mntgrdn", "prefix": "a scene of", "suffix": ", at noon"}
    told = check({"texts": ["a barn in\nan oil painting", ""], **words}, lambda text: (len(text), 3))
    first, empty = told["captions"]
    assert first["caption"] == "mntgrdn, a scene of a barn in an oil painting, at noon"
    assert first["tokens"] == (len(first["caption"]), 3) and "style words" in first["flags"]
    assert empty["caption"] == "" and "empty" in empty["flags"]
    assert told["limits"] == [77, 512] and not told["estimated"]


def test_without_a_tokenizer_the_count_is_told_to_be_an_estimate():
    assert check({"texts": ["a barn"]})["estimated"]


@pytest.mark.parametrize(
    "body",
    [None, [], {}, {"texts": "a barn"}, {"texts": [1]}, {"texts": ["x"] * 201}, {"texts": ["x" * 10_001]}]
    + [{"texts": [], "prefix": 3}, {"texts": [], "prefix": "x" * 3000}, {"texts": [], "trigger_word": "a\nb"}],
    ids=lambda body: str(body)[:30],
)
def test_what_is_no_list_of_captions_is_refused(body):
    with pytest.raises(ImpastoError):
        check(body)
