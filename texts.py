"""How the house writes text for people, and takes theirs: on one line, sizes in megabytes, decoded."""

import re

_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF_32_MARK = b"\xff\xfe\0\0"
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)?")  # ECMA-48: CSI, OSC
_NO_CHARACTERS = re.compile(r"[\ud800-\udfff\ufeff\ufffe\uffff]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")

_UNWANTED = re.compile(f"{_NO_CHARACTERS.pattern}|{_CONTROLS.pattern}")


def cleaned(text: str) -> str:
    """A person's or a service's words without what no word has: half characters, marks of byte order and a terminal's
    colours are taken out; other control characters become spaces. Lines stay lines."""
    if _UNWANTED.search(text):
        return _CONTROLS.sub(" ", _NO_CHARACTERS.sub("", _TERMINAL.sub("", text)))
    return text


def decoded(content: bytes, utf_16: bool = False) -> str:
    """What a person saved as text: UTF-8, with or without a byte order mark.

    Args:
        utf_16: take UTF-16 too, where its mark says so and no other program has to read the file.

    Raises:
        ValueError: it is in another encoding. The text says which or where, and how to mend it.
    """
    if utf_16 and content[:2] in _UTF_16_MARKS and content[:4] != _UTF_32_MARK:
        try:
            return content.decode("utf-16").replace("\r\n", "\n")
        except UnicodeDecodeError:
            raise ValueError("it is UTF-16 that is cut short. Save it again as UTF-8") from None
    if content[:2] in _UTF_16_MARKS or b"\0" in content[:2]:
        raise ValueError(
            'it is UTF-16, as Notepad\'s "Unicode" and the > of Windows PowerShell write. Save it again as UTF-8'
        )
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} is not UTF-8 (byte {content[error.start]:#04x}). Save it again as UTF-8"
        ) from None


def one_line(text: str) -> str:
    """`text` with one space wherever there was white space, and none around it."""
    return " ".join(text.split())


def first_line(error: BaseException | str, otherwise: str = "") -> str:
    """The first line of an error's text, which is where its reason stands; `otherwise` where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else otherwise


def megabytes(size: float, digits: int = 1) -> str:
    """Bytes as a person reads them: "12.3 MB", "1,234.5 MB"."""
    return f"{size / 1e6:,.{digits}f} MB"
