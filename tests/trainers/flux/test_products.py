"""Products in 8 bits are held to the exact ones within their rounding, and a LoRA learns with them as without."""

import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.trainers.flux import loading, products
from impasto.trainers.flux.forward import predict_velocity
from impasto.trainers.flux.quantisation import QuantisedLinear, quantise, use_eight_bit_products
from impasto.trainers.lora import adapter
from impasto.trainers.lora.targets import LoraShape
from impasto.trainers.settings import Settings
from safetensors.torch import save_file

OUTPUTS, INPUTS = 208, 192
CPU = torch.device("cpu")
# Relative to a row of normal numbers: 127 steps to its largest, 3 bits of mantissa.
ERRORS = {"int8": 0.012, "fp8": 0.04}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layers(precision: str, inputs: int = INPUTS) -> tuple[QuantisedLinear, QuantisedLinear]:
    """The same layer twice: multiplying as it always did, and in 8 bits."""
    stored = quantise(drawn(OUTPUTS, inputs) * 0.02, precision)
    bias = torch.nn.Parameter(drawn(OUTPUTS, seed=1).bfloat16(), requires_grad=False)
    exact, ours = QuantisedLinear(precision, stored, bias), QuantisedLinear(precision, stored, bias)
    assert use_eight_bit_products(torch.nn.ModuleList([ours]), CPU) == 1
    return exact, ours


