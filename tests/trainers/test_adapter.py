import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.errors import SettingsError, TrainingError
from impasto.trainers import adapter, flux_weights
from safetensors.torch import load_file, save_file

SIZE = {"hidden_size": 128, "double_blocks": 2, "single_blocks": 3, "context_width": 96, "pooled_width": 40}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("flux") / "flux.safetensors"
    save_file(transformer_weights(**SIZE), path)
    return path


@pytest.fixture
def base(path):
    def load(precision="fp32"):
        return flux_weights.load_transformer(path, precision)

    return load


def randomise(transformer, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter.lora_parameters(transformer):
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(
    ("targets", "per_double", "per_single"),
    [
        ("image attention", 4, 3),
        ("attention", 8, 3),
        ("attention and feed-forward", 12, 5),
        ("all linear", 14, 6),
        ("single blocks", 0, 5),
    ],
)
def test_each_target_set_covers_its_layers(base, targets, per_double, per_single):
    transformer = base()
    assert len(adapter.target_modules(transformer, targets)) == 2 * per_double + 3 * per_single
    parameters = adapter.add_lora(transformer, 4, 4.0, targets, seed=0)
    assert len(parameters) == 2 * (2 * per_double + 3 * per_single)


def test_all_linear_leaves_out_no_linear_layer_of_the_blocks(base):
    transformer = base()
    blocks = ("transformer_blocks.", "single_transformer_blocks.")
    linears = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    assert adapter.target_modules(transformer, "all linear") == [name for name in linears if name.startswith(blocks)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_adapter_is_float32_and_alone_trainable(base, precision):
    transformer = base(precision)
    parameters = adapter.add_lora(transformer, 4, 8.0, "attention", seed=0)
    trainable = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in parameters} == {id(parameter) for parameter in trainable}
    assert {parameter.dtype for parameter in parameters} == {torch.float32}


def test_a_fresh_adapter_changes_nothing_and_starts_from_its_seed_alone(base):
    torch.manual_seed(7)
    first = adapter.add_lora(base(), 4, 8.0, "attention", seed=5)
    torch.manual_seed(8)
    second = adapter.add_lora(base("bf16"), 4, 8.0, "attention", seed=5)
    other = adapter.add_lora(base(), 4, 8.0, "attention", seed=6)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first[::2], other[::2], strict=True))
    assert all(lora_b.abs().max() == 0 for lora_b in first[1::2])
    assert all(lora_a.abs().max() > 0 for lora_a in first[::2])


def test_adding_an_adapter_leaves_the_global_random_state_alone(base):
    transformer = base()
    before = torch.get_rng_state()
    adapter.add_lora(transformer, 4, 8.0, "attention", seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_export_names_each_layer_with_a_b_and_alpha(base):
    transformer = base()
    adapter.add_lora(transformer, 4, 6.0, "attention and feed-forward", seed=0)
    state = adapter.lora_state_dict(transformer)
    layer = "transformer.single_transformer_blocks.2.proj_out"
    assert state[f"{layer}.lora_A.weight"].shape == (4, 5 * 128)
    assert state[f"{layer}.lora_B.weight"].shape == (128, 4)
    assert state[f"{layer}.alpha"] == 6.0
    assert len(state) == 3 * len(adapter.target_modules(base(), "attention and feed-forward"))


def test_the_export_does_not_change_while_training_goes_on(base):
    transformer = base()
    adapter.add_lora(transformer, 4, 6.0, "attention", seed=0)
    state = adapter.lora_state_dict(transformer)
    copies = {key: value.clone() for key, value in state.items()}
    randomise(transformer)
    assert all(torch.equal(state[key], copies[key]) for key in state)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_saved_adapter_comes_back_bit_for_bit(base, tmp_path, precision):
    trained, resumed = base(precision), base(precision)
    adapter.add_lora(trained, 4, 6.0, "all linear", seed=0)
    randomise(trained)
    save_file(adapter.lora_state_dict(trained), tmp_path / "lora.safetensors")
    parameters = adapter.add_lora(resumed, 4, 6.0, "all linear", seed=99)
    adapter.load_lora_state_dict(resumed, load_file(tmp_path / "lora.safetensors"))
    assert all(torch.equal(one, two) for one, two in zip(adapter.lora_parameters(trained), parameters, strict=True))


@pytest.mark.parametrize(
    ("rank", "alpha", "targets", "named"),
    [(8, 6.0, "attention", "shape"), (4, 3.0, "attention", "alpha 6"), (4, 6.0, "all linear", "other layers")],
)
def test_a_saved_adapter_of_other_settings_is_refused(base, rank, alpha, targets, named):
    saved, other = base(), base()
    adapter.add_lora(saved, 4, 6.0, "attention", seed=0)
    adapter.add_lora(other, rank, alpha, targets, seed=0)
    before = [parameter.clone() for parameter in adapter.lora_parameters(other)]
    with pytest.raises(TrainingError, match=named):
        adapter.load_lora_state_dict(other, adapter.lora_state_dict(saved))
    assert all(torch.equal(one, two) for one, two in zip(before, adapter.lora_parameters(other), strict=True))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": 0.0}, "alpha is 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"dropout": 1.0}, "dropout is 1"),
        ({"targets": "everything"}, "'everything'.*all linear"),
    ],
)
def test_impossible_settings_are_refused(base, change, named):
    settings = {"rank": 4, "alpha": 4.0, "targets": "attention", "seed": 0} | change
    with pytest.raises(SettingsError, match=named):
        adapter.add_lora(base(), **settings)


def test_targets_that_match_nothing_are_refused():
    with pytest.raises(SettingsError, match="no layer of the LoRA targets 'attention'"):
        adapter.add_lora(torch.nn.Sequential(torch.nn.Linear(4, 4)), 4, 4.0, "attention", seed=0)
