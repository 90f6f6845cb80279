"""Which pictures are good enough to train on: by their labels and headers first, then by what a reduced copy shows.

Stage one decodes nothing; stage two decodes each survivor once, to its end, so that truncated files are found here
instead of in training; stage three looks for near-duplicates among what is left. With an image encoder, a last one
compares the style of each picture with the others'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from ..dataset.labels import is_unknown, label_key
from ..dataset.pictures import PictureRefused, thumbnail
from ..dataset.records import Dataset, Record, Refusal, write_manifest, write_refusals
from ..drawing.contact_sheet import contact_sheet
from ..drawing.histograms import Histogram, histograms
from ..drawing.palette import LIGHT, Theme
from ..errors import DatasetError, SettingsError
from ..job_log import stage
from ..progress import Progress, silent
from .cropping import LEAST_CROP, without_border
from .duplicates import GREATEST_DISTANCE, bits_apart, near_duplicates
from .keeping import kept_pictures
from .measurements import jpeg_qualities, measures
from .measures import Measures
from .quality_report import filter_report, nothing_passes, unlike_lines
from .style_similarity import PictureEncoder, style_outliers, style_similarities

SKETCHES = "sketch_and_study"  # WikiArt's genre

# 0.4 bits per pixel: within the 0.25 to 0.5 that Wallace, "The JPEG Still Picture Compression Standard" (1991), calls
# "moderate to good quality, sufficient for some applications"; below it blocks and ringing show, and a LoRA learns
# them. Measured on the original bytes: WikiArt's average is about 0.3. (The 0.1 in use elsewhere is measured after
# re-encoding at quality 95, which makes a file several times larger and says nothing of what was lost before.)
DEFAULT_MIN_BYTES_PER_PIXEL = 0.05
LISTED = 5  # names in a sentence of the report


@dataclass(frozen=True)
class Thresholds:
    """The limits of the filter; a picture exactly at a limit stays.

    All but size and shape are loose and made for paintings: fog is not blur, a Caravaggio is not underexposed, and one
    colour can be a picture. What they refuse is broken; where to draw the line is seen on the histograms.

    Raises:
        SettingsError: a limit is not a number or would refuse every picture.
    """

    min_side: int = 512  # pixels of the shorter side
    max_aspect: float = 2.0  # longer side / shorter side
    min_bytes_per_pixel: float = DEFAULT_MIN_BYTES_PER_PIXEL  # of the file as the source has it
    min_jpeg_quality: int = 20  # 1 to 100; 0 for any
    min_sharpness: float = 0.04  # `measures.sharpness`
    min_highlight: float = 0.1  # brightness, 0 to 1, that the brightest hundredth reaches at least
    max_shadow: float = 0.95  # brightness, 0 to 1, that the darkest hundredth has at most
    min_entropy: float = 1.0  # bits of 8
    min_colour: float = 0.0  # `measures.stray_colour`; 2 refuses greyscale and sepia
    max_border: float = 0.6  # share of the area
    duplicate_distance: int = 10  # of 64 bits; -1 keeps duplicates
    refuse_sketches: bool = False
    refuse_unknown_genre: bool = False
    crop_borders: bool = False  # store a copy without the border instead of the picture
    min_style: float = -1.0  # `style_similarity.style_similarities`, where an encoder is given; -1 refuses none

    def __post_init__(self) -> None:
        for field, (least, most) in RANGES.items():
            value = getattr(self, field)
            if not math.isfinite(value) or not least <= value <= most:
                wanted = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
                raise SettingsError(f"{field} is {value}. It must be a number {wanted}.")


RANGES = {
    "min_side": (0, math.inf),
    "max_aspect": (1, math.inf),
    "min_bytes_per_pixel": (0, math.inf),
    "min_jpeg_quality": (0, 100),
    "min_sharpness": (0, math.inf),
    "min_highlight": (0, 1),
    "max_shadow": (0, 1),
    "min_entropy": (0, 8),
    "min_colour": (0, math.inf),
    "max_border": (0, 1),
    "duplicate_distance": (-1, GREATEST_DISTANCE),
    "min_style": (-1, 1),
}


@dataclass(frozen=True)
class Filtered:
    """What passed, and what did not with the reason."""

    dataset: Dataset
    refused: tuple[tuple[Record, Refusal], ...]
    report: str
    measured: Mapping[str, tuple[float, ...]]  # rule -> what every picture that came so far measured
    thresholds: Thresholds

    def sheet(self, theme: Theme = LIGHT) -> Image.Image:
        """A contact sheet of the refused, the reason under each; a small picture that says so when there are none."""
        count = len(self.refused)
        title = (
            f"{self.dataset.name}: {count} pictures refused" if count else f"{self.dataset.name}: no picture refused"
        )
        return contact_sheet(
            title,
            [
                (self.dataset.image_path(record), f"{record.known_as}: {refusal.reason}")
                for record, refusal in self.refused
            ],
            thumbnail,
            theme,
        )

    def histograms(self, theme: Theme = LIGHT) -> Image.Image:
        """A histogram for each measure, with its threshold, on one picture."""
        shown = [
            Histogram(
                text, self.measured[rule], float(getattr(self.thresholds, rule)), rule.startswith("max"), WIDGETS[rule]
            )
            for rule, text in CALLED.items()
            if rule in self.measured
        ]
        return histograms(f"{self.dataset.name}: what the quality filter measured", shown, theme)


# Threshold -> what its widget is called, on the node and under its histogram.
WIDGETS = {
    "min_side": "min side, px",
    "max_aspect": "max aspect ratio",
    "min_bytes_per_pixel": "min bytes per pixel",
    "min_jpeg_quality": "min JPEG quality",
    "min_sharpness": "min sharpness",
    "min_highlight": "min brightness of highlights",
    "max_shadow": "max brightness of shadows",
    "min_entropy": "min entropy, bits",
    "min_colour": "min colour",
    "max_border": "max share of border",
    "duplicate_distance": "duplicates differ by at most, bits",
    "refuse_sketches": "refuse sketches",
    "refuse_unknown_genre": "refuse unknown genre",
    "crop_borders": "crop borders",
    "min_style": "min likeness to the set",
}
# rule -> what a histogram and a reason call the measure
CALLED = {
    "min_side": "shorter side, px",
    "max_aspect": "aspect",
    "min_bytes_per_pixel": "bytes per pixel",
    "min_jpeg_quality": "JPEG quality",
    "min_sharpness": "sharpness",
    "min_highlight": "brightness of highlights",
    "max_shadow": "brightness of shadows",
    "min_entropy": "entropy, bits",
    "min_colour": "stray colour",
    "max_border": "border, share of the area",
    "min_style": "style, likeness to the set",
}


class Judging:
    """Judges pictures stage by stage, and notes what they measured and which it refuses.

    Attributes:
        kept: hashes of pictures that no threshold refuses; a file that does not decode cannot be kept.
        measured: rule -> what every picture that came so far measured.
    """

    def __init__(self, thresholds: Thresholds, kept: frozenset[str] = frozenset()) -> None:
        self.thresholds, self.kept = thresholds, kept
        self.measured: dict[str, list[float]] = {rule: [] for rule in CALLED}
        self.refusals: dict[Record, Refusal] = {}

    def pass_on(self, candidates: Iterable[Record], judged: Callable[[Record], Iterator[Verdict]]) -> list[Record]:
        """The candidates that fail nothing; what all of them measured is noted."""
        passing = []
        for record in candidates:
            verdicts = list(judged(record))
            for verdict in verdicts:
                if verdict.measured is not None:
                    self.measured[verdict.rule].append(verdict.measured)
            failed = next((one for one in verdicts if one.reason and not self.keeps(record, one.rule)), None)
            if failed is None:
                passing.append(record)
            else:
                self.refusals[record] = _refusal(record, failed, self.thresholds)
        return passing

    def keeps(self, record: Record, rule: str) -> bool:
        return record.sha256 in self.kept and rule in WIDGETS

    def look(
        self,
        records: Sequence[Record],
        qualities: Callable[[list[Record]], Mapping[Record, int | PictureRefused | None]],
        measures_of: Callable[[list[Record]], Mapping[Record, Measures | PictureRefused]],
        progress: Progress = silent,
    ) -> tuple[list[Record], dict[Record, Measures]]:
        """Which pass all that can be seen of them, and their measures; those that are not measured pass unseen."""
        left = self.pass_on(records, lambda record: judge_record(record, self.thresholds))
        found = qualities(left)
        left = self.pass_on(left, lambda record: judge_quality(found.get(record), self.thresholds))
        looked = measures_of(left)
        left = self.pass_on(left, lambda record: judge_measures(looked.get(record), self.thresholds))
        seen = {record: of for record, of in looked.items() if isinstance(of, Measures)}
        with stage("find duplicates", len(left)):
            alike = _duplicates(
                [record for record in left if record in seen], seen, self.thresholds, progress, self.kept
            )
        self.refusals |= {record: of for record, of in alike.items() if not self.keeps(record, of.rule)}
        return [record for record in left if record not in self.refusals], seen


def filter_quality(
    dataset: Dataset,
    thresholds: Thresholds,
    progress: Progress = silent,
    encoder: PictureEncoder | None = None,
    keep: Sequence[str] = (),
) -> Filtered:
    """Keep the pictures that pass; every refusal is recorded beside the new manifest with its measured reason.

    What was measured once is remembered, so that the same pictures with other thresholds take no decoding.

    Args:
        encoder: scores what passed everything else against its own centroid; outliers are reported, and refused where
            `thresholds.min_style` asks for it.
        keep: pictures that no threshold refuses, by the first digits of their hashes.

    Raises:
        SettingsError: one of `keep` fits several pictures.
        DatasetError: nothing passes. The text counts the reasons and names the threshold to loosen.
    """
    records = dataset.records()
    kept_anyway, unknown = kept_pictures(records, keep)
    judge = Judging(thresholds, kept_anyway)
    left, seen = judge.look(
        records,
        lambda candidates: jpeg_qualities(dataset, candidates, progress),
        lambda candidates: measures(dataset, candidates, progress),
        progress,
    )
    refusals = judge.refusals
    styles = style_similarities(dataset, left, encoder, progress) if encoder else {}
    judge.pass_on(left, lambda record: judge_style(styles.get(record), thresholds))
    kept = [record for record in records if record not in refusals]
    unlike = unlike_lines([record for record in style_outliers(styles) if record not in refusals], styles)
    if thresholds.crop_borders:
        with stage("crop borders", len(kept)):
            kept = _cropped(dataset, kept, seen, judge, progress)
    refused = tuple((record, refusals[record]) for record in records if record in refusals)
    refusals_so_far = (*dataset.refusals(), *(refusal for _, refusal in refused))
    if not kept:
        write_refusals(dataset.folder, f"{dataset.revision}-none-passed", refusals_so_far)
        raise DatasetError(nothing_passes(dataset, [refusal for _, refusal in refused], WIDGETS))
    passed = write_manifest(dataset.folder, kept, refusals_so_far)
    report = filter_report(len(records), [refusal for _, refusal in refused], len(set(kept) - set(records)), unlike)
    if unknown:
        report += f"\nkeep names {len(unknown)} that this dataset has not: {', '.join(unknown[:LISTED])}"
    return Filtered(
        passed, refused, report, {rule: tuple(values) for rule, values in judge.measured.items() if values}, thresholds
    )


@dataclass(frozen=True)
class Verdict:
    """One rule applied to one picture."""

    rule: str  # a field of `Thresholds`, or what makes a file unusable
    measured: float | None = None
    reason: str = ""  # "" when it passes


def judge_record(record: Record, thresholds: Thresholds) -> Iterator[Verdict]:
    """Labels, size, shape and bytes per pixel, from the record alone: no file is read."""
    if thresholds.refuse_sketches and label_key(record.genre) == label_key(SKETCHES):
        yield Verdict("refuse_sketches", reason=f"its genre is {record.genre}")
    if thresholds.refuse_unknown_genre and is_unknown(record.genre):
        yield Verdict("refuse_unknown_genre", reason="its genre is unknown")
    shorter, longer = sorted((record.width, record.height))
    yield _at_least("min_side", shorter, thresholds, f"shorter side {shorter} px")
    yield _at_most("max_aspect", longer / shorter, thresholds, f"aspect {longer / shorter:.2f}")
    density = record.size / (record.width * record.height)
    yield _at_least("min_bytes_per_pixel", density, thresholds, f"{density:.3f} bytes per pixel")


def judge_quality(quality: int | PictureRefused | None, thresholds: Thresholds) -> Iterator[Verdict]:
    """JPEG quality, of pictures that are JPEGs."""
    if isinstance(quality, PictureRefused):
        yield Verdict(quality.rule, reason=str(quality))
    elif quality is not None:
        yield _at_least("min_jpeg_quality", quality, thresholds, f"JPEG quality {quality}")


def judge_measures(seen: Measures | PictureRefused | None, thresholds: Thresholds) -> Iterator[Verdict]:
    """What the reduced copy shows."""
    if isinstance(seen, PictureRefused):
        yield Verdict(seen.rule, reason=str(seen))
        return
    if seen is None:
        return
    border = seen.border_area
    yield _at_most("max_border", border, thresholds, f"border on {border:.0%} of the area")
    yield _at_least("min_sharpness", seen.sharpness, thresholds, f"sharpness {seen.sharpness:.3f}")
    yield _at_least("min_highlight", seen.highlight, thresholds, f"brightness {seen.highlight:.2f} of the highlights")
    yield _at_most("max_shadow", seen.shadow, thresholds, f"brightness {seen.shadow:.2f} of the shadows")
    yield _at_least("min_entropy", seen.entropy, thresholds, f"entropy of {seen.entropy:.2f} bits")
    yield _at_least("min_colour", seen.colour, thresholds, f"stray colour of {seen.colour:.2f}")


def judge_style(similarity: float | None, thresholds: Thresholds) -> Iterator[Verdict]:
    """Likeness to the set's centroid, where it was looked at."""
    if similarity is not None:
        yield _at_least("min_style", similarity, thresholds, f"style likeness {similarity:.3f}")


