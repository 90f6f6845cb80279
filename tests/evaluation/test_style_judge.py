"""LoRAs judged one after another, on painted scenes whose truth is known: each is as far along as its file says."""

import math
from pathlib import Path

import numpy
import pytest
from impasto.errors import TrainingError
from impasto.evaluation.measures import WEIGHT_FREE
from impasto.evaluation.style_judge import StyleFound, StyleJudge
from impasto.prompting.prompt_set import crossed, prompt_set
from impasto.rendering.cells import Grid
from impasto.rendering.painting import Sampling
from PIL import Image

from .test_judging import SIDE, painted, scenes, set_of

PROMPTS = crossed(prompt_set("\n".join(f"scene {number}" for number in range(6)), seed=0), "0, 1")


class Painter:
    """Paints the scene that a prompt names, as far along to the other finish as the LoRA's file says, and every second
    one so much further, the others so much less.
    """

    def __init__(self):
        self.share, self.further, self.painted = 0.0, 0.0, 0

    def encode(self, texts):
        pass

    def use(self, adapter: Path | None, strength):
        self.share, self.further = map(float, adapter.read_text().split()) if adapter else (0.0, 0.0)

    def paint(self, text, seed, on_step):
        self.painted += 1
        if math.isnan(self.share):
            return None
        scene = int(text.split()[1])
        index = 2 * scene + seed
        if self.share > 1:  # another scene
            return painted(400 + index, "impressionist")
        return Image.blend(
            painted(index, "plain"), painted(index, "impressionist"), self.share + (-1) ** scene * self.further
        )


@pytest.fixture
def painter():
    return Painter()


@pytest.fixture
def lora(tmp_path):
    def written(share, further=0.0):
        file = tmp_path / f"{share} {further}.safetensors"
        file.write_text(f"{share} {further}")
        return file

    return written


def judge_of(tmp_path, painter, pictures):
    grid = Grid("sweep", tmp_path / "pictures", (), PROMPTS, Sampling(SIDE, SIDE, 1), 1.0, "scenes")
    return StyleJudge(grid, painter, (pictures, pictures), WEIGHT_FREE)


def test_the_lora_that_is_nearer_to_the_style_is_worth_more_and_the_base_model_is_painted_once(tmp_path, painter, lora):
    judge = judge_of(tmp_path, painter, set_of())
    found = [judge.judged(10, lora(share)) for share in (0.0, 0.4, 1.0)]
    means = [each.style.mean for each in found]
    assert means == sorted(means) and abs(means[0]) < 1e-6 and means[2] == pytest.approx(1, abs=0.2)
    assert [each.learned for each in found] == [False, True, True]
    assert [(each.spoiled, each.copies) for each in found] == [(False, 0)] * 3
    assert "nothing is learned" in found[0].sentences[0] and "learned" not in " ".join(found[2].sentences)
    assert painter.painted == 4 * len(PROMPTS)
    again = judge_of(tmp_path, painter, set_of()).judged(10, lora(0.4))
    assert (again.style, again.content) == (found[1].style, found[1].content)
    assert painter.painted == 4 * len(PROMPTS)


def test_what_lies_within_the_noise_is_alike_and_what_lies_beyond_is_not(tmp_path, painter, lora):
    judge = judge_of(tmp_path, painter, set_of())
    near, far, as_far = (judge.judged(10, lora(*file)) for file in ((0.3,), (0.7, 0.1), (0.69, -0.1)))
    assert far.is_like(as_far) and as_far.is_like(far) and far.style.mean != as_far.style.mean
    assert not far.is_like(near) and not near.is_like(as_far)


@pytest.mark.parametrize(("prompts", "most"), [(4, 0.04), (8, 0.04), (16, 0.04)])
def test_two_loras_that_chance_alone_parts_are_seldom_called_different(prompts, most, record_property):
    """In 2 of 100, as an interval of 98 % has it. Two seeds a prompt have most of their prompt's chance in common."""
    draw, pairs = numpy.random.default_rng(1), 1_500
    asked = [row // 2 for row in range(2 * prompts)]

    def found():
        gained = numpy.repeat(draw.normal(size=prompts), 2) + 0.5 * draw.normal(size=2 * prompts)
        return StyleFound(gained, numpy.ones(2 * prompts), asked, 0)

    apart = sum(not found().is_like(found()) for _ in range(pairs)) / pairs
    record_property("measured", f"{apart:.1%} of {pairs} pairs called different by {prompts} prompts")
    assert apart <= most


def test_lost_content_is_told_and_not_taken_off_the_style(tmp_path, painter, lora):
    judge = judge_of(tmp_path, painter, set_of())
    kept, lost = judge.judged(10, lora(1.0)), judge.judged(10, lora(2.0))
    assert lost.learned and lost.spoiled and not kept.spoiled
    assert lost.style.mean == pytest.approx(kept.style.mean, abs=0.25)
    assert "look whether it still paints" in lost.sentences[-1] and "look whether" not in " ".join(kept.sentences)


def test_pictures_that_repeat_the_set_are_counted_and_told(tmp_path, painter, lora):
    scenes_painted = [painted(index, "impressionist") for index in range(6)]
    found = judge_of(tmp_path, painter, [*scenes_painted, *set_of()]).judged(10, lora(1.0))
    assert found.copies == 6
    assert "6 of its 12 pictures repeat training pictures" in found.sentences


def test_where_no_measure_can_be_believed_nothing_is_begun(tmp_path, painter):
    with pytest.raises(TrainingError, match="None of the measures tells this set's pictures .* held-out loss"):
        judge_of(tmp_path, painter, set_of("plain"))
    with pytest.raises(TrainingError, match="at least 4 different prompts"):
        judge_of(tmp_path / "few", painter, scenes(0, 3, "impressionist"))
    assert painter.painted == len(PROMPTS)  # nothing was painted for the few


def test_a_lora_whose_pictures_are_not_finite_cannot_be_compared_and_the_next_one_can(tmp_path, painter, lora):
    judge = judge_of(tmp_path, painter, set_of())
    with pytest.raises(TrainingError, match="12 of its 12 pictures at step 10 are not finite"):
        judge.judged(10, lora(math.nan))
    assert judge.judged(10, lora(1.0)).learned
