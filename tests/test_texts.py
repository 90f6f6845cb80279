"""What people and services send as text, made into words: decoded by its mark, and without what no word has."""

import pytest
from impasto.texts import cleaned, decoded


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a house\0by the sea", "a house by the sea"),
        ("a \x1b[1;31mred\x1b[0m house", "a red house"),
        ("\x1b]0;title\x07a house", "a house"),
        ("half \ud83d a character", "half  a character"),
        ("a byte \udce9 of a name", "a byte  of a name"),
        ("\ufeffa house\ufeff", "a house"),
        ("a\x07 bell\x7f and\x9b more", "a  bell  and  more"),
        ("lines\nstay\r\nlines\tand tabs", "lines\nstay\r\nlines\tand tabs"),
        ("\u0915\u094d\u0937 \U0001f469\u200d\U0001f3a8", "\u0915\u094d\u0937 \U0001f469\u200d\U0001f3a8"),
    ],
)
def test_what_no_word_has_is_taken_out_and_all_else_stays(text, words):
    assert cleaned(text) == words
    assert cleaned(words) == words


def test_utf_16_is_taken_by_its_mark_where_no_other_program_reads_the_file():
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        content = mark + "a\r\nb".encode(encoding)
        assert decoded(content, utf_16=True) == "a\nb"
        with pytest.raises(ValueError, match="it is UTF-16"):
            decoded(content)
    for content in (b"\xff\xfea\0b", "a".encode("utf-32"), "a".encode("utf-16-le"), b"caf\xe9"):
        with pytest.raises(ValueError, match="Save it again as UTF-8"):
            decoded(content, utf_16=True)