def _at_least(rule: str, measured: float, thresholds: Thresholds, text: str) -> Verdict:
    limit = getattr(thresholds, rule)
    return Verdict(rule, measured, "" if measured >= limit else f"{text} is under {limit:g}")


def _at_most(rule: str, measured: float, thresholds: Thresholds, text: str) -> Verdict:
    limit = getattr(thresholds, rule)
    return Verdict(rule, measured, "" if measured <= limit else f"{text} is over {limit:g}")


def _duplicates(
    records: Sequence[Record],
    seen: Mapping[Record, Measures],
    thresholds: Thresholds,
    progress: Progress,
    kept: frozenset[str],
) -> dict[Record, Refusal]:
    """Of pictures that look alike, one that a person keeps stays, else the one with the most pixels inside its border,
    then that with most bytes.
    """
    if thresholds.duplicate_distance < 0:
        return {}

    def rank(record: Record) -> tuple[bool, float, int]:
        area = record.width * record.height * (1 - seen[record].border_area)
        return record.sha256 not in kept, -area, -record.size

    best_first = sorted(records, key=rank)  # equal ones in their order
    hashes = [seen[record].hashes for record in best_first]
    gone = near_duplicates(hashes, thresholds.duplicate_distance, lambda: progress(0, 1, "Looking for duplicates"))
    refusals = {}
    for index, stays in gone.items():
        distance = bits_apart(hashes[index], hashes[stays])[0]
        reason = f"looks like {best_first[stays].source or best_first[stays].file_name}: {distance} of 64 bits differ"
        verdict = Verdict("duplicate_distance", distance, reason)
        refusals[best_first[index]] = _refusal(best_first[index], verdict, thresholds)
    return refusals


