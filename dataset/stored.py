"""Which datasets there are on this machine, and the revision of one that was written last."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..errors import DatasetError
from ..paths import Roots, existing_child, in_a_row, offered, places, told
from .records import Dataset


def stored_names(roots: Roots) -> list[str]:
    """Names of the datasets under the roots; a source of pictures, or a folder of a person's own, is none."""
    return [name for name in offered(roots) if any(_holds_dataset(root / name) for root in places(roots))]


def stored_dataset(roots: Roots, name: str, revision: str = "") -> Dataset:
    """The dataset of this name: the revision whose manifest was written last, or the one that is asked for.

    Raises:
        NameRefused: `name` is a path.
        DatasetError: there is no such dataset or revision; the text names those that there are.
    """
    folder = existing_child(roots, name, what="dataset name", holds=_holds_dataset)
    if folder is None or not _holds_dataset(folder):
        there = stored_names(roots)
        raise DatasetError(
            f"There is no dataset '{name}' in {told(roots)}. "
            + (f"There are: {in_a_row(there)}." if there else "None has been made yet: queue a loader.")
        )
    found = _revisions(folder)
    if revision and revision not in found:
        raise DatasetError(
            f"The dataset '{folder.name}' has no revision '{revision[:40]}'. It has: {in_a_row(found)}. Leave the "
            "revision empty for the newest."
        )
    return Dataset(folder.name, str(folder), revision or found[0])


def _holds_dataset(folder: Path) -> bool:
    return any((folder / "manifests").glob("*.jsonl"))


def _revisions(folder: Path) -> list[str]:
    """That which was written last first."""
    written: dict[str, int] = {}
    for manifest in (folder / "manifests").glob("*.jsonl"):
        with contextlib.suppress(OSError):  # gone since
            written[manifest.stem] = manifest.stat().st_mtime_ns
    return sorted(written, key=written.__getitem__, reverse=True)
