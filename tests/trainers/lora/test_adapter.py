import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.errors import SettingsError, TrainingError
from impasto.trainers.flux import layout, loading
from impasto.trainers.flux.forward import predict_velocity
from impasto.trainers.flux.quantisation import QuantisedLinear, quantise
from impasto.trainers.lora import adapter
from impasto.trainers.lora import file_formats as lora_files
from impasto.trainers.lora.targets import LoraShape
from safetensors.torch import save_file

SIZE = {"hidden_size": 128, "double_blocks": 2, "single_blocks": 3, "context_width": 96, "pooled_width": 40}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("flux") / "flux.safetensors"
    save_file(transformer_weights(**SIZE), path)
    return path


@pytest.fixture
def base(path):
    def load(precision="fp32"):
        return loading.load_transformer(path, precision)

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
        ("double blocks", 14, 0),
        ("diffusers", 12, 3),
        ("kohya", 14, 6),
        ("kohya single blocks", 0, 6),
        ("ai-toolkit", 14, 6),
    ],
)
def test_each_target_set_covers_its_layers(base, targets, per_double, per_single):
    transformer = base()
    assert len(adapter.target_modules(transformer, targets)) == 2 * per_double + 3 * per_single
    parameters = adapter.add_lora(transformer, LoraShape(4, 4.0, targets), seed=0)
    assert len(parameters) == 2 * (2 * per_double + 3 * per_single)


def test_all_linear_leaves_out_no_linear_layer_of_the_blocks(base):
    transformer = base()
    blocks = ("transformer_blocks.", "single_transformer_blocks.")
    linears = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    assert adapter.target_modules(transformer, "all linear") == [name for name in linears if name.startswith(blocks)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_adapter_is_float32_and_alone_trainable(base, precision):
    transformer = base(precision)
    parameters = adapter.add_lora(transformer, LoraShape(4, 8.0, "attention"), seed=0)
    trainable = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in parameters} == {id(parameter) for parameter in trainable}
    assert {parameter.dtype for parameter in parameters} == {torch.float32}


def test_a_fresh_adapter_changes_nothing_and_starts_from_its_seed_alone(base):
    torch.manual_seed(7)
    first = adapter.add_lora(base(), LoraShape(4, 8.0, "attention"), seed=5)
    torch.manual_seed(8)
    second = adapter.add_lora(base("bf16"), LoraShape(4, 8.0, "attention"), seed=5)
    other = adapter.add_lora(base(), LoraShape(4, 8.0, "attention"), seed=6)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first[::2], other[::2], strict=True))
    assert all(lora_b.abs().max() == 0 for lora_b in first[1::2])
    assert all(lora_a.abs().max() > 0 for lora_a in first[::2])