def _cropped(
    dataset: Dataset,
    records: Sequence[Record],
    seen: Mapping[Record, Measures],
    judge: Judging,
    progress: Progress,
) -> list[Record]:
    """The records, those with a border now of a copy without it; a copy that is too small or narrow is refused."""
    kept: dict[str, Record] = {}
    for done, record in enumerate(records, start=1):
        if seen[record].border_area < LEAST_CROP:
            kept.setdefault(record.sha256, record)
            continue
        progress(done, len(records), f"Cropping borders, picture {done} of {len(records)}")
        cropped = without_border(dataset, record, seen[record].border)
        failed = next((verdict for verdict in judge_record(cropped, judge.thresholds) if verdict.reason), None)
        if failed and judge.keeps(record, failed.rule):
            kept.setdefault(record.sha256, record)
        elif failed:
            reason = f"without its border, {failed.reason}"
            judge.refusals[record] = _refusal(record, replace(failed, reason=reason), judge.thresholds)
        else:
            kept.setdefault(cropped.sha256, cropped)
    return list(kept.values())


def _refusal(record: Record, verdict: Verdict, thresholds: Thresholds) -> Refusal:
    limit = getattr(thresholds, verdict.rule, None) if verdict.measured is not None else None
    return Refusal(record.source, verdict.rule, verdict.reason, verdict.measured, limit, record.file_name)
