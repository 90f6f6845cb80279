"""What an image network adds to a judgement: neighbours, adherence, distances; with vectors whose truth is known."""

import functools
from dataclasses import replace

import numpy
import pytest
from impasto.evaluation import chart, report
from impasto.evaluation.adherence import adherence
from impasto.evaluation.calibration import calibrate_by_neighbours
from impasto.evaluation.distances import KERNELS, LEAST_COUNT, distances_from_set, enough
from impasto.evaluation.measures import Measure
from impasto.evaluation.scores import Rows, score
from impasto.evaluation.verdict import verdict
from PIL import Image

WIDTH = 24
PROMPTS = [row // 2 for row in range(60)]


def vectors(count, shift=0.0, seed=0, spread=1.0):
    """Around a point that lies `shift` along the first axis, all far from the origin as a network's are."""
    rows = numpy.random.default_rng(seed).normal(0, spread, (count, WIDTH))
    rows[:, 1] += 6
    rows[:, 0] += shift
    return rows.astype(numpy.float32)


def test_neighbours_place_base_and_set_apart_and_a_half_way_step_between_them():
    found = calibrate_by_neighbours(vectors(60), PROMPTS, vectors(40, 6, seed=1))
    assert found.auc > 0.95 and found.trusted
    assert (found.base.mean(), found.of_set.mean()) == (pytest.approx(0), pytest.approx(1))
    half, whole = (found.place(vectors(60, shift, seed=2), PROMPTS).mean() for shift in (3, 6))
    assert 0.2 < half < 0.8 and whole == pytest.approx(1, abs=0.15)


def test_neighbours_do_not_tell_what_is_not_different():
    aucs = [
        calibrate_by_neighbours(vectors(60, seed=seed), PROMPTS, vectors(40, seed=100 + seed)).auc for seed in range(8)
    ]
    assert numpy.mean(aucs) == pytest.approx(0.5, abs=0.06) and max(aucs) < 0.7


def test_a_hub_that_is_near_to_everything_does_not_pull_pictures_to_the_set():
    """Plain cosines would: the middle of all pictures is nearer to each of them than its like is."""
    base, of_set = vectors(60, spread=2.0), vectors(40, 3, seed=1, spread=2.0)
    hub = numpy.zeros(WIDTH, numpy.float32)
    hub[1] = 6
    with_hub = numpy.concatenate([of_set, numpy.repeat(hub[None], 10, axis=0)])

    def unit(rows):
        return rows / numpy.linalg.norm(rows, axis=1, keepdims=True)

    def plain_place(rows):
        return numpy.sort(unit(rows) @ unit(with_hub).T, axis=1)[:, -10:].mean(axis=1)

    others = vectors(60, 3, seed=5, spread=2.0)
    plain_gap = (plain_place(others).mean() - plain_place(base).mean()) / plain_place(base).std()
    found = calibrate_by_neighbours(base, PROMPTS, with_hub)
    corrected = found.place(others, PROMPTS)
    assert (corrected.mean() - found.base.mean()) / found.base.std() > 2 * plain_gap


def test_a_few_pictures_of_each_are_enough_for_neighbours():
    found = calibrate_by_neighbours(vectors(4), [0, 1, 2, 3], vectors(4, 6, seed=1))
    assert numpy.isfinite([*found.base, *found.of_set, found.auc]).all() and found.trusted


def test_pictures_of_their_own_prompts_are_told_from_those_of_others_and_a_step_that_forgot_is_seen():
    texts = numpy.random.default_rng(0).normal(size=(6, WIDTH))
    asked = [row // 2 for row in range(12)]
    noise = numpy.random.default_rng(1).normal(0, 0.3, (12, WIDTH))
    found = adherence([texts[asked] + noise, texts[asked][::-1] + noise], texts, asked)
    assert found.auc > 0.95 and found.trusted
    own = (texts[0] + noise[0]) @ texts[0] / numpy.linalg.norm(texts[0] + noise[0]) / numpy.linalg.norm(texts[0])
    assert found.columns[0][0] == pytest.approx(own)
    assert found.columns[0].mean() > 0.9 and found.columns[1].mean() < 0.3


def test_a_clip_that_knows_nothing_of_these_prompts_is_not_believed():
    random = numpy.random.default_rng(0)
    found = adherence([random.normal(size=(60, WIDTH))], random.normal(size=(30, WIDTH)), PROMPTS)
    assert found.auc == pytest.approx(0.5, abs=0.08) and not found.trusted
    alike = adherence([numpy.ones((60, WIDTH))], numpy.ones((30, WIDTH)), PROMPTS)
    assert alike.auc == 0.5


def test_distances_are_near_0_for_the_same_pictures_style_and_far_above_their_spread_for_another():
    of_set = vectors(80, 2, seed=1)
    found = distances_from_set("network", [vectors(60), vectors(60, 2, seed=2)], PROMPTS, of_set)
    assert [one.name for one in found] == ["KID, network", "CMMD, network"]
    for one in found:
        (far, far_spread), (near, near_spread) = one.columns
        assert far > 5 * far_spread and abs(near) < 3 * near_spread and far_spread > 0


def test_the_estimates_are_those_of_the_papers_formulas():
    one, other = vectors(5).astype(float), vectors(7, 1, seed=1).astype(float)
    found = distances_from_set("network", [one], [0, 1, 2, 3, 4], other)

    def pairs(kernel, rows):
        return numpy.mean([kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j])

    def kid(a, b):
        return (a @ b / WIDTH + 1) ** 3

    def cmmd(a, b):
        a, b = a / numpy.linalg.norm(a), b / numpy.linalg.norm(b)
        return 1000 * numpy.exp(-((a - b) @ (a - b)) / 200)

    for distance, kernel in zip(found, (kid, cmmd), strict=True):
        across = numpy.mean([kernel(a, b) for a in one for b in other])
        assert distance.columns[0][0] == pytest.approx(pairs(kernel, one) + pairs(kernel, other) - 2 * across, rel=1e-6)
    assert len(KERNELS) == 2


def test_seeds_that_repeat_each_other_make_a_step_no_farther_from_the_set():
    """Two pictures of a prompt are alike whatever their style: only pairs of different prompts tell of a step."""
    of_set = vectors(80, seed=1)
    apart = vectors(30)
    twice = numpy.repeat(apart, 2, axis=0)
    by_prompt = distances_from_set("network", [twice], PROMPTS, of_set)
    once = distances_from_set("network", [apart], list(range(30)), of_set)
    for one, other in zip(by_prompt, once, strict=True):
        assert one.columns[0][0] == pytest.approx(other.columns[0][0], rel=1e-5)


@functools.cache
def judged(rows, prompts, of_set, with_texts=True):
    """A whole judgement in which a picture's one colour stands for what a network sees in it."""
    colours = {(row, column): (10 * (row // 2), 100 * column, 7 * row % 50) for row in range(rows) for column in (0, 1)}
    pictures = {place: Image.new("RGB", (128, 128), colour) for place, colour in colours.items()}
    painted = Rows(tuple(f"prompt {row // 2}" for row in range(rows)), (0, 10), pictures)
    training = [Image.new("RGB", (128, 128), (11 * row % 255, 100, row)) for row in range(of_set)]

    def embed(shown):
        return numpy.array([numpy.asarray(one)[0, 0] / 100.0 + [0, 0, 1] for one in shown], numpy.float32)

    def embed_texts(texts):
        assert texts == [f"prompt {number}" for number in range(prompts)]
        return numpy.array([[number / 10.0, 0, 1.2] for number in range(prompts)], numpy.float32)

    network = Measure("a network", embed, network=True, embed_texts=embed_texts if with_texts else None)
    return score(painted, training, training, [network])


def test_a_network_is_believed_by_direction_and_by_neighbours_each_for_itself():
    scores = judged(12, 6, 10)
    assert [style.name for style in scores.style] == ["a network", "a network, CSLS"]
    assert scores.adherence.trusted and len(scores.adherence.columns) == 2
    assert scores.distances == () and "take at least 50 pictures" in scores.too_few and "12 and 10" in scores.too_few
    without = judged(12, 6, 10, with_texts=False)
    assert without.adherence is None


def test_distances_are_told_from_the_least_count_on():
    scores = judged(LEAST_COUNT, LEAST_COUNT // 2, LEAST_COUNT)
    assert [one.name for one in scores.distances] == ["KID, a network", "CMMD, a network"] and scores.too_few == ""
    assert enough(LEAST_COUNT, LEAST_COUNT)
    assert not enough(LEAST_COUNT - 1, 1000) and not enough(1000, LEAST_COUNT - 1)


def test_page_figures_and_chart_tell_all_of_it_and_grey_what_is_not_to_be_believed():
    scores = judged(LEAST_COUNT, LEAST_COUNT // 2, LEAST_COUNT)
    told = verdict(scores)
    training = [Image.new("RGB", (128, 128))] * LEAST_COUNT
    text = report.page("garden", scores, told, [], training, {})
    assert "fits its prompt" in text and "CMMD, a network" in text and "±" in text and 'title="not to be' not in text
    figures = report.as_json(scores, told, {})
    assert figures["adherence"] == {"auc": round(scores.adherence.auc, 4), "trusted": True}
    assert figures["steps"][1]["distances"]["KID, a network"]["estimate"] == pytest.approx(
        scores.distances[0].columns[1][0], rel=1e-3
    )
    assert chart.chart(scores, told, "garden").size == chart.SIZE
    alike = adherence([numpy.ones((LEAST_COUNT, 2))] * 2, numpy.ones((25, 2)), scores.painted.prompts)
    doubted = replace(scores, adherence=alike)
    text = report.page("garden", doubted, told, [], training, {})
    assert 'class="quiet" title="not to be believed here">fits its prompt' in text
    assert "AUC 0.50, not to be believed" in text


def test_the_verdict_says_where_the_prompts_are_followed_less():
    scores = judged(12, 6, 10)
    base = scores.adherence.columns[0]
    alike = replace(scores, adherence=replace(scores.adherence, columns=(base, base)))
    assert "fit their prompts no less than the base model's" in " ".join(verdict(alike).sentences)
    worse = replace(scores, adherence=replace(scores.adherence, columns=(base, base - 0.05)))
    assert "fit their prompts less than the base model's: by 0.050" in " ".join(verdict(worse).sentences)
    unknown = replace(scores, adherence=replace(scores.adherence, auc=0.6))
    assert "cannot be told" in " ".join(verdict(unknown).sentences)