def test_adding_an_adapter_leaves_the_global_random_state_alone(base):
    transformer = base()
    before = torch.get_rng_state()
    adapter.add_lora(transformer, LoraShape(4, 8.0, "attention"), seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_export_names_each_layer_with_a_b_and_alpha(base):
    transformer = base()
    adapter.add_lora(transformer, LoraShape(4, 6.0, "attention and feed-forward"), seed=0)
    state = adapter.lora_state_dict(transformer)
    layer = "transformer.single_transformer_blocks.2.proj_out"
    assert state[f"{layer}.lora_A.weight"].shape == (4, 5 * 128)
    assert state[f"{layer}.lora_B.weight"].shape == (128, 4)
    assert state[f"{layer}.alpha"] == 6.0
    assert len(state) == 3 * len(adapter.target_modules(base(), "attention and feed-forward"))


def test_the_export_does_not_change_while_training_goes_on(base):
    transformer = base()
    adapter.add_lora(transformer, LoraShape(4, 6.0, "attention"), seed=0)
    state = adapter.lora_state_dict(transformer)
    copies = {key: value.clone() for key, value in state.items()}
    randomise(transformer)
    assert all(torch.equal(state[key], copies[key]) for key in state)


def test_ranks_that_leave_no_layer_are_refused(base):
    shape = LoraShape(4, 4.0, "single blocks", block_ranks="single: 0")
    with pytest.raises(SettingsError, match="rank 0 to every layer"):
        adapter.add_lora(base(), shape, seed=0)


def test_the_whole_transformer_has_the_layers_outside_of_blocks_with_the_rank_of_the_rest(base):
    transformer = base()
    outside = [name for name in adapter.target_modules(transformer, "whole transformer") if not layout.block_of(name)]
    assert len(outside) == 10 and {"x_embedder", "norm_out.linear", "proj_out"} <= set(outside)
    adapter.add_lora(transformer, LoraShape(4, 4.0, "whole transformer", block_ranks="single: 0; rest: 3"), seed=0)
    ranks = {name: layer.r[adapter.ADAPTER] for name, layer in adapter._layers(transformer).items()}
    assert set(ranks.values()) == {3} and set(outside) < ranks.keys()
    assert not any(name.startswith("single_transformer_blocks") for name in ranks)  # proj_out is a name there too


def test_targets_that_match_nothing_are_refused():
    with pytest.raises(SettingsError, match="no layer of the LoRA targets 'attention'"):
        adapter.add_lora(torch.nn.Sequential(torch.nn.Linear(4, 4)), LoraShape(4, 4.0, "attention"), seed=0)


@pytest.fixture(scope="module")
def flux_dev():
    """FLUX.1-dev with no weights."""
    return loading.empty_transformer(layout.FluxArchitecture(3072, 24, 19, 38, 4096, 768, 64, True, "", 0))


def test_image_attention_is_the_mucha_reference(flux_dev):
    layers = [flux_dev.get_submodule(name) for name in adapter.target_modules(flux_dev, "image attention")]
    # huggingface.co/blog/flux-qlora: rank 4 on to_k to_q to_v to_out.0 trains 4,669,440 parameters
    assert sum(4 * (layer.in_features + layer.out_features) for layer in layers) == 4_669_440


def test_kohya_s_layers_are_the_304_of_sd_scripts(flux_dev):
    modules = [f"transformer.{name}" for name in adapter.target_modules(flux_dev, "kohya")]
    state = {}
    for name in modules:
        linear = flux_dev.get_submodule(name.removeprefix("transformer."))
        state |= {f"{name}.lora_A.weight": torch.ones(1, linear.in_features), f"{name}.alpha": torch.ones(())}
        state |= {f"{name}.lora_B.weight": torch.ones(linear.out_features, 1)}
    converted = lora_files.convert(state, "kohya")
    assert sum(key.endswith(".alpha") for key in converted) == 19 * 10 + 38 * 3 == 304


def test_every_block_keeps_its_scale_whatever_its_rank(base):
    transformer = base()
    adapter.add_lora(
        transformer, LoraShape(8, 4.0, "all linear", block_ranks="double 1: 2; single 0: 16; single 1: 0"), seed=0
    )
    state = adapter.lora_state_dict(transformer)
    ranks = {"transformer_blocks.0": 8, "transformer_blocks.1": 2}
    ranks |= {"single_transformer_blocks.0": 16, "single_transformer_blocks.2": 8}
    layers = [key.removesuffix(lora_files.LORA_A) for key in state if key.endswith(lora_files.LORA_A)]
    assert {".".join(layer.split(".")[1:3]) for layer in layers} == ranks.keys()
    for layer in layers:
        rank = ranks[".".join(layer.split(".")[1:3])]
        assert state[f"{layer}.lora_A.weight"].shape[0] == state[f"{layer}.lora_B.weight"].shape[1] == rank
        assert state[f"{layer}.alpha"] == 0.5 * rank
    scalings = {module.scaling[adapter.ADAPTER] for module in transformer.modules() if hasattr(module, "scaling")}
    assert scalings == {0.5}


def test_rslora_is_in_the_alpha_that_loaders_know(base):
    transformer = base()
    adapter.add_lora(transformer, LoraShape(16, 8.0, "attention", rslora=True), seed=0)
    state = adapter.lora_state_dict(transformer)
    alphas = {value.item() for key, value in state.items() if key.endswith(".alpha")}
    assert alphas == {8.0 * 16**0.5}, "alpha / rank is 8 / sqrt(16)"
    layer = transformer.transformer_blocks[0].attn.to_q
    assert layer.scaling[adapter.ADAPTER] == 8.0 / 16**0.5


def inputs(seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, 16, 8, 12, generator=generator)
    t5, pooled = (torch.randn(1, *shape, generator=generator) for shape in ((7, 96), (40,)))
    return latents, torch.tensor([0.6]), t5, pooled


def gradients(transformer, parameters, checkpointing: bool = False, seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    velocity = predict_velocity(transformer, *inputs(), checkpointing=checkpointing)
    return torch.autograd.grad(velocity.square().mean(), parameters)


def with_lora(transformer, **settings):
    """A transformer with a LoRA whose B is small but not zero, and its parameters."""
    shape = LoraShape(**{"rank": 4, "alpha": 6.0, "targets": "all linear"} | settings)
    parameters = adapter.add_lora(transformer, shape, seed=0)
    generator = torch.Generator().manual_seed(2)
    for parameter in parameters:
        if parameter.dim() == 2 and not parameter.any():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
    return transformer, parameters


@pytest.mark.parametrize("dora", [False, True])
def test_dropout_depends_on_the_seed_alone_with_checkpointing_too(base, dora):
    transformer, parameters = with_lora(base(), dropout=0.3, dora=dora)
    transformer.train()
    first = gradients(transformer, parameters)
    assert all(map(torch.equal, first, gradients(transformer, parameters)))
    again = gradients(transformer, parameters, checkpointing=True)
    assert all(torch.allclose(one, two, rtol=1e-4, atol=1e-8) for one, two in zip(first, again, strict=True))
    assert not any(map(torch.equal, first[::2], gradients(transformer, parameters, seed=1)[::2]))


def test_nothing_is_dropped_unless_the_model_is_being_trained(base):
    dropping, plain = with_lora(base(), dropout=0.9)[0], with_lora(base())[0]
    with torch.no_grad():
        assert torch.equal(predict_velocity(dropping, *inputs()), predict_velocity(plain, *inputs()))


def saved_bytes(module: torch.nn.Module, run) -> int:
    """Bytes that autograd keeps of `run()` for the backward pass, each storage once, parameters of `module` not."""
    parameters = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    assert output.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


def add_plain_lora(model, rank: int, targets: str, dora: bool = False) -> None:
    """PEFT's own LoRA, with float32 weights as in diffusers' training scripts."""
    from peft import LoraConfig

    modules = adapter.target_modules(model, targets)
    model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=modules, use_dora=dora), adapter.ADAPTER)
    for parameter in adapter.lora_parameters(model):
        parameter.data = parameter.data.float()


