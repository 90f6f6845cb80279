"""The flow-matching objective: its formulas, its distributions, and that every step can be drawn on its own."""

import pytest
import torch
from impasto.trainers import objective, sampler
from impasto.trainers.settings import TIMESTEP_SAMPLINGS, Settings


def draw(sampling_name, count=20_000, image_tokens=1024, **settings):
    chosen = Settings(timestep_sampling=sampling_name, **settings)
    return objective.sample_sigmas(count, chosen, image_tokens, objective.generator(7, "test"))


def test_sigma_one_is_noise_and_sigma_zero_is_the_picture():
    latents, noise = torch.randn(2, 2, 16, 4, 4).unbind(0)
    noisy = objective.noisy_latents(latents, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(noisy[0], latents[0])
    assert torch.equal(noisy[1], noise[1])


def test_the_loss_is_zero_for_noise_minus_latents_and_only_there():
    latents, noise = torch.randn(2, 1, 16, 4, 4).unbind(0)
    assert objective.velocity_loss(noise - latents, latents, noise) == 0
    assert objective.velocity_loss(latents - noise, latents, noise) > 1


def test_following_the_true_velocity_from_noise_arrives_at_the_picture():
    latents, noise = torch.randn(2, 1, 16, 8, 8).unbind(0)
    arrived = sampler.sample(lambda x, sigma: noise - latents, noise, steps=3)
    assert torch.allclose(arrived, latents, atol=1e-5)


def test_the_sampling_schedule_goes_from_one_to_zero_and_lingers_at_noise_for_large_pictures():
    small, large = sampler.schedule(8, 256), sampler.schedule(8, 4096)
    assert small[0] == large[0] == 1 and small[-1] == large[-1] == 0
    assert all(a > b for a, b in zip(small, small[1:], strict=False))
    assert large[4] > small[4] > 0.5


@pytest.mark.parametrize(("tokens", "mu"), [(256, 0.5), (4096, 1.15), (1024, 0.63)])
def test_the_resolution_shift_is_that_of_flux(tokens, mu):
    assert objective.resolution_shift(tokens) == pytest.approx(mu, abs=0.001)


def test_sigmas_are_fp32_and_within_zero_and_one():
    for name in TIMESTEP_SAMPLINGS:
        sigma = draw(name)
        assert sigma.dtype == torch.float32 and sigma.min() >= 0 and sigma.max() <= 1


def test_each_sampling_has_its_own_distribution():
    uniform, sigmoid, shift = (draw(name) for name in ("uniform", "sigmoid", "flux_shift"))
    assert uniform.std() == pytest.approx(12**-0.5, abs=0.01)
    assert sigmoid.mean() == pytest.approx(0.5, abs=0.01) and sigmoid.std() == pytest.approx(0.208, abs=0.01)
    assert shift.median() == pytest.approx(1 / (1 + 2.718281828 ** -objective.resolution_shift(1024)), abs=0.02)


def test_mean_and_scale_move_and_narrow_the_sigmoid():
    moved, narrow = draw("sigmoid", timestep_mean=1.0), draw("sigmoid", timestep_scale=0.1)
    assert moved.median() == pytest.approx(1 / (1 + 2.718281828**-1), abs=0.01)
    assert narrow.std() < 0.03 and narrow.mean() == pytest.approx(0.5, abs=0.01)


def test_the_constant_shift_is_that_of_sd_scripts():
    """sd-scripts, flux_train_utils.py: t * shift / (1 + (shift - 1) * t), t the sigmoid of a normal."""
    plain = draw("sigmoid")
    assert torch.allclose(draw("shift", timestep_shift=3.0), plain * 3 / (1 + 2 * plain))


def test_mode_with_a_positive_scale_favours_the_middle():
    uniform, mode = draw("mode", mode_scale=0.0), draw("mode", mode_scale=1.29)
    assert uniform.std() == pytest.approx(12**-0.5, abs=0.01)
    assert mode.std() < uniform.std() - 0.02


@pytest.mark.parametrize(("weighting", "expected"), [("sigma_sqrt", [4.0, 1.0]), ("cosmap", [1.2732, 0.6366])])
def test_loss_weights_are_those_of_the_paper_and_never_without_bound(weighting, expected):
    weights = objective.loss_weights(torch.tensor([0.5, 1.0]), weighting)
    assert weights.tolist() == pytest.approx(expected, abs=1e-3)
    assert objective.loss_weights(torch.tensor([0.0]), weighting).item() <= 10_000
    assert objective.loss_weights(torch.tensor([0.5]), "none") is None


def test_weights_and_masks_count_a_picture_and_a_place_less():
    latents, noise = torch.zeros(2, 16, 4, 4), torch.ones(2, 16, 4, 4)
    off = torch.zeros_like(noise)
    assert objective.velocity_loss(off, latents, noise) == 1
    assert objective.velocity_loss(off, latents, noise, weights=torch.tensor([1.0, 0.5])) == 0.75
    mask = torch.ones(2, 1, 4, 4)
    mask[:, :, :2] = 0
    assert objective.velocity_loss(off, latents, noise, mask=mask) == 0.5


def test_the_histogram_counts_every_sigma_once():
    assert objective.histogram([0.0, 0.05, 0.55, 1.0]) == [2, 0, 0, 0, 0, 1, 0, 0, 0, 1]


def test_a_steps_random_numbers_depend_on_seed_purpose_and_step_alone():
    def numbers(*arguments):
        return torch.rand(4, generator=objective.generator(*arguments)).tolist()

    torch.manual_seed(1)
    first = numbers(5, "batch", 731)
    torch.manual_seed(2)
    assert numbers(5, "batch", 731) == first
    assert first not in (numbers(6, "batch", 731), numbers(5, "batch", 732), numbers(5, "sample", 731))
    assert numbers(2**64 - 1, "batch", 0)
