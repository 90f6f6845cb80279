import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.trainers.flux import detection, loading
from impasto.trainers.flux.blocks import blocks
from impasto.trainers.flux.forward import predict_velocity
from impasto.trainers.flux.streaming import StreamedBlocks, block_names, frozen_tensors, streamed_indices
from impasto.trainers.lora import adapter
from impasto.trainers.lora.targets import LoraShape
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

SIZE = {"hidden_size": 128, "double_blocks": 3, "single_blocks": 4, "context_width": 96, "pooled_width": 40}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("flux") / "flux.safetensors"
    save_file(transformer_weights(**SIZE), path)
    return path


def inputs():
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 16, 8, 12, generator=generator)
    t5 = torch.randn(2, 7, SIZE["context_width"], generator=generator)
    return latents, torch.tensor([0.2, 0.9]), t5, torch.randn(2, SIZE["pooled_width"], generator=generator)


def adapted(path, precision="fp32", dropout=0.0):
    transformer = loading.load_transformer(path, precision)
    return transformer, adapter.add_lora(transformer, LoraShape(4, 4.0, "all linear", dropout=dropout), seed=0)


def train(transformer, parameters, steps=2, **how):
    """The LoRA after some steps of plain gradient descent, and the gradients of the last."""
    for _ in range(steps):
        torch.manual_seed(0)  # of the dropout
        predict_velocity(transformer, *inputs(), **how).square().mean().backward()
        gradients = [parameter.grad.clone() for parameter in parameters]
        with torch.no_grad():
            for parameter in parameters:
                parameter -= 10 * parameter.grad
                parameter.grad = None
    return [*gradients, *(parameter.detach().clone() for parameter in parameters)]


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def ring_bytes(streamed):
    """Memory of the ring, whatever it holds."""
    return sum(slot.memory.numel() for slot in streamed._slots)


class Copies(TorchDispatchMode):
    """Counts copies into and out of some memory, and what else writes to it."""

    def __init__(self, streamed: StreamedBlocks) -> None:
        super().__init__()
        self.host = {carried.host.untyped_storage().data_ptr() for carried in streamed._carried.values()}
        self.arrivals = 0
        self.written = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function._schema.is_mutable and self.is_host(arguments[0]):
            self.written.append(str(function))
        if function is torch.ops.aten.copy_.default and self.is_host(arguments[1]):
            self.arrivals += 1
        return function(*arguments, **keywords or {})

    def is_host(self, tensor) -> bool:
        return isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() in self.host


@pytest.mark.parametrize(("count", "precision"), [(1, "fp32"), (4, "fp32"), (7, "bf16")])
def test_streaming_changes_no_bit_of_the_training(path, count, precision):
    expected = train(*adapted(path, precision), checkpointing=True)
    transformer, parameters = adapted(path, precision)
    streamed = StreamedBlocks(transformer, streamed_indices(7, count), CPU)
    assert same(train(transformer, parameters, checkpointing=True, streamed=streamed), expected)


@pytest.mark.parametrize(("ring", "interval"), [(1, 1), (2, 2), (3, 0), (9, 1)])
def test_any_ring_and_any_checkpointing_train_alike(path, ring, interval):
    how = {"checkpointing": interval > 0, "interval": max(interval, 1)}
    expected = train(*adapted(path, dropout=0.3), **how)
    transformer, parameters = adapted(path, dropout=0.3)
    streamed = StreamedBlocks(transformer, (0, 2, 3, 5, 6), CPU, ring=ring)
    assert same(train(transformer, parameters, streamed=streamed, **how), expected)


def test_no_more_weights_than_the_ring_holds_are_on_the_device(path):
    transformer, parameters = adapted(path)
    largest = max(sum(tensor.nbytes for _, tensor in frozen_tensors(block)) for block in blocks(transformer))
    streamed = StreamedBlocks(transformer, range(7), CPU)
    host = {carried.host.untyped_storage().data_ptr() for carried in streamed._carried.values()}
    seen = set()

    def count(module, arguments):
        elsewhere = {
            index
            for index, block in enumerate(blocks(transformer))
            if any(tensor.untyped_storage().data_ptr() not in host for _, tensor in frozen_tensors(block))
        }
        seen.add(len(elsewhere))
        assert elsewhere <= set(streamed.on_device)

    for block in blocks(transformer):
        block.register_forward_pre_hook(count)
    train(transformer, parameters, streamed=streamed)
    assert max(seen) == 2
    assert largest <= ring_bytes(streamed) / 2 < 1.05 * largest


