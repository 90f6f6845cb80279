"""Matrix products of two sides in 8 bits, which recent cards compute at twice the rate of bfloat16.

A quantised layer's weight is in 8 bits already; here the other side is quantised too, row by row, multiplied and
forgotten: activations in the forward pass, the output's gradient in the backward pass. Nothing is differentiated here.
Which layers multiply so is decided in `quantisation`. Source: SwitchBack, Wortsman et al. 2023, arXiv:2304.13013.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

FP8_MAX = 448.0  # largest finite number of float8_e4m3fn
INT8_MAX = 127.0  # symmetric: -128 is not used
PRECISIONS = ("int8", "fp8")
LEAST_ROWS = 17  # of torch._int_mm on CUDA
MULTIPLE = 16  # of both sides of torch._scaled_mm; torch._int_mm asks for 8
_SMALLEST = 1e-30  # a scale for rows of zeros; not by torch.where, which would hide a scale that is not a number
_CLOSE = 0.05  # of a product's norm: what a trial may err; int8 errs by 1 %, fp8 by 3 %


def takes(rows: int, inputs: int, outputs: int) -> bool:
    """Whether there are kernels for (rows, inputs) · (inputs, outputs), and for the gradient's (rows, outputs)."""
    return rows >= LEAST_ROWS and inputs % MULTIPLE == 0 and outputs % MULTIPLE == 0


def multiply(precision: str, rows: Tensor, matrix: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """rows · matrix · scale, the rows quantised.

    Args:
        precision: one of `PRECISIONS`.
        rows: (rows, inner), in a floating dtype.
        matrix: (inner, columns), int8 or float8_e4m3fn, in column-major order, which the kernels ask for or prefer.
        scale: (columns,), float32; None for one.
        dtype: of the result, (rows, columns).
    """
    quantised, row_scale = quantise_rows(precision, rows)
    if precision == "fp8" and rows.device.type != "cpu":
        columns = row_scale.new_ones(matrix.shape[1]) if scale is None else scale
        scaled = torch._scaled_mm(
            quantised,
            matrix,
            scale_a=row_scale,
            scale_b=columns[None],
            out_dtype=torch.bfloat16,  # the only one with a scale for each row and column
            use_fast_accum=True,
        )
        return scaled.to(dtype)
    # No processor multiplies in fp8: the CPU takes the rounded numbers, whose products float32 holds exactly.
    sums = torch._int_mm(quantised, matrix) if precision == "int8" else quantised.float() @ matrix.float()
    if torch.compiler.is_compiling():  # which fuses this
        return (sums * row_scale * (1.0 if scale is None else scale)).to(dtype)
    outputs = sums.new_empty(sums.shape, dtype=dtype)
    torch.mul(sums, row_scale, out=outputs)
    return outputs if scale is None else outputs.mul_(scale)


def quantise_rows(precision: str, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of (rows, inner) in 8 bits, and its scale, (rows, 1) in float32: a row that is not finite has none."""
    peak = rows.abs().amax(dim=-1, keepdim=True).float()
    scale = (peak / (INT8_MAX if precision == "int8" else FP8_MAX)).clamp_min(_SMALLEST)
    scaled = (rows / scale).contiguous()  # row by row, as the kernels ask for, whatever the order of the gradient
    return (scaled.round_().to(torch.int8) if precision == "int8" else scaled.to(torch.float8_e4m3fn)), scale


@lru_cache(maxsize=16)
def available(precision: str, device: torch.device) -> bool:
    """Whether this device multiplies in `precision`, by trying; on the meta device, which stands for any, yes."""
    if device.type == "meta":
        return True
    random = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(32, 64, generator=random).to(device), torch.randn(48, 64, generator=random).to(device)
    expected = rows @ weight.T
    values, scale = quantise_rows(precision, weight)
    try:
        found = multiply(precision, rows, values.t(), scale.flatten(), torch.bfloat16)
    except (RuntimeError, AttributeError):  # no such kernel on this device, or in this version of PyTorch
        return False
    return bool((found.float() - expected).norm() < _CLOSE * expected.norm())
