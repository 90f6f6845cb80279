"""The LoRA workbench: LoRA files read, combined, scaled and resized, and the result saved under a name of its own."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from ... import checksums
from ...errors import SettingsError, check_finite
from ...files import file_hash, remove_partials, write_whole
from ...paths import MAX_NAME_LENGTH, checked_name, child_of
from ...progress import Progress, silent
from . import file_formats
from .arithmetic import Factors, GroupScales, added, is_dora, layers_of, resized, scaled, state_of
from .file_formats import Tensors
from .targets import MAX_RANK

MOST_LORAS = 32
MOST_WEIGHT = 100.0  # either way
ADD, AVERAGE = "add", "average"
COMBINATIONS = (ADD, AVERAGE)
RECIPE = "impasto_workbench"  # metadata: what the file was made of
# Metadata of the sources that the result has too, where all of them agree.
_KEPT = ("ss_base_model_version", "modelspec.architecture", "modelspec.sai_model_spec", "modelspec.trigger_phrase")


@dataclass(frozen=True)
class Ingredient:
    """One LoRA: the name that people know it by, its file, and what it is multiplied by."""

    name: str
    file: Path
    weight: float


@dataclass(frozen=True)
class Workpiece:
    """What is to be made.

    Attributes:
        ingredients: at least one.
        combination: "add" for the weighted sum, "average" for the weighted mean.
        scales: of groups of layers, after they are combined.
        rank: to bring layers of a higher one to; 0 leaves every layer as it is.

    Raises:
        SettingsError: no LoRA, too many of them, or a value out of its range.
    """

    ingredients: tuple[Ingredient, ...]
    combination: str = ADD
    scales: GroupScales = GroupScales()
    rank: int = 0

    def __post_init__(self) -> None:
        if not self.ingredients:
            raise SettingsError("There is no LoRA to work on. Choose one, or name one in a line.")
        if len(self.ingredients) > MOST_LORAS:
            raise SettingsError(f"{len(self.ingredients)} LoRAs are named. Combine at most {MOST_LORAS} at a time.")
        if self.combination not in COMBINATIONS:
            raise SettingsError(f"combine is '{self.combination}'. Choose one of: {', '.join(COMBINATIONS)}.")
        if not 0 <= self.rank <= MAX_RANK:
            raise SettingsError(f"The rank is {self.rank}. Use 0 to leave it, or 1 to {MAX_RANK}.")
        if self.combination == AVERAGE and not abs(sum(each.weight for each in self.ingredients)) > 1e-6:
            raise SettingsError("The weights of the average add up to 0. Use positive ones.")

    @property
    def changes_nothing(self) -> bool:
        neutral = GroupScales(first_late=self.scales.first_late) == self.scales
        return neutral and not self.rank and len(self.ingredients) == 1 and self.weights == (1.0,)

    @property
    def weights(self) -> tuple[float, ...]:
        """As they are multiplied by: of an average, they add up to 1."""
        total = sum(each.weight for each in self.ingredients) if self.combination == AVERAGE else 1.0
        return tuple(each.weight / total for each in self.ingredients)


@dataclass(frozen=True)
class Worked:
    """A LoRA that was made, in our form, and what is to be said of it.

    Attributes:
        norms: Frobenius norm of what it adds to each layer, by diffusers' names.
        ranks: the lowest and the highest of its layers.
        ranks_before: the same before it was resized.
        error: norm of what resizing cut off, as a share of the whole's norm.
        worst: the layer that lost the largest share of its own norm, and that share; None where nothing was lost.
        dora: whether it is a DoRA, which is only passed on.
    """

    state: Tensors
    norms: Mapping[str, float]
    ranks: tuple[int, int]
    ranks_before: tuple[int, int]
    error: float = 0.0
    worst: tuple[str, float] | None = None
    dora: bool = False

    def report(self) -> str:
        said = [f"{_counted(len(self.norms))}, rank {_span(self.ranks)}, norm {_whole(self.norms.values()):.4g}."]
        if self.dora:
            said.append("A DoRA: shown and passed on as it is; the norms are without its magnitudes.")
        if self.ranks != self.ranks_before:
            lost = f"Resized from rank {_span(self.ranks_before)}: {self.error:.3%} of the norm was lost"
            said.append(f"{lost}, at most {self.worst[1]:.3%} of a layer ({self.worst[0]})." if self.worst else lost)
        return " ".join(said)


def _counted(layers: int) -> str:
    return "1 layer" if layers == 1 else f"{layers} layers"


def _span(ranks: tuple[int, int]) -> str:
    return str(ranks[0]) if ranks[0] == ranks[1] else f"{ranks[0]} to {ranks[1]}"


def _whole(norms: Iterable[float]) -> float:
    return math.sqrt(sum(norm * norm for norm in norms))


def parse_lines(text: str) -> list[tuple[str, float]]:
    """Names and weights of LoRAs, one a line: "name", or "name: weight"; without a weight it is 1.

    Raises:
        SettingsError: a weight is out of its range, or there are too many lines.
    """
    named = [_parse_line(line) for line in map(str.strip, text.splitlines()) if line]
    if len(named) > MOST_LORAS:
        raise SettingsError(f"{len(named)} LoRAs are named. Combine at most {MOST_LORAS} at a time.")
    return named


def _parse_line(line: str) -> tuple[str, float]:
    name, colon, number = line.rpartition(":")
    try:
        weight = float(number)
    except ValueError:  # a colon of the name
        return line, 1.0
    if not colon:
        return line, 1.0
    check_weight(name.strip(), weight)
    return name.strip(), weight


def check_weight(name: str, weight: float) -> None:
    """Raise SettingsError for a weight that is no number from -100 to 100."""
    check_finite(**{f"The weight of {name[:100]}": weight})
    if abs(weight) > MOST_WEIGHT:
        raise SettingsError(f"The weight of {name} is {weight:g}. Use -{MOST_WEIGHT:g} to {MOST_WEIGHT:g}.")


def work(piece: Workpiece, progress: Progress = silent) -> Worked:
    """Read the LoRAs and make what is asked for.

    Raises:
        TrainingError: a file is missing, damaged, or no FLUX.1 LoRA; it says what it is.
        SettingsError: a DoRA is to be changed, LoRAs are of models of different sizes, or nothing is left.
    """
    loras = []
    for number, each in enumerate(piece.ingredients):
        progress(number, len(piece.ingredients), f"Reading {each.name}")
        state = file_formats.read(each.file)
        if is_dora(state):
            return _passed_on(piece, each, state)
        loras.append((each.name, layers_of(state)))
    layers = added([(*lora, weight) for lora, weight in zip(loras, piece.weights, strict=True)])
    layers = scaled(layers, piece.scales)
    if not layers:
        raise SettingsError("With these weights and scales nothing of the LoRA is left. Set one of them above 0.")
    before, norms = _ranks(layers), {name: factors.norm() for name, factors in layers.items()}
    if not piece.rank or before[1] <= piece.rank:
        return Worked(state_of(layers), norms, before, before)
    layers, lost = resized(layers, piece.rank, lambda done: progress(done, len(norms), f"Resizing to {piece.rank}"))
    shares = {name: lost[name] / norm for name, norm in norms.items() if norm}
    worst = max(shares.items(), key=lambda item: item[1], default=None)
    error = _whole(lost.values()) / (_whole(norms.values()) or 1.0)
    norms = {name: factors.norm() for name, factors in layers.items()}
    return Worked(state_of(layers), norms, _ranks(layers), before, error, worst)


def _passed_on(piece: Workpiece, dora: Ingredient, state: Tensors) -> Worked:
    if not piece.changes_nothing:
        raise SettingsError(
            f"{dora.name} is a DoRA: what it adds depends on the weights that it lies on, so that it cannot be added "
            "to others, scaled or resized on its own. Take it alone, with every weight and scale at 1 and rank 0, or "
            "choose a LoRA without DoRA."
        )
    layers = layers_of(state)
    ranks = _ranks(layers)
    return Worked(state, {name: factors.norm() for name, factors in layers.items()}, ranks, ranks, dora=True)


def _ranks(layers: Mapping[str, Factors]) -> tuple[int, int]:
    ranks = [factors.rank for factors in layers.values()]
    return min(ranks), max(ranks)


def save(tensors: Mapping[str, Any], worked: Worked, piece: Workpiece, folder: Path, name: str) -> Path:
    """Write a LoRA, float32, as `<name>.safetensors`, or where another file has that name as `<name>-2`, `<name>-3` …

    A file that holds the same tensors and says the same of itself is found again.

    Args:
        tensors: of `worked`, as the file shall have them.

    Raises:
        NameRefused: the name is not plain.
        DiskError: it cannot be written.
    """
    from safetensors.torch import save as serialised

    stem = checked_name(name, what="LoRA name")
    metadata = _metadata(piece, worked, stem)
    for number in count(1):
        ending = f"-{number}" if number > 1 else ""
        file = child_of(folder, f"{stem}{ending}.safetensors", what="LoRA name", longest=MAX_NAME_LENGTH + 30)
        if not os.path.lexists(file):
            remove_partials(folder)  # ComfyUI would list them
            write_whole(file, checksums.sealed(serialised(dict(tensors), metadata | checksums.UNSEALED)))
            return file
        if _holds(file, tensors, metadata):
            return file
    raise AssertionError("count() has no end")


def _holds(file: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> bool:
    """Whether a file has these tensors, bit for bit, and this metadata. (Their order in a file differs each time.)"""
    from safetensors import safe_open
    from torch import equal

    if not file.is_file() or checksums.damage_of(file) or file_formats.read_metadata(file) != metadata:
        return False
    with safe_open(file, "pt") as there:
        return set(there.keys()) == set(tensors) and all(
            equal(there.get_tensor(key), tensor) for key, tensor in tensors.items()
        )


def _metadata(piece: Workpiece, worked: Worked, title: str) -> dict[str, str]:
    """What the file says of itself: what all sources say alike, and what was made of them. No folder is in it."""
    sources = [file_formats.read_metadata(each.file) for each in piece.ingredients]
    kept = {key: sources[0][key] for key in _KEPT if key in sources[0] and len({s.get(key) for s in sources}) == 1}
    recipe = {
        "loras": [
            {"name": each.name, "sha256": file_hash(each.file), "weight": weight}
            for each, weight in zip(piece.ingredients, piece.weights, strict=True)
        ],
        "scales": asdict(piece.scales),
        "rank": piece.rank,
        "error": worked.error,
    }
    of_rank = {"ss_network_dim": str(worked.ranks[1])}
    return {"format": "pt"} | kept | of_rank | {"modelspec.title": title, RECIPE: json.dumps(recipe)}
