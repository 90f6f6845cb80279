"""Seeded FLUX.1 weights of any size, in Black Forest Labs' layout, that behave like a network about to be trained.

The stream of the image tokens carries the noisy latent, a constant, and the velocity predicted so far, on orthogonal
directions. The last double block writes the best linear guess of the velocity for latents of unit variance; every
other block adds a little seeded disturbance, so that gradients reach all of them. Sampling is therefore finite and
bounded, and a LoRA has much to learn: this base knows nothing about pictures.

Only uniform random numbers, exact powers of two and sums are used, so that a seed gives the same bytes everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

PATCH_CHANNELS = 64  # 16 latent channels in patches of 2 x 2
HEAD_WIDTH = 128  # sum of FLUX's rotary axes, 16 + 56 + 56
MLP_RATIO = 4
TIME_CHANNELS = 256
# The slowest sine of FLUX's timestep embedding runs at 10000 ** (-127/128) of 1000 t: straight for t in 0…1.
SLOWEST_FREQUENCY = 1000 * 10000 ** (-127 / 128)
CLOCK_KNOTS = 32  # pieces of the piecewise linear velocity coefficient
CLOCK_SHARPNESS = 400.0  # slope inside the SiLUs that make those pieces; a bend is about 4 / 400 of the time wide
STREAM_GAIN = 1 / 16  # a channel of standard deviation 1 adds 1/16 to each dimension of the stream
DISTURBANCE = 0.1  # standard deviation that each part of a block adds to the stream
PROMPT_GAIN = 0.15  # standard deviation of the velocity offset that depends on prompt, guidance and time


def transformer_weights(
    *,
    hidden_size: int = 256,
    double_blocks: int = 2,
    single_blocks: int = 4,
    context_width: int = 128,
    pooled_width: int = 64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Weights that ComfyUI's UNETLoader takes for a FLUX-dev of this size (guidance embedding, 16 latent channels).

    Args:
        hidden_size: width of the streams, a multiple of 128 (one attention head per 128).
        double_blocks, single_blocks: depth, each at least 1.
        context_width: width of the T5 embeddings, `(batch, tokens, context_width)`.
        pooled_width: width of CLIP-L's pooled embedding, `(batch, pooled_width)`.
        seed: the same seed gives the same bytes on every machine.

    Returns:
        float32 tensors by BFL key; with the defaults 9.2 million parameters.

    Raises:
        ValueError: a size that FLUX cannot have.
    """
    if hidden_size < HEAD_WIDTH or hidden_size % HEAD_WIDTH:
        raise ValueError(f"hidden_size {hidden_size} must be a positive multiple of {HEAD_WIDTH}.")
    if double_blocks < 1 or single_blocks < 1:
        raise ValueError(
            f"FLUX has at least one block of each kind, not {double_blocks} double and {single_blocks} single."
        )
    draw = _Draw(seed)
    directions = _Directions(hidden_size)
    weights = _embedders(draw, directions, context_width, pooled_width)
    for index in range(double_blocks):
        weights |= _double_block(draw, hidden_size, f"double_blocks.{index}.")
    _write_linear_velocity(weights, directions, f"double_blocks.{double_blocks - 1}.")
    for index in range(single_blocks):
        weights |= _single_block(draw, hidden_size, f"single_blocks.{index}.")
    weights |= _final_layer(draw, directions)
    return weights


