"""Notes which captioners left pictures open: a graph queued again must go on there, not be served from a cache.

ComfyUI asks a node whether it has changed before the linked inputs are known, so datasets are not told apart: after a
run that left pictures open, each node of that captioner looks into its ledger once more, which asks nothing twice.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from ..files import write_whole


def fingerprint(folder: Path, captioner: str) -> str:
    """Another text after each run of the captioner that left pictures open; "" where there was none.

    Args:
        folder: of the server's owner.
        captioner: its name in the ledger.
    """
    mark = _mark(folder, captioner)
    return mark.read_text(encoding="utf-8") if mark.is_file() else ""


def leave_open(folder: Path, captioner: str) -> None:
    """Note that a run has left pictures open; kept over restarts, as a cache may be."""
    write_whole(_mark(folder, captioner), uuid.uuid4().hex)


def _mark(folder: Path, captioner: str) -> Path:
    return folder / "usage" / f"{captioner}.open"
