"""Judges of pictures that the tiny FLUX draws: which finish, genre, composition, light and colour a picture has.

Each is a logistic regression, on statistics of texture for the finish and on a thumbnail for what is shown. They must
be fitted on round trips, that is on painted pictures that went through the family's own autoencoder: fitted on the
paintings themselves they take every decoded picture for a plain one, because the decoder softens what tells the
finishes apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from ..files import appearing, parsed_json
from .scenes import Scene

THUMBNAIL = 16  # pixels each way
SCALES = (1, 2)  # texture is measured on the picture made smaller by these
PATTERN, PLACE = 4, 8  # pixels each way: of a pattern, and of a place over which its strength is averaged
QUANTILES = (0.15, 0.5)
FAINTEST = 1e-4  # strength under which a pattern counts as absent
OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (1 / 2, 0.0, -1 / 2), (-1 / 4, 1 / 2, -1 / 4))
METADATA_KEY = "impasto.judges"
PENALTY = 3e-2  # on the squared weights
ITERATIONS = 60  # of L-BFGS

Features = Callable[[np.ndarray], Tensor]


def texture(pixels: np.ndarray) -> Tensor:
    """How much of each pattern of 4 x 4 points the calmer places of a picture have, in brightness and opponent colours.

    Patterns are those of the cosine transform without the mean. Brushwork is everywhere, what is drawn is not: hence
    quantiles over places, and low ones.

    Args:
        pixels: uint8 `(n, height, width, 3)`.

    Returns:
        float32 `(n, 180)`: logarithms, for 2 scales, 3 colours, 15 patterns and 2 quantiles.
    """
    opponents = torch.einsum("nhwc,kc->nkhw", torch.from_numpy(pixels).float() / 255, torch.tensor(OPPONENT))
    columns = []
    for scale in SCALES:
        small = avg_pool2d(opponents, scale)
        each_colour = small.reshape(-1, 1, *small.shape[2:])
        found = torch.nn.functional.conv2d(each_colour, _patterns()).abs()
        places = avg_pool2d(found, PLACE // scale, PLACE // scale // 2).flatten(2)
        quantiles = torch.quantile(places, torch.tensor(QUANTILES), dim=2).movedim(0, -1)
        columns.append((quantiles + FAINTEST).log().reshape(len(pixels), -1))
    return torch.cat(columns, 1)


def _patterns() -> Tensor:
    """`(15, 1, 4, 4)`, the basis of the cosine transform but for its constant."""
    place = torch.arange(PATTERN).float()
    rows = torch.cos(math.pi / PATTERN * (place + 0.5) * place.view(-1, 1)) * (2 / PATTERN) ** 0.5
    rows[0] /= 2**0.5
    return torch.einsum("ai,bj->abij", rows, rows).reshape(-1, 1, PATTERN, PATTERN)[1:]


def thumbnail(pixels: np.ndarray) -> Tensor:
    """The picture in 16 x 16 pixels, whatever its shape; float32 `(n, 768)` in 0…1."""
    pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return adaptive_avg_pool2d(pictures, THUMBNAIL).flatten(1)


@dataclass(frozen=True)
class Judge:
    """A fitted multinomial logistic regression over standardised features."""

    features: Features
    labels: tuple[str, ...]
    mean: Tensor
    deviation: Tensor
    weights: Tensor  # (features + 1, labels)

    def probabilities(self, pixels: np.ndarray) -> Tensor:
        """`(n, labels)`, each row summing to 1, for uint8 `(n, height, width, 3)`."""
        return _scores((self.features(pixels) - self.mean) / self.deviation, self.weights).softmax(1)

    def verdicts(self, pixels: np.ndarray) -> list[str]:
        """The likeliest label of each picture."""
        return [self.labels[index] for index in self.probabilities(pixels).argmax(1).tolist()]

    def accuracy(self, pixels: np.ndarray, labels: Sequence[str]) -> float:
        """Share of pictures for which the verdict is the label given."""
        return float(np.mean([verdict == label for verdict, label in zip(self.verdicts(pixels), labels, strict=True)]))


def fit(features: Features, pixels: np.ndarray, labels: Sequence[str]) -> Judge:
    """Fit a judge; the same pictures and labels give the same judge.

    Args:
        pixels: uint8 `(n, height, width, 3)`, which have been through the autoencoder.
        labels: one for each picture; at least two different ones.

    Raises:
        ValueError: fewer than two different labels, or not one label a picture.
    """
    known = tuple(sorted(set(labels)))
    if len(known) < 2 or len(labels) != len(pixels):
        raise ValueError(f"A judge needs a label a picture, of two kinds or more; got {len(labels)}, kinds {known}.")
    measured = features(pixels)
    mean, deviation = measured.mean(0), measured.std(0) + 1e-3
    standard = (measured - mean) / deviation
    target = torch.tensor([known.index(label) for label in labels])
    weights = torch.zeros(standard.shape[1] + 1, len(known), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(_scores(standard, weights), target)
        value = value + PENALTY * weights[:-1].square().sum(1).mean() * len(known)
        value.backward()
        return value

    optimizer.step(loss)
    return Judge(features, known, mean, deviation, weights.detach())


def _scores(standard: Tensor, weights: Tensor) -> Tensor:
    return standard @ weights[:-1] + weights[-1]


_FEATURES: dict[str, Features] = {"texture": texture, "thumbnail": thumbnail}
_TENSORS = ("mean", "deviation", "weights")


def save(path: str | Path, fitted: Mapping[str, Judge], origin: Mapping[str, object]) -> None:
    """Write judges by name into one safetensors file, with what they were fitted on."""
    tensors = {f"{name}.{part}": getattr(judge, part) for name, judge in fitted.items() for part in _TENSORS}
    names = {features: name for name, features in _FEATURES.items()}
    described = {
        name: {"features": names[judge.features], "labels": list(judge.labels)} for name, judge in fitted.items()
    }
    description = json.dumps({"judges": described, "origin": dict(origin)}, sort_keys=True)
    with appearing(path) as temporary:
        save_file(tensors, temporary, {METADATA_KEY: description})


def load(path: str | Path) -> dict[str, Judge]:
    """The judges that `save` wrote."""
    with safe_open(path, "pt") as file:
        described = parsed_json(file.metadata()[METADATA_KEY])["judges"]
        return {
            name: Judge(
                _FEATURES[judge["features"]],
                tuple(judge["labels"]),
                *(file.get_tensor(f"{name}.{part}") for part in _TENSORS),
            )
            for name, judge in described.items()
        }


def composition_of(scene: Scene) -> str:
    """A label for what the scene is of."""
    return f"{scene.kind}, {scene.composition}"


def colour_of(scene: Scene) -> tuple[str, str] | None:
    """What in this composition has a colour that shows at 128 pixels, and which; None where nothing has."""
    for what in ("dress", "sails", "flowers", "jacket", "scarf", "jug", "facades"):
        if what in dict(scene.choices):
            return what, scene.choice(what)
    return None
