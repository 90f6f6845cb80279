"""What Training Sweep says of its best trial: what is within the noise, what is cheaper, what is spoiled."""

from __future__ import annotations

import dataclasses

import numpy
import pytest
from impasto.evaluation.style_judge import StyleFound
from impasto.trainers.settings import Settings
from impasto.trainers.sweep import Outcome, Reached, Trial

pytestmark = pytest.mark.usefixtures("comfyui")
PROMPTS = [0, 0, 1, 1, 2, 2, 3, 3]


def found(style: float, kept: float = 0.9, copies: int = 0) -> StyleFound:
    """Pictures that lie about there, some 0.1 off, as the best one's do not."""
    off = 0.1 * numpy.array([1, 1, -1, -1, 1, 1, -1, -1]) * (style < 0.8)
    return StyleFound(style + off, numpy.full(len(PROMPTS), kept), PROMPTS, copies)


def by_style(rank: int, *at: tuple[int, StyleFound]) -> Trial:
    reached = {step: Reached(step, -each.style.mean, each.learned, each.spoiled, each) for step, each in at}
    return Trial(rank, {"rank": rank}, reached)


def by_loss(rank: int, loss: float, steps: int = 90, failure: str = "") -> Trial:
    return Trial(rank, {"rank": rank}, {steps: Reached(steps, loss)}, failure)


def outcome(*trials: Trial) -> Outcome:
    return Outcome(trials, Settings(), 90 * len(trials))


def test_by_style_those_within_the_noise_are_named_with_the_cheapest_and_others_are_not():
    from impasto.nodes.sweep_judging import of_styles

    best = by_style(16, (10, found(0.2)), (90, found(0.8)))
    like, unlike = by_style(8, (10, found(0.1)), (90, found(0.77))), by_style(4, (10, found(0.1)), (90, found(0.5)))
    left_like, left_unlike = by_style(2, (10, found(0.2))), by_style(1, (10, found(0.05)))
    said = of_styles(outcome(best, like, unlike, left_like, left_unlike))
    assert "It keeps 90 % (90 to 90) of the base model's composition" in said
    assert said[-2:] == [
        "No difference above the noise to rank 8. The cheapest is rank 8",
        "1 trained for fewer steps could not be told from it after as many. The cheapest is rank 2",
    ]
    dearer = dataclasses.replace(like, chosen={"rank": 64})
    assert of_styles(outcome(best, dearer))[-1] == "No difference above the noise to rank 64"
    assert not [line for line in of_styles(outcome(best, unlike)) if "difference" in line or "told from" in line]


def test_by_style_a_spoiled_best_is_told_with_the_step_at_which_it_was_sound_and_nothing_learned_is_told():
    from impasto.nodes.sweep_judging import of_styles

    spoiled = by_style(16, (10, found(0.2)), (30, found(0.5)), (90, found(0.8, kept=0.4, copies=2)))
    said = of_styles(outcome(spoiled))
    assert "That is little: look whether it still paints what the prompts ask for" in said
    assert "2 of its 8 pictures repeat training pictures" in said
    assert said[-1] == "At step 30 it had kept more: so many may do"
    sound = by_style(8, (10, found(0.2)))
    assert "trained for 10 steps only" in " ".join(of_styles(outcome(sound, spoiled)))
    assert "nothing is learned" in of_styles(outcome(by_style(4, (90, found(0.05)))))[1]


def test_by_loss_the_next_one_is_named_and_that_one_seed_cannot_tell_what_is_chance():
    from impasto.nodes.sweep_judging import of_losses

    best, second, left = by_loss(16, 1.0), by_loss(4, 1.0021), by_loss(2, 1.1, steps=30)
    assert of_losses(outcome(best, second, left), 30) == [
        "It was lowest at step 30 of 90: so many may do",
        "rank 4 lies 0.0021 above it, and is cheaper. How much of that is chance the losses of one seed cannot tell: "
        "train both with another seed",
    ]
    assert of_losses(outcome(best, by_loss(32, 1.5)), 90)[0].startswith("rank 32 lies 0.5000 above it. How much")
    assert of_losses(outcome(best, left, by_loss(8, 1.0, failure="memory")), 90) == []
