"""How the house writes text for people, and takes theirs: on one line, sizes in megabytes, decoded."""

_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def decoded(content: bytes) -> str:
    """What a person saved as text: UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it is in another encoding. The text says which or where, and how to mend it.
    """
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
