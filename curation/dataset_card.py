"""A dataset card: the README.md that the Hugging Face Hub shows, with composition, filters, sources and rights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from ..dataset.records import Dataset, Record
from ..errors import SettingsError
from ..texts import one_line

LONGEST_TABLE = 30  # rows; what is rarer is summed up in one more
# The Hub's own classes, https://github.com/huggingface/hub-docs/blob/main/datasetcard.md
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGEST = "1M<n<10M"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,48}")


def dataset_card(dataset: Dataset, license: str = "other") -> str:
    """Markdown with the Hub's metadata at its head.

    Args:
        dataset: its records and refusals are counted.
        license: an identifier of the Hub, such as cc0-1.0; `other` where the pictures' rights differ or are unknown.

    Raises:
        SettingsError: the license cannot be an identifier.
    """
    if not _LICENSE.fullmatch(license):
        raise SettingsError(f"license is '{license}'. Give an identifier of the Hub, such as cc0-1.0, or other.")
    records = dataset.records()
    sections = [
        f"---\n{_metadata(dataset, len(records), license)}---",
        f"# {cell(dataset.name)}",
        f"{_pictures(len(records))}, {sum(bool(record.text) for record in records):,} with a caption, for training a "
        f"FLUX.1 LoRA. Revision `{dataset.revision}`.",
        _composition(records),
        _filters(dataset, len(records)),
        "## Sources\n\n" + table("source", (source_of(record.source) for record in records)),
        _rights(records),
        "## Columns\n\n`file_name`, `text` (the caption), `width`, `height` (pixels), `artist`, `genre`, `style`, "
        "`title`, `date`, `rights`, `source`, `sha256` (of the file). Empty where the source says nothing.",
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(dataset: Dataset, count: int, license: str) -> str:
    import yaml

    metadata = {
        "pretty_name": dataset.name,
        "license": license,
        "task_categories": ["text-to-image"],
        "size_categories": [next((name for limit, name in _SIZES if count < limit), _LARGEST)],
        "tags": ["art", "flux", "lora", "impasto"],
    }
    return yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)


def _composition(records: Sequence[Record]) -> str:
    widths, heights = sorted(r.width for r in records), sorted(r.height for r in records)
    middle = len(records) // 2
    lines = [
        "## Composition",
        f"Sizes from {widths[0]} x {heights[0]} (shortest sides) to {widths[-1]} x {heights[-1]} (longest sides) "
        f"pixels, median {widths[middle]} x {heights[middle]}.",
    ]
    for name in ("genre", "style", "artist"):
        values = [getattr(record, name) for record in records]
        if any(values):
            lines.append(table(name, values))
    return "\n\n".join(lines)


def _filters(dataset: Dataset, kept: int) -> str:
    refusals = dataset.refusals()
    if not refusals:
        return "## Filters\n\nNo picture was refused on the way to this revision."
    example = {refusal.rule: refusal.reason for refusal in reversed(refusals)}
    counted = Counter(refusal.rule for refusal in refusals).most_common()
    rows = [f"| {cell(rule)} | {count} | {cell(example[rule])} |" for rule, count in counted]
    head = f"{len(refusals)} of {len(refusals) + kept} pictures were refused:"
    return "\n".join(["## Filters", "", head, "", "| rule | pictures | for example |", "|---|---:|---|", *rows])


def _rights(records: Sequence[Record]) -> str:
    head = "## Rights"
    if not any(record.rights for record in records):
        return f"{head}\n\nThe sources state nothing about rights. Find out before you publish or train commercially."
    stated = table("statement of the source", (record.rights or "(none)" for record in records))
    return f"{head}\n\nAs the sources state them; each picture's own is in its row.\n\n{stated}"


def table(title: str, values: Iterable[str]) -> str:
    """Markdown's table of how often each value is there, the most frequent first; "" counts as unknown."""
    counted = Counter(value or "(unknown)" for value in values).most_common()
    shown, rest = counted[:LONGEST_TABLE], counted[LONGEST_TABLE:]
    if rest:
        shown = [*shown, (f"({len(rest)} others)", sum(count for _, count in rest))]
    return "\n".join(
        [f"| {title} | pictures |", "|---|---:|", *(f"| {cell(name)} | {count} |" for name, count in shown)]
    )


def source_of(source: str) -> str:
    """Where a picture came from without its place there: 'owner/name@revision', 'example.org', a folder."""
    if "://" in source:
        return urlsplit(source).hostname or source
    place = source.partition("#")[0]
    return place.partition("/data/")[0] if "/data/" in place else place.rpartition("/")[0] or place


def cell(text: str) -> str:
    """Text of others as it stands: no mark-up, no HTML, no further cell or line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", one_line(text))


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count:,} pictures"
