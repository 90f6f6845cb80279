"""Which pictures are good enough to train on: first by what their headers say, then by decoding the survivors whole.

Stage one costs microseconds a picture and decodes nothing; stage two finds truncated files here instead of in training.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

from PIL import Image

from ..errors import DatasetError, SettingsError
from ..progress import Progress, silent
from .contact_sheet import contact_sheet
from .pictures import PictureRefused, decode_whole, strict_decoding
from .records import Dataset, Record, Refusal, write_manifest

# 0.4 bits per pixel: within the 0.25 to 0.5 that Wallace, "The JPEG Still Picture Compression Standard" (1991), calls
# "moderate to good quality, sufficient for some applications"; below it blocks and ringing show, and a LoRA learns
# them. Measured on the original bytes: WikiArt's average is about 0.3. (The 0.1 in use elsewhere is measured after
# re-encoding at quality 95, which makes a file several times larger and says nothing of what was lost before.)
DEFAULT_MIN_BYTES_PER_PIXEL = 0.05


@dataclass(frozen=True)
class Thresholds:
    """The limits of the filter; a picture exactly at a limit stays.

    Raises:
        SettingsError: a limit is not a number or would refuse every picture.
    """

    min_side: int = 512  # pixels of the shorter side
    max_aspect: float = 2.0  # longer side / shorter side
    min_bytes_per_pixel: float = DEFAULT_MIN_BYTES_PER_PIXEL  # of the file as the source has it

    def __post_init__(self) -> None:
        for field, least in (("min_side", 0), ("max_aspect", 1), ("min_bytes_per_pixel", 0)):
            value = getattr(self, field)
            if not math.isfinite(value) or value < least:
                raise SettingsError(f"{field} is {value}. It must be a number of at least {least}.")


@dataclass(frozen=True)
class Filtered:
    """What passed, and what did not with the reason."""

    dataset: Dataset
    refused: tuple[tuple[Record, Refusal], ...]
    report: str

    def sheet(self) -> Image.Image:
        """A contact sheet of the refused, the reason under each; a small picture that says so when there are none."""
        count = len(self.refused)
        title = (
            f"{self.dataset.name}: {count} pictures refused" if count else f"{self.dataset.name}: no picture refused"
        )
        return contact_sheet(
            title, [(self.dataset.image_path(record), refusal.reason) for record, refusal in self.refused]
        )


def filter_quality(dataset: Dataset, thresholds: Thresholds, progress: Progress = silent) -> Filtered:
    """Keep the pictures that pass; every refusal is recorded beside the new manifest with its measured reason.

    Raises:
        DatasetError: nothing passes. The text counts the reasons and names the threshold to loosen.
    """
    records = dataset.records()
    by_header = {record: judge_header(record, thresholds) for record in records}
    survivors = [record for record, refusal in by_header.items() if refusal is None]
    by_decoding = _decode_all(dataset, survivors, progress)
    refused = tuple(
        (record, refusal) for record in records if (refusal := by_header[record] or by_decoding.get(record)) is not None
    )
    fallen = {record for record, _ in refused}
    kept = [record for record in records if record not in fallen]
    if not kept:
        raise DatasetError(_nothing_passes(dataset, [refusal for _, refusal in refused]))
    passed = write_manifest(dataset.folder, kept, (*dataset.refusals(), *(refusal for _, refusal in refused)))
    return Filtered(passed, refused, _report(len(records), [refusal for _, refusal in refused]))


def judge_header(record: Record, thresholds: Thresholds) -> Refusal | None:
    """The first threshold that the picture's header fails, or None. Decodes nothing, reads no file."""
    shorter, longer = sorted((record.width, record.height))
    aspect = longer / shorter
    bytes_per_pixel = record.size / (record.width * record.height)
    if shorter < thresholds.min_side:
        reason = f"shorter side {shorter} px is under {thresholds.min_side}"
        return _refusal(record, "min_side", reason, shorter, thresholds.min_side)
    if aspect > thresholds.max_aspect:
        reason = f"aspect {aspect:.2f} is over {thresholds.max_aspect:g}"
        return _refusal(record, "max_aspect", reason, aspect, thresholds.max_aspect)
    if bytes_per_pixel < thresholds.min_bytes_per_pixel:
        reason = f"{bytes_per_pixel:.3f} bytes per pixel is under {thresholds.min_bytes_per_pixel:g}"
        return _refusal(record, "min_bytes_per_pixel", reason, bytes_per_pixel, thresholds.min_bytes_per_pixel)
    return None


def _decode_all(dataset: Dataset, records: Sequence[Record], progress: Progress) -> dict[Record, Refusal]:
    """Decode every picture on all cores; Pillow lets go of the interpreter's lock meanwhile."""

    def judge(record: Record) -> Refusal | None:
        try:
            decode_whole(dataset.image_path(record))
        except PictureRefused as refused:
            return _refusal(record, refused.rule, str(refused))
        return None

    refusals: dict[Record, Refusal] = {}
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with strict_decoding():
            for done, (record, refusal) in enumerate(zip(records, pool.map(judge, records), strict=True), start=1):
                if refusal:
                    refusals[record] = refusal
                progress(done, len(records), f"Checked picture {done} of {len(records)}, {len(refusals)} damaged")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Cancel must not wait for what is queued
    return refusals


def _refusal(
    record: Record, rule: str, reason: str, measured: float | None = None, limit: float | None = None
) -> Refusal:
    return Refusal(record.source, rule, reason, measured, limit, record.file_name)


def _report(total: int, refusals: Sequence[Refusal]) -> str:
    lines = [f"{total} pictures in, {total - len(refusals)} kept, {len(refusals)} refused."]
    lines += [f"{count} by {rule}" for rule, count in Counter(refusal.rule for refusal in refusals).most_common()]
    lines += [f"{refusal.source}: {refusal.reason}" for refusal in refusals]
    return "\n".join(lines)


def _nothing_passes(dataset: Dataset, refusals: Sequence[Refusal]) -> str:
    counts = Counter(refusal.rule for refusal in refusals)
    text = (
        f"No picture of dataset '{dataset.name}' passes the quality filter: "
        f"{', '.join(f'{count} refused by {rule}' for rule, count in counts.most_common())}."
    )
    thresholds = {field.name for field in fields(Thresholds)}
    rule = next((rule for rule, _ in counts.most_common() if rule in thresholds), None)
    if rule is None:
        return f"{text} Their files are damaged ({refusals[0].reason}): load them from the source again."
    measured = [refusal.measured for refusal in refusals if refusal.rule == rule and refusal.measured is not None]
    best = min(measured) if rule == "max_aspect" else max(measured)
    loosen = "Raise" if rule == "max_aspect" else "Lower"
    return f"{text} {loosen} {rule}: the nearest picture measures {best:.4g}."
