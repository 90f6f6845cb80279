"""What a list of watched pictures does to a dataset: they are set aside, or parted from the rest."""

from __future__ import annotations

from collections.abc import Mapping

from ..dataset import watch_list
from ..dataset.records import Dataset, Refusal, write_manifest
from ..errors import DatasetError

RULE = "watched"


def set_aside(dataset: Dataset, listed: Mapping[str, str]) -> tuple[Dataset, int]:
    """The dataset without the listed pictures, each refused with its reason, and how many these are.

    Args:
        listed: as `watch_list.read` gives it.

    Raises:
        DatasetError: no picture is left.
    """
    kept, watched, reasons = _parted(dataset, listed)
    if not watched:
        return dataset, 0
    refused = [Refusal(each.source, RULE, reasons[each.sha256], file_name=each.file_name) for each in watched]
    return write_manifest(dataset.folder, kept, (*dataset.refusals(), *refused)), len(watched)


def parted(dataset: Dataset, listed: Mapping[str, str]) -> tuple[Dataset, Dataset | None]:
    """The dataset without the listed pictures, and these as one of their own; None where there are none.

    Raises:
        DatasetError: no picture is left.
    """
    kept, watched, _ = _parted(dataset, listed)
    if not watched:
        return dataset, None
    refusals = dataset.refusals()
    return write_manifest(dataset.folder, kept, refusals), write_manifest(dataset.folder, watched, refusals)


def _parted(dataset: Dataset, listed: Mapping[str, str]) -> tuple[list, list, dict[str, str]]:
    records = dataset.records()
    reasons = watch_list.reasons(listed, (record.sha256 for record in records))
    kept = [record for record in records if record.sha256 not in reasons]
    if not kept:
        raise DatasetError(f"All {len(records)} pictures of dataset '{dataset.name}' are watched. Shorten the list.")
    return kept, [record for record in records if record.sha256 in reasons], reasons
