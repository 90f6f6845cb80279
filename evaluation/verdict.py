"""Which step to keep, why, and whether that is more than noise."""

from __future__ import annotations

from dataclasses import dataclass

from .calibration import TRUSTED
from .scores import Interval, Scores, StyleScores

WORTH_TELLING = 0.1  # of the way from the base model to the set: less is no style, however certain
NO_ADHERENCE = "the CLIP does not tell a picture's own prompt from the others (AUC {:.2f}; 0.7 is needed)"
# Of the base model's composition: below, the step no longer paints what the prompts ask for. Checkpoints that by judges
# had kept every scene had 0.80 and more of it, one that had lost 29 % of them 0.58 (`benchmarks/judging.py`, seed 0).
LOST = 0.7


@dataclass(frozen=True)
class StepVerdict:
    """What to do.

    Attributes:
        keep: the step to keep; None where no step is better than the base model above the noise.
        equal: other steps that are no worse above the noise.
        sentences: why, as people read it.
    """

    keep: int | None
    equal: tuple[int, ...]
    sentences: tuple[str, ...]


def verdict(scores: Scores) -> StepVerdict:
    """Judge by the measure that tells the set from the base model best; the earliest of those that are equally near.

    A step that lost the base model's composition is kept only where all that are nearer to the set than the base model
    did; one that copies training pictures only where all of the equal ones do.
    """
    lead, steps = scores.lead, scores.painted.steps
    if not lead.calibration.trusted:
        said = f"{none_tells(lead)}, so that none can say which step is nearer to its style. Look at the grid, and "
        return StepVerdict(None, (), (f"{said}connect a CLIP vision model.",))
    columns = range(1, len(steps))
    best = max(columns, key=lambda column: float(lead.placed[column].mean()), default=0)
    if not best or not _better(scores, lead, best):
        rows = len(scores.painted.rows)
        return StepVerdict(
            None, (), (f"No step is nearer to the set's style than the base model above the noise of {rows} pictures.",)
        )
    nearest, sound = best, [column for column in columns if _better(scores, lead, column) and not _lost(scores, column)]
    if sound:
        best = max(sound, key=lambda column: float(lead.placed[column].mean()))
    among = sound or list(columns)
    equal = [column for column in among if column == best or not _apart(scores, lead, column, best)]
    clean = [column for column in equal if not scores.copies[column]]
    keep = min(clean or equal)
    others = tuple(steps[column] for column in equal if column != keep)
    sentences = _sentences(scores, lead, keep, others)
    if nearest != best:
        sentences.append(f"Step {steps[nearest]} is nearer to the style, but has lost what the base model composes.")
    return StepVerdict(steps[keep], others, tuple(sentences))


def none_tells(lead: StyleScores) -> str:
    """That even the best measure is not to be believed."""
    return (
        f"None of the measures tells this set's pictures from the base model's ({lead.name} does best, with an AUC of "
        f"{lead.calibration.auc:.2f}; {TRUSTED:.1f} is needed)"
    )


def is_better(gained: Interval) -> bool:
    """Whether pictures are nearer to the set than the base model's; `gained` is how much, picture by picture."""
    return gained.low > 0 and gained.mean >= WORTH_TELLING


def is_lost(content: float) -> bool:
    """Whether so much of the base model's composition is too little."""
    return content < LOST


def is_apart(difference: Interval) -> bool:
    """Whether two LoRAs differ above the noise; `difference` is that of their places, picture by picture."""
    return difference.low > 0 or difference.high < 0


def _better(scores: Scores, lead: StyleScores, column: int) -> bool:
    return is_better(scores.interval(lead.placed[column] - lead.placed[0]))


def _lost(scores: Scores, column: int) -> bool:
    return is_lost(float(scores.content[column].mean()))


def _apart(scores: Scores, lead: StyleScores, one: int, other: int) -> bool:
    return is_apart(scores.interval(lead.placed[other] - lead.placed[one]))


def _sentences(scores: Scores, lead: StyleScores, keep: int, others: tuple[int, ...]) -> list[str]:
    step = scores.painted.steps[keep]
    style, content = scores.interval(lead.placed[keep]), scores.interval(scores.content[keep])
    said = [f"Keep step {step}: by {lead.name} it is {share(style)} of the way from the base model to the set."]
    if others:
        said.append(f"There is no difference above the noise to step {', '.join(map(str, others))}.")
    said.append(f"It keeps {share(content)} of the base model's composition.")
    if _lost(scores, keep):
        said.append("That is little: look whether it still paints what the prompts ask for.")
    said += _fitting(scores, keep)
    diversity = scores.diversity[keep]
    if diversity is not None:
        said.append(f"Its seeds differ {round(100 * diversity)} % as much as the base model's.")
    copied = [scores.painted.steps[column] for column, copies in enumerate(scores.copies) if copies and column]
    if copied:
        said.append(f"Pictures of step {', '.join(map(str, copied))} repeat training pictures: see the copies.")
    return said


def _fitting(scores: Scores, keep: int) -> list[str]:
    """Whether the prompts are still followed, beside the base model, where that can be told."""
    fitting = scores.adherence
    if fitting is None:
        return []
    if not fitting.trusted:
        return [f"Whether it follows the prompts cannot be told: {NO_ADHERENCE.format(fitting.auc)}."]
    difference = scores.interval(fitting.columns[keep] - fitting.columns[0])
    if difference.high < 0:
        return [f"Its pictures fit their prompts less than the base model's: by {-difference.mean:.3f} of the cosine."]
    return ["Its pictures fit their prompts no less than the base model's, above the noise."]


def share(interval: Interval) -> str:
    """'83 % (71 to 94)'."""
    mean, low, high = (round(100 * value) for value in (interval.mean, interval.low, interval.high))
    return f"{mean} % ({low} to {high})"
