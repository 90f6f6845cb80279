"""The chart of a sweep: every trial that was trained is a line, the best over all others."""

import math

import numpy
from impasto.drawing.palette import DARK, LIGHT
from impasto.rendering.sweep_chart import sweep_chart
from impasto.trainers.sweep import HELD_OUT_LOSS, Criterion, Reached, Trial

RUST = (0xC2, 0x56, 0x2D)


def trial(number: int, loss: float, steps: int = 10, **chosen) -> Trial:
    return Trial(number, chosen, {steps: Reached(steps, loss)})


def rust(picture) -> int:
    pixels = numpy.asarray(picture).reshape(-1, 3).astype(int)
    return int((numpy.abs(pixels - RUST).sum(axis=1) < 20).sum())


def test_the_best_trial_is_marked_in_both_themes():
    trials = [trial(1, 0.5, 90, rank=8, targets="attention"), trial(0, 0.9, rank=64, targets="all $x$ linear")]
    for theme in (LIGHT, DARK):
        picture = sweep_chart(trials, HELD_OUT_LOSS, "Sweep", theme)
        assert picture.size == (1400, 700)
    assert rust(sweep_chart(trials, HELD_OUT_LOSS, "Sweep")) > 1_000


def test_the_best_stands_at_the_top_where_more_is_better_and_at_the_bottom_where_less_is():
    """On the last axis, where the line of the best one ends."""
    for criterion, top in ((Criterion("style by strokes", higher=True), True), (HELD_OUT_LOSS, False)):
        pixels = numpy.asarray(sweep_chart([trial(1, -0.9, rank=8), trial(0, -0.1, rank=8)], criterion, "Sweep"))
        down, across = numpy.nonzero(numpy.abs(pixels.astype(int) - RUST).sum(axis=2) < 20)
        assert (down[across > across.max() - 4].mean() < pixels.shape[0] / 2) == top


def test_one_value_failed_trials_and_many_values_are_drawn_too():
    same = [trial(0, 0.5, rank=8, dora=True), trial(1, math.inf, rank=8, dora=False)]
    many = [trial(number, 1 + number, learning_rate=10.0 ** -(number % 6), rank=number + 1) for number in range(40)]
    for trials in (same, many):
        assert rust(sweep_chart(trials, HELD_OUT_LOSS, "Sweep")) > 100
