"""What is told of datasets: which there are, their pictures page by page, and small copies of these."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from pathlib import Path
from typing import Any

from ..captioners.editing import read_edits
from ..captioners.lint import flags, least_tokens
from ..dataset.pictures import EXTENSIONS, PictureRefused, thumbnail
from ..dataset.records import Dataset, Record, Refusal
from ..dataset.stored import stored_dataset, stored_names
from ..errors import DatasetError, ImpastoError
from ..paths import child_of
from .routing import PREFIX, Call, Refused, Reply, whole_number

PAGE, LARGEST_PAGE = 100, 500  # pictures
SIDE, LARGEST_SIDE = 192, 1536  # pixels of a small copy's longer side
QUALITY = 85  # of its JPEG
SHA256 = re.compile(r"[0-9a-f]{64}")


def listed(call: Call) -> Reply:
    """Every dataset with its newest revision, that which was changed last first."""
    found = []
    for name in stored_names(call.places.datasets_roots):
        with contextlib.suppress(DatasetError):  # gone since
            found.append(_summary(stored_dataset(call.places.datasets_roots, name)))
    return Reply({"datasets": sorted(found, key=lambda told: -told["updated"])})


def described(call: Call) -> Reply:
    """`limit` pictures of a dataset from `offset` on, in their order; with `refused=1` those refused instead."""
    offset, limit = whole_number(call, "offset", 0), whole_number(call, "limit", PAGE, 1, LARGEST_PAGE)
    dataset = named(call)
    told: dict[str, Any] = _summary(dataset) | {"offset": offset}
    if whole_number(call, "refused", 0, 0, 1):
        refusals = dataset.refusals()
        return Reply(told | {"total": len(refusals), "refusals": [_refusal(one) for one in refusals[offset:][:limit]]})
    records, edits = dataset.records(), read_edits(dataset.folder)
    count = call.count_tokens or least_tokens
    pictures = []
    for record in records[offset:][:limit]:
        edit, tokens = edits.get(record.sha256), count(record.text)
        marks = {"edited": edit is not None, "locked": bool(edit and edit.locked), "tokens": tokens}
        pictures.append(_picture(record) | marks | {"flags": flags(record.text, lambda _, told=tokens: told)})
    return Reply(told | {"total": len(records), "pictures": pictures, "estimated": call.count_tokens is None})


def small_picture(call: Call) -> Reply:
    """A JPEG of the picture with this hash, its longer side at most `side` pixels; nothing is written."""
    side = whole_number(call, "side", SIDE, 16, LARGEST_SIDE)
    folder, sha256 = Path(named(call).folder), call.path["picture"]
    if not SHA256.fullmatch(sha256):
        raise Refused(f"The picture '{sha256[:80]}' is no SHA-256 of 64 hexadecimal digits.", "picture")
    for extension in sorted(set(EXTENSIONS.values())):
        path = child_of(folder, "images", f"{sha256}.{extension}", what="picture")
        if path.is_file():
            return Reply(content=_jpeg(path, side), content_type="image/jpeg")
    raise Refused(f"The dataset '{folder.name}' has no picture {sha256}.", "picture", 404)


def named(call: Call) -> Dataset:
    """The dataset that the path names, in the revision that the query names, else the newest.

    Raises:
        Refused: there is none.
    """
    roots, name = call.places.datasets_roots, call.path["name"]
    try:
        newest = stored_dataset(roots, name)
    except ImpastoError as error:
        raise Refused(str(error), "name", 404) from error
    try:
        return stored_dataset(roots, name, revision) if (revision := call.query.get("revision")) else newest
    except DatasetError as error:
        raise Refused(str(error), "revision", 404) from error


def _summary(dataset: Dataset) -> dict[str, Any]:
    told: dict[str, Any] = {"name": dataset.name, "revision": dataset.revision, "updated": 0.0, "error": ""}
    told |= {"count": 0, "captioned": 0, "refused": 0, "cover": None}
    try:
        state = dataset.manifest.stat()
        told["updated"] = state.st_mtime
        told |= _counted(dataset, state.st_mtime_ns, state.st_size)
    except (ImpastoError, OSError, ValueError, TypeError) as error:  # the others are told of all the same
        told["error"] = str(error)
    return told


@functools.lru_cache(maxsize=512)
def _counted(dataset: Dataset, written: int, size: int) -> dict[str, Any]:
    """What a list shows of a revision, remembered until someone changes its manifest, which then has another time."""
    records = dataset.records()
    return {
        "count": len(records),
        "captioned": sum(bool(record.text) for record in records),
        "refused": len(dataset.refusals()),
        "cover": _thumbnail(dataset.name, records[0].sha256) if records else None,
    }


def _thumbnail(name: str, sha256: str) -> str:
    from urllib.parse import quote

    return f"{PREFIX}/datasets/{quote(name, safe='')}/thumbnails/{sha256}"


def _picture(record: Record) -> dict[str, Any]:
    names = ("width", "height", "title", "artist", "genre", "style")
    told = {name: getattr(record, name) for name in names}
    return {"picture": record.sha256, "known_as": record.known_as, "caption": record.text} | told


def _refusal(refusal: Refusal) -> dict[str, Any]:
    """As it is on disk, with the picture's hash where it was stored."""
    sha256 = Path(refusal.file_name).stem
    told = {"rule": refusal.rule, "reason": refusal.reason, "measured": refusal.measured, "limit": refusal.limit}
    return {"picture": sha256 if SHA256.fullmatch(sha256) else None, "source": refusal.source} | told


def _jpeg(path: Path, side: int) -> bytes:
    try:
        small = thumbnail(path, side)
    except PictureRefused as refused:
        raise Refused(f"The picture {path.name} cannot be shown: {refused}", "picture", 409) from refused
    kept = io.BytesIO()
    small.save(kept, "JPEG", quality=QUALITY)
    return kept.getvalue()
