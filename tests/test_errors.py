"""What Impasto says can be written anywhere."""

import json
import os

import pytest
from impasto.errors import DatasetError, SettingsError, encodable, writable
from impasto.files import content_hash


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("梅 caf\u00e9 \U0001f600\n\tx", "梅 caf\u00e9 \U0001f600\n\tx"),
        (os.fsdecode(b"caf\xe9.jpg") if os.name != "nt" else "caf\udce9.jpg", r"caf\xe9.jpg"),
        ("a cat \ud83d", r"a cat \ud83d"),
        ("\ud83d\ude00", r"\ud83d\ude00"),
        ("\x1b[2J\r\x00\x9b", r"\x1b[2J\x0d\x00\x9b"),
    ],
)
def test_an_error_shows_what_no_stream_takes_as_an_escape(text, shown):
    assert str(DatasetError(text)) == writable(text) == shown
    assert shown.encode().decode() == shown


def test_a_text_for_a_file_keeps_its_control_characters():
    assert encodable("a\x1bb\r\n\udce9") == "a\x1bb\r\n\\xe9"


def test_a_name_that_is_not_utf8_has_a_hash_of_its_own_and_others_keep_theirs():
    assert content_hash(["caf\udce9"]) != content_hash(["caf\udce8"])
    assert content_hash({"b": "梅", "a": 1}) == content_hash(json.loads('{"a": 1, "b": "梅"}')) == "f517f34a0b76c46d"


def test_an_error_with_a_million_characters_in_it_keeps_its_beginning_and_its_remedy():
    told = str(SettingsError(f"The name '{'x' * 1_000_000}' is too long. Use at most 100 characters."))
    assert told.startswith("The name 'xxx") and told.endswith("x' is too long. Use at most 100 characters.")
    assert len(told) < 3_010 and " … " in told
    assert str(SettingsError("y" * 3_000)) == "y" * 3_000
