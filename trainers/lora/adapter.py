"""The LoRA in the transformer: how it gets in, how it starts, what it computes in, and what a checkpoint keeps of it.

LoRA (Hu et al. 2021, arXiv:2106.09685) adds (alpha / rank) · B·A to a frozen weight; PEFT puts it into the model. Which
layers it changes is in `targets.py`, what a DoRA adds in `dora.py`; the files that other programs read, and those that
training can start from, are in `file_formats.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import SettingsError, TrainingError
from ..flux.layout import BLOCKS, block_of
from . import file_formats as lora_files
from .dora import add_magnitude, norm_growth
from .file_formats import ALPHA, DORA_SCALE, LORA_A, LORA_B, MAGNITUDE, PREFIX
from .targets import ADAPTER, is_target

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

    from .targets import LoraShape

_WIDE_TARGETS = ("all linear", "whole transformer")  # the second has every layer that a LoRA file can name


def add_lora(transformer: FluxTransformer2DModel, shape: LoraShape, seed: int) -> list[torch.nn.Parameter]:
    """Add a LoRA that changes nothing yet (B is zero) and return its parameters, all float32 whatever the base is.

    A starts as Kaiming-uniform (as in PEFT and kohya), drawn on the CPU from `seed` in the order of the modules, so
    that every device starts alike; the global random state is left as it was. A and B compute in the dtype of their
    input: on a bfloat16 base nothing of a layer's input is kept in float32 for the backward pass.

    Dropout is drawn from torch's global generators: whoever trains seeds them for each batch, so that a resumed run
    drops the same. rsLoRA's scale is folded into the LoRA's alpha, because the programs that load it know only
    alpha / rank.

    Args:
        transformer: frozen; changed in place.
        shape: what the LoRA is like.
        seed: of the initial A.

    Raises:
        SettingsError: the model has none of the targets, or not the blocks of `block_ranks`, or no layer has a rank.
    """
    _insert(transformer, shape)
    generator = torch.Generator().manual_seed(seed)
    for layer in _layers(transformer).values():
        _start(layer, generator)
        if shape.dora:
            add_magnitude(layer)
    return lora_parameters(transformer)


def check(empty: FluxTransformer2DModel, shape: LoraShape, start_lora: str = "") -> None:
    """Refuse what `add_lora` and `load_existing` would refuse once the base model is loaded.

    Args:
        empty: from `loading.empty_transformer`, on the meta device; of no further use.
        shape: what the LoRA is to be like.
        start_lora: file of the LoRA to start from; "" for none.

    Raises:
        SettingsError: as for `add_lora`.
        TrainingError: as for `load_existing`.
    """
    with torch.device("meta"):
        _insert(empty, shape)
        for layer in _layers(empty).values() if shape.dora else ():
            add_magnitude(layer)
    if start_lora:
        _read_fitting(start_lora, empty)


def target_modules(transformer: FluxTransformer2DModel, targets: str) -> list[str]:
    """Name the linear layers of a target set of `TARGETS`, in the model's own order.

    Raises:
        SettingsError: this model has no such layer.
    """
    names = [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and is_target(name, targets)
    ]
    if not names:
        raise SettingsError(f"This model has no layer of the LoRA targets '{targets}'. Choose other targets.")
    return names


def lora_parameters(transformer: FluxTransformer2DModel) -> list[torch.nn.Parameter]:
    """List the adapter's parameters in the model's order, each layer's A before its B, and then its magnitude."""
    return [parameter for layer in _layers(transformer).values() for parameter in _parameters(layer)]