@pytest.mark.parametrize(("dora", "share"), [(False, 0.75), (True, 0.2)])
def test_a_block_of_flux_dev_keeps_far_less_than_with_plain_peft(monkeypatch, dora, share):
    def flash_attention(query, key, value, **_):  # keeps its inputs and its output, where the meta device's keeps more
        return query * key * value

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", flash_attention)
    image, text, conditioning = (
        torch.empty(1, *tokens, 3072, dtype=torch.bfloat16, device="meta") for tokens in ((1024,), (512,), ())
    )
    rotary = tuple(torch.empty(1536, 128, device="meta") for _ in range(2))
    sizes = []
    for ours in (True, False):
        model = loading.empty_transformer(layout.FluxArchitecture(3072, 24, 1, 1, 4096, 768, 64, True, "", 0))
        torch.nn.Module.to(model.requires_grad_(False), torch.bfloat16)
        if ours:
            adapter.add_lora(model, LoraShape(16, 16.0, "all linear", dora=dora), seed=0)
        else:
            add_plain_lora(model, 16, "all linear", dora)
        block = model.transformer_blocks[0]
        sizes.append(saved_bytes(block, lambda block=block: block(image, text, conditioning, rotary)[1]))
    assert sizes[0] < share * sizes[1]


WIDTH, TOKENS, RANK = 256, 512, 4


