"""Arithmetic with LoRAs: scaled by groups of blocks, added up exactly, brought to another rank with the error told.

All of it works on the two factors of a layer: the matrix that they stand for, `(outputs, inputs)`, is never formed.
What the results are called in a file is `file_formats`', which files they come from `workbench`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ...errors import SettingsError, check_finite
from ..flux.layout import BLOCKS, block_of
from .file_formats import ALPHA, DORA_SCALE, LORA_A, LORA_B, MAGNITUDE, PREFIX, Tensors
from .targets import is_target

ATTENTION, FEED_FORWARD, MODULATION = "attention", "feed-forward", "modulation"
PARTS = (ATTENTION, FEED_FORWARD, MODULATION)
FIRST_LATE = 19  # of FLUX.1's 38 single blocks, the first of the later half


@dataclass(frozen=True)
class Factors:
    """What a LoRA adds to one layer: `b @ a`, with alpha / rank worked into b. float32.

    `a` is `(rank, inputs)`, `b` is `(outputs, rank)`.
    """

    a: torch.Tensor
    b: torch.Tensor

    @property
    def rank(self) -> int:
        return len(self.a)

    def norm(self) -> float:
        """Frobenius norm of `b @ a`: its square is the sum over (bᵀb) ∘ (a aᵀ), which are of the rank's size."""
        a, b = self.a.double(), self.b.double()
        return math.sqrt(max(0.0, ((b.T @ b) * (a @ a.T)).sum().item()))


Layers = dict[str, Factors]  # by diffusers' name of the layer


@dataclass(frozen=True)
class GroupScales:
    """What each group of layers is multiplied by; a layer in a group of blocks and of a part is multiplied by both.

    `single_late` holds from the single block `first_late` on, counted from 0. Modulation layers belong to no part.

    Raises:
        SettingsError: one is no finite number.
    """

    double: float = 1.0
    single_early: float = 1.0
    single_late: float = 1.0
    attention: float = 1.0
    feed_forward: float = 1.0
    first_late: int = FIRST_LATE

    def __post_init__(self) -> None:
        check_finite(**{name: getattr(self, name) for name in self.__dataclass_fields__})

    def of(self, layer: str) -> float:
        """The scale of a layer, by diffusers' name; of one outside the blocks it is 1."""
        scale = {ATTENTION: self.attention, FEED_FORWARD: self.feed_forward}.get(part_of(layer), 1.0)
        block = block_of(layer)
        if not block:
            return scale
        kind, _, number = block.partition(".")
        if kind == BLOCKS["double"]:
            return scale * self.double
        return scale * (self.single_late if int(number) >= self.first_late else self.single_early)


def part_of(layer: str) -> str:
    """Which of `PARTS` a layer is of, by diffusers' name. A single block's `proj_out` takes in both, and counts as
    feed-forward, as in the target sets."""
    if is_target(layer, "attention"):
        return ATTENTION
    return FEED_FORWARD if is_target(layer, "attention and feed-forward") else MODULATION


def is_dora(state: Mapping[str, torch.Tensor]) -> bool:
    return any(key.endswith((MAGNITUDE, DORA_SCALE)) for key in state)


def layers_of(state: Mapping[str, torch.Tensor]) -> Layers:
    """The layers of a LoRA in our form (`file_formats.read`); magnitudes of a DoRA are not in them."""
    names = [key.removesuffix(LORA_A) for key in state if key.endswith(LORA_A)]
    return {name.removeprefix(PREFIX): _factors(state, name) for name in names}


def _factors(state: Mapping[str, torch.Tensor], name: str) -> Factors:
    a, b = state[name + LORA_A], state[name + LORA_B]
    scale = state[name + ALPHA].item() / len(a)
    return Factors(a, b if scale == 1 else b * scale)


def state_of(layers: Mapping[str, Factors]) -> Tensors:
    """The layers in our form, alpha being the rank.

    Raises:
        SettingsError: values are beyond what float32 holds.
    """
    state: Tensors = {}
    for name, factors in layers.items():
        if not (factors.a.isfinite().all() and factors.b.isfinite().all()):
            raise SettingsError(f"The result is beyond float32's range in the layer '{name}'. Use smaller weights.")
        own = {LORA_A: factors.a, LORA_B: factors.b, ALPHA: torch.tensor(float(factors.rank))}
        state |= {f"{PREFIX}{name}{ending}": tensor.contiguous() for ending, tensor in own.items()}
    return state


