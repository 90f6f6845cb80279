"""What each part of a training step keeps in memory, rehearsed on the meta device, where tensors have no memory.

Nothing is calibrated. One block of each kind, with its adapter, is run forward and backward while every tensor that
autograd makes and keeps is counted. The peak of the whole model follows by sums, as all blocks of a kind are alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from ...hardware.memory import AllocatedTensors
from .. import objective
from ..flux import products, quantisation
from ..flux.blocks import blocks, recomputed, replaced_blocks
from ..flux.forward import predict_velocity
from ..flux.latents import PATCH, PIXELS_PER_TOKEN, latent_shape
from ..flux.layout import HEAD_WIDTH, block_of
from ..flux.loading import empty_transformer
from ..flux.streaming import block_names
from ..lora import adapter

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

    from ..flux.layout import FluxArchitecture
    from ..lora.targets import LoraShape
    from ..settings import Settings


@dataclass(frozen=True)
class BatchShape:
    """The size of one batch: of its pictures in pixels, how many, and the length of their T5 embeddings."""

    width: int
    height: int
    batch: int
    text_tokens: int


@dataclass(frozen=True)
class ProfiledModel:
    """What is rehearsed: a model with its adapter, as far as memory depends on them.

    `precision` is fp32, bf16, or int8 for any quantised weight; where products are in 8 bits, the run's own.
    """

    architecture: FluxArchitecture
    lora: LoraShape
    precision: str
    on_cpu: bool
    eight_bit_products: bool = False


@dataclass(frozen=True)
class _Rehearsal:
    """Bytes of one block, counted from when its inputs are there.

    Attributes:
        kept: after the forward pass, outputs included, which are the next block's inputs.
        forward: the most during the forward pass.
        backward: the most during the backward pass, with what was kept.
    """

    kept: int
    forward: int
    backward: int


@dataclass(frozen=True)
class _Frame:
    """Bytes of everything around the blocks: batch, embedders, output layer and loss.

    Attributes:
        held: alive while the blocks run.
        head: the most before the first block.
        tail: the most after the last block, over what was alive when it ended, until its gradient is there.
    """

    held: int
    head: int
    tail: int


def profiled_model(settings: Settings, architecture: FluxArchitecture, device_type: str) -> ProfiledModel:
    """What to rehearse for a run with these settings on a device such as "cpu" or "cuda"."""
    eight_bit_products = settings.eight_bit_products and settings.precision in products.PRECISIONS
    alike = settings.precision in quantisation.QUANTISED and not eight_bit_products
    precision = "int8" if alike else settings.precision
    dropout = 0.5 if settings.lora_dropout else 0.0
    lora = dataclasses.replace(settings.lora, alpha=1.0, rslora=False, dropout=dropout)
    return ProfiledModel(architecture, lora, precision, device_type == "cpu", eight_bit_products)


def peak_of_pass(
    profiled: ProfiledModel, settings: Settings, shape: BatchShape, streamed: Sequence[int]
) -> tuple[int, int]:
    """Bytes of gradients and of all else that the forward and backward pass make, when their sum is at its peak."""
    lora = lora_bytes(profiled)
    first = next(index for index, size in enumerate(lora) if size)  # before it, there is nothing to go back for
    frame = _rehearse_frame(profiled, shape)
    rehearsals = []
    for index, like in enumerate(_likes(profiled.architecture, profiled.lora)):
        again = recomputed(index, settings.gradient_checkpointing, settings.checkpointing_interval, streamed)
        rehearsals.append(_rehearse_block(profiled, like, shape, again and index >= first, index > first))
    # From the second of several batches on, the gradients of all blocks are there from the start.
    accumulating = settings.gradient_accumulation > 1
    gradients = sum(lora) if accumulating else 0
    peak, kept = (gradients, frame.head), frame.held
    for index, rehearsal in enumerate(rehearsals):
        peak = max(peak, (gradients, kept + rehearsal.forward), key=sum)
        kept = frame.held + rehearsal.kept if index < first else kept + rehearsal.kept
    peak = max(peak, (gradients, kept + frame.tail), key=sum)
    for rehearsal, size in reversed(list(zip(rehearsals, lora, strict=True))[first:]):
        kept -= rehearsal.kept
        # A rehearsed backward pass makes its block's gradients itself.
        peak = max(peak, (gradients + size, kept + rehearsal.backward - size), key=sum)
        gradients += 0 if accumulating else size
    return peak


@lru_cache(maxsize=64)
def lora_bytes(profiled: ProfiledModel) -> tuple[int, ...]:
    """Bytes of each block's adapter."""
    every = blocks(_stage(profiled))
    return tuple(
        sum(parameter.nbytes for parameter in every[like].parameters() if parameter.requires_grad)
        for like in _likes(profiled.architecture, profiled.lora)
    )


