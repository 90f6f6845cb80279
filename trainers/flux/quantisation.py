"""Frozen linear layers whose weights are kept in 8 or 4 bits: how they are quantised, what they take, how they compute.

Only weights are quantised, not activations: a layer expands its weight to the dtype of its input, multiplies, and
forgets it; the backward pass expands it again. That is what keeps memory at the stored size. A layer that is told to
multiply in 8 bits quantises activations and gradients too, where the shapes allow it; see `products`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch

from ... import installation
from ...errors import SettingsError
from . import products
from .products import FP8_MAX, INT8_MAX
from .sharding import whole

logger = logging.getLogger(__name__)

# What the base can be kept in -> the dtype of what is not quantised, and so of the hidden states.
# There is no float16: FLUX's activations leave its range, and pictures turn black (kohya-ss/sd-scripts#1571).
COMPUTE_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp8": torch.bfloat16,
    "int8": torch.bfloat16,
    "nf4": torch.bfloat16,
}
PRECISIONS = tuple(COMPUTE_DTYPES)
QUANTISED = ("fp8", "int8", "nf4")

NF4_BLOCK = 64  # consecutive weights that share a scale; Dettmers et al. 2023, arXiv:2305.14314, section 3
NF4_SCALE_BLOCK = 256  # consecutive scales that share a scale of their own: the same paper's double quantisation
NF4_SCALE_CODES = 256  # numbers that a quantised scale can be: it has 8 bits
_CHUNK = 2**19  # weights quantised at a time, which bounds the float32 copies


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype of everything that `precision` leaves unquantised.

    Raises:
        SettingsError: there is no such precision.
    """
    if precision not in COMPUTE_DTYPES:
        raise SettingsError(f"There is no base precision {precision!r}. Choose one of: {', '.join(PRECISIONS)}.")
    return COMPUTE_DTYPES[precision]


def weight_bytes(shape: tuple[int, ...], precision: str) -> int:
    """Bytes that a weight `(outputs, inputs)` takes in `precision`, with its scales."""
    count = math.prod(shape)
    if precision in ("fp8", "int8"):
        return count + 4 * shape[0]
    if precision == "nf4":
        scales = count // NF4_BLOCK
        return count // 2 + scales + 4 * (math.ceil(scales / NF4_SCALE_BLOCK) + 1 + NF4_SCALE_CODES)
    return count * compute_dtype(precision).itemsize