class _Draw:
    """Uniform random tensors, each of a given standard deviation, drawn one after the other from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator("cpu").manual_seed(seed)

    def __call__(self, *shape: int, deviation: float) -> Tensor:
        return (torch.rand(*shape, generator=self.generator) * 2 - 1) * (deviation * 3**0.5)


class _Directions:
    """Orthogonal directions of the image stream: entries +1 and -1, zero mean so that LayerNorm leaves them alone."""

    def __init__(self, hidden_size: int) -> None:
        period = hidden_size & -hidden_size  # the largest power of two that divides it: at least 128
        columns = _hadamard(period)[:, 1:].repeat(hidden_size // period, 1)
        self.hidden_size = hidden_size
        self.latent = columns[:, :PATCH_CHANNELS]
        # A stream of 128 has no room for the velocity beside the latent: it then takes the latent's place.
        self.shared = columns.shape[1] < 2 * PATCH_CHANNELS + 1
        self.velocity = self.latent if self.shared else columns[:, PATCH_CHANNELS : 2 * PATCH_CHANNELS]
        self.constant = columns[:, -1]


def _hadamard(size: int) -> Tensor:
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix


def _embedders(draw: _Draw, directions: _Directions, context_width: int, pooled_width: int) -> dict[str, Tensor]:
    """What comes before the blocks. Dimensions 0 and 1 of the modulation vector are the velocity coefficient's."""
    hidden = directions.hidden_size
    weights = {
        # The constant direction outweighs the latent, so that LayerNorm scales all tokens nearly alike.
        "img_in.weight": directions.latent.contiguous() * STREAM_GAIN,
        "img_in.bias": directions.constant.clone(),
        "txt_in.weight": draw(hidden, context_width, deviation=context_width**-0.5),
        "txt_in.bias": torch.zeros(hidden),
    }
    for name, width in (("time_in", TIME_CHANNELS), ("vector_in", pooled_width), ("guidance_in", TIME_CHANNELS)):
        weights[f"{name}.in_layer.weight"] = draw(hidden, width, deviation=width**-0.5)
        weights[f"{name}.in_layer.bias"] = draw(hidden, deviation=0.5)
        weights[f"{name}.out_layer.weight"] = draw(hidden, hidden, deviation=hidden**-0.5)
        weights[f"{name}.out_layer.bias"] = torch.zeros(hidden)
        weights[f"{name}.out_layer.weight"][:2] = 0
    _write_clock(weights)
    return weights


def velocity_coefficient(sigma: float) -> float:
    """Best factor c in `velocity = c * noisy`, where noisy = (1 - sigma) data + sigma noise, both of unit variance."""
    return (2 * sigma - 1) / ((1 - sigma) ** 2 + sigma**2)


def _write_clock(weights: dict[str, Tensor]) -> None:
    """Make `time_in` put the velocity coefficient of its timestep on dimension 0, and its negative on dimension 1."""
    first, out = weights["time_in.in_layer.weight"], weights["time_in.out_layer.weight"]
    first[:CLOCK_KNOTS] = 0
    first[:CLOCK_KNOTS, -1] = CLOCK_SHARPNESS / SLOWEST_FREQUENCY
    out[2:, :CLOCK_KNOTS] = 0
    slope_before = 0.0
    for knot in range(CLOCK_KNOTS):
        begin, end = knot / CLOCK_KNOTS, (knot + 1) / CLOCK_KNOTS
        slope = (velocity_coefficient(end) - velocity_coefficient(begin)) * CLOCK_KNOTS
        weights["time_in.in_layer.bias"][knot] = -CLOCK_SHARPNESS * begin
        out[0, knot] = (slope - slope_before) / CLOCK_SHARPNESS
        slope_before = slope
    out[0, CLOCK_KNOTS:] = 0
    out[1] = -out[0]
    weights["time_in.out_layer.bias"][0] = velocity_coefficient(0.0)
    weights["time_in.out_layer.bias"][1] = -velocity_coefficient(0.0)


def _double_block(draw: _Draw, hidden: int, block: str) -> dict[str, Tensor]:
    weights = {}
    for stream in ("img", "txt"):
        weights |= {
            f"{block}{stream}_mod.lin.weight": _modulation(draw, 6 * hidden, hidden),
            f"{block}{stream}_mod.lin.bias": _gates_open(hidden, parts=2),
            f"{block}{stream}_attn.qkv.weight": draw(3 * hidden, hidden, deviation=hidden**-0.5),
            f"{block}{stream}_attn.qkv.bias": torch.zeros(3 * hidden),
            f"{block}{stream}_attn.norm.query_norm.scale": torch.ones(HEAD_WIDTH),
            f"{block}{stream}_attn.norm.key_norm.scale": torch.ones(HEAD_WIDTH),
            f"{block}{stream}_attn.proj.weight": draw(hidden, hidden, deviation=DISTURBANCE * hidden**-0.5),
            f"{block}{stream}_attn.proj.bias": torch.zeros(hidden),
            f"{block}{stream}_mlp.0.weight": draw(MLP_RATIO * hidden, hidden, deviation=hidden**-0.5),
            f"{block}{stream}_mlp.0.bias": torch.zeros(MLP_RATIO * hidden),
            f"{block}{stream}_mlp.2.weight": _mlp_out(draw, hidden),
            f"{block}{stream}_mlp.2.bias": torch.zeros(hidden),
        }
    return weights


