"""An autoencoder of TAESD's shape whose weights are worked out, not trained: a soft but true copy of the picture.

The encoder takes each block of 8 x 8 pixels apart into the mean colours of its four quarters (12 numbers) and four
finer patterns of its brightness. The decoder puts the quarters together again by smooth interpolation; the finer
patterns are there for a model to learn from, and it leaves them out. The mean colour lies where previews of FLUX
latents look for it, so these show the right colours.

Every layer of TAESD ends in a ReLU. Signed values pass it lifted by a constant, and one lane carries that constant
along, so that it can be subtracted again, also beside the border, where convolutions read zeros.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LANES = 64  # channels between TAESD's layers
LATENT_CHANNELS = 16
FLUX_LATENT_SCALE = 0.3611  # BFL ae_params
FLUX_LATENT_SHIFT = 0.1159  # BFL ae_params

# Scaled FLUX latents to red, green, blue in -1…1: ComfyUI, comfy/latent_formats.py, class Flux.
PREVIEW_FACTORS = (
    (-0.0346, 0.0244, 0.0681),
    (0.0034, 0.0210, 0.0687),
    (0.0275, -0.0668, -0.0433),
    (-0.0174, 0.0160, 0.0617),
    (0.0859, 0.0721, 0.0329),
    (0.0004, 0.0383, 0.0115),
    (0.0405, 0.0861, 0.0915),
    (-0.0236, -0.0185, -0.0259),
    (-0.0245, 0.0250, 0.1180),
    (0.1008, 0.0755, -0.0421),
    (-0.0515, 0.0201, 0.0011),
    (0.0428, -0.0012, -0.0036),
    (0.0817, 0.0765, 0.0749),
    (-0.1264, -0.0522, -0.1103),
    (-0.0280, -0.0881, -0.0499),
    (-0.1262, -0.0982, -0.0778),
)
PREVIEW_BIAS = (-0.0329, -0.0718, -0.0851)

# Brightness, red against blue, green against magenta; and back to red, green, blue.
OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (1 / 2, 0.0, -1 / 2), (-1 / 4, 1 / 2, -1 / 4))
FROM_OPPONENT = ((1.0, 1.0, -2 / 3), (1.0, 0.0, 4 / 3), (1.0, -1.0, -2 / 3))
# How the quarters differ: right from left, bottom from top, one diagonal from the other. Signs in reading order.
QUARTERS = ((-1, 1, -1, 1), (-1, -1, 1, 1), (1, -1, -1, 1))
# The same along x and along y: value (0) or difference (1). The value itself comes first.
KINDS = ((0, 0), (1, 0), (0, 1), (1, 1))
# Of the three differences in the three opponent colours, and of the four finer patterns: a little over their standard
# deviations over paintings, which makes the latents' variance about 1 and keeps their peaks within TAESD's clamp.
DIFFERENCE_DEVIATIONS = ((0.04, 0.02, 0.01), (0.04, 0.02, 0.01), (0.02, 0.012, 0.006))
FINE_DEVIATIONS = (0.02, 0.02, 0.012, 0.012)

# Interpolation, one dimension: taps for values (a, b, a) and for differences (-c, 0, c), fitted by least squares to a
# photograph. The first works on the grid of 8 pixels and sharpens, the second goes to 4 pixels, the others to 2 and 1.
SHARPEN_VALUE, SHARPEN_VALUE_BY_DIFFERENCE = (-0.14, 1.28, -0.14), (-0.63, 0.0, 0.63)
SHARPEN_DIFFERENCE, SHARPEN_DIFFERENCE_BY_VALUE = (0.28, 1.56, 0.28), (0.08, 0.0, -0.08)
QUARTER_VALUE, QUARTER_DIFFERENCE = (0.03, 0.94, 0.03), (0.75, 0.0, -0.75)
SMOOTHINGS = ((0.21, 0.58, 0.21), (0.25, 0.5, 0.25))

ONE = LANES - 1  # the lane that carries the constant 1
LIFT = 4.0  # what signed values are lifted by in the decoder; colours of 0…1 lie far inside
CLAMP_KNEE, CLAMP_SLOPE = 0.9, 0.3  # undo TAESD's 3 tanh(x / 3) by a bend, to 0.05 for |x| < 2.5
CENTRE = (1, 1)

Matrix = list[list[float]]


def autoencoder_weights() -> dict[str, Tensor]:
    """Weights by the keys of ComfyUI's `comfy.taesd.taesd.TAESD` with 16 channels, and FLUX's latent scale and shift.

    A picture `(batch, 3, height, width)` becomes latents `(batch, 16, height/8, width/8)` in FLUX's raw convention.
    """
    weights = _layers_that_do_nothing()
    to_latent, from_latent = _latent_basis()
    _write_encoder(weights, to_latent)
    _write_decoder(weights, from_latent)
    return weights


def _layers_that_do_nothing() -> dict[str, Tensor]:
    """All layers zero. A residual block of zeros hands on what it gets, as far as that is not negative."""
    weights = {"vae_scale": torch.tensor(FLUX_LATENT_SCALE), "vae_shift": torch.tensor(FLUX_LATENT_SHIFT)}

    def convolution(key: str, lanes_in: int, lanes_out: int, bias: bool = True) -> None:
        weights[f"{key}.weight"] = torch.zeros(lanes_out, lanes_in, 3, 3)
        if bias:
            weights[f"{key}.bias"] = torch.zeros(lanes_out)

    convolution("taesd_encoder.0", 3, LANES)
    convolution("taesd_encoder.14", LANES, LATENT_CHANNELS)
    convolution("taesd_decoder.1", LATENT_CHANNELS, LANES)
    convolution("taesd_decoder.19", LANES, 3)
    for key in ("encoder.2", "encoder.6", "encoder.10", "decoder.7", "decoder.12", "decoder.17"):
        convolution(f"taesd_{key}", LANES, LANES, bias=False)
    blocks = {"encoder": (1, 3, 4, 5, 7, 8, 9, 11, 12, 13), "decoder": (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)}
    for half, indices in blocks.items():
        for index in indices:
            for part in (0, 2, 4):
                convolution(f"taesd_{half}.{index}.conv.{part}", LANES, LANES)
    return weights


def colour_directions() -> Matrix:
    """Three orthonormal directions of the scaled latents, 3 x 16, that hold the mean colour and nothing else."""
    return _gram_schmidt()[0][:3]


def latents_of_colour(red: float, green: float, blue: float) -> list[float]:
    """The 16 scaled latents that add this to the mean colour, in the 0…1 of pictures, and nothing else."""
    basis, triangle = _gram_schmidt()
    coefficients = _solve_lower(triangle, [2 * red, 2 * green, 2 * blue])
    return [sum(coefficients[k] * basis[k][channel] for k in range(3)) for channel in range(LATENT_CHANNELS)]


def _latent_basis() -> tuple[Matrix, Matrix]:
    """Matrices from features to scaled latents, 16 x 17, and from scaled latents back to features, 16 x 17.

    Features: mean red, green, blue in 0…1; nine differences (quarter pattern by quarter pattern, three opponent colours
    each); four finer patterns. The last column is the constant. The latents' directions of the differences and patterns
    are orthogonal to those that previews read the colour from.
    """
    basis, triangle = _gram_schmidt()
    deviations = [1.0] * 3 + [value for row in DIFFERENCE_DEVIATIONS for value in row] + list(FINE_DEVIATIONS)
    from_latent = [
        [deviation * value for value in row] + [0.0] for deviation, row in zip(deviations, basis, strict=True)
    ]
    to_latent = [[0.0] * 17 for _ in range(LATENT_CHANNELS)]
    for channel in range(LATENT_CHANNELS):
        for feature in range(3, 16):
            to_latent[channel][feature] = basis[feature][channel] / deviations[feature]
    for colour in range(3):
        # Preview colours are -1…1, the features' are 0…1.
        from_latent[colour] = [PREVIEW_FACTORS[channel][colour] / 2 for channel in range(LATENT_CHANNELS)]
        from_latent[colour].append((PREVIEW_BIAS[colour] + 1) / 2)
        coefficients = _solve_lower(triangle, [2.0 * (row == colour) for row in range(3)])
        for channel in range(LATENT_CHANNELS):
            to_latent[channel][colour] = sum(coefficients[k] * basis[k][channel] for k in range(3))
    grey = _solve_lower(triangle, [-1.0 - bias for bias in PREVIEW_BIAS])
    for channel in range(LATENT_CHANNELS):
        to_latent[channel][16] = sum(grey[k] * basis[k][channel] for k in range(3))
    return to_latent, from_latent


def _gram_schmidt() -> tuple[Matrix, Matrix]:
    """16 orthonormal directions, the first three spanning the preview's colours, and the triangle that links them.

    In Python's own arithmetic, because linear algebra libraries differ in the last bit from machine to machine.
    """
    colours = [[row[colour] for row in PREVIEW_FACTORS] for colour in range(3)]
    units = [[float(row == column) for row in range(LATENT_CHANNELS)] for column in range(3, LATENT_CHANNELS)]
    basis: Matrix = []
    triangle: Matrix = []
    for vector in colours + units:
        row = []
        rest = vector
        for direction in basis:
            along = sum(a * b for a, b in zip(rest, direction, strict=True))
            rest = [a - along * b for a, b in zip(rest, direction, strict=True)]
            row.append(along)
        length = math.sqrt(sum(a * a for a in rest))
        basis.append([a / length for a in rest])
        triangle.append([*row, length])
    return basis, triangle[:3]


def _solve_lower(triangle: Matrix, right: list[float]) -> list[float]:
    solution: list[float] = []
    for index, row in enumerate(triangle):
        known = sum(row[k] * solution[k] for k in range(index))
        solution.append((right[index] - known) / row[index])
    return solution


def _write_encoder(weights: dict[str, Tensor], to_latent: Matrix) -> None:
    """Pool three times by 2 x 2 (taps 1 and 2 of a convolution with stride 2), taking patterns out on the way."""
    first = weights["taesd_encoder.0.weight"]
    for colour in range(3):
        first[colour, colour][CENTRE] = 1
    weights["taesd_encoder.0.bias"][ONE] = 1

    pooled = (1 / 4,) * 4
    for key in ("taesd_encoder.2", "taesd_encoder.6", "taesd_encoder.10"):
        for lane in (0, 1, 2, ONE):
            _put_quarters(weights[f"{key}.weight"], lane, lane, pooled)

    # On the grid of 4 pixels, lanes 3 and 4: how brightness differs inside each quarter, to the right and downwards.
    quarters = weights["taesd_encoder.6.weight"]
    for lane, pattern in ((3, QUARTERS[0]), (4, QUARTERS[1])):
        for colour in range(3):
            _put_quarters(quarters, lane, colour, [sign / 12 for sign in pattern])
        _put_quarters(quarters, lane, ONE, [1 / 8] * 4)

    # On the grid of 8 pixels, lanes 3 to 11: the nine differences; lanes 12 to 15: the finer patterns.
    blocks = weights["taesd_encoder.10.weight"]
    blocks[3:5] = 0
    lane = 3
    for pattern in QUARTERS:
        for mixture in OPPONENT:
            for colour in range(3):
                _put_quarters(blocks, lane, colour, [sign / 4 * mixture[colour] for sign in pattern])
            lane += 1
    for source, pattern in ((3, QUARTERS[0]), (4, QUARTERS[1]), (3, QUARTERS[2]), (4, QUARTERS[2])):
        _put_quarters(blocks, lane, source, [sign / 4 for sign in pattern])
        lane += 1
    for signed in range(3, 16):
        _put_quarters(blocks, signed, ONE, [1 / 4] * 4)

    last, bias = weights["taesd_encoder.14.weight"], weights["taesd_encoder.14.bias"]
    for channel, row in enumerate(to_latent):
        for feature in range(16):
            last[channel, feature][CENTRE] = row[feature]
        bias[channel] = row[16] - sum(row[3:16])  # the signed lanes were lifted by 1


def _put_quarters(weight: Tensor, lane_out: int, lane_in: int, values) -> None:
    weight[lane_out, lane_in, 1:, 1:] = torch.tensor(values).view(2, 2)


def _write_decoder(weights: dict[str, Tensor], from_latent: Matrix) -> None:
    _write_latent_reading(weights, from_latent)
    _write_sharpening(weights)
    _write_quarters(weights)
    _write_border_repair(weights, "taesd_decoder.8", QUARTER_VALUE)
    _write_border_repair(weights, "taesd_decoder.9", QUARTER_VALUE)  # twice: the second time for the corners
    _write_smoothing(weights, "taesd_decoder.12", SMOOTHINGS[0])
    _write_border_repair(weights, "taesd_decoder.13", SMOOTHINGS[0])
    _write_border_repair(weights, "taesd_decoder.14", SMOOTHINGS[0])
    _write_smoothing(weights, "taesd_decoder.17", SMOOTHINGS[1])
    _write_border_repair(weights, "taesd_decoder.18", SMOOTHINGS[1])
    last, bias = weights["taesd_decoder.19.weight"], weights["taesd_decoder.19.bias"]
    for colour in range(3):
        last[colour, colour][CENTRE] = 1
        last[colour, ONE][CENTRE] = -LIFT
        bias[colour] = 0.5


def _write_latent_reading(weights: dict[str, Tensor], from_latent: Matrix) -> None:
    """Undo the clamp and turn latents into 12 lifted lanes: for each colour the value less 0.5 and its differences."""
    first, bias = weights["taesd_decoder.1.weight"], weights["taesd_decoder.1.bias"]
    for channel in range(LATENT_CHANNELS):
        for lane, sign, lift in ((0, 1, 3.0), (16, 1, -CLAMP_KNEE), (32, -1, -CLAMP_KNEE)):
            first[lane + channel, channel][CENTRE] = sign
            bias[lane + channel] = lift
    bias[ONE] = 1

    rows = [from_latent[colour] for colour in range(3)]
    for pattern in range(3):
        opponents = from_latent[3 + 3 * pattern : 6 + 3 * pattern]
        for mixture in FROM_OPPONENT:
            rows.append([sum(mixture[k] * opponents[k][channel] for k in range(3)) for channel in range(17)])
    read, lifts = weights["taesd_decoder.3.conv.0.weight"], weights["taesd_decoder.3.conv.0.bias"]
    for lane, row in enumerate(rows):
        for channel in range(LATENT_CHANNELS):
            read[lane, channel][CENTRE] = row[channel]
            read[lane, 16 + channel][CENTRE] = CLAMP_SLOPE * row[channel]
            read[lane, 32 + channel][CENTRE] = -CLAMP_SLOPE * row[channel]
        lifts[lane] = LIFT + row[16] - 3.0 * sum(row[:16]) - (0.5 if lane < 3 else 0.0)
    lifts[ONE] = 1


def _write_sharpening(weights: dict[str, Tensor]) -> None:
    """Interpolation filters blur; sharpen values and differences beforehand. Ends in lanes 48 to 59."""
    by_kind = ((SHARPEN_VALUE, SHARPEN_VALUE_BY_DIFFERENCE), (SHARPEN_DIFFERENCE_BY_VALUE, SHARPEN_DIFFERENCE))
    filters, lifts = weights["taesd_decoder.3.conv.2.weight"], weights["taesd_decoder.3.conv.2.bias"]
    for colour in range(3):
        for kind_out, (x_out, y_out) in enumerate(KINDS):
            lane = 3 * kind_out + colour
            for kind_in, (x_in, y_in) in enumerate(KINDS):
                taps = _outer(by_kind[y_out][y_in], by_kind[x_out][x_in])
                filters[lane, 3 * kind_in + colour] = taps
                filters[lane, ONE] -= LIFT * taps
            lifts[lane] = LIFT
    hand_on = weights["taesd_decoder.3.conv.4.weight"]
    for lane in range(12):
        hand_on[48 + lane, lane][CENTRE] = 1


def _write_quarters(weights: dict[str, Tensor]) -> None:
    """From the grid of 8 pixels to that of 4, where the differences are used up. Ends in lanes 0 to 2."""
    weight = weights["taesd_decoder.7.weight"]
    taps_of = (QUARTER_VALUE, QUARTER_DIFFERENCE)
    for colour in range(3):
        for kind, (x, y) in enumerate(KINDS):
            taps = _outer(taps_of[y], taps_of[x])
            weight[colour, 48 + 3 * kind + colour] = taps
            if kind:
                weight[colour, ONE] -= LIFT * taps
    weight[ONE, ONE] = _outer(QUARTER_VALUE, QUARTER_VALUE)


def _write_smoothing(weights: dict[str, Tensor], key: str, taps: tuple[float, float, float]) -> None:
    for lane in (0, 1, 2, ONE):
        weights[f"{key}.weight"][lane, lane] = _outer(taps, taps)


def _write_border_repair(weights: dict[str, Tensor], block: str, taps: tuple[float, float, float]) -> None:
    """Give border pixels back the share that the smoothing before took from the zeros outside the picture.

    There the lane of ones has fallen to 1 - share: all lanes grow by share / (1 - share) where it has, and only there.
    """
    share = taps[0]
    growth = share / (1 - share)
    lanes = (0, 1, 2, ONE)
    inside, lifts = weights[f"{block}.conv.0.weight"], weights[f"{block}.conv.0.bias"]
    grown, added = weights[f"{block}.conv.2.weight"], weights[f"{block}.conv.4.weight"]
    inside[4, ONE][CENTRE] = 1 / share
    lifts[4] = 1 - 1 / share
    for index, lane in enumerate(lanes):
        inside[index, lane][CENTRE] = 1
        grown[index, index][CENTRE] = growth
        grown[index, 4][CENTRE] = -4 * LIFT * growth
        added[lane, index][CENTRE] = 1


def _outer(vertical: tuple[float, float, float], horizontal: tuple[float, float, float]) -> Tensor:
    """Taps of a separable convolution, 3 x 3."""
    return torch.tensor([[a * b for b in horizontal] for a in vertical])
