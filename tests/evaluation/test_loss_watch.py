"""What is named is what was planted: numbers that are drawn, whose truth is known. Real runs are in tests/learning."""

import math

import numpy
import pytest
from impasto.dataset import watch_list
from impasto.errors import SettingsError
from impasto.evaluation.loss_watch import (
    CAPTION,
    HIGH,
    LOW,
    Observation,
    PictureErrors,
    deviations,
    observations,
    watch,
)

PICTURES, STEPS = 60, 240
HARD, EASY, WRONG = "picture 7", "picture 21", "picture 33"


def expected(sigma, step):
    return 0.4 + 0.5 * abs(sigma - 0.4) - 0.03 * math.log1p(step)


def drawn(seed=0, planted=True, pictures=PICTURES):
    """Losses as a run's metrics name them, each picture a little harder or easier than others."""
    random = numpy.random.default_rng(seed)
    own = dict(zip((f"picture {number}" for number in range(pictures)), random.normal(0, 0.15, pictures), strict=True))
    if planted:
        own |= {HARD: 1.2, EASY: -1.2}
    seen = []
    for step in range(1, STEPS + 1):
        for name in random.choice(list(own), 4, replace=False):
            sigma = float(random.uniform(0.02, 0.99))
            loss = expected(sigma, step) * math.exp(own[name] + random.normal(0, 0.2))
            seen.append(Observation(str(name), step, sigma, loss))
    return seen


def measured_set(seed=0, wrong=()):
    random = numpy.random.default_rng(seed)
    names = [f"picture {number}" for number in range(PICTURES)]
    return {
        name: PictureErrors(
            {sigma: float(random.normal(0, 0.2)) for sigma in (0.25, 0.75)},
            float(random.normal(-0.02, 0.01)) + (0.1 if name in wrong else 0),
        )
        for name in names
    }


def test_pictures_far_off_their_like_are_named_and_in_which_direction():
    found = {one.example: one for one in watch(drawn(), {})}
    assert set(found) == {HARD, EASY}
    assert (found[HARD].kind, found[EASY].kind) == (HIGH, LOW)
    assert found[HARD].deviation > 3.5 > -3.5 > found[EASY].deviation
    assert "times its like" in found[HARD].reason


def test_a_picture_that_happened_to_meet_difficult_sigmas_is_not_named():
    seen = [one for one in drawn(planted=False) if one.example != "picture 0"]
    seen += [Observation("picture 0", step, 0.97, expected(0.97, step)) for step in range(1, STEPS, 12)]
    plain = float(numpy.mean([one.loss for one in seen if one.example == "picture 0"]))
    assert plain > 1.15 * float(numpy.mean([one.loss for one in seen]))
    assert "picture 0" not in {one.example for one in watch(seen, {})}


def test_of_clean_sets_at_most_two_in_a_hundred_are_named():
    named = [watch(drawn(seed, planted=False), measured_set(seed)) for seed in range(12)]
    assert sum(map(len, named)) <= 0.02 * PICTURES * len(named)


def test_a_caption_that_misleads_is_named_by_itself():
    (found,) = watch((), measured_set(wrong=(WRONG,)))
    assert (found.example, found.kind) == (WRONG, CAPTION)
    assert "more with it than with none" in found.reason


def test_a_caption_that_helps_less_than_others_misleads_nobody():
    measured = {name: PictureErrors(one.losses, one.misled - 0.5) for name, one in measured_set(wrong=(WRONG,)).items()}
    assert watch((), measured) == []


def test_of_too_few_pictures_nothing_is_named():
    seen = [one for one in drawn() if one.example in {HARD, EASY, *(f"picture {number}" for number in range(5))}]
    assert watch(seen, {}) == []


def test_runs_without_the_losses_of_pictures_and_damaged_lines_are_passed_over():
    whole = {"step": 3, "examples": ["a", "b"], "sigma": [0.5, 0.7], "losses": [0.2, 0.3]}
    broken = [
        {"step": 1, "sigma": [0.5], "loss": 0.3},
        whole | {"losses": [0.2]},
        whole | {"losses": [None, True]},
        whole | {"losses": "ab"},
        whole | {"losses": [0.0, -1.0]},
    ]
    assert observations(broken) == []
    assert observations([*broken, whole]) == [Observation("a", 3, 0.5, 0.2), Observation("b", 3, 0.7, 0.3)]


def test_values_that_are_all_alike_have_no_deviation():
    assert deviations([0.3] * 20).tolist() == [0] * 20


def test_the_list_between_nodes_names_pictures_by_the_first_digits_of_their_hashes():
    text = watch_list.written([("3fa94c12", "caption: it errs\n40 % more"), ("00ff00", "too hard")])
    listed = watch_list.read(f"# from a run\n\n{text}")
    assert listed == {"3fa94c12": "caption: it errs 40 % more", "00ff00": "too hard"}
    hashes = ["3fa94c12" + "0" * 56, "3fa94c13" + "0" * 56, "00ff00" + "1" * 58]
    assert watch_list.reasons(listed, hashes) == {hashes[0]: "caption: it errs 40 % more", hashes[2]: "too hard"}


def test_a_line_that_names_no_picture_is_refused():
    with pytest.raises(SettingsError, match="'harbour.jpg' of watched does not begin with a picture's hash"):
        watch_list.read("harbour.jpg")
