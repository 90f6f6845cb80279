"""Painted scenes whose truth is known, in place of samples: each exists in a plain and in an impressionist finish.

The "base model" paints plain scenes, the set is impressionist ones of other scenes, and a checkpoint is as far along as
it is mixed.
"""

import functools
import html.parser
import json
import random

import numpy
import pytest
from impasto.embedded.paintings import paint
from impasto.embedded.training_pictures import LEAST_STROKE, scene_of
from impasto.errors import TrainingError
from impasto.evaluation import calibration, chart, copies, measures, report
from impasto.evaluation.scores import Rows, interval, score
from impasto.evaluation.verdict import verdict
from PIL import Image, ImageOps

SIDE = 128
ROWS, SET = 12, 24  # pictures judged, of six prompts; pictures of the set
SETS_WITH_COPIES, OTHERS = 3, 50  # sets, and pictures of the same style beside each


@functools.cache
def painted(index, finish):
    return paint(scene_of(index), finish, SIDE, SIDE, LEAST_STROKE)


def scenes(first, count, finish):
    return [painted(index, finish) for index in range(first, first + count)]


def set_of(finish="impressionist"):
    return scenes(1000, SET, finish)


def mixed(share):
    """The base's pictures, that far along to the other finish."""
    pairs = zip(scenes(0, ROWS, "plain"), scenes(0, ROWS, "impressionist"), strict=True)
    return [Image.blend(plain, styled, share) for plain, styled in pairs]


def rows_of(*columns, steps=(0, 250, 500, 750, 1000)):
    cells = {(row, column): picture for column, pictures in enumerate(columns) for row, picture in enumerate(pictures)}
    return Rows(tuple(f"prompt {row // 2}" for row in range(ROWS)), steps[: len(columns)], cells)


def judge(*columns, training=None):
    known = training or set_of()
    scores = score(rows_of(*columns), known, known, measures.WEIGHT_FREE)
    return scores, verdict(scores)


@functools.cache
def grown():
    return judge(mixed(0), mixed(0.3), mixed(0.6), mixed(1), mixed(1))


def test_the_earliest_of_the_steps_that_came_to_the_style_is_kept():
    scores, judged = grown()
    assert scores.lead.calibration.auc > 0.95
    means = [float(placed.mean()) for placed in scores.lead.placed]
    assert means == sorted(means) and abs(means[0]) < 0.05 and means[-1] == pytest.approx(1, abs=0.2)
    assert (judged.keep, judged.equal) == (750, (1000,))
    assert "no difference above the noise to step 1000" in " ".join(judged.sentences)


@pytest.mark.parametrize("share", [0.0, 0.03])
def test_a_run_that_taught_nothing_is_called_no_better_than_the_base_model(share):
    _, judged = judge(mixed(0), mixed(share), mixed(share))
    assert judged.keep is None
    assert "above the noise" in judged.sentences[0]


def test_a_set_in_the_base_models_own_style_cannot_be_judged_and_says_so():
    scores, judged = judge(mixed(0), mixed(0), mixed(1), training=set_of("plain"))
    assert not scores.lead.calibration.trusted
    assert judged.keep is None and "can say which step" in judged.sentences[0]


def test_content_falls_where_other_scenes_are_painted_in_the_style():
    elsewhere = scenes(400, ROWS, "impressionist")
    scores, judged = judge(mixed(0), mixed(1), elsewhere)
    kept = [float(values.mean()) for values in scores.content]
    assert kept[0] == pytest.approx(1) and kept[1] > 0.8 and kept[2] < 0.4
    assert judged.keep == 250


def test_a_step_nearer_to_the_style_is_not_kept_where_it_lost_the_content_and_another_did_not():
    elsewhere = scenes(400, ROWS, "impressionist")
    _, judged = judge(mixed(0), mixed(0.6), elsewhere)
    assert (judged.keep, judged.equal) == (250, ())
    assert "Step 500 is nearer to the style, but has lost" in judged.sentences[-1]
    _, without_another = judge(mixed(0), elsewhere)
    assert without_another.keep == 250
    assert "look whether it still paints what the prompts ask for" in " ".join(without_another.sentences)


def test_a_step_that_repeats_training_pictures_is_not_kept_where_another_is_as_near():
    scores, judged = judge(mixed(0), mixed(1), set_of()[:ROWS])
    assert [len(found) for found in scores.copies] == [0, 0, ROWS]
    assert judged.keep == 250
    assert "Pictures of step 500 repeat training pictures" in " ".join(judged.sentences)


def spoiled(picture, draw):
    """A part of the picture, scaled up again, noisy, sometimes mirrored: what a model makes of one it has learned."""
    side = round(SIDE * draw.uniform(0.88, 1))
    left, top = draw.randint(0, SIDE - side), draw.randint(0, SIDE - side)
    part = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
    noise = numpy.random.default_rng(side).normal(0, 12, (SIDE, SIDE, 3))
    noisy = Image.fromarray((numpy.asarray(part) + noise).clip(0, 255).astype(numpy.uint8))
    return ImageOps.mirror(noisy) if draw.random() < 0.3 else noisy