def test_weights_are_copied_to_the_device_only_and_no_more_often_than_needed(path):
    transformer, parameters = adapted(path)
    streamed = StreamedBlocks(transformer, range(7), CPU)
    before = [carried.host.clone() for carried in streamed._carried.values()]
    with Copies(streamed) as copies:
        train(transformer, parameters, steps=1, streamed=streamed)
    assert copies.written == []
    # All seven in the forward pass; in the backward pass the last two are still there.
    assert copies.arrivals == 7 + 5
    assert same(before, [carried.host for carried in streamed._carried.values()])


def test_the_next_block_is_under_way_before_it_is_asked_for(path):
    transformer, parameters = adapted(path)
    streamed = StreamedBlocks(transformer, range(7), CPU)
    found = []
    for index, block in enumerate(blocks(transformer)):
        block.register_forward_pre_hook(
            lambda module, arguments, index=index: found.append((index, streamed.on_device))
        )
    train(transformer, parameters, steps=1, streamed=streamed)
    forward, backward = found[:7], found[7:]
    assert [index for index, _ in backward] == list(reversed(range(7)))
    assert all({index, index + 1} == set(there) for index, there in forward[:-1])
    assert all({index, index - 1} == set(there) for index, there in backward[:-1])


def test_the_adapter_stays_on_the_device(path):
    transformer, parameters = adapted(path)
    before = [parameter.data_ptr() for parameter in parameters]
    streamed = StreamedBlocks(transformer, range(7), CPU)
    train(transformer, parameters, streamed=streamed)
    assert [parameter.data_ptr() for parameter in parameters] == before


def test_evaluation_streams_too_and_leaves_the_next_step_as_it_is(path):
    expected = train(*adapted(path))
    transformer, parameters = adapted(path)
    streamed = StreamedBlocks(transformer, range(7), CPU)
    with torch.no_grad():
        first, second = (predict_velocity(transformer, *inputs(), streamed=streamed) for _ in range(2))
    assert torch.equal(first, second)
    assert same(train(transformer, parameters, streamed=streamed), expected)


def test_afterwards_the_model_is_whole_in_host_memory(path):
    original, _ = adapted(path)
    transformer, parameters = adapted(path)
    streamed = StreamedBlocks(transformer, range(7), CPU)
    with torch.no_grad():
        predict_velocity(transformer, *inputs(), streamed=streamed)
    streamed.close()
    assert ring_bytes(streamed) == 0
    expected = original.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in transformer.state_dict().items())


@pytest.mark.parametrize("precision", ["fp8", "int8", "nf4"])
def test_scales_travel_with_the_quantised_weights_they_belong_to(path, precision):
    expected = train(*adapted(path, precision), steps=1)
    transformer, parameters = adapted(path, precision)
    streamed = StreamedBlocks(transformer, range(7), CPU)
    assert same(train(transformer, parameters, steps=1, streamed=streamed), expected)
    layer = transformer.transformer_blocks[0].attn.to_q.base_layer
    slots = {slot.memory.untyped_storage().data_ptr() for slot in streamed._slots}
    assert len(layer.stored_dtypes) > 1 and 0 in streamed.on_device
    assert {tensor.untyped_storage().data_ptr() for tensor in layer.parameters()} <= slots


def test_a_transposed_weight_keeps_its_layout(path):
    transformer, parameters = adapted(path)
    layer = transformer.transformer_blocks[0].attn.to_q.base_layer
    layer.weight = torch.nn.Parameter(layer.weight.data.t().contiguous().t(), requires_grad=False)
    StreamedBlocks(transformer, (0,), CPU)
    assert layer.weight.stride() == (1, SIZE["hidden_size"])


def test_the_names_of_streamed_blocks_are_those_of_their_parameters(path):
    transformer = loading.load_transformer(path, "fp32")
    names = block_names(detection.inspect(path), (1, 2, 3, 6))
    chosen = {name for name, _ in transformer.named_parameters() if name.startswith(names)}
    sizes = [sum(1 for _ in blocks(transformer)[index].parameters()) for index in (1, 2, 3, 6)]
    assert len(names) == 4 and len(chosen) == sum(sizes)
    assert all(name.startswith(("transformer_blocks.", "single_transformer_blocks.")) for name in chosen)


@pytest.mark.parametrize(("total", "count"), [(57, 0), (57, 1), (57, 20), (57, 57), (3, 9)])
def test_streamed_blocks_are_spread_over_the_model(total, count):
    indices = streamed_indices(total, count)
    assert len(set(indices)) == min(count, total)
    gaps = [later - earlier for earlier, later in zip(indices, indices[1:], strict=False)]
    assert not gaps or max(gaps) - min(gaps) <= 1
