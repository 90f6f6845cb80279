"""Puts what a machine with PyTorch, but without internet, lacks for `card.py` into one file: `.card/packages.zip`.

    .impasto/venv/bin/python benchmarks/card_kit.py

Copy the repository with its folder `.card` to that machine. `card.py` unpacks it there, and takes from it only what the
machine does not have itself. Taken from the Python that this is run with; nothing is downloaded.
"""

from __future__ import annotations

import importlib.metadata
import sys
import zipfile
from pathlib import Path

from full_size import REPOSITORY

KIT = REPOSITORY / ".card" / "packages.zip"
LARGEST = 60 * 10**6  # bytes, the repository without its history included
# What the trainer and its tests need beside PyTorch, transformers, peft and accelerate and what those bring along.
PACKAGES = (
    "diffusers",
    "importlib_metadata",
    "zipp",
    "pillow",
    "tomlkit",
    "bitsandbytes",
    "pytest",
    "pluggy",
    "iniconfig",
)
PACKAGES += ("pygments",)
# Of bitsandbytes' libraries, those for CUDA versions that PyTorch is built for these days.
LIBRARIES = ("_cpu.so", "_cuda126.so", "_cuda128.so", "_cuda130.so", "_cuda132.so")
SUFFIXES_LEFT_OUT = (".pyc",)


def files_of(package: str) -> list[tuple[Path, str]]:
    """(where it lies, its name in the kit) of each file of an installed package."""
    found = []
    for file in importlib.metadata.files(package) or ():
        name = file.as_posix()
        library = name.startswith("bitsandbytes/lib")
        wanted = name.endswith(LIBRARIES) if library else not name.endswith(SUFFIXES_LEFT_OUT)
        if wanted and not name.startswith(".."):
            found.append((Path(str(file.locate())), name))
    return found


def main() -> int:
    KIT.parent.mkdir(exist_ok=True)
    sizes = {}
    with zipfile.ZipFile(KIT, "w", zipfile.ZIP_DEFLATED) as kit:
        for package in PACKAGES:
            try:
                files = files_of(package)
            except importlib.metadata.PackageNotFoundError:
                sys.exit(f"{package} is not installed in this Python ({sys.executable}). Run ./test.sh, or install it.")
            for path, name in files:
                kit.write(path, name)
            added = {name for _, name in files}
            sizes[package] = sum(entry.compress_size for entry in kit.infolist() if entry.filename in added)
    for package, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{package:20} {importlib.metadata.version(package):12} {size / 1e6:6.1f} MB")
    whole = KIT.stat().st_size + sum(path.stat().st_size for path in repository_files())
    print(f"{KIT} with the repository: {whole / 1e6:.1f} MB")
    if whole > LARGEST:
        sys.exit(f"That is more than {LARGEST / 1e6:.0f} MB: leave one out of PACKAGES or LIBRARIES.")
    return 0


def repository_files() -> list[Path]:
    """What is copied beside the kit."""
    left_out = {".git", ".impasto", ".card"}
    return [
        path
        for path in REPOSITORY.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not left_out & set(path.relative_to(REPOSITORY).parts)
    ]


if __name__ == "__main__":
    sys.exit(main())