def quantise(weight: torch.Tensor, precision: str) -> dict[str, torch.Tensor]:
    """Quantise a weight, a few rows at a time, on the device where it is.

    fp8: float8_e4m3fn, kept as uint8 so that nothing casts it, times a power of two per output channel. A power of two
    costs a floating-point format no precision, and is exact in every dtype that it is multiplied in.
    int8: times amax / 127 per output channel.
    nf4: two to a byte, with double quantisation; the same numbers as bitsandbytes' `quantize_4bit`.

    Args:
        weight: `(outputs, inputs)` in any floating dtype; for nf4 `inputs` is a multiple of 64.
        precision: one of `QUANTISED`.

    Returns:
        The tensors of a `QuantisedLinear`, by name.

    Raises:
        SettingsError: nf4 without bitsandbytes.
    """
    rows, stored = max(1, _CHUNK // weight.shape[1]), {}
    for start in range(0, len(weight), rows):
        for name, piece in _QUANTISERS[precision](weight[start : start + rows].float()).items():
            if name not in stored:  # allocated before the short-lived pieces, which would leave holes in the heap
                stored[name] = piece.new_empty((len(weight), *piece.shape[1:]))
            stored[name][start : start + rows] = piece
    return _quantise_scales(stored) if precision == "nf4" else stored


def fp8_as_stored(weight: torch.Tensor, scale: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Keep a file's own float8_e4m3fn weight `(outputs, inputs)` and its scale, one number, to the bit."""
    factors = torch.ones(weight.shape[0], device=weight.device)
    return {"values": weight.view(torch.uint8).clone(), "scale": factors if scale is None else factors * scale}


def expand(precision: str, dtype: torch.dtype, *stored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weight in `dtype`, `(outputs, inputs)`, and the factor `(outputs,)` that its rows still lack, if any."""
    if precision == "nf4":
        return _expand_nf4(dtype, *stored), None
    values, scale = stored
    return _as_numbers(precision, values).to(dtype), scale


class QuantisedLinear(torch.nn.Linear):
    """A frozen linear layer with a quantised weight: the output is in the input's dtype, gradients go to the input.

    Its parameters are the stored tensors, uint8 or int8 with float32 scales, and the bias: `.to(dtype)` on a model that
    holds it would only touch scales. `weight` is made anew each time it is read, for PEFT, which asks for its device
    and dtype, and for DoRA, which needs its norm; writing to it is an error.

    Args:
        precision: one of `QUANTISED`.
        stored: as `quantise` gives them.
        bias: frozen, in the compute dtype.
    """

    def __init__(self, precision: str, stored: dict[str, torch.Tensor], bias: torch.nn.Parameter | None) -> None:
        torch.nn.Module.__init__(self)  # nn.Linear's would allocate the weight
        self.precision = precision
        self.eight_bit_products = False
        for name, tensor in stored.items():
            self.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))
        self.register_parameter("bias", bias)
        self.stored_dtypes = {name: tensor.dtype for name, tensor in stored.items()}
        self.out_features, columns = stored["values"].shape
        self.in_features = 2 * columns if precision == "nf4" else columns

    @property
    def weight(self) -> torch.Tensor:
        matrix, scale = expand(self.precision, COMPUTE_DTYPES[self.precision], *self._stored())
        return matrix if scale is None else (matrix * scale[:, None]).to(matrix.dtype)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.numel() // self.in_features
        in_8_bits = self.eight_bit_products and products.takes(rows, self.in_features, self.out_features)
        product = _EightBitProduct if in_8_bits else _FrozenProduct
        return product.apply(inputs, self.bias, self.precision, *self._stored())

    def extra_repr(self) -> str:
        products_in = ", eight_bit_products" if self.eight_bit_products else ""
        return f"{super().extra_repr()}, precision={self.precision}{products_in}"

    def _stored(self) -> tuple[torch.Tensor, ...]:
        # Sharding keeps integers as the bits of floats.
        return tuple(whole(self._parameters[name]).view(dtype) for name, dtype in self.stored_dtypes.items())


def use_eight_bit_products(model: torch.nn.Module, device: torch.device) -> int:
    """Have the layers of `model` that hold int8 or fp8 multiply in it too, where `device` can; how many do.

    What does not fit a kernel, such as modulation, whose input is one row per picture, is computed as before.
    """
    layers = [module for module in model.modules() if isinstance(module, QuantisedLinear)]
    chosen = [layer for layer in layers if layer.precision in products.PRECISIONS]
    for precision in {layer.precision for layer in chosen}:
        if not products.available(precision, torch.device(device)):
            logger.warning("This device has no products in %s: layers are multiplied in bfloat16", precision)
            return 0
        logger.info("Products in %s: activations and gradients are quantised too", precision)
    for layer in chosen:
        layer.eight_bit_products = True
    return len(chosen)


class _FrozenProduct(torch.autograd.Function):
    """inputs · weightᵀ + bias. Of the weight, the backward pass is left only what is stored; of the inputs nothing."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        bias: torch.Tensor | None,
        precision: str,
        values: torch.Tensor,
        scales: torch.Tensor,
        *more: torch.Tensor,
    ) -> torch.Tensor:
        # Not `*stored` alone: with two tensors in it, torch.compile takes this for a function without a ctx.
        stored = (values, scales, *more)
        ctx.precision = precision
        ctx.save_for_backward(*stored)
        matrix, scale = expand(precision, inputs.dtype, *stored)
        if scale is None:
            return torch.nn.functional.linear(inputs, matrix, None if bias is None else bias.to(inputs.dtype))
        outputs = torch.nn.functional.linear(inputs, matrix)
        if torch.compiler.is_compiling():  # it would lose the gradient of what is changed in place; and it fuses this
            outputs = (outputs * scale).to(outputs.dtype)
            return outputs if bias is None else outputs + bias
        outputs.mul_(scale)
        return outputs if bias is None else outputs.add_(bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        stored = ctx.saved_tensors
        matrix, scale = expand(ctx.precision, gradient.dtype, *stored)
        scaled = gradient if scale is None else (gradient * scale).to(gradient.dtype)
        return (scaled @ matrix, None, None, *(None for _ in stored))


class _EightBitProduct(torch.autograd.Function):
    """As `_FrozenProduct`, with both sides of each product in 8 bits; `products.takes` their shapes."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        bias: torch.Tensor | None,
        precision: str,
        values: torch.Tensor,
        scale: torch.Tensor,
    ) -> torch.Tensor:
        ctx.precision = precision
        ctx.save_for_backward(values, scale)
        matrix = _as_numbers(precision, values).t()
        rows = inputs.reshape(-1, inputs.shape[-1])
        outputs = products.multiply(precision, rows, matrix, scale, inputs.dtype).view(*inputs.shape[:-1], -1)
        if bias is None:
            return outputs
        return outputs + bias if torch.compiler.is_compiling() else outputs.add_(bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, scale = ctx.saved_tensors
        # The kernels want the right side column by column: the weight is turned each time, in a byte per number.
        matrix = _as_numbers(ctx.precision, values.t().contiguous()).t()
        # The weight's scales lie along what is summed up: they go into the gradient before it is quantised.
        rows = gradient.reshape(-1, gradient.shape[-1]) * scale
        summed = products.multiply(ctx.precision, rows, matrix, None, gradient.dtype)
        return (summed.view(*gradient.shape[:-1], -1), None, None, None, None)


def _as_numbers(precision: str, values: torch.Tensor) -> torch.Tensor:
    """Stored 8-bit values as what they stand for."""
    return values.view(torch.float8_e4m3fn) if precision == "fp8" else values


def _quantise_fp8(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    peak = weight.abs().amax(dim=1, keepdim=True)
    ratio = peak / FP8_MAX
    # Not by ldexp, which is a product with pow(2, exponent): CUDA's is not promised to be exact.
    scale = torch.where(ratio > 0, ratio / torch.frexp(ratio).mantissa, torch.ones_like(ratio))
    values = (weight / scale).to(torch.float8_e4m3fn)
    return {"values": values.view(torch.uint8), "scale": scale.flatten()}


def _quantise_int8(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    scale = weight.abs().amax(dim=1, keepdim=True) / INT8_MAX
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return {"values": (weight / scale).round_().to(torch.int8), "scale": scale.flatten()}


def _quantise_nf4(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Without double quantisation, which needs the scales of the whole weight."""
    values, state = _bitsandbytes().quantize_4bit(weight, blocksize=NF4_BLOCK, quant_type="nf4")
    return {"values": values.view(len(weight), -1), "scales": state.absmax.view(len(weight), -1)}


_QUANTISERS: dict[str, Callable[[torch.Tensor], dict[str, torch.Tensor]]] = {
    "fp8": _quantise_fp8,
    "int8": _quantise_int8,
    "nf4": _quantise_nf4,
}


def _quantise_scales(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """QLoRA's double quantisation: the blocks' scales, less their mean, in 8 bits."""
    scales = stored["scales"]
    mean = scales.mean()
    quantised, state = _bitsandbytes().quantize_blockwise(scales - mean, blocksize=NF4_SCALE_BLOCK)
    # The 256 numbers that a quantised scale can be, kept with each layer: fetching them would make the device wait.
    more = {"scale_scales": state.absmax, "scale_mean": mean, "scale_code": state.code.clone()}
    return {"values": stored["values"], "scales": quantised} | more


def _expand_nf4(
    dtype: torch.dtype,
    values: torch.Tensor,
    scales: torch.Tensor,
    scale_scales: torch.Tensor,
    scale_mean: torch.Tensor,
    scale_code: torch.Tensor,
) -> torch.Tensor:
    # bitsandbytes' operators rather than its functions: torch.compile sees through these without a graph break.
    operators = torch.ops.bitsandbytes
    blocks = operators.dequantize_blockwise(scales, scale_scales, scale_code, NF4_SCALE_BLOCK, torch.float32)
    shape = (values.shape[0], 2 * values.shape[1])
    return operators.dequantize_4bit(values, (blocks + scale_mean).flatten(), NF4_BLOCK, "nf4", shape, dtype)


def _bitsandbytes() -> Any:
    """bitsandbytes' functions.

    Its `Linear4bit` is not used: on CPUs with bfloat16 instructions, a forward pass in eval mode repacks the weights in
    place for inference, coarser and without a gradient, and they stay so when training goes on.
    """
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise SettingsError(
            "The base precision nf4 needs bitsandbytes. Install it into ComfyUI's Python with "
            f"'{installation.command('bitsandbytes')}', or choose fp8 or int8."
        ) from error
    return functional
