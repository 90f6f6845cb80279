"""From a file in BFL's layout to diffusers' FluxTransformer2DModel.

Files are read by memory map, tensor by tensor, and quantised as they are read, so that loading costs about what the
model takes in the end. How weights are quantised is in `quantisation.py`, the forward pass in `forward.py`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...progress import Progress, silent
from . import quantisation
from .detection import inspect, scaled_layers
from .header import read_header
from .layout import HEAD_WIDTH, ROPE_AXES, FluxArchitecture, Source, block_of, canonical, layout

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredWeight:
    """Rows of one tensor as the file stores them, and the one number, float32, that ComfyUI multiplies them by."""

    values: torch.Tensor
    scale: torch.Tensor | None

    def to(self, dtype: torch.dtype) -> torch.Tensor:
        """What ComfyUI computes with in `dtype` (comfy_kitchen `dequantize_per_tensor_fp8`), in memory of its own."""
        # copy=True: an aligned allocation of our own, because a matmul's last bit may depend on alignment and
        # because the file may be replaced while training goes on.
        values = self.values.to(dtype, copy=True)
        return values if self.scale is None else values.mul_(self.scale.to(dtype))


def load_transformer(
    path: str | Path,
    precision: str = "bf16",
    device: str | torch.device = "cpu",
    progress: Progress = silent,
    in_host_memory: tuple[str, ...] = (),
    shard: Callable[[torch.nn.Module], None] | None = None,
) -> FluxTransformer2DModel:
    """Build diffusers' transformer from a BFL-layout file, in `precision` on `device`, frozen and in eval mode.

    Host memory peaks at about the model in `precision` (on the CPU) or at one tensor (on another device): each tensor
    is quantised as it is read, on the device.

    Args:
        path: a file that `inspect` accepts.
        precision: one of `quantisation.PRECISIONS`; for the quantised ones see `is_quantised`.
        device: where the model goes.
        progress: called before each tensor.
        in_host_memory: what the names of parameters begin with that go back to the CPU once they are quantised.
        shard: called with each block once it has its weights, before the next one's are read.

    Raises:
        ModelError: as for `inspect`.
        SettingsError: no such precision, or nf4 without bitsandbytes.
    """
    quantisation.compute_dtype(precision)
    architecture = inspect(path)
    weights = stream(path, architecture, device)
    return assemble(architecture, weights, precision, progress, in_host_memory, shard, called=Path(path).name)


def assemble(
    architecture: FluxArchitecture,
    weights: Iterator[tuple[str, StoredWeight]],
    precision: str,
    progress: Progress = silent,
    in_host_memory: tuple[str, ...] = (),
    shard: Callable[[torch.nn.Module], None] | None = None,
    called: str = "",
) -> FluxTransformer2DModel:
    """Build diffusers' transformer from its weights as they come; the other arguments are `load_transformer`'s.

    Args:
        architecture: whose weights they are.
        weights: all of its parameters, in the layout's order, on the device where the model goes.
        called: what to call the model in the log.

    Raises:
        SettingsError: as `load_transformer`.
    """
    dtype = quantisation.compute_dtype(precision)
    transformer = empty_transformer(architecture)
    sizes = weight_sizes(architecture, precision)
    done = quantised = 0
    for block, tensors in groupby(weights, key=lambda tensor: block_of(tensor[0])):
        for name, stored in tensors:
            progress(done, len(sizes), f"Loading the base model in {precision}")
            done += 1
            quantised += _put(transformer, name, precision, stored)
            if name.startswith(in_host_memory):
                for parameter in transformer.get_submodule(name.rpartition(".")[0]).parameters():
                    if not parameter.is_meta:
                        parameter.data = parameter.data.cpu()
        if block and shard:
            shard(transformer.get_submodule(block))
    logger.info(
        "Base model %s: %d of %d tensors in %s, the others in %s, %.2f GB in all",
        *(called, quantised, len(sizes), precision, dtype, sum(sizes.values()) / 1e9),
    )
    return transformer.eval()


def is_quantised(name: str, shape: tuple[int, ...], precision: str) -> bool:
    """Whether the diffusers parameter `name` is kept quantised: the matrix of a linear layer in a block.

    Modulation with them: that is 27 % of FLUX.1-dev, 6.5 GB in bf16, for which a card that needs NF4 has no room. The
    embedders and what comes after the blocks (final modulation and projection) stay in bf16, being 1 % of the weights,
    and all norms and biases do. Peers: diffusers' flux_lora_quantization quantises the embedders too, which saves
    0.1 GB and on normally distributed weights gives the velocity a 1.4 times larger error; vllm-omni (PR 2795), which
    quantises activations as well, leaves out modulation.
    """
    return precision in quantisation.QUANTISED and len(shape) == 2 and bool(block_of(name))


def weight_sizes(architecture: FluxArchitecture, precision: str) -> dict[str, int]:
    """Bytes of each diffusers parameter, scales included, as `load_transformer` would keep it; in the layout's order.

    Raises:
        SettingsError: no such precision.
    """
    dtype = quantisation.compute_dtype(precision)
    sizes = {}
    for source in layout(architecture):
        for name, ranges in source.parameters.items():
            shape = (sum(stop - start for start, stop in ranges), *source.shape[1:])
            if is_quantised(name, shape, precision):
                sizes[name] = quantisation.weight_bytes(shape, precision)
            else:
                sizes[name] = math.prod(shape) * dtype.itemsize
    return sizes


def empty_transformer(architecture: FluxArchitecture) -> FluxTransformer2DModel:
    """Build the transformer on the meta device: every module in its place, no weight allocated."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        return FluxTransformer2DModel(
            patch_size=1,
            in_channels=architecture.in_channels,
            num_layers=architecture.double_blocks,
            num_single_layers=architecture.single_blocks,
            attention_head_dim=HEAD_WIDTH,
            num_attention_heads=architecture.heads,
            joint_attention_dim=architecture.context_width,
            pooled_projection_dim=architecture.pooled_width,
            guidance_embeds=architecture.guidance,
            axes_dims_rope=ROPE_AXES,
        )