def projections(make_linear, ours: bool):
    """A model of only q, k and v of one input, with a LoRA of ours or of PEFT's, and a bfloat16 input."""
    from diffusers.loaders import PeftAdapterMixin

    class Model(PeftAdapterMixin, torch.nn.Module):
        def forward(self, x):
            return sum(layer(x) for layer in self.transformer_blocks[0].attn.children())

    torch.manual_seed(0)
    model = Model()
    model.transformer_blocks = torch.nn.ModuleList([torch.nn.Module()])
    model.transformer_blocks[0].attn = torch.nn.ModuleDict({name: make_linear() for name in ("to_q", "to_k", "to_v")})
    model.requires_grad_(False)
    if ours:
        adapter.add_lora(model, LoraShape(RANK, float(RANK), "image attention"), seed=0)
    else:
        add_plain_lora(model, RANK, "image attention")
    generator = torch.Generator().manual_seed(2)
    for lora_b in adapter.lora_parameters(model)[1::2]:
        lora_b.data = torch.randn(lora_b.shape, generator=generator)
    return model, torch.randn(1, TOKENS, WIDTH).bfloat16().requires_grad_()


def bf16_linear():
    return torch.nn.Linear(WIDTH, WIDTH).bfloat16()


def nf4_linear():
    return QuantisedLinear("nf4", quantise(torch.randn(WIDTH, WIDTH) * 0.02, "nf4"), None)


def bitsandbytes_linear():
    from bitsandbytes.nn import Linear4bit

    layer = Linear4bit(WIDTH, WIDTH, quant_type="nf4", compute_dtype=torch.bfloat16)
    return layer.to("cpu")  # quantises


@pytest.mark.parametrize("make_linear", [bf16_linear, nf4_linear, bitsandbytes_linear])
def test_no_layer_keeps_a_float32_copy_of_its_input(make_linear):
    (plain, x), (ours, _) = projections(make_linear, ours=False), projections(make_linear, ours=True)
    small = 6 * RANK * (TOKENS + 2 * WIDTH) * 4
    base = 3 * sum(tensor.nbytes for tensor in make_linear().state_dict().values())
    assert saved_bytes(plain, lambda: plain(x)) >= 3 * 2 * x.nbytes, "each of the three keeps one of its own"
    assert saved_bytes(ours, lambda: ours(x)) <= x.nbytes + small + base
    assert {parameter.dtype for parameter in adapter.lora_parameters(ours)} == {torch.float32}


@pytest.mark.parametrize("make_linear", [bf16_linear, nf4_linear, bitsandbytes_linear])
def test_a_layer_computes_what_its_formula_says_on_any_base(make_linear):
    model, x = projections(make_linear, ours=True)
    layer = model.transformer_blocks[0].attn["to_q"]
    lora_a, lora_b = (matrix[adapter.ADAPTER].weight for matrix in (layer.lora_A, layer.lora_B))
    output = layer(x)
    expected = layer.base_layer(x).float() + x.float() @ lora_a.T @ lora_b.T
    assert output.dtype == torch.bfloat16
    assert torch.allclose(output.float(), expected, rtol=0.02, atol=0.02 * expected.std().item())
    output.float().square().mean().backward()
    assert lora_a.grad.dtype == lora_b.grad.dtype == torch.float32
    assert lora_a.grad.any()
    assert lora_b.grad.any()
    assert x.grad.any()


def test_on_a_bf16_base_gradients_are_those_of_float32_but_for_rounding(base):
    exact = gradients(*with_lora(base("fp32")))
    rounded = gradients(*with_lora(base("bf16")), checkpointing=True)
    for one, two in zip(exact, rounded, strict=True):
        assert two.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0) > 0.97


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
@pytest.mark.parametrize("dora", [False, True])
def test_a_first_step_with_checkpointing_reaches_every_layer(base, precision, dora):
    transformer = base(precision)
    parameters = adapter.add_lora(transformer, LoraShape(4, 4.0, "all linear", dora=dora), seed=0)
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0)
    predict_velocity(transformer, *inputs(), checkpointing=True).square().mean().backward()
    optimizer.step()
    for name, layer in adapter._layers(transformer).items():
        # The last block's text goes nowhere.
        if "transformer_blocks.1" not in name or "single" in name or "context" not in name:
            assert layer.lora_B[adapter.ADAPTER].weight.any(), name
    if dora:  # 1e-5 is far below what bfloat16 resolves near 1
        moved = [(now - then).abs().max() for now, then in zip(parameters, before, strict=True) if now.dim() == 1]
        assert min(moved) > 0