def test_planted_copies_are_found_and_other_pictures_of_the_style_are_not(record_property):
    found = wrong = 0
    for number in range(SETS_WITH_COPIES):
        first, draw = 1000 * (number + 1), random.Random(number)
        training = scenes(first, SET, "impressionist")
        known = copies.TrainingPictures(training)
        nearest = known.nearest([spoiled(picture, draw) for picture in training])
        found += sum(copy.likeness >= known.limit and copy.training == copy.picture for copy in nearest)
        wrong += len(known.copies(scenes(first + SET, OTHERS, "impressionist")))
    planted, others = SETS_WITH_COPIES * SET, SETS_WITH_COPIES * OTHERS
    record_property("measured", f"{found} of {planted} planted copies found; {wrong} of {others} other pictures named")
    assert found >= 0.95 * planted and wrong <= 0.01 * others


def test_seeds_that_all_give_one_picture_have_no_diversity():
    alike = [picture for picture in mixed(1)[::2] for _ in range(2)]
    scores, _ = judge(mixed(0), mixed(1), alike)
    assert scores.diversity[0] == pytest.approx(1)
    assert scores.diversity[1] > 0.5 and scores.diversity[2] < 0.01


def test_one_seed_a_prompt_has_no_diversity_to_tell():
    cells = {(row, column): pictures[row] for column, pictures in enumerate((mixed(0), mixed(1))) for row in range(6)}
    rows = Rows(tuple(f"prompt {row}" for row in range(6)), (0, 10), cells)
    assert score(rows, set_of(), set_of(), measures.WEIGHT_FREE).diversity == (None, None)


def test_a_row_that_lacks_a_picture_counts_nowhere():
    whole = rows_of(mixed(0), mixed(1))
    lacking = Rows(whole.texts, whole.steps, {place: one for place, one in whole.pictures.items() if place != (3, 1)})
    assert lacking.rows == tuple(row for row in range(ROWS) if row != 3)
    assert len(lacking.column(0)) == len(lacking.column(1)) == ROWS - 1


def test_too_few_prompts_are_refused_with_what_to_do():
    rows = Rows(("one", "one", "two", "two"), (0, 10), {(row, c): mixed(c)[row] for row in range(4) for c in range(2)})
    with pytest.raises(TrainingError, match="at least 4 different prompts .* there are 2 and 24. Write more lines"):
        score(rows, set_of(), set_of(), measures.WEIGHT_FREE)


def test_auc_is_the_share_of_pairs_in_order():
    assert calibration.auc(numpy.array([0, 1]), numpy.array([2, 3])) == 1
    assert calibration.auc(numpy.array([2, 3]), numpy.array([0, 1])) == 0
    assert calibration.auc(numpy.array([1, 1]), numpy.array([1, 1])) == 0.5


def test_an_interval_counts_prompts_and_not_pictures():
    values = numpy.repeat([0.0, 1.0, 0.0, 1.0], 8)
    by_prompt = interval(values, numpy.repeat([0, 1, 2, 3], 8))
    as_if_independent = interval(values, list(range(32)))
    assert by_prompt.high - by_prompt.low > 1.5 * (as_if_independent.high - as_if_independent.low)


def test_white_is_light_and_grey_has_no_colour():
    white, grey = measures.oklab(numpy.array([[255, 255, 255], [119, 119, 119]]))
    assert white == pytest.approx([1, 0, 0], abs=1e-3)
    assert grey[1:] == pytest.approx([0, 0], abs=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (40, 700), (900, 30)])
def test_pictures_of_any_size_can_be_measured(size):
    picture = Image.effect_noise(size, 60).convert("RGB")
    for measure in measures.WEIGHT_FREE:
        (row,) = measure.embed([picture])
        assert numpy.isfinite(row).all()


def test_the_page_needs_nothing_beside_it_and_shows_words_as_they_are():
    scores, judged = grown()
    drawn = chart.chart(scores, judged, "garden")
    text = report.page(
        "<script>alert(1)</script>", scores, judged, [("Scores", drawn)], set_of(), {"guidance": 3.5, "name": '"><b>'}
    )
    seen = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            seen.append((tag, dict(attributes)))

    Reader().feed(text)
    tags = {tag for tag, _ in seen}
    assert "script" not in tags and "b" not in tags and "link" not in tags
    sources = [attributes["src"] for tag, attributes in seen if tag == "img"]
    assert sources and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "Keep step 750" in text


def test_the_figures_are_plain_json():
    scores, judged = grown()
    figures = json.loads(report.dumped(report.as_json(scores, judged, {"guidance": 3.5})))
    assert figures["verdict"]["keep"] == 750
    assert [step["step"] for step in figures["steps"]] == [0, 250, 500, 750, 1000]
    assert figures["steps"][3]["style"]["strokes"]["mean"] == pytest.approx(1, abs=0.25)


def test_the_chart_is_a_picture_of_the_size_it_says():
    scores, judged = grown()
    picture = chart.chart(scores, judged, "garden $x$")
    assert picture.size == chart.SIZE
