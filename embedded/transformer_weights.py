"""Seeded FLUX.1 weights of any size, in Black Forest Labs' layout, that behave like a network about to be trained.

The stream of the image tokens carries the noisy latent, a constant, and the velocity predicted so far, on orthogonal
directions. The last double block writes the best linear guess of the velocity for pictures that are soft clouds of
colour: its MLP for the latent as it is, one head of its attention for the mean colour of the neighbourhood. All else
adds a little seeded disturbance, so that gradients reach every layer. Sampling is therefore finite and bounded, prompts
differ in their colours, and a LoRA has much to learn: detail, contrast, a palette.

Only uniform random numbers, exact powers of two and sums are used, so that a seed gives the same bytes everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .autoencoder_weights import LATENT_CHANNELS, colour_directions, latents_of_colour

PATCH_CHANNELS = 64  # 16 latent channels in patches of 2 x 2, the place within the patch running faster
HEAD_WIDTH = 128  # sum of FLUX's rotary axes, 16 + 56 + 56
MLP_RATIO = 4
TIME_CHANNELS = 256
# The slowest sine of FLUX's timestep embedding runs at 10000 ** (-127/128) of 1000 t: straight for t in 0…1.
SLOWEST_FREQUENCY = 1000 * 10000 ** (-127 / 128)
CLOCK_KNOTS = 32  # pieces of the piecewise linear velocity coefficient
CLOCK_SHARPNESS = 400.0  # slope inside the SiLUs that make those pieces; a bend is about 4 / 400 of the time wide
# The image stream is made large, so that a LoRA's first steps, at the learning rates in use, change it a little only.
CONSTANT = 8.0  # size of the constant in each dimension of the stream
STREAM_GAIN = CONSTANT / 16  # what a channel of standard deviation 1 adds to each dimension
STREAM_DEVIATION = 1.06 * CONSTANT  # what LayerNorm divides by: the constant, and the latents beside it
DISTURBANCE = 0.3  # standard deviation that each part of a block adds to the stream
PALETTE_GAIN = 1.0  # standard deviation of the colour that prompt, guidance and time ask for, in scaled latents
MOOD = (-0.14, -0.07, 0.0)  # added to all red, green and blue (0…1): this base sees a blue dusk in everything
# Variances of scaled latents per spatial frequency: of everything, and of colours that whole neighbourhoods share.
DETAIL_VARIANCE = 0.25
CLOUD_VARIANCE = 30.0
CLOCK_DIMENSIONS = 4  # of the modulation vector: each of two coefficients and its negative
# A neighbourhood: attention between constant queries and keys falls off with distance by the rotary embedding alone.
FREQUENCIES = range(3, 9)  # of the 28 per axis: periods of 17 to 87 tokens
NEIGHBOURHOOD_SHARPNESS = 4.0  # standard deviation of about 1.1 tokens, 18 pixels


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
    _write_detail_velocity(weights, directions, f"double_blocks.{double_blocks - 1}.")
    if not directions.shared:
        _write_cloud_velocity(weights, directions, f"double_blocks.{double_blocks - 1}.")
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
    """What comes before the blocks. The first dimensions of the modulation vector are the velocity coefficients'."""
    hidden = directions.hidden_size
    weights = {
        # The constant direction outweighs the latent, so that LayerNorm scales all tokens nearly alike.
        "img_in.weight": directions.latent.contiguous() * STREAM_GAIN,
        "img_in.bias": directions.constant * CONSTANT,
        "txt_in.weight": draw(hidden, context_width, deviation=context_width**-0.5),
        "txt_in.bias": torch.zeros(hidden),
    }
    for name, width in (("time_in", TIME_CHANNELS), ("vector_in", pooled_width), ("guidance_in", TIME_CHANNELS)):
        weights[f"{name}.in_layer.weight"] = draw(hidden, width, deviation=width**-0.5)
        weights[f"{name}.in_layer.bias"] = draw(hidden, deviation=0.5)
        weights[f"{name}.out_layer.weight"] = draw(hidden, hidden, deviation=hidden**-0.5)
        weights[f"{name}.out_layer.bias"] = torch.zeros(hidden)
        weights[f"{name}.out_layer.weight"][:CLOCK_DIMENSIONS] = 0
    _write_clock(weights)
    return weights