@pytest.mark.parametrize(("dora", "dropout"), [(False, 0.0), (False, 0.1), (True, 0.0)])
def test_steps_recompile_nothing(base, dora, dropout):
    from torch._dynamo.testing import CompileCounter

    transformer, parameters = with_lora(base("bf16"), dora=dora, dropout=dropout)
    transformer.train()
    attention = transformer.transformer_blocks[0].attn.to_q
    counter = CompileCounter()
    compiled = torch.compile(attention, backend=counter, fullgraph=True)
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    counts = []
    for step in range(4):
        compiled(torch.randn(1, 5, 128, generator=torch.Generator().manual_seed(step)).bfloat16()).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        counts.append(counter.frame_count)
    assert counts == [1, 1, 1, 1]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
def test_a_fresh_dora_changes_nothing(base, precision):
    plain, adapted = base(precision), base(precision)
    parameters = adapter.add_lora(adapted, LoraShape(4, 6.0, "all linear", dora=True), seed=0)
    assert len(parameters) == 3 * len(adapter.target_modules(plain, "all linear"))
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    with torch.no_grad():
        assert torch.equal(predict_velocity(plain, *inputs()), predict_velocity(adapted, *inputs()))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_our_dora_computes_and_learns_what_peft_s_does(base, dropout):
    from peft import LoraConfig

    ours, parameters = with_lora(base(), targets="attention", dora=True, dropout=dropout)
    theirs = base()
    modules = adapter.target_modules(theirs, "attention")
    settings = {"r": 4, "lora_alpha": 6.0, "target_modules": modules, "use_dora": True, "lora_dropout": dropout}
    theirs.add_adapter(LoraConfig(**settings))
    for one, two in zip(parameters, adapter.lora_parameters(theirs), strict=True):
        one.data.mul_(1.1)
        two.data.copy_(one)
    ours.train()
    theirs.train()
    expected = gradients(theirs, adapter.lora_parameters(theirs))
    for one, two in zip(gradients(ours, parameters), expected, strict=True):
        assert torch.allclose(one, two, rtol=1e-3, atol=1e-4 * two.abs().max().item())


def test_a_dora_is_exported_from_streamed_blocks(base):
    from impasto.trainers.flux.streaming import StreamedBlocks

    transformer = with_lora(base("bf16"), dora=True)[0]
    expected = adapter.lora_state_dict(transformer)
    streamed = StreamedBlocks(transformer, range(5), torch.device("cpu"))
    assert all(torch.equal(value, expected[key]) for key, value in adapter.lora_state_dict(transformer).items())
    streamed.close()


def velocity(transformer) -> torch.Tensor:
    with torch.no_grad():
        return predict_velocity(transformer, *inputs())


def saved(transformer, tmp_path, format: str = "diffusers"):
    path = tmp_path / f"{format}.safetensors"
    save_file(lora_files.convert(adapter.lora_state_dict(transformer), format), path)
    return path


