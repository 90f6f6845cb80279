"""What the quality filter says in words: of what it kept and refused, and where nothing passes."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from ..dataset.records import Dataset, Record, Refusal


def unlike_lines(outliers: Sequence[Record], styles: Mapping[Record, float]) -> list[str]:
    """Report lines on pictures that look unlike the set and are kept all the same."""
    if not styles:
        return []
    usual = statistics.median(styles.values())
    lines = [f"{len(outliers)} kept although unlike the set in style, whose likeness is {usual:.3f} as a rule."]
    return lines + [f"{record.source or record.file_name}: style likeness {styles[record]:.3f}" for record in outliers]


def filter_report(total: int, refusals: Sequence[Refusal], cropped: int, unlike: Sequence[str]) -> str:
    """How many were kept, and why each of the others was refused."""
    lines = [f"{total} pictures in, {total - len(refusals)} kept, {len(refusals)} refused."]
    if cropped:
        lines.append(f"{cropped} of the kept without their border.")
    lines += [f"{count} by {rule}" for rule, count in Counter(refusal.rule for refusal in refusals).most_common()]
    lines += [f"{refusal.source}: {refusal.reason}" for refusal in refusals]
    lines += unlike
    return "\n".join(lines)


def nothing_passes(dataset: Dataset, refusals: Sequence[Refusal], thresholds: Collection[str]) -> str:
    """The error where no picture passes: what refused most, and how far it would have to be loosened.

    Args:
        thresholds: the rules that are thresholds; the others are damage.
    """
    counts = Counter(refusal.rule for refusal in refusals)
    text = (
        f"No picture of dataset '{dataset.name}' passes the quality filter: "
        f"{', '.join(f'{count} refused by {rule}' for rule, count in counts.most_common())}."
    )
    rule = next((rule for rule, _ in counts.most_common() if rule in thresholds), None)
    if rule is None:
        return f"{text} Their files are damaged ({refusals[0].reason}): load them from the source again."
    measured = [refusal.measured for refusal in refusals if refusal.rule == rule and refusal.measured is not None]
    if not measured:
        return f"{text} Switch {rule} off."
    best = min(measured) if rule.startswith("max") else max(measured)
    loosen = "Raise" if rule.startswith("max") else "Lower"
    return f"{text} {loosen} {rule}: the nearest picture measures {best:.4g}."