def _single_block(draw: _Draw, hidden: int, block: str) -> dict[str, Tensor]:
    attention_out = draw(hidden, hidden, deviation=DISTURBANCE * hidden**-0.5)
    return {
        f"{block}modulation.lin.weight": _modulation(draw, 3 * hidden, hidden),
        f"{block}modulation.lin.bias": _gates_open(hidden, parts=1),
        f"{block}linear1.weight": draw((3 + MLP_RATIO) * hidden, hidden, deviation=hidden**-0.5),
        f"{block}linear1.bias": torch.zeros((3 + MLP_RATIO) * hidden),
        f"{block}linear2.weight": torch.cat((attention_out, _mlp_out(draw, hidden)), 1),
        f"{block}linear2.bias": torch.zeros(hidden),
        f"{block}norm.query_norm.scale": torch.ones(HEAD_WIDTH),
        f"{block}norm.key_norm.scale": torch.ones(HEAD_WIDTH),
    }


def _modulation(draw: _Draw, rows: int, hidden: int) -> Tensor:
    """Shift, scale and gate move by about 0.1 with time, prompt and guidance, and not with the velocity coefficient."""
    weight = draw(rows, hidden, deviation=0.1 * hidden**-0.5)
    weight[:, :2] = 0
    return weight


def _gates_open(hidden: int, parts: int) -> Tensor:
    """Bias of a modulation: (shift, scale, gate) = (0, 0, 1) for each of `parts` residual branches."""
    return torch.cat((torch.zeros(2 * hidden), torch.ones(hidden))).repeat(parts)


def _mlp_out(draw: _Draw, hidden: int) -> Tensor:
    # GELU of a standard normal has a root mean square of 0.65, hence the 1.5.
    return draw(hidden, MLP_RATIO * hidden, deviation=1.5 * DISTURBANCE * (MLP_RATIO * hidden) ** -0.5)


def _write_linear_velocity(weights: dict[str, Tensor], directions: _Directions, block: str) -> None:
    """Make this double block's MLP on the image stream add the linear velocity: GELU(x) - GELU(-x) = x.

    The gate of that MLP is the velocity coefficient of the time; likewise SiLU(x) - SiLU(-x) = x hands it through.
    """
    hidden = directions.hidden_size
    first, last = weights[f"{block}img_mlp.0.weight"], weights[f"{block}img_mlp.2.weight"]
    read = directions.latent.T * (1 / hidden)
    first[:PATCH_CHANNELS] = read
    first[PATCH_CHANNELS : 2 * PATCH_CHANNELS] = -read
    # What is read was divided by the stream's deviation, about 1.1: the constant of 1, and the latents beside it.
    last[:, :PATCH_CHANNELS] = directions.velocity * 1.125
    last[:, PATCH_CHANNELS : 2 * PATCH_CHANNELS] = -directions.velocity * 1.125
    gate = weights[f"{block}img_mod.lin.weight"][5 * hidden :]
    gate[:] = 0
    gate[:, 0], gate[:, 1] = 1.0, -1.0
    weights[f"{block}img_mod.lin.bias"][5 * hidden :] = -1.0 if directions.shared else 0.0


def _final_layer(draw: _Draw, directions: _Directions) -> dict[str, Tensor]:
    hidden = directions.hidden_size
    modulation = draw(2 * hidden, hidden, deviation=PROMPT_GAIN * hidden**-0.5)
    modulation[:, :2] = 0
    return {
        "final_layer.adaLN_modulation.1.weight": modulation,
        "final_layer.adaLN_modulation.1.bias": torch.zeros(2 * hidden),
        # The stream that LayerNorm divides by has grown by the velocity and the disturbances: a deviation of about 1.2.
        "final_layer.linear.weight": directions.velocity.T.contiguous() * (1.25 / (STREAM_GAIN * hidden)),
        "final_layer.linear.bias": torch.zeros(PATCH_CHANNELS),
    }
