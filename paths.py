"""Names given by people, turned into paths that cannot leave their root.

Widget values are untrusted: ComfyUI has no login, and anyone who reaches its port can queue a graph. What lies under
the root already is found by listing it, so that any name that a person gave it will do; a name that the pack is to make
keeps to characters that every system has.
"""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import NameRefused

Roots = Path | Sequence[Path]  # a folder that names lie in, or several: what is new goes into the first

MAX_NAME_LENGTH = 100  # characters
MAX_NAME_BYTES = 200  # leaves room for revisions, hashes and suffixes under the usual 255-byte limit
MAX_LISTED_LENGTH = 255  # characters; no file system has longer names
MOST_OFFERED = 40
_ALLOWED = re.compile(r"[\w][\w .+-]*", re.UNICODE)
_MARKS = ("Mn", "Mc")  # Unicode's categories of what stands on a letter: accents by themselves, vowel signs of Hindi
# Device names that Windows resolves whatever the folder and the extension.
_RESERVED = {"CON", "PRN", "AUX", "NUL"} | {f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10)}
# Separators; control characters and half characters; ends of line; what turns the direction of reading, or no text has.
_IN_NO_NAME = re.compile(
    r"[/\\\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)


def folded(name: str) -> str:
    """The same for names that people take for one: in any Unicode form (macOS decomposes) and in any case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def checked_name(name: str, what: str = "name", longest: int = MAX_NAME_LENGTH) -> str:
    """Return `name` stripped, if one folder or file of that name can be made on every system.

    Args:
        name: what the person typed.
        what: how the error calls it, for example "dataset name".
        longest: characters; names that the pack itself builds from a person's may be longer.

    Raises:
        NameRefused: empty, longer than 100 characters, a path, a reserved device name, or with characters other than
            letters with what stands on them, digits, space and ``_ . + -`` (the first a letter, digit or underscore).
    """
    stripped = name.strip()
    _refuse_empty(stripped, what)
    if len(stripped) > longest or len(stripped.encode(errors="replace")) > MAX_NAME_BYTES:
        raise _too_long(stripped, what, longest)
    letters = "".join(letter for letter in stripped if unicodedata.category(letter) not in _MARKS)
    if not letters.startswith(stripped[0]) or not _ALLOWED.fullmatch(letters) or ".." in letters or letters[-1] == ".":
        raise NameRefused(
            f"The {what} '{stripped}' cannot be used: it must be a plain name, not a path. "
            "Use letters, digits, spaces, '_', '-', '+' and single dots, starting with a letter or digit."
        )
    _refuse_reserved(stripped, what)
    return stripped


def child_of(root: str | Path, *names: str, what: str = "name", longest: int = MAX_NAME_LENGTH) -> Path:
    """The real path of what lies under `root` by these names, one a level; of what is to be made, where nothing does.

    It lies inside `root` even through symbolic links.

    Raises:
        NameRefused: what is to be made has no plain name, or a symbolic link on the way leads out of `root`.
    """
    base = path = Path(os.path.realpath(root))
    for name in names:
        path = _within(base, path / (_listed(path, name) or checked_name(name, what, longest)), what, names)
    return path


def existing_child(
    roots: Roots | str, *names: str, what: str = "name", holds: Callable[[Path], bool] = Path.exists
) -> Path | None:
    """The real path of what lies under a root by these names, one a level; None where nothing does.

    A name is the one that is listed, in any Unicode form, and in another case where the file system takes it for the
    same; spaces around it do not count. Names that begin with a dot are not found. Of several roots it is the first in
    which `holds` is true of it, else the first that has it.

    Raises:
        NameRefused: a name is empty or a path, has control characters or is a reserved device name; or a symbolic link
            on the way leads out of the only root that has it.
    """
    for name in names:
        _refuse_path(name, what)
    found = refused = None
    for root in places(roots):
        try:
            path = _existing(root, names, what)
        except NameRefused as error:  # a link that leads out of one root hides nothing in another
            refused = refused or error
            continue
        if path is not None and holds(path):
            return path
        found = found or path
    if refused and found is None:
        raise refused
    return found


def _existing(root: Path, names: Sequence[str], what: str) -> Path | None:
    base = path = Path(os.path.realpath(root))
    for name in names:
        if (listed := _listed(path, name)) is None:
            return None
        path = _within(base, path / listed, what, tuple(names))
    return path


def offered(roots: Roots | str) -> list[str]:
    """The names under the roots by which `existing_child` finds something, in their order; none where none is there."""
    bases = [Path(os.path.realpath(root)) for root in places(roots)]
    return sorted(
        {name for base in bases for name in _names(base) if _can_be_given(name) and _is_inside(base, base / name)}
    )


def choice(roots: Roots | str, names: Sequence[str], *ends: str, otherwise: str) -> str:
    """The remedy where nothing is found by `names`: "Choose one of these: a, b.", each of which is found by them.

    They are what lies in the deepest of the folders that are there.

    Args:
        ends: of the files that are meant, in small letters; none where folders are.
        otherwise: the remedy where there is nothing to choose.
    """
    for depth in range(len(names) - 1, -1, -1):
        there = existing_child(roots, *names[:depth], holds=Path.is_dir) if depth else None
        found = [there] if there else places(roots) if not depth else []
        meant = sorted({name for place in found for name in offered(place) if _is_meant(place / name, ends)})
        if meant:
            return f"Choose one of these: {in_a_row(['/'.join([*names[:depth], name]) for name in meant])}."
    return otherwise


def in_a_row(names: Sequence[str]) -> str:
    """Names with commas between them, those that have one themselves in quotes; of very many the first."""
    shown = ", ".join(f"'{name}'" if "," in name else name for name in names[:MOST_OFFERED])
    return f"{shown} and {len(names) - MOST_OFFERED} more" if len(names) > MOST_OFFERED else shown


def _is_meant(path: Path, ends: tuple[str, ...]) -> bool:
    return path.is_file() and path.name.lower().endswith(ends) if ends else path.is_dir()


def as_listed(path: Path) -> Path:
    """A path that a file of the owner's names, as the disk spells it: in another Unicode form, where nothing has the
    name as written. Where nothing has it in any form, `path` itself.
    """
    try:
        if path.exists() or path == path.parent:
            return path
        parent = as_listed(path.parent)
        return parent / (_listed(parent, path.name) or path.name)
    except OSError:  # whoever reads it says what is wrong
        return path


def _listed(folder: str | Path, name: str) -> str | None:
    """The name as `folder` lists it, or None."""
    if not _can_be_given(name):
        return None
    there, stripped = _names(folder), name.strip()
    for exact in (name, stripped):
        if exact in there:
            return exact
    wanted = _form(name)
    alike = sorted(other for other in there if folded(other.strip()) == folded(wanted))
    if of_one_form := [other for other in alike if _form(other) == wanted]:
        return of_one_form[0]
    # Another case is the same name where the file system itself finds it by that.
    return alike[0] if alike and os.path.lexists(os.path.join(folder, stripped)) else None


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _names(folder: str | Path) -> list[str]:
    """What lies in a folder, but for what can be no name of a person's."""
    try:
        return [name for name in os.listdir(folder) if not _IN_NO_NAME.search(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _can_be_given(name: str) -> bool:
    try:
        _refuse_path(name, "name")
    except NameRefused:
        return False
    return True


def _is_inside(base: Path, path: Path) -> bool:
    real = Path(os.path.realpath(path))
    return real.is_relative_to(base) and real != base


def _refuse_path(name: str, what: str) -> None:
    """Refuse what is the name of nothing that lies in a folder, or that is not to be found."""
    stripped = name.strip()
    _refuse_empty(stripped, what)
    if len(stripped) > MAX_LISTED_LENGTH:
        raise _too_long(stripped, what, MAX_LISTED_LENGTH)
    if _IN_NO_NAME.search(stripped) or stripped.startswith((".", "~")):
        raise NameRefused(
            f"The {what} '{stripped}' cannot be used: it must be a plain name, not a path. It may not begin with '.' "
            "or '~', nor have slashes or control characters."
        )
    _refuse_reserved(stripped, what)


def _refuse_empty(stripped: str, what: str) -> None:
    if not stripped:
        raise NameRefused(f"The {what} is empty. Type a name, for example 'monet-gardens'.")


def _too_long(stripped: str, what: str, longest: int) -> NameRefused:
    return NameRefused(
        f"The {what} '{stripped[:40]}…' is too long ({len(stripped)} characters). Use at most {longest}, "
        "and fewer where they are not Latin letters."
    )


def _refuse_reserved(stripped: str, what: str) -> None:
    if stripped.split(".")[0].strip().upper() in _RESERVED:
        raise NameRefused(f"The {what} '{stripped}' is a reserved device name on Windows. Choose another.")


def _within(base: Path, path: Path, what: str, names: tuple[str, ...]) -> Path:
    real = Path(os.path.realpath(path))
    if not _is_inside(base, path):
        raise NameRefused(
            f"The {what} '{'/'.join(names)}' leads to {real}, outside {base}. Remove that link, or choose another name."
        )
    return real


def places(roots: Roots | str) -> tuple[Path, ...]:
    """The folders that names are looked for in, in their order."""
    return (Path(roots),) if isinstance(roots, str | Path) else tuple(roots)


def child_in(roots: Roots, *names: str, what: str = "name", holds: Callable[[Path], bool] = Path.exists) -> Path:
    """`child_of` the first of several roots in which `holds` is true of it; of the first of all where it is in none.

    Raises:
        NameRefused: as `child_of`, in that root.
    """
    first, *others = places(roots)
    for root in (first, *others) if others else ():
        with contextlib.suppress(NameRefused):  # a link that leads out of one root hides nothing in another
            if holds(path := child_of(root, *names, what=what)):
                return path
    return child_of(first, *names, what=what)


def told(roots: Roots) -> str:
    """The roots as an error names them."""
    return " or ".join(map(str, places(roots)))