def lora_state_dict(transformer: FluxTransformer2DModel) -> dict[str, torch.Tensor]:
    """Copy the adapter to the CPU in its exported form, float32.

    Per layer `transformer.<module>.lora_A.weight` (rank, inputs), `.lora_B.weight` (outputs, rank) and `.alpha`
    (scalar); without the last, loaders assume alpha = rank. A DoRA has besides `.lora_magnitude_vector` (outputs,),
    which diffusers reads, and `.dora_scale` (outputs, 1), which ComfyUI reads. The file's metadata must not have
    diffusers' own `lora_adapter_metadata`: its loader refuses to be given both.
    """
    state = {}
    for name, layer in _layers(transformer).items():
        key = f"{PREFIX}{name}"
        state[key + LORA_A] = _exported(layer.lora_A[ADAPTER].weight)
        state[key + LORA_B] = _exported(layer.lora_B[ADAPTER].weight)
        state[key + ALPHA] = torch.tensor(float(layer.lora_alpha[ADAPTER]))
        if ADAPTER in layer.lora_magnitude_vector:
            magnitude = layer.lora_magnitude_vector[ADAPTER]
            state[key + MAGNITUDE] = _exported(magnitude.weight)
            state[key + DORA_SCALE] = _exported(magnitude.weight / norm_growth(layer))[:, None]
    return state


def load_existing(transformer: FluxTransformer2DModel, path: str | Path) -> None:
    """Let training start from a LoRA file, in any format that `file_formats.read` knows, instead of from nothing.

    The adapter of `add_lora` then does what the file does at strength 1, to float32 rounding: B takes up the ratio of
    the file's alpha / rank to this one's, and a smaller rank is filled up with A as `add_lora` drew it and a B of zero.
    Layers that the file does not have start from nothing. In a DoRA, a file without magnitudes gets those that leave
    its effect as it is.

    Raises:
        TrainingError: unreadable, or the file has what this adapter cannot hold; the text says what, and the remedy.
    """
    layers = _layers(transformer)
    state, names = _read_fitting(path, transformer)
    for name in names:
        _start_from(layers[name], f"{PREFIX}{name}", state)


def _read_fitting(path: str | Path, transformer: FluxTransformer2DModel) -> tuple[lora_files.Tensors, list[str]]:
    """A LoRA file in our form and the names of its layers, all of which the adapter of `transformer` can hold."""
    state, layers = lora_files.read(path), _layers(transformer)
    names = list(dict.fromkeys(key.removeprefix(PREFIX).removesuffix(LORA_A) for key in state if key.endswith(LORA_A)))
    outside = [name for name in names if name not in layers]
    modules = dict(transformer.named_modules())
    if absent := [name for name in outside if name not in modules]:
        raise TrainingError(
            f"The LoRA {path} is for another model: it changes '{absent[0]}', which this one does not have (of FLUX.1, "
            "schnell has no guidance embedder, and some have fewer blocks). Choose a LoRA of this model."
        )
    if outside:
        covering = next(wide for wide in _WIDE_TARGETS if all(is_target(name, wide) for name in names))
        raise TrainingError(
            f"The LoRA {path} changes {len(outside)} layers that this run does not train, such as '{outside[0]}'. "
            f"Choose LoRA targets and block_ranks that cover them, such as '{covering}', or another LoRA."
        )
    for name in names:
        _check_fits(path, name, layers[name], state)
    return state, names


class _FollowingLinear(torch.nn.Linear):
    """A or B: its weights stay float32, but it computes in the dtype of its input.

    PEFT's own way is to cast the input to float32, which autograd then keeps: once for each layer that shares it.
    """

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(inputs, self.weight.to(inputs.dtype))


def _insert(transformer: FluxTransformer2DModel, shape: LoraShape) -> None:
    """Let PEFT wrap the layers that get a rank; their A and B are still what PEFT draws."""
    from peft import LoraConfig

    double, single = (len(getattr(transformer, blocks, ())) for blocks in BLOCKS.values())
    ranks = shape.ranks(double, single) | {"": shape.rest}
    modules = [name for name in target_modules(transformer, shape.targets) if ranks[block_of(name)]]
    if not modules:
        raise SettingsError(
            f"block_ranks '{shape.block_ranks}' gives rank 0 to every layer of the LoRA targets '{shape.targets}'. "
            "Give at least one of their blocks a rank."
        )
    # One pattern per block of another rank: PEFT searches them for every layer.
    patterns = {rf"{re.escape(block)}\..*": own for block, own in ranks.items() if block and own not in (0, shape.rank)}
    if shape.rest not in (0, shape.rank):
        patterns |= {rf"^{re.escape(name)}": shape.rest for name in modules if not block_of(name)}
    config = LoraConfig(
        r=shape.rank,
        lora_alpha=shape.scale * shape.rank,
        rank_pattern=patterns,
        alpha_pattern={pattern: shape.scale * own for pattern, own in patterns.items()},
        # As one expression for whole names: of a list, PEFT takes "proj_out" for the end of a block's name too.
        target_modules="|".join(map(re.escape, modules)),
        lora_dropout=shape.dropout,
        init_lora_weights=False,
    )
    with torch.random.fork_rng(devices=[]):  # PEFT's layers first draw weights from the global state
        transformer.add_adapter(config, ADAPTER)
    transformer.train(transformer.training)  # new modules think they are being trained, whatever the model is


