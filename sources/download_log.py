"""What a dataset's folder has of a remote source already, so that nothing is fetched twice: `fetched.jsonl`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..dataset.pictures import Outcome, PictureRefused, StoredPicture, store_picture
from ..files import append_line, has_types, read_jsonl


class DownloadLog:
    """Pictures that were stored, or had to be refused, by the source's file and the row in it; several a line."""

    def __init__(self, folder: Path, keep_metadata: bool = False) -> None:
        self._folder = folder
        self._keep_metadata = keep_metadata
        self._path = folder / "fetched.jsonl"
        self._lock = threading.Lock()
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        for line in read_jsonl(self._path, shard=str, rows=dict):  # Image URL Loader's lines have none
            if bool(line.get("metadata")) == keep_metadata:
                for row, outcome in line["rows"].items():
                    with contextlib.suppress(TypeError):  # a line of another version, or damaged: it is fetched again
                        self._outcomes[line["shard"], row] = _from_json(outcome)

    def get(self, key: tuple[str, str]) -> Outcome | None:
        """What is known of a row, where its file still has the size that it had."""
        outcome = self._outcomes.get(key)
        if isinstance(outcome, StoredPicture):
            with contextlib.suppress(FileNotFoundError):
                if (self._folder / outcome.file_name).stat().st_size == outcome.size:
                    return outcome
            return None
        return outcome

    def verified(self, key: tuple[str, str]) -> Outcome | None:
        """The same, where the file still has the content that it had. Private data that earlier versions kept goes."""
        outcome = self.get(key)
        if isinstance(outcome, StoredPicture):
            content = (self._folder / outcome.file_name).read_bytes()
            if hashlib.sha256(content).hexdigest() != outcome.sha256:
                (self._folder / outcome.file_name).unlink()
                return None
            stored = store_picture(self._folder, content, self._keep_metadata)
            return outcome if stored.sha256 == outcome.sha256 else stored
        return outcome

    def add(self, file: str, outcomes: Mapping[str, Outcome]) -> None:
        """Remember the rows of one file of the source, by row."""
        line = {"shard": file, "rows": {row: _to_json(outcome) for row, outcome in outcomes.items()}}
        with self._lock:
            append_line(self._path, json.dumps(line | ({"metadata": True} if self._keep_metadata else {})))


def _to_json(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, PictureRefused):
        return {"rule": outcome.rule, "reason": str(outcome)}
    return asdict(outcome)


def _from_json(value: dict[str, Any]) -> Outcome:
    if "rule" in value:
        return PictureRefused(**value)
    if not has_types(value, file_name=str, sha256=str, width=int, height=int, size=int):
        raise TypeError("it is no picture")
    # whatever the line says, the file is one of the dataset's own
    return StoredPicture(**value | {"file_name": f"images/{Path(value['file_name']).name}"})
