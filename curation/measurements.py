"""Measurements of a dataset's pictures, made on all cores and remembered by the pictures' hashes.

They lie in `<dataset>/measurements/`, one line a picture; any revision of the dataset and any thresholds use them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..dataset.pictures import PictureRefused
from ..dataset.records import Dataset, Record
from ..files import append_lines, has_types, read_jsonl
from ..job_log import stage
from ..progress import Progress, silent
from .measures import Measures, jpeg_quality, measure

HEADERS, PICTURES = "headers", "pictures"  # what is measured, and the names of their files
VERSION = 2  # raised when the same picture would measure otherwise
SAVE_EVERY = 2.0  # seconds: what a kill can cost
TELL_EVERY = 0.1  # seconds between two calls of progress, which looks for Cancel too


def jpeg_qualities(
    dataset: Dataset, records: Sequence[Record], progress: Progress = silent
) -> dict[Record, int | PictureRefused | None]:
    """JPEG quality by record, 1 to 100, None where the picture is no JPEG; from the headers of the files alone."""
    found = _remembered(dataset, records, HEADERS, lambda path: {"jpeg_quality": jpeg_quality(path)}, progress)
    return {record: _refused(line) or line["jpeg_quality"] for record, line in found.items()}


def measures(
    dataset: Dataset, records: Sequence[Record], progress: Progress = silent
) -> dict[Record, Measures | PictureRefused]:
    """Measures by record, or why the picture does not decode whole."""
    found = _remembered(dataset, records, PICTURES, lambda path: asdict(measure(path)), progress)
    return {record: _refused(line) or _from_line(line) for record, line in found.items()}


def known(
    dataset: Dataset, records: Sequence[Record]
) -> tuple[dict[Record, int | PictureRefused | None], dict[Record, Measures | PictureRefused]]:
    """What was measured of these pictures before, JPEG qualities and measures; nothing is measured or written."""
    headers, pictures = _read(dataset, HEADERS), _read(dataset, PICTURES)
    return (
        {
            record: _refused(line) or line["jpeg_quality"]
            for record in records
            if (line := headers.get(record.sha256)) is not None
        },
        {record: _refused(line) or _from_line(line) for record in records if (line := pictures.get(record.sha256))},
    )


def measurement_files(dataset: Dataset) -> tuple[Path, Path]:
    """Where they lie."""
    return _cache(dataset, HEADERS), _cache(dataset, PICTURES)


def _cache(dataset: Dataset, what: str) -> Path:
    return Path(dataset.folder) / "measurements" / f"{what}-{VERSION}.jsonl"


def _read(dataset: Dataset, what: str) -> dict[str, dict[str, Any]]:
    """By a picture's hash, the lines that are whole."""
    lines = read_jsonl(_cache(dataset, what), sha256=str)
    return {line["sha256"]: line for line in lines if _is_whole(line, what)}


def _remembered(
    dataset: Dataset,
    records: Sequence[Record],
    what: str,
    measured: Callable[[Path], Mapping[str, Any]],
    progress: Progress,
) -> dict[Record, Mapping[str, Any]]:
    """`measured` of every picture, as JSON; only what is not known yet is measured, and then known.

    A picture whose file is not there, or not as long as it was, is measured again and not remembered.
    """
    cache, before = _cache(dataset, what), _read(dataset, what)
    intact = {record for record in records if _size(dataset.image_path(record)) == record.size}
    found = {record: before[record.sha256] for record in intact if record.sha256 in before}
    waiting = [record for record in records if record not in found]

    def line_of(record: Record) -> dict[str, Any]:
        try:
            return {"sha256": record.sha256, **measured(dataset.image_path(record))}
        except PictureRefused as refused:
            return {"sha256": record.sha256, "rule": refused.rule, "reason": str(refused)}

    fresh: list[str] = []
    saved = told = time.monotonic()
    progress(0, len(waiting), f"{len(found)} {what} are known already")
    pool = ThreadPoolExecutor(os.cpu_count())  # Pillow and numpy let go of the interpreter's lock while they work
    with stage(f"measure {what}") as measuring:
        try:
            for done, (record, line) in enumerate(zip(waiting, pool.map(line_of, waiting), strict=True), start=1):
                found[record] = line
                measuring.items += 1
                if record in intact:
                    fresh.append(json.dumps(line))
                now = time.monotonic()
                if now - saved > SAVE_EVERY:
                    append_lines(cache, fresh)
                    fresh, saved = [], now
                if now - told > TELL_EVERY or done == len(waiting):
                    progress(done, len(waiting), f"Measured {done} of {len(waiting)} {what}")
                    told = now
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # Cancel must not wait for what is queued
            if fresh:
                append_lines(cache, fresh)
    return {record: found[record] for record in records}


def _is_whole(line: Mapping[str, Any], what: str) -> bool:
    """Whether a line is what is written of a picture: of another version or damaged, the picture is measured again."""
    if "rule" in line:
        return has_types(line, rule=str, reason=str)
    if what == HEADERS:
        return "jpeg_quality" in line and (line["jpeg_quality"] is None or has_types(line, jpeg_quality=int))
    numbers = {field.name: float for field in fields(Measures)} | {"size": list, "border": list, "hashes": list}
    lists = [("size", 2, int), ("border", 4, float), ("hashes", 2, int)]
    return has_types(line, **numbers) and all(
        len(line[name]) == length and all(has_types({"value": value}, value=kind) for value in line[name])
        for name, length, kind in lists
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _refused(line: Mapping[str, Any]) -> PictureRefused | None:
    return PictureRefused(line["rule"], line["reason"]) if "rule" in line else None


def _from_line(line: Mapping[str, Any]) -> Measures:
    values = {name: value for name, value in line.items() if name != "sha256"}
    return Measures(**values | {name: tuple(line[name]) for name in ("size", "border", "hashes")})
