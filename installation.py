"""What the pack needs of the Python that ComfyUI runs in: what of it is not there, and the command that installs it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PACK = Path(__file__).resolve().parent
REQUIREMENTS = PACK / "requirements.txt"
INSTALLER = PACK / "setup" / "install.py"


@dataclass(frozen=True)
class Missing:
    """A requirement that is not met.

    Attributes:
        name: the package's.
        needed: its versions that would do, for example ">=0.35".
        found: the version that is there; "" for none.
    """

    name: str
    needed: str
    found: str = ""

    def __str__(self) -> str:
        return f"{self.name}{self.needed}" + (f" ({self.found} is there)" if self.found else "")


def missing() -> list[Missing]:
    """The requirements of this system and Python that are not met, without importing any of them.

    Where the pack was installed by pip there is no such file: pip has seen to it then.
    """
    from packaging.requirements import Requirement  # of transformers, which ComfyUI requires

    found = []
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if REQUIREMENTS.is_file() else ():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        there = _version(requirement.name)
        if not there or not requirement.specifier.contains(there, prereleases=True):
            found.append(Missing(requirement.name, str(requirement.specifier), there))
    return found


def _version(name: str) -> str:
    try:
        return metadata.version(name) or ""
    except metadata.PackageNotFoundError:
        return ""


def version() -> str:
    """The pack's own version."""
    file = PACK / "pyproject.toml"
    if not file.is_file():  # pip has installed it
        return _version("impasto")
    # Python 3.10 has no reader of TOML.
    found = re.search(r'^version = "([^"]+)"', file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def said(lacking: Sequence[Missing]) -> str:
    """What is missing and how it is installed, in one line."""
    names = ", ".join(map(str, lacking))
    return f"ComfyUI's Python lacks {names}. Stop ComfyUI, run {command()} and start it again."


def command(*packages: str) -> str:
    """What to type to install the requirements, and `packages` too, beside what is there and without moving it."""
    words = [sys.executable, *(["-s"] if sys.flags.no_user_site else [])]
    if INSTALLER.is_file():
        words.append(str(INSTALLER))
    else:
        words += ["-m", "pip", "install", *([] if packages else ["-r", str(REQUIREMENTS)])]
    # Only where it must be: PowerShell takes a line that begins with a quote for a text.
    return " ".join(f'"{word}"' if set(" <>&") & set(word) else word for word in (*words, *packages))
