"""Arithmetic on factors against the dense matrices that they stand for, in float64."""

import pytest
import torch
from impasto.errors import SettingsError
from impasto.trainers.lora.arithmetic import (
    Factors,
    GroupScales,
    added,
    block_norms,
    layers_of,
    part_of,
    resized,
    scaled,
    state_of,
)
from impasto.trainers.lora.targets import TARGETS

DOUBLE, SINGLE = "transformer_blocks.2.attn.to_q", "single_transformer_blocks.20.proj_mlp"


def factors(outputs: int, inputs: int, rank: int, seed: int) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return Factors(torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator))


def dense(of: Factors) -> torch.Tensor:
    return of.b.double() @ of.a.double()


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To float32's rounding."""
    assert torch.linalg.norm(found - expected) <= 1e-6 * torch.linalg.norm(expected)


def test_adding_lays_side_by_side_what_dense_matrices_add_up_to_whatever_their_ranks():
    one, two = {DOUBLE: factors(24, 16, 3, 1)}, {DOUBLE: factors(24, 16, 5, 2), SINGLE: factors(64, 16, 2, 3)}
    total = added([("one", one, 0.7), ("two", two, -1.3)])
    assert_close(dense(total[DOUBLE]), 0.7 * dense(one[DOUBLE]) - 1.3 * dense(two[DOUBLE]))
    assert_close(dense(total[SINGLE]), -1.3 * dense(two[SINGLE]))
    assert (total[DOUBLE].rank, total[SINGLE].rank) == (8, 2)


def test_a_lora_alone_at_weight_1_keeps_its_very_tensors_and_at_weight_0_is_left_out():
    one, two = {DOUBLE: factors(24, 16, 3, 1)}, {DOUBLE: factors(24, 16, 5, 2)}
    total = added([("one", one, 1.0), ("two", two, 0.0)])
    assert total[DOUBLE].a is one[DOUBLE].a and total[DOUBLE].b is one[DOUBLE].b


def test_loras_of_models_of_other_sizes_are_not_added():
    one, two = {DOUBLE: factors(24, 16, 3, 1)}, {DOUBLE: factors(48, 32, 3, 2)}
    with pytest.raises(SettingsError, match=r"a\.st and b\.st.*'transformer_blocks.2.attn.to_q' has 24 × 16.*48 × 32"):
        added([("a.st", one, 1.0), ("b.st", two, 1.0)])


@pytest.mark.parametrize(("outputs", "inputs", "rank"), [(40, 24, 10), (24, 40, 10), (12, 40, 20), (40, 12, 20)])
@pytest.mark.parametrize("wanted", [1, 4, 9])
def test_resizing_gives_the_nearest_of_that_rank_and_says_how_far_it_is(outputs, inputs, rank, wanted):
    layer = factors(outputs, inputs, rank, seed=rank + wanted)
    found, lost = resized({DOUBLE: layer}, wanted)
    u, values, v = torch.linalg.svd(dense(layer))
    best = (u[:, :wanted] * values[:wanted]) @ v[:wanted]
    assert found[DOUBLE].rank == wanted and found[DOUBLE].a.dtype == torch.float32
    assert_close(dense(found[DOUBLE]), best)
    assert lost[DOUBLE] == pytest.approx(torch.linalg.norm(dense(layer) - best).item(), rel=1e-9)


def test_a_layer_of_the_rank_or_a_lower_one_is_not_touched():
    layers = {DOUBLE: factors(24, 16, 3, 1), SINGLE: factors(64, 16, 4, 1)}
    found, lost = resized(layers, 4)
    assert all(found[name] is layers[name] for name in layers) and lost == {DOUBLE: 0.0, SINGLE: 0.0}


def test_what_cancels_out_is_resized_without_a_loss():
    one = factors(24, 16, 3, 1)
    nothing = added([("one", {DOUBLE: one}, 1.0), ("one", {DOUBLE: one}, -1.0)])
    found, lost = resized(nothing, 2)
    assert found[DOUBLE].norm() < 1e-5 * one.norm() and lost[DOUBLE] < 1e-5 * one.norm()


def test_the_norm_is_the_dense_matrix_s():
    layer = factors(24, 16, 7, 5)
    assert layer.norm() == pytest.approx(torch.linalg.norm(dense(layer)).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("layer", "scale"),
    [
        ("transformer_blocks.18.attn.add_q_proj", 2 * 7),
        ("transformer_blocks.0.ff_context.net.2", 2 * 11),
        ("transformer_blocks.0.norm1.linear", 2),
        ("single_transformer_blocks.18.attn.to_v", 3 * 7),
        ("single_transformer_blocks.18.proj_out", 3 * 11),
        ("single_transformer_blocks.19.proj_mlp", 5 * 11),
        ("single_transformer_blocks.37.norm.linear", 5),
        ("norm_out.linear", 1),
        ("x_embedder", 1),
    ],
)
def test_each_layer_has_the_scale_of_its_blocks_times_that_of_its_part(layer, scale):
    scales = GroupScales(double=2, single_early=3, single_late=5, attention=7, feed_forward=11)
    assert scales.of(layer) == scale
    one = {layer: factors(24, 16, 3, 1)}
    assert_close(dense(scaled(one, scales)[layer]), scale * dense(one[layer]))


def test_a_scale_of_0_takes_layers_out_and_one_of_1_keeps_their_very_tensors():
    layers = {DOUBLE: factors(24, 16, 3, 1), SINGLE: factors(64, 16, 4, 1)}
    assert scaled(layers, GroupScales(single_late=0)) == {DOUBLE: layers[DOUBLE]}


def test_every_layer_that_is_trained_is_of_a_part():
    parts = {part_of(pattern.replace("*", "0")) for pattern in TARGETS["all linear"]}
    assert parts == {"attention", "feed-forward", "modulation"}
    assert part_of("single_transformer_blocks.0.proj_out") == "feed-forward"


def test_a_scale_that_is_no_number_is_refused():
    with pytest.raises(SettingsError, match="attention is nan"):
        GroupScales(attention=float("nan"))


def test_alpha_is_worked_into_the_factors_and_comes_out_as_the_rank():
    name = f"transformer.{DOUBLE}"
    layer = factors(24, 16, 4, 1)
    state = {f"{name}.lora_A.weight": layer.a, f"{name}.lora_B.weight": layer.b, f"{name}.alpha": torch.tensor(6.0)}
    layers = layers_of(state)
    assert_close(dense(layers[DOUBLE]), 1.5 * dense(layer))
    again = state_of(layers)
    assert again[f"{name}.alpha"].item() == 4 and torch.equal(again[f"{name}.lora_B.weight"], layer.b * 1.5)


def test_values_beyond_float32_are_named():
    layer = factors(24, 16, 4, 1)
    with pytest.raises(SettingsError, match=f"'{DOUBLE}'.*smaller weights"):
        state_of(added([("large", {DOUBLE: Factors(layer.a, layer.b * 1e38)}, 100.0)]))


def test_norms_of_layers_are_gathered_by_block_and_part():
    norms = {"transformer_blocks.1.attn.to_q": 3.0, "transformer_blocks.1.attn.to_k": 4.0, SINGLE: 2.0, "proj_out": 9.0}
    assert block_norms(norms) == {("double", 1, "attention"): 5.0, ("single", 20, "feed-forward"): 2.0}