def added(loras: Sequence[tuple[str, Mapping[str, Factors], float]]) -> Layers:
    """The sum of several LoRAs, each times its weight: exactly, by laying their factors side by side, so that a
    layer's rank is the sum of theirs. A LoRA of weight 0 is left out.

    Args:
        loras: name for errors, layers, weight.

    Raises:
        SettingsError: a layer has other sizes in one than in another.
    """
    found: dict[str, list[tuple[str, Factors, float]]] = {}
    for name, layers, weight in loras:
        for layer, factors in layers.items() if weight else ():
            found.setdefault(layer, []).append((name, factors, weight))
    return {layer: _side_by_side(layer, parts) for layer, parts in found.items()}


def _side_by_side(layer: str, parts: Sequence[tuple[str, Factors, float]]) -> Factors:
    (first, shape_of, _), *others = parts
    size = (len(shape_of.b), shape_of.a.shape[1])
    for name, factors, _ in others:
        if (other := (len(factors.b), factors.a.shape[1])) != size:
            raise SettingsError(
                f"{first} and {name} are of models of different sizes: the layer '{layer}' has {size[0]} × {size[1]} "
                f"values in the first and {other[0]} × {other[1]} in the second. Combine LoRAs of one base model."
            )
    scaled = [factors.b if weight == 1 else factors.b * weight for _, factors, weight in parts]
    if len(parts) == 1:
        return Factors(shape_of.a, scaled[0])
    return Factors(torch.cat([factors.a for _, factors, _ in parts]), torch.cat(scaled, dim=1))


def scaled(layers: Mapping[str, Factors], scales: GroupScales) -> Layers:
    """The layers times the scale of their group; those of scale 0 are left out."""
    result = {}
    for name, factors in layers.items():
        scale = scales.of(name)
        if scale:
            result[name] = factors if scale == 1 else Factors(factors.a, factors.b * scale)
    return result


def resized(
    layers: Mapping[str, Factors], rank: int, on_layer: Callable[[int], None] = lambda done: None
) -> tuple[Layers, dict[str, float]]:
    """Every layer of a higher rank in the nearest that has `rank`, in the Frobenius norm (Eckart and Young 1936).

    Args:
        on_layer: called with the number of layers done; ends this by raising.

    Returns:
        The layers, and for each the Frobenius norm of what was cut off: 0 where it has that rank or a lower one.
    """
    result, lost = {}, {}
    for done, (name, factors) in enumerate(layers.items()):
        on_layer(done)
        result[name], lost[name] = _truncated(factors, rank) if factors.rank > rank else (factors, 0.0)
    return result, lost


def _truncated(factors: Factors, rank: int) -> tuple[Factors, float]:
    """With b = Q₁R₁ and aᵀ = Q₂R₂, the singular values of b·a are those of R₁R₂ᵀ, which is of the rank's size."""
    left, r_left = torch.linalg.qr(factors.b.double())
    right, r_right = torch.linalg.qr(factors.a.double().T)
    u, values, v = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    root = values[:rank].sqrt()
    a = root[:, None] * (right @ v[:rank].T).T
    b = (left @ u[:, :rank]) * root
    return Factors(a.float(), b.float()), values[rank:].square().sum().sqrt().item()


def block_norms(norms: Mapping[str, float]) -> dict[tuple[str, int, str], float]:
    """Frobenius norms of layers, gathered by kind of block, its number and part of it, in the order of `PARTS`."""
    squares: dict[tuple[str, int, str], float] = {}
    for part in PARTS:
        for layer, norm in norms.items():
            if part_of(layer) == part and (block := block_of(layer)):
                kind = next(kind for kind, name in BLOCKS.items() if block.startswith(f"{name}."))
                key = (kind, int(block.partition(".")[2]), part)
                squares[key] = squares.get(key, 0.0) + norm * norm
    return {key: math.sqrt(square) for key, square in squares.items()}
