"""DoRA's computation (Liu et al. 2024, arXiv:2402.09353): the magnitude of each output is learned beside the direction.

Which layers have it, and what a file keeps of it, is the adapter's.
"""

from __future__ import annotations

from typing import Any

import torch

from ..flux.sharding import whole
from .targets import ADAPTER

_SMALLEST_SQUARE = 1e-24  # of a row's norm: a row of zeros is divided by its norm too


def add_magnitude(layer: Any) -> None:
    """Make a layer's LoRA a DoRA, as PEFT's `DoraLinearVariant.init` does, but with our magnitude."""
    from peft.tuners.lora.variants import DoraLinearVariant

    square = torch.linalg.vector_norm(_base_weight(layer.base_layer), dim=1, dtype=torch.float32).square()
    layer.lora_variant[ADAPTER] = DoraLinearVariant()
    layer.lora_magnitude_vector[ADAPTER] = Magnitude(square.to(layer.lora_A[ADAPTER].weight.device))


def _base_weight(base: torch.nn.Linear) -> torch.Tensor:
    """The frozen weight `(outputs, inputs)` in a floating dtype, dequantised and gathered if need be."""
    from peft.utils.integrations import dequantize_module_weight

    return whole(dequantize_module_weight(base)).detach()


def norm_growth(layer: Any) -> torch.Tensor:
    """|W + s·B·A| / |W| of each output.

    ComfyUI's `weight_decompose` divides by |W| where the paper and PEFT divide by |W + s·B·A|; dividing the magnitude
    by this makes ComfyUI compute what was trained.
    """
    magnitude = layer.lora_magnitude_vector[ADAPTER]
    norm = magnitude.norm(
        layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, layer.scaling[ADAPTER], layer.base_layer
    )
    return norm / magnitude.base_norm().to(norm.device)


class Magnitude(torch.nn.Module):
    """DoRA's magnitude of each output, in the place of PEFT's `DoraLinearLayer` and called as that is.

    PEFT multiplies an identity matrix by A and B at every call to get the norm of W + s·B·A (for FLUX's widest layer
    15,360 x 15,360 float32, 944 MB). |W + sBA|² = |W|² + 2s·W·(BA) + s²|BA|² needs only products of width `rank`.

    Args:
        square: of the norm of each row of the frozen weight, `(outputs,)`, float32.
    """

    def __init__(self, square: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("square", square, persistent=False)
        self.weight = torch.nn.Parameter(self.base_norm())

    def base_norm(self) -> torch.Tensor:
        """Norm of each row of W, `(outputs,)`, float32."""
        return self.square.clamp_min(_SMALLEST_SQUARE).sqrt()

    @torch.no_grad()
    def norm(self, lora_a: torch.Tensor, lora_b: torch.Tensor, scaling: float, base: torch.nn.Linear) -> torch.Tensor:
        """Norm of each row of W + s·B·A, `(outputs,)`, float32; a constant to autograd, as in section 4.3 of DoRA."""
        weight = _base_weight(base).to(lora_a.device)  # a streamed one is in host memory unless its block runs
        product = torch.nn.functional.linear(lora_a.to(weight.dtype), weight).float()  # (rank, outputs)
        across = (product.T * lora_b).sum(dim=1)
        own = (lora_b @ (lora_a @ lora_a.T) * lora_b).sum(dim=1)
        square = self.square.to(lora_a.device) + 2 * scaling * across + scaling**2 * own
        return square.clamp_min(_SMALLEST_SQUARE).sqrt()

    def forward(
        self,
        x: torch.Tensor,
        *,
        lora_A: torch.nn.Module,
        lora_B: torch.nn.Module,
        scaling: float,
        base_layer: torch.nn.Linear,
        base_result: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """What DoRA adds to the base layer's output. Without `base_result`, `x` is what dropout left of the input."""
        direction = base_layer(x) if base_result is None else base_result
        if base_layer.bias is not None:
            direction = direction - base_layer.bias
        lora = lora_B(lora_A(x)) * scaling
        norm = self.norm(lora_A.weight, lora_B.weight, scaling, base_layer)
        # As what is missing from 1: bfloat16 has steps of 1/128 just above 1, and the magnitude would hardly learn.
        gain = (self.weight / norm - 1).to(x.dtype)
        return gain * (direction + lora) + lora