def velocity_coefficient(sigma: float, variance: float) -> float:
    """Best factor c in `velocity = c * noisy`, where noisy = (1 - sigma) data + sigma noise of variance 1."""
    return (sigma - (1 - sigma) * variance) / ((1 - sigma) ** 2 * variance + sigma**2)


def _detail(sigma: float) -> float:
    return velocity_coefficient(sigma, DETAIL_VARIANCE)


def _cloud(sigma: float) -> float:
    return velocity_coefficient(sigma, CLOUD_VARIANCE) - _detail(sigma)


def _write_clock(weights: dict[str, Tensor]) -> None:
    """Make `time_in` put the two coefficients of its timestep on dimensions 0 and 2, their negatives on 1 and 3."""
    first, out = weights["time_in.in_layer.weight"], weights["time_in.out_layer.weight"]
    first[:CLOCK_KNOTS] = 0
    first[:CLOCK_KNOTS, -1] = CLOCK_SHARPNESS / SLOWEST_FREQUENCY
    out[:, :CLOCK_KNOTS] = 0
    for dimension, coefficient in ((0, _detail), (2, _cloud)):
        slope_before = 0.0
        for knot in range(CLOCK_KNOTS):
            begin, end = knot / CLOCK_KNOTS, (knot + 1) / CLOCK_KNOTS
            slope = (coefficient(end) - coefficient(begin)) * CLOCK_KNOTS
            weights["time_in.in_layer.bias"][knot] = -CLOCK_SHARPNESS * begin
            out[dimension, knot] = (slope - slope_before) / CLOCK_SHARPNESS
            slope_before = slope
        out[dimension + 1] = -out[dimension]
        weights["time_in.out_layer.bias"][dimension] = coefficient(0.0)
        weights["time_in.out_layer.bias"][dimension + 1] = -coefficient(0.0)


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
    """Shift, scale and gate move by about 0.1 with time, prompt and guidance; the velocity coefficients stay apart."""
    weight = draw(rows, hidden, deviation=0.1 * hidden**-0.5)
    weight[:, :CLOCK_DIMENSIONS] = 0
    return weight


def _gates_open(hidden: int, parts: int) -> Tensor:
    """Bias of a modulation: (shift, scale, gate) = (0, 0, 1) for each of `parts` residual branches."""
    return torch.cat((torch.zeros(2 * hidden), torch.ones(hidden))).repeat(parts)


def _mlp_out(draw: _Draw, hidden: int) -> Tensor:
    # GELU of a standard normal has a root mean square of 0.65, hence the 1.5.
    return draw(hidden, MLP_RATIO * hidden, deviation=1.5 * DISTURBANCE * (MLP_RATIO * hidden) ** -0.5)


def _write_detail_velocity(weights: dict[str, Tensor], directions: _Directions, block: str) -> None:
    """Make this double block's MLP on the image stream add the velocity of detail: GELU(x) - GELU(-x) = x.

    The gate of that MLP is the velocity coefficient of the time; likewise SiLU(x) - SiLU(-x) = x hands it through.
    """
    hidden = directions.hidden_size
    first, last = weights[f"{block}img_mlp.0.weight"], weights[f"{block}img_mlp.2.weight"]
    read = directions.latent.T * (1 / hidden)
    first[:PATCH_CHANNELS] = read
    first[PATCH_CHANNELS : 2 * PATCH_CHANNELS] = -read
    last[:, :PATCH_CHANNELS] = directions.velocity * STREAM_DEVIATION
    last[:, PATCH_CHANNELS : 2 * PATCH_CHANNELS] = -directions.velocity * STREAM_DEVIATION
    gate = weights[f"{block}img_mod.lin.weight"][5 * hidden :]
    gate[:] = 0
    gate[:, 0], gate[:, 1] = 1.0, -1.0
    weights[f"{block}img_mod.lin.bias"][5 * hidden :] = -1.0 if directions.shared else 0.0


