"""Install what Impasto needs into the Python of an existing ComfyUI, and leave whatever is there at its version.

    python impasto/setup/install.py [--dry-run] [--may-move PACKAGE] [PACKAGE ...]

Run it by ComfyUI's own Python while ComfyUI is stopped. Left alone, pip would take the newest diffusers, and move
transformers, huggingface-hub and more of what ComfyUI and other packs run on to versions that suit it. So everything
installed is a constraint, and pip (or uv, where the Python has no pip) looks for versions that go with it. Packages
that are named are installed too: `install.py "google-genai>=2.33"`. Standard library only.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent
REQUIREMENTS = PACK / "requirements.txt"
# PEP 440, as build tools write it. What else stands in old packages cannot be a constraint.
VERSION = re.compile(r"(\d+!)?\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[a-z0-9]+([._-][a-z0-9]+)*)?")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Install what Impasto needs beside what ComfyUI's Python has.")
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="to install too, for example google-genai")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be installed")
    parser.add_argument("--may-move", action="append", default=[], metavar="PACKAGE", help="leave its version open")
    options = parser.parse_args(arguments)
    before = installed()
    held = constraints(before, options.may_move)
    print(f"Python: {sys.executable}\nHeld at their versions: {len(held)} packages", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("".join(f"{line}\n" for line in held), encoding="utf-8")
        command = installer()
        if not command:
            print(
                f"This Python has no pip, and there is no uv. Give it pip with: {sys.executable} -m ensurepip",
                file=sys.stderr,
            )
            return 1
        dry = ["--dry-run"] if options.dry_run else []
        done = subprocess.run([*command, *dry, "--constraint", file, "--requirement", REQUIREMENTS, *options.packages])
    if done.returncode:
        print(advice(before), file=sys.stderr)
        return done.returncode
    importlib.invalidate_caches()
    moved = changes(before, installed())
    if moved:
        print("\nMoved: " + ", ".join(moved))
    print("\nNothing was installed." if options.dry_run else "\nDone. Start ComfyUI again.")
    return 0


def installed() -> dict[str, str]:
    """Name -> version of every package that this Python sees; of two of a name, the one that would be imported."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name and distribution.version:
            found.setdefault(canonical(name), distribution.version)
    return found


def constraints(there: Mapping[str, str], may_move: Iterable[str] = ()) -> list[str]:
    """The lines of a constraints file that hold all that is there, but what may move."""
    open_ones = {canonical(name) for name in may_move}
    return [
        f"{name}=={version}"
        for name, version in sorted(there.items())
        if name not in open_ones and VERSION.fullmatch(version)
    ]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installer() -> list[str]:
    """The beginning of a command that installs into this Python: pip's, else uv's; empty where there is neither."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, *(["-s"] if sys.flags.no_user_site else []), "-m", "pip", "install"]
    # ComfyUI Desktop makes its environment with uv, without pip.
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else [found] if (found := which_uv()) else []
    return [*uv, "pip", "install", "--python", sys.executable] if uv else []


def which_uv() -> str | None:
    return os.environ.get("UV") or shutil.which("uv")


def advice(there: Mapping[str, str]) -> str:
    """What to do where no versions go together; names what is there in a version that is too old."""
    old = []
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        name, _, least = line.partition(";")[0].partition(">=")
        version = there.get(canonical(name.strip()))
        if version and numbers(version) < numbers(least):
            old.append((name.strip(), version, least.strip()))
    if not old:
        return (
            "\nNothing was changed. If the network is not the cause (see above), one of the packages that are held "
            "stands against it: run the same line with --may-move and its name to leave its version open."
        )
    listed = "; ".join(f"{name} is {version}, and Impasto needs {least} or newer" for name, version, least in old)
    opened = " ".join(f"--may-move {name}" for name, _, _ in old)
    return f"\nNothing was changed: {listed}. To let it move, run the same line with {opened}"


def numbers(version: str) -> tuple[int, ...]:
    """The release part of a version, to compare."""
    return tuple(int(part) for part in re.match(r"[\d.]*", version.strip())[0].split(".") if part)


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What was there before and is not, or is at another version."""
    return [
        f"{name} {version} -> {after.get(name, 'removed')}"
        for name, version in sorted(before.items())
        if after.get(name) != version
    ]


if __name__ == "__main__":
    sys.exit(main())
