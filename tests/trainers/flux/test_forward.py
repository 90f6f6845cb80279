import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.errors import FeatureError, TrainingError
from impasto.trainers.flux import loading
from impasto.trainers.flux.blocks import blocks
from impasto.trainers.flux.forward import (
    compile_blocks,
    embed_sigma,
    patchify,
    position_ids,
    predict_velocity,
    unpatchify,
)
from impasto.trainers.flux.streaming import StreamedBlocks
from impasto.trainers.lora import adapter
from impasto.trainers.lora.targets import LoraShape
from safetensors.torch import save_file

SIZE = {"hidden_size": 128, "double_blocks": 2, "single_blocks": 2, "context_width": 96, "pooled_width": 40}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("flux") / "flux.safetensors"
    save_file(transformer_weights(**SIZE), path)
    return path


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    """A block of each kind, for what is done once for a kind."""
    path = tmp_path_factory.mktemp("flux") / "shallow.safetensors"
    save_file(transformer_weights(**SIZE | {"double_blocks": 1, "single_blocks": 1}), path)
    return path


def inputs(batch: int = 2, height: int = 8, width: int = 12):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, 16, height, width, generator=generator)
    t5 = torch.randn(batch, 7, SIZE["context_width"], generator=generator)
    sigma = torch.linspace(0.2, 0.9, batch)
    return latents, sigma, t5, torch.randn(batch, SIZE["pooled_width"], generator=generator)


def trained_step(path, checkpointing: bool, precision="fp32", interval: int = 1, prepare=lambda transformer: None):
    """Loss and adapter after one forward and backward pass from a fresh adapter."""
    transformer = loading.load_transformer(path, precision)
    parameters = adapter.add_lora(transformer, LoraShape(4, 4.0, "all linear"), seed=0)
    how = {"checkpointing": checkpointing, "interval": interval, "streamed": prepare(transformer)}
    loss = predict_velocity(transformer, *inputs(), **how).square().mean()
    loss.backward()
    return loss, parameters


def test_patches_hold_channel_row_column_as_in_comfyui():
    from einops import rearrange

    latents = inputs()[0]
    tokens = patchify(latents)
    assert torch.equal(tokens, rearrange(latents, "b c (h ph) (w pw) -> b (h w) (c ph pw)", ph=2, pw=2))
    assert torch.equal(unpatchify(tokens, 4, 6), latents)


def test_positions_are_exact_rows_and_columns():
    ids = position_ids(3, 2, 300, torch.device("cpu"))
    assert ids.dtype == torch.float32
    assert ids[:3].tolist() == [[0, 0, 0]] * 3
    assert ids[3 + 300 + 299].tolist() == [0, 1, 299]
    assert len({tuple(row) for row in ids[3:].tolist()}) == 600


def test_a_batch_predicts_what_its_pictures_predict_alone(path):
    transformer = loading.load_transformer(path, "fp32")
    latents, sigma, t5, pooled = inputs()
    with torch.no_grad():
        together = predict_velocity(transformer, latents, sigma, t5, pooled)
        alone = predict_velocity(transformer, latents[1:], sigma[1:], t5[1:], pooled[1:])
    assert torch.allclose(together[1:], alone, atol=1e-5)


def test_sigma_keeps_its_precision_under_a_bfloat16_base(path):
    transformer = loading.load_transformer(path, "bf16")
    close = torch.tensor([0.7499, 0.7501])
    assert close[0].bfloat16() == close[1].bfloat16(), "these two are one number in bfloat16"
    first, second = embed_sigma(transformer, close, torch.bfloat16)
    assert not torch.equal(first, second)
    latents, _, t5, pooled = inputs()
    same = [torch.stack([tensor[0]] * 2) for tensor in (latents, t5, pooled)]
    with torch.no_grad():
        velocity = predict_velocity(transformer, same[0], close, *same[1:])
    assert not torch.equal(velocity[0], velocity[1])