def passed(layer: torch.nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output, and gradient of the inputs, for a fixed gradient of the output."""
    leaf = inputs.clone().requires_grad_()
    outputs = layer(leaf)
    outputs.backward(drawn(*outputs.shape, seed=2).to(outputs.dtype))
    return outputs.detach(), leaf.grad


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.float() - expected.float()).norm() / expected.float().norm()).item()


@pytest.fixture(params=products.PRECISIONS)
def precision(request):
    assert products.available(request.param, CPU)
    return request.param


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(17,), (3, 41)])
def test_output_and_gradient_are_the_exact_ones_within_the_rounding(precision, shape, dtype):
    exact, ours = layers(precision)
    inputs = drawn(*shape, INPUTS, seed=3).to(dtype)
    for found, expected in zip(passed(ours, inputs), passed(exact, inputs), strict=True):
        assert found.dtype == dtype and found.shape == expected.shape
        assert 0 < relative(found, expected) < ERRORS[precision]


def test_rows_of_very_different_size_keep_their_accuracy(precision):
    exact, ours = layers(precision)
    inputs = drawn(64, INPUTS) * torch.logspace(-6, 4, 64)[:, None]
    exact.bias, ours.bias = None, None
    for found, expected in zip(passed(ours, inputs), passed(exact, inputs), strict=True):
        errors = (found - expected).norm(dim=1) / expected.norm(dim=1)
        assert errors.max() < 2 * ERRORS[precision]


def test_sums_of_int8_are_exact():
    rows, matrix = drawn(40, 64), (drawn(64, 48) * 40).to(torch.int8)
    quantised, scale = products.quantise_rows("int8", rows)
    assert quantised.abs().max() == 127, "the range is used to its end"
    expected = (quantised.long() @ matrix.long()).double() * scale
    found = products.multiply("int8", rows, matrix.t().contiguous().t(), None, torch.float32)
    assert torch.allclose(found.double(), expected, rtol=1e-6)


@pytest.mark.parametrize(("rows", "inputs"), [(1, INPUTS), (16, INPUTS), (40, INPUTS - 4)])
def test_sizes_that_no_kernel_takes_are_multiplied_as_before(precision, rows, inputs):
    exact, ours = layers(precision, inputs)
    found, expected = (passed(layer, drawn(rows, inputs).bfloat16()) for layer in (ours, exact))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_not_hidden(precision, broken):
    _, ours = layers(precision)
    inputs = drawn(20, INPUTS).bfloat16()
    inputs[7, 5] = broken
    finite = ours(inputs).isfinite().all(dim=1)
    assert finite.tolist() == [row != 7 for row in range(20)]


def test_rows_of_zeros_give_zeros(precision):
    _, ours = layers(precision)
    ours.bias = None
    assert not ours(torch.zeros(20, INPUTS)).any()


def test_nothing_but_what_is_stored_is_kept_for_the_backward_pass(precision):
    _, ours = layers(precision)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        ours(drawn(2, 20, INPUTS).bfloat16().requires_grad_())
    assert {tensor.data_ptr() for tensor in kept} == {tensor.data_ptr() for tensor in ours._stored()}


def test_torch_compile_sees_through_it(precision):
    _, ours = layers(precision)
    inputs = drawn(2, 20, INPUTS).bfloat16()
    compiled = passed(torch.compile(ours, backend="aot_eager", fullgraph=True), inputs)
    for found, expected in zip(compiled, passed(ours, inputs), strict=True):
        assert relative(found, expected) < 0.01  # it rounds once where the other rounds twice


def test_where_the_device_has_no_such_product_nothing_changes_and_it_is_told(precision, monkeypatch, caplog):
    monkeypatch.setattr(products, "available", lambda *_: False)
    layer = QuantisedLinear(precision, quantise(drawn(OUTPUTS, INPUTS), precision), None)
    assert use_eight_bit_products(layer, CPU) == 0
    assert f"no products in {precision}" in caplog.text and not layer.eight_bit_products


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch):
    monkeypatch.setattr(torch, "_int_mm", lambda left, right: torch.zeros(len(left), right.shape[1], dtype=torch.int32))
    products.available.cache_clear()
    try:
        assert not products.available("int8", CPU)
    finally:
        products.available.cache_clear()


def test_it_decides_a_run_only_where_the_base_may_be_in_8_bits():
    for precision in ("int8", "fp8", "auto"):
        decided = Settings(precision=precision, eight_bit_products=True).deciding()
        assert decided != Settings(precision=precision).deciding()
    for precision in ("bf16", "fp32", "nf4"):
        assert (
            Settings(precision=precision, eight_bit_products=True).deciding()
            == Settings(precision=precision).deciding()
        )


STEPS = 12


def losses(path, precision: str, eight_bit: bool) -> torch.Tensor:
    """Of a LoRA trained on the embedded FLUX, at the same noise for each."""
    transformer = loading.load_transformer(path, precision)
    parameters = adapter.add_lora(transformer, LoraShape(8, 8.0, "all linear"), seed=0)
    if eight_bit:
        assert use_eight_bit_products(transformer, CPU) > 0
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    config = transformer.config
    latents, noise = drawn(2, 16, 8, 16, seed=4), drawn(2, 16, 8, 16, seed=5)
    t5, pooled = drawn(2, 24, config.joint_attention_dim, seed=6), drawn(2, config.pooled_projection_dim, seed=7)
    sigma, found = torch.tensor([0.35, 0.7]), []
    noisy = torch.lerp(latents, noise, sigma.view(-1, 1, 1, 1))
    for _ in range(STEPS):
        velocity = predict_velocity(transformer, noisy, sigma, t5, pooled)
        loss = (velocity - (noise - latents)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.detach())
    return torch.stack(found)


def test_the_embedded_flux_learns_with_them_as_without(precision, tmp_path):
    save_file(transformer_weights(seed=0), tmp_path / "flux.safetensors")
    exact, ours = (losses(tmp_path / "flux.safetensors", precision, eight_bit) for eight_bit in (False, True))
    learnt = exact[0] - exact[-1]
    assert learnt > 0.05 * exact[0], "too short a training to tell anything"
    assert not torch.equal(exact, ours)
    late = exact[-4:].mean() - ours[-4:].mean()  # a single step is noisier: the learning rate is high
    assert late.abs() < 0.1 * learnt, f"{exact.tolist()} became {ours.tolist()}"
