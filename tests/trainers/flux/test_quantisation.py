import sys

import pytest
import torch
from impasto.errors import SettingsError
from impasto.trainers.flux import quantisation
from impasto.trainers.flux.quantisation import QUANTISED, QuantisedLinear, quantise, weight_bytes

OUTPUTS, INPUTS = 200, 192
# Relative error of a normal weight: 3 bits of mantissa, 127 steps to the largest of 192, NormalFloat4 (QLoRA).
WEIGHT_ERRORS = {"fp8": 0.03, "int8": 0.008, "nf4": 0.1}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer_of(precision: str, weight: torch.Tensor, bias: bool = True) -> QuantisedLinear:
    frozen = torch.nn.Parameter(drawn(len(weight), seed=1).bfloat16(), requires_grad=False) if bias else None
    return QuantisedLinear(precision, quantise(weight, precision), frozen)


@pytest.fixture(params=QUANTISED)
def precision(request):
    return request.param


@pytest.fixture
def weight():
    return (drawn(OUTPUTS, INPUTS) * 0.02).bfloat16()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.float() - expected.float()).norm() / expected.float().norm()).item()


def test_a_weight_comes_back_about_as_it_was(precision, weight):
    assert relative(layer_of(precision, weight).weight, weight) < WEIGHT_ERRORS[precision]


def test_rows_of_very_different_size_keep_their_accuracy(weight):
    sizes = torch.logspace(-6, 4, OUTPUTS)[:, None]
    for precision in ("fp8", "int8"):
        back = layer_of(precision, weight.float() * sizes).weight.float() / sizes
        assert relative(back, weight) < WEIGHT_ERRORS[precision]


def test_rows_and_blocks_of_zeros_stay_zero(precision, weight):
    weight[3], weight[5, :64] = 0, 0
    back = layer_of(precision, weight).weight
    assert not back[3].any()
    assert not back[5, :64].any()
    assert back.isfinite().all()


@pytest.mark.parametrize("shape", [(OUTPUTS, INPUTS), (64, 64), (3, 16384)])
def test_a_weight_takes_the_bytes_that_were_announced(precision, shape):
    stored = quantise(drawn(*shape), precision)
    assert sum(tensor.nbytes for tensor in stored.values()) == weight_bytes(shape, precision)


def test_quantising_in_pieces_changes_nothing(precision, weight, monkeypatch):
    whole = quantise(weight, precision)
    monkeypatch.setattr(quantisation, "_CHUNK", 1000)
    pieces = quantise(weight, precision)
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)


def test_nf4_is_bitsandbytes_with_double_quantisation(weight):
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    values, state = quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    ours = layer_of("nf4", weight)
    assert torch.equal(ours.values.flatten(), values.flatten())
    assert torch.equal(ours.scales.flatten(), state.absmax.flatten())
    assert torch.equal(ours.weight, dequantize_4bit(values, state))


def test_a_files_own_fp8_weight_is_kept_to_the_bit(weight):
    stored = weight.to(torch.float8_e4m3fn)
    plain = QuantisedLinear("fp8", quantisation.fp8_as_stored(stored, None), None)
    assert torch.equal(plain.weight, stored.bfloat16())
    scaled = QuantisedLinear("fp8", quantisation.fp8_as_stored(stored, torch.tensor(0.37)), None)
    assert torch.equal(scaled.weight, (stored.float() * torch.tensor(0.37)).bfloat16())


@pytest.mark.parametrize("rows", [(1,), (2, 7), (1, 17), (2, 512)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_output_and_input_gradient_are_those_of_the_expanded_weight(precision, weight, rows, dtype):
    layer = layer_of(precision, weight)
    inputs = drawn(*rows, INPUTS).to(dtype).requires_grad_()
    upstream = drawn(*rows, OUTPUTS, seed=2).to(dtype)
    outputs = layer(inputs)
    outputs.backward(upstream)
    exact, scale = quantisation.expand(precision, torch.float32, *layer._stored())
    exact = exact if scale is None else exact * scale[:, None]
    accuracy = 1e-2 if dtype == torch.bfloat16 else 1e-5
    expected = torch.nn.functional.linear(inputs.detach().float(), exact, layer.bias.float())
    assert outputs.dtype == inputs.grad.dtype == dtype
    assert relative(outputs, expected) < accuracy
    assert relative(inputs.grad, upstream.float() @ exact) < accuracy


def test_nothing_but_what_is_stored_is_kept_for_the_backward_pass(precision, weight):
    layer, kept = layer_of(precision, weight), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        outputs = layer(drawn(2, 7, INPUTS).bfloat16().requires_grad_())
    assert outputs.requires_grad
    assert {tensor.data_ptr() for tensor in kept} == {tensor.data_ptr() for tensor in layer._stored()}


def test_an_evaluation_changes_neither_output_nor_gradient(precision, weight):
    layer = layer_of(precision, weight)
    inputs = drawn(2, 7, INPUTS).bfloat16()

    def trained() -> tuple[torch.Tensor, torch.Tensor]:
        layer.train()
        leaf = inputs.clone().requires_grad_()
        outputs = layer(leaf)
        outputs.sum().backward()
        return outputs, leaf.grad

    outputs, gradient = trained()
    with torch.no_grad():
        evaluated = layer.eval()(inputs)
    again, gradient_again = trained()
    assert torch.equal(outputs, evaluated)
    assert torch.equal(outputs, again)
    assert torch.equal(gradient, gradient_again)
    assert gradient.any()


def test_torch_compile_sees_through_a_layer(precision, weight):
    layer, inputs = layer_of(precision, weight), drawn(2, 7, INPUTS).bfloat16().requires_grad_()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(inputs), layer(inputs))


@pytest.mark.parametrize("dora", [False, True])
def test_peft_puts_a_lora_on_it_that_changes_nothing_yet_and_learns(precision, weight, dora):
    from peft import LoraConfig, get_peft_model

    base = torch.nn.Sequential(layer_of(precision, weight))
    inputs = drawn(5, INPUTS).bfloat16()
    before = base(inputs)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["0"], use_dora=dora))
    assert relative(model(inputs), before) < 0.01
    model(inputs).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("lora_B" in name and gradient.any() for name, gradient in gradients.items())
    assert all("lora_" in name for name in gradients)


@pytest.mark.parametrize("name", ["fp16", "float8", "", None])
def test_an_unknown_precision_is_refused_with_the_known_ones(name):
    with pytest.raises(SettingsError, match="fp32, bf16, fp8, int8, nf4"):
        quantisation.compute_dtype(name)


def test_nf4_without_bitsandbytes_says_how_to_install_it(weight, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SettingsError, match=r"install\.py bitsandbytes"):
        quantise(weight, "nf4")