@lru_cache(maxsize=64)
def outer_lora_bytes(profiled: ProfiledModel) -> int:
    """Bytes of the adapter in layers that are in no block."""
    parameters = _stage(profiled).named_parameters()
    return sum(each.nbytes for name, each in parameters if each.requires_grad and not block_of(name))


@lru_cache(maxsize=64)
def _likes(architecture: FluxArchitecture, lora: LoraShape) -> tuple[int, ...]:
    """For each block, the first one that is like it: of the same kind, with the same layers adapted."""
    skeleton = _skeleton(architecture)
    targets = adapter.target_modules(skeleton, lora.targets)
    ranks = lora.ranks(architecture.double_blocks, architecture.single_blocks)
    looks = []
    for block, name in zip(blocks(skeleton), block_names(architecture, range(len(ranks))), strict=True):
        layers = [target.removeprefix(name) for target in targets if target.startswith(name)]
        looks.append((type(block), ranks[name.rstrip(".")], layers))
    return tuple(looks.index(look) for look in looks)


@lru_cache(maxsize=4)
def _skeleton(architecture: FluxArchitecture) -> FluxTransformer2DModel:
    return empty_transformer(architecture)


@lru_cache(maxsize=8)
def _stage(profiled: ProfiledModel) -> FluxTransformer2DModel:
    """The model itself, on the meta device.

    Of blocks that are alike only the first is there; the others have no weights and do nothing.
    """
    likes = _likes(profiled.architecture, profiled.lora)
    transformer = empty_transformer(profiled.architecture).requires_grad_(False)
    for index, name in enumerate(block_names(profiled.architecture, range(len(likes)))):
        if likes[index] != index:
            transformer.set_submodule(name.rstrip("."), torch.nn.Identity())
    torch.nn.Module.to(transformer, quantisation.compute_dtype(profiled.precision))  # diffusers' own warns of nothing
    if profiled.precision in quantisation.QUANTISED:
        for block in blocks(transformer):
            _quantise(block, profiled.precision)
    if profiled.eight_bit_products:
        quantisation.use_eight_bit_products(transformer, torch.device("meta"))
    adapter.add_lora(transformer, profiled.lora, seed=0)
    if not profiled.on_cpu:
        _fuse_norms(transformer)
    return transformer.train()


def _quantise(block: torch.nn.Module, precision: str) -> None:
    for module in list(block.modules()):
        for name, layer in module.named_children():
            if type(layer) is torch.nn.Linear:
                values = torch.empty(layer.weight.shape, dtype=torch.int8, device="meta")
                stored = {"values": values, "scale": torch.empty(layer.out_features, device="meta")}
                setattr(module, name, quantisation.QuantisedLinear(precision, stored, layer.bias))


def _fuse_norms(transformer: FluxTransformer2DModel) -> None:
    """Compute RMSNorm as accelerators do, where it keeps less than the CPU's, which is made of several operators."""
    fused = getattr(torch.ops.aten, "_fused_rms_norm", None)  # since torch 2.8
    for norm in transformer.modules():
        if isinstance(norm, torch.nn.RMSNorm) and fused:
            norm.forward = lambda x, norm=norm: fused(x, norm.normalized_shape, norm.weight, norm.eps)[0]


