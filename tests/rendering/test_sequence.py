from dataclasses import replace
from pathlib import Path

import pytest
import torch
from impasto.errors import SettingsError
from impasto.rendering.animation import write_animation
from impasto.rendering.cells import Sampling
from impasto.rendering.noise import slerp
from impasto.rendering.picture_specs import PictureSpec
from impasto.rendering.sequence import PROMPTS, SEEDS, STRENGTHS, durations, frames, parse_strengths
from PIL import Image, ImageSequence

BASE = PictureSpec("a harbour", 9, Sampling(64, 64, 4))
WITH_LORA = replace(BASE, adapter=Path("/loras/monet.safetensors"))


def noises(*seeds: int) -> list[torch.Tensor]:
    return [torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]


def test_slerp_goes_from_the_very_first_to_the_very_second_at_even_angles_and_stays_as_long():
    first, second = noises(1, 2)
    assert slerp(first, second, 0) is first and slerp(first, second, 1) is second
    points = [slerp(first, second, step / 8) for step in range(9)]

    def angle(a, b):
        return torch.acos(torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))

    angles = torch.stack([angle(a, b) for a, b in zip(points, points[1:], strict=False)])
    # Even up to the difference in length of the two ends; on a straight line they differ by 0.3 of it.
    assert (angles - angles.mean()).abs().max() < 0.1 * angles.mean()
    lengths = torch.stack([point.norm() for point in points])
    assert lengths.min() > 0.97 * min(first.norm(), second.norm())
    assert (0.5 * (first + second)).norm() < 0.8 * first.norm()  # what a straight line would give
    assert points[4].dtype == first.dtype and points[4].shape == first.shape


def test_slerp_of_a_noise_and_itself_or_its_opposite_is_finite():
    (noise,) = noises(1)
    assert torch.allclose(slerp(noise, noise.clone(), 0.3), noise, atol=1e-6)
    assert slerp(noise, -noise, 0.3).isfinite().all()


def test_between_seeds_each_seed_s_own_picture_stands_at_its_place():
    made = frames(SEEDS, BASE, seeds=(1, 2, 7), between=4)
    assert len(made) == 9
    assert [made[place] for place in (0, 4, 8)] == [replace(BASE, seed=seed) for seed in (1, 2, 7)]
    assert made[5] == replace(BASE, seed=2, toward=7, share=0.25)


def test_a_closed_way_comes_back_without_repeating_its_first():
    made = frames(SEEDS, BASE, seeds=(1, 2), between=3, closed=True)
    assert len(made) == 6 and len(set(made)) == 6
    assert made[-1] == replace(BASE, seed=2, toward=1, share=2 / 3)


def test_through_prompts_each_is_a_picture_of_one_noise():
    texts = ['"a" b', "🎨", "夜の港", "ميناء"]
    assert frames(PROMPTS, BASE, prompts=texts) == tuple(replace(BASE, text=text) for text in texts)


def test_between_strengths_that_of_the_lora_changes_evenly():
    made = frames(STRENGTHS, WITH_LORA, strengths=(-1, 1, 0), between=2)
    assert [frame.strength for frame in made] == [-1, 0, 1, 0.5, 0]


@pytest.mark.parametrize(
    ("way", "base", "given", "said"),
    [
        (SEEDS, BASE, {"seeds": (1,)}, "has 1 seeds. Give at least 2"),
        (PROMPTS, BASE, {"prompts": ()}, "has 0 prompts"),
        (STRENGTHS, BASE, {"strengths": (0, 1)}, "is of a LoRA"),
        (STRENGTHS, WITH_LORA, {"strengths": (1,)}, "has 1 strengths"),
        (SEEDS, BASE, {"seeds": (1, 2), "between": 2000}, "2,001 frames.*at most 1,000"),
        (SEEDS, BASE, {"seeds": range(10**9), "between": 500}, "499,999,999,501 frames"),  # counted, not made
        (PROMPTS, BASE, {"prompts": ["a"] * 1001}, "1,001 frames"),
        (SEEDS, replace(BASE, sampling=Sampling(4096, 4096)), {"seeds": (1, 2), "between": 20}, "at most 11"),
        ("about", BASE, {}, "no way 'about'"),
    ],
)
def test_what_makes_no_sequence_is_refused(way, base, given, said):
    with pytest.raises(SettingsError, match=said):
        frames(way, base, **given)


def test_strengths_are_read_from_a_line():
    assert parse_strengths("-0.5, 0;1 2") == (-0.5, 0.0, 1.0, 2.0)
    for text in ("a", "nan", "11"):
        with pytest.raises(SettingsError, match=r"strength"):
            parse_strengths(text)


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_an_animation_has_its_frames_and_their_durations_and_goes_on_for_ever(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    pictures = [Image.effect_noise((32, 24), 60 + number).convert("RGB") for number in range(4)]
    write_animation(file, pictures, durations(4, 10, 0.5))
    with Image.open(file) as animation:
        assert (animation.n_frames, animation.size, animation.info["loop"]) == (4, (32, 24), 0)
        found = []
        for frame in ImageSequence.Iterator(animation):
            frame.load()
            found.append(frame.info["duration"])
    assert found == [100, 100, 100, 600]


def test_another_ending_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(SettingsError, match=r"'\.bmp'.*\.webp, \.gif"):
        write_animation(tmp_path / "a.bmp", [Image.new("RGB", (8, 8))], [100])
    assert not list(tmp_path.iterdir())