def test_a_bfloat16_base_predicts_about_the_same_and_answers_in_the_latents_dtype(path):
    exact, rounded = (loading.load_transformer(path, precision) for precision in ("fp32", "bf16"))
    with torch.no_grad():
        expected, velocity = (predict_velocity(transformer, *inputs()) for transformer in (exact, rounded))
    assert velocity.dtype == torch.float32
    assert (velocity - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("interval", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_changes_neither_loss_nor_gradients(path, precision, interval):
    plain_loss, plain = trained_step(path, checkpointing=False, precision=precision)
    loss, parameters = trained_step(path, checkpointing=True, precision=precision, interval=interval)
    assert torch.equal(plain_loss, loss)
    assert all(torch.equal(first.grad, second.grad) for first, second in zip(plain, parameters, strict=True))


@pytest.mark.parametrize(("interval", "expected"), [(1, [2, 2, 2, 2]), (2, [2, 1, 2, 1]), (3, [2, 1, 1, 2])])
def test_an_interval_recomputes_every_so_many_th_block(path, interval, expected):
    transformer = loading.load_transformer(path, "fp32")
    adapter.add_lora(transformer, LoraShape(4, 4.0, "all linear"), seed=0)
    runs = [0] * 4
    for index, block in enumerate(blocks(transformer)):

        def count(*_, index=index):
            runs[index] += 1

        block.register_forward_pre_hook(count)
    predict_velocity(transformer, *inputs(), checkpointing=True, interval=interval).square().mean().backward()
    assert runs == expected


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_b_of_the_adapter_learns_from_the_first_step(path, checkpointing, precision):
    _, parameters = trained_step(path, checkpointing, precision)
    torch.optim.AdamW(parameters, lr=1e-3).step()
    # The last single block's text tokens are thrown away, but its layers serve the image too: nothing is left out.
    assert all(lora_b.abs().max() > 0 for lora_b in parameters[1::2])


def test_checkpointing_keeps_less_for_the_backward_pass(path):
    def kept(checkpointing: bool, interval: int = 1) -> int:
        transformer = loading.load_transformer(path, "fp32")
        adapter.add_lora(transformer, LoraShape(4, 4.0, "attention"), seed=0)
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            predict_velocity(transformer, *inputs(), checkpointing=checkpointing, interval=interval)
        return sum(sizes)

    everything = kept(False)
    assert kept(True) < 0.3 * everything < kept(True, interval=2) < 0.7 * everything


def test_odd_latents_are_refused(path):
    transformer = loading.load_transformer(path, "fp32")
    with pytest.raises(FeatureError, match="multiples of 16 pixels"):
        predict_velocity(transformer, *inputs(width=13))


def test_latents_of_another_autoencoder_are_refused(path):
    transformer = loading.load_transformer(path, "fp32")
    latents, *others = inputs()
    with pytest.raises(FeatureError, match="4 channels, this model takes 16"):
        predict_velocity(transformer, latents[:, :4], *others)


class Graphs:
    """A backend of torch.compile that runs a graph as it is and counts how many it was given."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph, examples):
        self.count += 1
        return graph.forward


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    yield Graphs()
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("precision", "backend", "streaming"),
    [("fp32", "aot_eager", False), ("int8", "eager", False), ("nf4", "eager", True)],
)
def test_compiled_blocks_learn_the_same(shallow, compiler, precision, backend, streaming):
    def compiled(transformer):
        compile_blocks(transformer, torch.device("cpu"), backend)
        return StreamedBlocks(transformer, (0, 1), torch.device("cpu"), ring=1) if streaming else None

    plain_loss, plain = trained_step(shallow, checkpointing=False, precision=precision)
    loss, parameters = trained_step(shallow, True, precision, prepare=compiled)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert torch.allclose(plain_loss, loss, rtol=1e-5)
    assert all(
        torch.allclose(first.grad, second.grad, rtol=1e-3, atol=1e-7)
        for first, second in zip(plain, parameters, strict=True)
    )


def test_neither_steps_nor_sigmas_nor_ever_new_sizes_compile_again(shallow, compiler):
    transformer = loading.load_transformer(shallow, "fp32")
    adapter.add_lora(transformer, LoraShape(4, 4.0, "image attention"), seed=0)
    compile_blocks(transformer, torch.device("cpu"), compiler)

    def step(height, width, guidance=1.0):
        latents, sigma, t5, pooled = inputs(height=height, width=width)
        sigma = sigma * guidance / 4
        predict_velocity(transformer, latents, sigma, t5, pooled, guidance, checkpointing=True).mean().backward()
        return compiler.count

    first = step(8, 12)
    assert step(8, 12) == step(8, 12, guidance=3.5) == first, "the same size is compiled once"
    step(12, 8)
    second = step(10, 12)
    assert [step(*size) for size in ((14, 8), (6, 20), (16, 16))] == [second] * 3
    assert second <= 2 * first, "a second size is compiled for all further ones"


def test_compiling_leaves_the_names_of_weights_as_they_are(path, compiler):
    transformer = loading.load_transformer(path, "fp32")
    names = list(transformer.state_dict())
    compile_blocks(transformer, torch.device("cpu"), compiler)
    assert list(transformer.state_dict()) == names


def test_a_machine_that_cannot_compile_says_so_before_training(path):
    def broken(graph, examples):
        raise RuntimeError("no C++ compiler was found")

    transformer = loading.load_transformer(path, "fp32")
    with pytest.raises(TrainingError, match="(?s)no C\\+\\+ compiler.*Switch compile off"):
        compile_blocks(transformer, torch.device("cpu"), broken)