@lru_cache(maxsize=256)
def _rehearse_block(
    profiled: ProfiledModel, index: int, shape: BatchShape, recompute: bool, reached: bool
) -> _Rehearsal:
    """Forward and backward pass of one block; `reached`: gradients go on from it to the blocks before."""
    transformer = _stage(profiled)
    block = blocks(transformer)[index]
    tokens, width = shape.width * shape.height // PIXELS_PER_TOKEN**2, profiled.architecture.hidden_size
    meta = {"device": "meta", "dtype": quantisation.compute_dtype(profiled.precision)}
    image = torch.empty(shape.batch, tokens, width, requires_grad=reached, **meta)
    text = torch.empty(shape.batch, shape.text_tokens, width, requires_grad=reached, **meta)
    conditioning = torch.empty(shape.batch, width, **meta)
    rotary = torch.empty(2, shape.text_tokens + tokens, HEAD_WIDTH, device="meta").unbind()
    inputs = (image, text, conditioning, rotary)

    def run(*inputs: Any) -> tuple[Tensor, Tensor]:
        with _FlashAttention():
            return block(*inputs)

    with AllocatedTensors() as allocated:
        outputs = checkpoint(run, *inputs, use_reentrant=False) if recompute else run(*inputs)
        end = _End.apply(*outputs)  # the outputs stay alive meanwhile, as in the checkpoint of the block after it
        kept, forward = allocated.bytes, allocated.peak
        allocated.peak = 0
        if end.requires_grad:
            end.backward()
        backward = allocated.peak
    transformer.zero_grad()
    return _Rehearsal(kept, forward, backward)


class _FlashAttention(TorchFunctionMode):
    """Attention as every real device computes it; on the meta device it would be written out, scores and all."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function is torch.nn.functional.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), arguments, strict=False)) | (keywords or {})
            flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            return flash(given["query"], given["key"], given["value"])[0]
        return function(*arguments, **keywords or {})


class _End(torch.autograd.Function):
    """Takes the place of all that follows a block: keeps none of its outputs and sends gradients back to it."""

    @staticmethod
    def forward(ctx: Any, text: Tensor, image: Tensor) -> Tensor:
        ctx.shapes, ctx.dtype = (text.shape, image.shape), image.dtype
        return image.new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient.new_empty(shape, dtype=ctx.dtype) for shape in ctx.shapes)


class _Blocks(torch.nn.Module):
    """Takes the place of all blocks: notes what is alive before and after them."""

    def __init__(self, allocated: AllocatedTensors) -> None:
        super().__init__()
        self.allocated = allocated

    def forward(self, image: Tensor, text: Tensor, conditioning: Tensor, rotary: Any) -> tuple[Tensor, Tensor]:
        self.held, self.head = self.allocated.bytes, self.allocated.peak
        self.allocated.peak = 0
        return text, image.detach().requires_grad_()


@lru_cache(maxsize=64)
def _rehearse_frame(profiled: ProfiledModel, shape: BatchShape) -> _Frame:
    transformer = _stage(profiled)
    architecture = profiled.architecture
    allocated = AllocatedTensors()
    middle = _Blocks(allocated)
    with replaced_blocks(transformer, middle), torch.device("meta"), allocated:
        _, height, width = latent_shape(shape.width, shape.height)
        latents = torch.empty(shape.batch, architecture.in_channels // PATCH**2, height, width)
        noise, sigma = torch.empty_like(latents), torch.empty(shape.batch)
        t5 = torch.empty(shape.batch, shape.text_tokens, architecture.context_width)
        pooled = torch.empty(shape.batch, architecture.pooled_width)
        noisy = objective.noisy_latents(latents, noise, sigma)
        velocity = predict_velocity(transformer, noisy, sigma, t5, pooled)
        objective.velocity_loss(velocity, latents, noise).backward()
    return _Frame(middle.held, middle.head, allocated.peak - middle.held)