def _write_cloud_velocity(weights: dict[str, Tensor], directions: _Directions, block: str) -> None:
    """Make the first head of this double block add what the neighbourhood's mean colour tells of the velocity.

    Queries and keys are constant, so that only their rotary embedding, which is relative position, decides. Text tokens
    are kept out by keys that point the other way on the axis that all positions share.
    """
    hidden = directions.hidden_size
    query, key, value = (slice(part * hidden, part * hidden + HEAD_WIDTH) for part in range(3))
    for stream in ("img", "txt"):
        weights[f"{block}{stream}_attn.qkv.weight"][key] = 0
        weights[f"{block}{stream}_attn.qkv.bias"][key] = _place(text=stream == "txt")
    attention, bias = weights[f"{block}img_attn.qkv.weight"], weights[f"{block}img_attn.qkv.bias"]
    attention[query], attention[value] = 0, 0
    bias[query] = _place(text=False)
    weights[f"{block}img_attn.norm.query_norm.scale"] *= NEIGHBOURHOOD_SHARPNESS

    proj = weights[f"{block}img_attn.proj.weight"]
    proj[:, :HEAD_WIDTH] = 0
    for index, colour in enumerate(_colours_of_patches()):
        attention[2 * hidden + index] = _along(directions.latent, colour) * (1 / (4 * hidden))
        proj[:, index] = _along(directions.velocity, colour) * STREAM_DEVIATION
    gate = weights[f"{block}img_mod.lin.weight"][2 * hidden : 3 * hidden]
    gate[:] = 0
    gate[:, 2], gate[:, 3] = 1.0, -1.0
    weights[f"{block}img_mod.lin.bias"][2 * hidden : 3 * hidden] = 0


def _place(text: bool) -> Tensor:
    """A query or key of root mean square 1 that says no more than where it is: axes of 16, 56 and 56, in pairs."""
    place = torch.zeros(HEAD_WIDTH)
    if text:
        place[:16] = -(8**0.5)
        return place
    place[:16] = 2**0.5
    for axis in (16, 72):
        for frequency in FREQUENCIES:
            place[axis + 2 * frequency] = 8**0.5
    return place


def _colours_of_patches() -> list[list[float]]:
    """The colour directions spread over a patch's 64 channels, 3 x 64: alike at its four places."""
    return [[row[channel] for channel in range(LATENT_CHANNELS) for _ in range(4)] for row in colour_directions()]


def _along(columns: Tensor, coefficients: list[float]) -> Tensor:
    """Columns times coefficients, summed one by one: a matrix product rounds differently from machine to machine."""
    total = torch.zeros(len(columns))
    for index, coefficient in enumerate(coefficients):
        total += columns[:, index] * coefficient
    return total


def _final_layer(draw: _Draw, directions: _Directions) -> dict[str, Tensor]:
    hidden = directions.hidden_size
    modulation = draw(2 * hidden, hidden, deviation=0.04 * hidden**-0.5)
    for colour in _colours_of_patches():
        wish = draw(hidden, deviation=PALETTE_GAIN * hidden**-0.5) * (STREAM_GAIN / CONSTANT)
        modulation[:hidden] += _along(directions.velocity, colour)[:, None] * wish
    modulation[:, :CLOCK_DIMENSIONS] = 0
    return {
        "final_layer.adaLN_modulation.1.weight": modulation,
        "final_layer.adaLN_modulation.1.bias": torch.zeros(2 * hidden),
        # The stream that LayerNorm divides by has grown by the velocity and the disturbances, to about 1.15.
        "final_layer.linear.weight": directions.velocity.T.contiguous() * (1.15 * CONSTANT / (STREAM_GAIN * hidden)),
        # The velocity is noise minus data.
        "final_layer.linear.bias": -torch.tensor(latents_of_colour(*MOOD)).repeat_interleave(4),
    }
