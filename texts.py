"""How the house writes text for people: on one line, sizes in megabytes, the gist of another library's error."""


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