def stream(
    path: str | Path, architecture: FluxArchitecture, device: str | torch.device = "cpu"
) -> Iterator[tuple[str, StoredWeight]]:
    """Yield every diffusers parameter by name, one at a time from the memory map; on the CPU it still lies in the map.

    Raises:
        ModelError: as for `inspect`.
    """
    from safetensors import safe_open

    scaled = scaled_layers(path, read_header(path), architecture.prefix)
    with safe_open(str(path), framework="pt") as file:
        stored = {canonical(key): key for key in file.keys()}  # noqa: SIM118 (the file is no mapping)
        for source in layout(architecture):
            mapped, scale = file.get_tensor(stored[architecture.prefix + source.key]), None
            layer = scaled.get(source.key.removesuffix(".weight"))
            if layer and source.key.endswith(".weight"):
                mapped = mapped.to(getattr(torch, layer.format))  # as ComfyUI does, whatever the file's own dtype is
                scale = file.get_tensor(layer.scale_key).float().reshape(()).to(device)
            for name, part in divided(source, mapped):
                yield name, StoredWeight(part.to(device), scale)


def divided(source: Source, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The diffusers parameters that lie in one tensor of BFL's layout, by name."""
    for name, ranges in source.parameters.items():
        yield name, _join(tensor, ranges)


def _join(tensor: torch.Tensor, ranges: tuple[tuple[int, int], ...]) -> torch.Tensor:
    pieces = [tensor[start:stop] for start, stop in ranges]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _put(transformer: FluxTransformer2DModel, name: str, precision: str, stored: StoredWeight) -> bool:
    """Give the empty model its parameter `name`; whether it is kept quantised."""
    quantised = is_quantised(name, stored.values.shape, precision)
    if quantised:
        _set_quantised(transformer, name, precision, stored)
    else:
        module, _, leaf = name.rpartition(".")
        parameter = torch.nn.Parameter(stored.to(quantisation.compute_dtype(precision)), requires_grad=False)
        setattr(transformer.get_submodule(module), leaf, parameter)
    return quantised


def _set_quantised(transformer: FluxTransformer2DModel, name: str, precision: str, stored: StoredWeight) -> None:
    """Put a quantised layer in the place of the empty one whose weight is `name`; its bias is set after it."""
    if precision == "fp8" and stored.values.dtype == torch.float8_e4m3fn:
        tensors = quantisation.fp8_as_stored(stored.values, stored.scale)
    else:
        tensors = quantisation.quantise(stored.values if stored.scale is None else stored.to(torch.float32), precision)
    parent, _, child = name.removesuffix(".weight").rpartition(".")
    holder = transformer.get_submodule(parent)
    setattr(holder, child, quantisation.QuantisedLinear(precision, tensors, getattr(holder, child).bias))