def _start(layer: Any, generator: torch.Generator) -> None:
    """Replace PEFT's A and B of a layer by float32 ones that follow their input's dtype."""
    for matrices, draw in ((layer.lora_A, True), (layer.lora_B, False)):
        device, (outputs, inputs) = matrices[ADAPTER].weight.device, matrices[ADAPTER].weight.shape
        start = torch.zeros(outputs, inputs)
        if draw:
            torch.nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
        linear = _FollowingLinear(inputs, outputs, bias=False, device="meta")
        linear.weight = torch.nn.Parameter(start.to(device))
        matrices[ADAPTER] = linear
    layer.cast_input_dtype_enabled = False


def _check_fits(path: str | Path, name: str, layer: Any, state: Mapping[str, torch.Tensor]) -> None:
    matrix_a, matrix_b = (state[f"{PREFIX}{name}{ending}"] for ending in (LORA_A, LORA_B))
    lora_a, lora_b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    if (matrix_b.shape[0], matrix_a.shape[1]) != (lora_b.shape[0], lora_a.shape[1]):
        raise TrainingError(
            f"The LoRA {path} is for another model: '{name}' has {matrix_a.shape[1]} inputs and {matrix_b.shape[0]} "
            f"outputs there, {lora_a.shape[1]} and {lora_b.shape[0]} in this one. Choose a LoRA of this model."
        )
    if matrix_a.shape[0] > lora_a.shape[0]:
        raise TrainingError(
            f"The LoRA {path} has rank {matrix_a.shape[0]} in '{name}', this run {lora_a.shape[0]}. "
            f"Set the rank to {matrix_a.shape[0]} or more, or choose a LoRA of a smaller rank."
        )
    is_dora = any(f"{PREFIX}{name}{ending}" in state for ending in (MAGNITUDE, DORA_SCALE))
    if is_dora and ADAPTER not in layer.lora_magnitude_vector:
        raise TrainingError(f"The LoRA {path} is a DoRA, this run trains none. Switch dora on, or choose another LoRA.")


@torch.no_grad()
def _start_from(layer: Any, key: str, state: Mapping[str, torch.Tensor]) -> None:
    lora_a, lora_b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    rank = state[key + LORA_A].shape[0]
    scale = state[key + ALPHA].item() / rank
    lora_a[:rank] = state[key + LORA_A].to(lora_a)
    lora_b[:, :rank] = state[key + LORA_B].to(lora_b) * (scale / layer.scaling[ADAPTER])
    if ADAPTER in layer.lora_magnitude_vector:
        magnitude = layer.lora_magnitude_vector[ADAPTER]
        start = magnitude.base_norm().to(lora_b.device) * norm_growth(layer)
        if key + MAGNITUDE in state:
            start = state[key + MAGNITUDE]
        elif key + DORA_SCALE in state:
            start = state[key + DORA_SCALE].flatten().to(start) * norm_growth(layer)
        magnitude.weight.copy_(start)


def _layers(transformer: FluxTransformer2DModel) -> dict[str, Any]:
    """Module name -> PEFT's layer, of every layer with the adapter, in the model's order."""
    return {
        name: module
        for name, module in transformer.named_modules()
        if isinstance(getattr(module, "lora_A", None), torch.nn.ModuleDict) and ADAPTER in module.lora_A
    }


def _parameters(layer: Any) -> list[torch.nn.Parameter]:
    matrices = (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector)
    return [matrix[ADAPTER].weight for matrix in matrices if ADAPTER in matrix]


def _exported(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().to("cpu", torch.float32, copy=True).contiguous()
