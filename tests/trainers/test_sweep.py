"""Successive halving over settings, with a training whose loss is known."""

import dataclasses
import math

import pytest
from impasto.errors import SettingsError, TrainingError
from impasto.trainers.search_space import Between, read_space
from impasto.trainers.settings import Settings
from impasto.trainers.sweep import GRID, RANDOM, Criterion, Reached, SweepPlan, cheapest, check, search

pytest.importorskip("optuna", reason="Optuna is not installed: pip install optuna")

SPACE = "rank: 4, 8, 16\nlearning_rate: 1e-4, 1e-3, 1e-2"
BASE = Settings(steps=90, scheduler="constant", warmup_steps=0)


class Losses:
    """A training that knows its outcome: best at rank 8 and a rate of 1e-3, and better with every step."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.trained: dict[tuple, int] = {}
        self.steps, self.left = 0, stop_after

    def __call__(self, settings: Settings, label: str) -> Reached:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        name = settings.rank, settings.learning_rate
        self.steps += max(0, settings.steps - self.trained.get(name, 0))
        self.trained[name] = max(settings.steps, self.trained.get(name, 0))
        away = abs(math.log2(settings.rank / 8)) + abs(math.log10(settings.learning_rate / 1e-3))
        return Reached(settings.steps, 1 + away + 1 / settings.steps)


def test_the_best_of_a_grid_is_found_with_a_third_of_its_steps(tmp_path):
    train = Losses()
    outcome = search(SweepPlan(read_space(SPACE)), BASE, tmp_path, ["data"], train)
    assert (outcome.best.rank, outcome.best.learning_rate) == (8, 1e-3)
    assert outcome.best == dataclasses.replace(BASE, rank=8, learning_rate=1e-3)
    assert train.steps == 9 * 10 + 3 * 20 + 2 * 60 and outcome.share == train.steps / (9 * 90) < 0.35
    assert [trial.steps for trial in outcome.trials] == [90, 90, 30, 10, 10, 10, 10, 10, 10]
    assert "| 8 | 0.001 | 90 | 1.0111 |" in outcome.table().splitlines()[2]


def test_what_still_falls_goes_further_than_what_leads_and_has_stopped_falling(tmp_path):
    leading, still, falling, other = (1.0, 0.99, 1.05), (1.1, 1.0, 1.0), (1.3, 1.01, 0.9), (2.0, 1.9, 1.8)
    losses = {1e-2: leading, 3e-3: still, 1e-3: falling}

    def train(settings: Settings, label: str) -> Reached:
        of_it = losses.get(settings.learning_rate, other) if settings.rank == 4 else other
        return Reached(settings.steps, of_it[(10, 30, 90).index(settings.steps)])

    plan = SweepPlan(read_space("learning_rate: 1e-2, 3e-3, 1e-3\nrank: 4, 8, 16"))
    outcome = search(plan, BASE, tmp_path, ["data"], train)
    assert [trial.chosen["learning_rate"] for trial in outcome.trials[:3]] == [1e-3, 3e-3, 1e-2]
    assert [trial.steps for trial in outcome.trials[:3]] == [90, 90, 30]


@pytest.mark.parametrize("stop_after", [0, 1, 9, 11, 12])
def test_a_search_that_was_stopped_goes_on_with_the_same_trials(tmp_path, stop_after):
    plan = SweepPlan(read_space("rank: 4 to 64\nlearning_rate: 1e-5 to 1e-2"), RANDOM, trials=9)
    with pytest.raises(KeyboardInterrupt):
        search(plan, BASE, tmp_path / "stopped", ["data"], Losses(stop_after))
    stopped = search(plan, BASE, tmp_path / "stopped", ["data"], Losses())
    again = search(plan, BASE, tmp_path / "stopped", ["data"], Losses())
    assert stopped == again
    assert len({trial.chosen["learning_rate"] for trial in stopped.trials}) == 9


def test_other_data_is_another_search(tmp_path):
    plan = SweepPlan(read_space(SPACE))
    search(plan, BASE, tmp_path, ["data"], Losses())
    search(plan, BASE, tmp_path, ["other data"], Losses())
    assert len({file.name for file in tmp_path.glob("*.journal")}) == 2


def test_another_judge_is_named_its_values_stand_as_they_are_and_what_it_found_stands_beside_them(tmp_path):
    def train(settings: Settings, label: str) -> Reached:
        if settings.rank == 16:
            raise TrainingError("no picture is finite")
        return Reached(settings.steps, -0.1 * settings.rank, found=100 - 10 * settings.rank)

    outcome = search(SweepPlan(read_space("rank: 4, 8, 16")), BASE, tmp_path, ["data", "style"], train)
    assert outcome.best.rank == 8
    criterion = Criterion("style by strokes", higher=True, beside={"content kept": lambda found: f"{found} %"})
    assert criterion.axis == "style by strokes, higher is better"
    assert outcome.table(criterion).splitlines() == [
        "| rank | steps | style by strokes | content kept |",
        "|---|---|---|---|",
        "| 8 | 90 | 0.8000 | 20 % |",
        "| 4 | 90 | 0.4000 | 60 % |",
        "| 16 | 0 | failed: no picture is finite |  |",
    ]


def test_the_spoiled_and_those_that_learned_nothing_do_not_win_and_the_spoiled_do_not_go_on(tmp_path):
    """Style by rank: 4 to 6 learn nothing, 32 and 64 are nearest and spoiled, 64 from the first rung on."""

    def train(settings: Settings, label: str) -> Reached:
        spoiled = settings.rank == 64 or (settings.rank == 32 and settings.steps == BASE.steps)
        learned = settings.rank >= 8
        return Reached(settings.steps, -settings.rank if learned else 0.0, learned, spoiled)

    def ranked(space: str) -> list[tuple[int, int]]:
        outcome = search(SweepPlan(read_space(space)), BASE, tmp_path, ["data"], train)
        return [(trial.chosen["rank"], trial.steps) for trial in outcome.trials]

    assert ranked("rank: 4, 8, 16, 64") == [(16, 90), (8, 90), (64, 30), (4, 30)]
    assert ranked("rank: 4, 16, 32, 64") == [(16, 90), (32, 90), (64, 30), (4, 30)]
    assert ranked("rank: 4, 5, 64") == [(64, 30), (4, 90), (5, 90)]  # that is told: nothing else learned anything
    assert ranked("rank: 4, 5, 6")[0] == (4, 90)


def test_those_that_cannot_be_told_from_the_best_are_known_and_the_cheapest_of_them(tmp_path):
    def train(settings: Settings, label: str) -> Reached:
        return Reached(settings.steps, -settings.rank, spoiled=settings.rank == 8, found=settings.rank * settings.steps)

    outcome = search(SweepPlan(read_space("rank: 4, 8, 15, 16")), BASE, tmp_path, ["data"], train)
    best, second, left, spoiled = outcome.trials
    assert [trial.chosen["rank"] for trial in outcome.trials] == [16, 15, 4, 8]
    assert [trial.steps for trial in outcome.trials] == [90, 90, 30, 30]
    assert outcome.equals(lambda one, other: abs(one - other) <= 90) == [second]
    assert outcome.equals(lambda one, other: abs(one - other) <= 360) == [second, left]  # 4 x 30 beside 16 x 30
    assert outcome.equals(lambda one, other: False) == []
    assert cheapest([best, second, left]) is left and cheapest([second, best]) is second
    assert cheapest([best, best]) is None
    assert best.described == "rank 16"


def test_a_journal_is_found_again_under_the_name_that_it_had_before_there_was_a_choice_of_judges(tmp_path):
    search(SweepPlan(read_space(SPACE)), BASE, tmp_path, ["data"], Losses())
    assert [file.name for file in tmp_path.glob("*.journal")] == ["a6e404768608873d.journal"]


def test_a_trial_that_fails_is_told_and_the_others_go_on(tmp_path):
    def train(settings: Settings, label: str) -> Reached:
        if settings.learning_rate == 1e-2:
            raise TrainingError("the loss is no number any more")
        return Losses()(settings, label)

    outcome = search(SweepPlan(read_space(SPACE)), BASE, tmp_path, ["data"], train)
    assert outcome.best.learning_rate == 1e-3
    assert outcome.table().count("failed: the loss is no number any more") == 3
    with pytest.raises(TrainingError, match="Not one trial could be trained"):
        search(SweepPlan(read_space("learning_rate: 1e-2\nrank: 4, 8")), BASE, tmp_path, ["data"], train)


@pytest.mark.parametrize("ended", [3, 25, 60])
def test_a_trial_that_was_finished_early_stands_where_it_is_and_the_others_go_on(tmp_path, ended):
    """The best of all, finished by a person after so many steps: on the first rung, the second or the last."""
    losses = Losses()

    def train(settings: Settings, label: str) -> Reached:
        if (settings.rank, settings.learning_rate) == (8, 1e-3) and settings.steps > ended:
            settings = dataclasses.replace(settings, steps=ended)
        return losses(settings, label)

    outcome = search(SweepPlan(read_space(SPACE)), BASE, tmp_path, ["data"], train)
    (early,) = (trial for trial in outcome.trials if (trial.chosen["rank"], trial.chosen["learning_rate"]) == (8, 1e-3))
    assert early.steps == ended and not early.failure
    others = {3: [90, 90, 30] + [10] * 5, 25: [90, 90] + [10] * 6, 60: [90, 30] + [10] * 6}
    assert [trial.steps for trial in outcome.trials if trial is not early] == others[ended]
    assert outcome.trials[{3: 8, 25: 2, 60: 1}[ended]] is early
    assert search(SweepPlan(read_space(SPACE)), BASE, tmp_path, ["data"], train) == outcome


def test_where_the_last_rung_fails_the_best_below_it_is_the_outcome(tmp_path):
    def train(settings: Settings, label: str) -> Reached:
        if settings.steps == BASE.steps:
            raise TrainingError("the disk is full")
        return Losses()(settings, label)

    outcome = search(SweepPlan(read_space(SPACE)), BASE, tmp_path, ["data"], train)
    assert outcome.trials[0].steps == 30 and (outcome.best.rank, outcome.best.learning_rate) == (8, 1e-4)
    assert all("failed: the disk is full" in line for line in outcome.table().splitlines()[-2:])


def test_every_rung_is_measured_and_nothing_else_ends_a_trial(tmp_path):
    asked = []

    def train(settings: Settings, label: str) -> Reached:
        asked.append(settings)
        return Losses()(settings, label)

    base = dataclasses.replace(BASE, early_stop_patience=1, checkpoint_epochs=2, sample_steps=4)
    search(SweepPlan(read_space(SPACE)), base, tmp_path, ["data"], train)
    assert {(each.checkpoint_every, each.checkpoint_epochs) for each in asked} == {(10, 0)}
    assert {(each.early_stop_patience, each.sample_steps) for each in asked} == {(0, 0)}


@pytest.mark.parametrize(
    ("text", "space"),
    [
        ("rank: 4, 8, 8", {"rank": (4, 8)}),
        ("alpha: rank, 16", {"alpha": ("rank", 16.0)}),
        ("learning_rate: 1e-5 to 1e-3", {"learning_rate": Between(1e-5, 1e-3, False, True)}),
        ("block_ranks: single 2-3: 16; rest: 0 | double 0-1: 8, rest: 0", None),
        ("dora: true, false\n\n", {"dora": (True, False)}),
    ],
)
def test_a_space_is_read_as_people_write_it(text, space):
    try:
        assert space is None or read_space(text) == space
    except SettingsError as error:
        pytest.fail(str(error))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing to try"),
        ("rank", "cannot be swept"),
        ("steps: 10, 20", "cannot be swept"),
        ("weights: a", "cannot be swept"),
        ("rank: four", "'four' is no value"),
        ("rank: 0, 4", "rank"),
        ("rank: 16 to 4", "smaller number first"),
        ("targets: everything", "targets"),
        ("rank: 4\nrank: 8", "two lines"),
        ("rank: ,", "no values"),
        ("learning_rate: nan, 1e-3", "learning_rate"),
    ],
)
def test_what_cannot_be_tried_is_refused_by_name(text, said):
    with pytest.raises(SettingsError, match=said):
        read_space(text)


def test_what_cannot_be_compared_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="Set it to constant"):
        check(SweepPlan(read_space(SPACE)), Settings(scheduler="cosine"))
    for space, base in (
        (SPACE, dataclasses.replace(BASE, warmup_steps=10)),
        ("warmup_steps: 0, 30\nrank: 4, 8, 16", BASE),
    ):
        with pytest.raises(SettingsError, match="first compared after"):
            check(SweepPlan(read_space(space)), base)
    with pytest.raises(SettingsError, match="set method to random"):
        SweepPlan(read_space("rank: 4 to 64"), GRID)
    with pytest.raises(SettingsError, match="between 2 and 200"):
        SweepPlan(read_space("rank: 4"))
    with pytest.raises(SettingsError, match="between 2 and 200"):
        SweepPlan(read_space("rank: 4"), RANDOM, trials=100_000)


def test_alpha_follows_the_rank_where_it_is_asked_to(tmp_path):
    seen = []

    def train(settings: Settings, label: str) -> Reached:
        seen.append((settings.rank, settings.alpha))
        return Reached(settings.steps, 1.0)

    search(SweepPlan(read_space("rank: 4, 8\nalpha: rank")), BASE, tmp_path, ["data"], train)
    assert {(4, 4.0), (8, 8.0)} == set(seen)