@pytest.mark.parametrize("format", lora_files.FORMATS)
@pytest.mark.parametrize("dora", [False, True])
def test_training_starts_from_a_lora_of_another_alpha_rank_and_fewer_layers(base, tmp_path, format, dora):
    earlier = with_lora(base(), alpha=3.0, targets="attention and feed-forward", block_ranks="single 1: 2")[0]
    path = saved(earlier, tmp_path, format)
    starting = base()
    adapter.add_lora(starting, LoraShape(12, 8.0, "all linear", dora=dora), seed=5)
    untouched = velocity(starting)
    adapter.load_existing(starting, path)
    assert (velocity(earlier) - untouched).abs().max() > 1e-3
    assert torch.allclose(velocity(starting), velocity(earlier), atol=1e-4)
    assert len(adapter.lora_parameters(starting)) == (3 if dora else 2) * len(
        adapter.target_modules(base(), "all linear")
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("settings", [{}, {"dora": True, "block_ranks": "single: 2"}], ids=["lora", "dora"])
def test_a_lora_of_the_same_settings_is_started_from_bit_for_bit(base, tmp_path, settings, precision):
    earlier, parameters = with_lora(base(precision), **settings)
    for parameter in parameters:
        parameter.data.mul_(1.25)
    starting = base(precision)
    again = adapter.add_lora(starting, LoraShape(4, 6.0, "all linear", **settings), seed=99)
    adapter.load_existing(starting, saved(earlier, tmp_path))
    assert all(map(torch.equal, parameters, again))


@pytest.mark.parametrize("format", ["diffusers", "comfyui"])
def test_training_starts_from_a_dora(base, tmp_path, format):
    earlier, parameters = with_lora(base(), dora=True)
    for magnitude in parameters[2::3]:
        magnitude.data.mul_(1.1)
    starting = base()
    adapter.add_lora(starting, LoraShape(12, 12.0, "all linear", dora=True), seed=5)
    adapter.load_existing(starting, saved(earlier, tmp_path, format))
    assert torch.allclose(velocity(starting), velocity(earlier), atol=1e-4)


@pytest.mark.parametrize(
    ("earlier", "now", "named"),
    [
        ({"rank": 8}, {}, "rank 8 in.*this run 4.*Set the rank to 8"),
        ({}, {"targets": "attention"}, "does not train, such as '.*'all linear'"),
        ({}, {"block_ranks": "single: 0"}, "does not train"),
        ({"dora": True}, {}, "is a DoRA.*Switch dora on"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused_with_the_remedy(base, tmp_path, earlier, now, named):
    path = saved(with_lora(base(), **earlier)[0], tmp_path)
    starting, parameters = with_lora(base(), **now)
    before = [parameter.clone() for parameter in parameters]
    with pytest.raises(TrainingError, match=named):
        adapter.load_existing(starting, path)
    assert all(map(torch.equal, before, parameters))


def test_a_lora_of_a_wider_model_is_refused(base, tmp_path):
    state = adapter.lora_state_dict(with_lora(base(), targets="attention")[0])
    wider = {key: torch.cat([value, value], 1) if "lora_A" in key else value for key, value in state.items()}
    save_file(wider, tmp_path / "wider.safetensors")
    with pytest.raises(TrainingError, match="another model.*256 inputs"):
        adapter.load_existing(with_lora(base())[0], tmp_path / "wider.safetensors")


def test_a_lora_of_layers_that_the_model_lacks_is_not_answered_with_other_targets(base, tmp_path):
    name = "transformer.transformer_blocks.7.attn.to_q"
    lora = {f"{name}.lora_A.weight": torch.ones(2, 128), f"{name}.lora_B.weight": torch.ones(128, 2)}
    save_file(lora, tmp_path / "deeper.safetensors")
    with pytest.raises(TrainingError, match="another model: it changes 'transformer_blocks.7.attn.to_q', which this"):
        adapter.load_existing(with_lora(base())[0], tmp_path / "deeper.safetensors")


def test_alpha_in_the_settings_that_diffusers_saves_is_honoured(base, tmp_path):
    from diffusers import FluxPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    earlier = base()
    modules = adapter.target_modules(earlier, "image attention")
    settings = {"r": 4, "lora_alpha": 10, "target_modules": modules, "init_lora_weights": False, "use_rslora": True}
    earlier.add_adapter(LoraConfig(**settings))
    metadata = {"transformer_lora_adapter_metadata": earlier.peft_config["default"].to_dict()}
    FluxPipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(earlier), **metadata)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    state = lora_files.read(path)
    assert {value.item() for key, value in state.items() if key.endswith(".alpha")} == {20.0}
    starting = base()
    adapter.add_lora(starting, LoraShape(4, 4.0, "image attention"), seed=0)
    adapter.load_existing(starting, path)
    assert torch.allclose(velocity(starting), velocity(earlier), atol=1e-4)
