"""A grid of pictures whose rows and columns each change one thing, and the values of its axes as people type them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..dataset.pictures import seen
from ..errors import SettingsError
from ..prompting.seeds import MAX_SEED
from ..texts import one_line
from .grid import Label, progress_grid
from .painting import Sampling
from .picture_grid import PictureGrid
from .picture_specs import PREVIEW_SIDE, PaintedSpecs, PictureSpec

MOST_VALUES = 200  # of an axis
MOST_CELLS = 1_000
NOT_THERE = "not-finite.png"  # stands for the file of a picture that has none
MOST_IN_PREVIEW = 100  # cells; a larger grid shows the newest picture instead
PROMPT, SEED, STRENGTH, CHECKPOINT, LORA, GUIDANCE, STEPS, SAMPLER = AXES = (
    "prompt",
    "seed",
    "strength",
    "checkpoint",
    "LoRA",
    "guidance",
    "steps",
    "sampler",
)
NO_AXIS = "none"
NO_LORA = "none"  # of a line of a LoRA axis; "base" on one of checkpoints
BASE = "base"
_LABEL = 200  # characters of a prompt beside its row: more lines are never shown
_STRENGTHS, _GUIDANCES, _STEPS = (-10.0, 10.0), (0.0, 100.0), (1, 200)


@dataclass(frozen=True)
class Known:
    """What the names on an axis may be.

    Attributes:
        lora: gives the file of a LoRA's name, or raises.
        checkpoints: training step -> LoRA file, of the run; None where no run is connected.
        samplers: ComfyUI's.
    """

    lora: Callable[[str], Path]
    checkpoints: Mapping[int, Path] | None
    samplers: Collection[str]


@dataclass(frozen=True)
class Axis:
    """What an axis changes, and its values: for each the label and what it sets of a picture."""

    kind: str
    values: tuple[tuple[Label, Mapping[str, Any]], ...]


def axis(kind: str, text: str, known: Known) -> Axis:
    """Read the values of an axis, one a line; empty lines are left out, and prompts are taken as they stand.

    Raises:
        SettingsError: no value, too many, one that is none of its kind, or checkpoints without a run.
        ModelError: a LoRA that is not there.
    """
    if kind not in AXES:
        raise SettingsError(f"There is no axis '{kind}'. Choose one of: {', '.join(AXES)}.")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise SettingsError(f"The axis '{kind}' has no values. Write one a line.")
    if len(lines) > MOST_VALUES:
        raise SettingsError(f"The axis '{kind}' has {len(lines)} values. Use at most {MOST_VALUES}.")
    return Axis(kind, tuple(_value(kind, line, known) for line in lines))


def _value(kind: str, line: str, known: Known) -> tuple[Label, dict[str, Any]]:
    if kind == PROMPT:
        return Label(line[:_LABEL]), {"text": line}
    if kind == SEED:
        return Label(f"seed {line}"), {"seed": _whole(kind, line, 0, MAX_SEED)}
    if kind == STEPS:
        number = _whole(kind, line, *_STEPS)
        return Label(f"{number} steps"), {"steps": number}
    if kind == STRENGTH:
        strength = _number(kind, line, *_STRENGTHS)
        return Label(f"strength {strength:g}"), {"strength": strength}
    if kind == GUIDANCE:
        guidance = _number(kind, line, *_GUIDANCES)
        return Label(f"guidance {guidance:g}"), {"guidance": guidance}
    if kind == LORA:
        file = None if line.lower() == NO_LORA else known.lora(line)
        return Label(Path(line).stem if file else "no LoRA"), {"adapter": file}
    if kind == CHECKPOINT:
        return _checkpoint(line, known.checkpoints)
    if line not in known.samplers:
        raise SettingsError(f"ComfyUI has no sampler '{line[:60]}'. It has: {', '.join(known.samplers)[:500]}.")
    return Label(line), {"sampler_name": line}


def _checkpoint(line: str, checkpoints: Mapping[int, Path] | None) -> tuple[Label, dict[str, Any]]:
    if checkpoints is None:
        raise SettingsError("An axis of checkpoints is of a training run. Connect 'run', or choose the axis 'LoRA'.")
    if line.lower() == BASE:
        return Label("base model"), {"adapter": None}
    step = _whole(CHECKPOINT, re.sub(r"^step\s+", "", line, flags=re.IGNORECASE), 0, 10**12)
    if step not in checkpoints:
        there = ", ".join(map(str, sorted(checkpoints))) or "none"
        raise SettingsError(f"The run has no checkpoint of step {step}. It has: {there[:500]}; and 'base' for none.")
    return Label(f"step {step}"), {"adapter": checkpoints[step]}


def _whole(kind: str, line: str, least: int, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", line) or not least <= int(line) <= most:
        raise SettingsError(f"The axis '{kind}' has '{line[:60]}'. Use whole numbers from {least} to {most}.")
    return int(line)


def _number(kind: str, line: str, least: float, most: float) -> float:
    try:
        number = float(line.replace(",", "."))
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise SettingsError(f"The axis '{kind}' has '{line[:60]}'. Use numbers from {least:g} to {most:g}.")
    return number


@dataclass(frozen=True)
class XYGrid:
    """A grid: what all its pictures share, what changes from column to column (`x`) and from row to row (`y`, or None).

    Raises:
        SettingsError: both axes change the same, or there are too many cells.
    """

    name: str
    base: PictureSpec
    x: Axis
    y: Axis | None = None

    def __post_init__(self) -> None:
        kinds = {self.x.kind, self.y.kind} if self.y else {self.x.kind}
        if self.y and self.x.kind == self.y.kind:
            raise SettingsError(f"Both axes are '{self.x.kind}'. Choose another for one of them, or none.")
        if kinds == {LORA, CHECKPOINT}:
            raise SettingsError("One axis changes the LoRA, the other the checkpoint, which is a LoRA too. Take one.")
        if STRENGTH in kinds and self.base.adapter is None and not kinds & {LORA, CHECKPOINT}:
            raise SettingsError("An axis of strengths is of a LoRA. Choose one in 'lora', or on the other axis.")
        columns, rows = len(self.x.values), len(self.rows)
        if rows * columns > MOST_CELLS:
            raise SettingsError(
                f"The grid would have {rows * columns:,} cells ({columns} × {rows}). Use at most {MOST_CELLS:,}: leave "
                "values out, or make several grids; what they share is painted once."
            )

    @property
    def rows(self) -> tuple[tuple[Label, Mapping[str, Any]], ...]:
        if self.y:
            return self.y.values
        seed = "" if self.x.kind == SEED else f"seed {self.base.seed}"
        return ((Label(seed) if self.x.kind == PROMPT else Label(self.base.text[:_LABEL], seed), {}),)

    def cells(self) -> dict[tuple[int, int], PictureSpec]:
        """What each picture is, by (row, column)."""
        return {
            (row, column): _changed(_changed(self.base, down), across)
            for row, (_, down) in enumerate(self.rows)
            for column, (_, across) in enumerate(self.x.values)
        }

    def picture(self, pictures: Mapping[tuple[int, int], Image.Image], longest: int | None = None) -> Image.Image:
        """The grid with the pictures there are, in full size or with a cell's longer side at most `longest` pixels."""
        width, height = self.base.sampling.width, self.base.sampling.height
        share = min(1.0, longest / max(width, height)) if longest else 1.0
        return progress_grid(
            Label(self.name, self._note()),
            [label for label, _ in self.rows],
            [label for label, _ in self.x.values],
            pictures,
            (round(width * share), round(height * share)),
        )

    def picture_grid(self, files: Mapping[PictureSpec, Path], folder: Path) -> PictureGrid:
        """The grid as a value that travels on a link.

        Args:
            files: of the pictures there are; the place of one that is not among them stays empty.
            folder: where they lie.
        """
        cells = self.cells()
        return PictureGrid(
            title=Label(self.name, self._note()),
            rows=tuple(label for label, _ in self.rows),
            columns=tuple(label for label, _ in self.x.values),
            cells=tuple(
                tuple((files.get(cells[row, column], folder / NOT_THERE),) for column in range(len(self.x.values)))
                for row in range(len(self.rows))
            ),
            cell_size=(self.base.sampling.width, self.base.sampling.height),
        )

    def preview(self, small: Mapping[PictureSpec, Image.Image], newest: Image.Image) -> Image.Image:
        """What is there so far, as a `picture_specs.Preview`."""
        cells = self.cells()
        if len(cells) > MOST_IN_PREVIEW:
            return newest
        return self.picture({place: small[spec] for place, spec in cells.items() if spec in small}, PREVIEW_SIDE)

    def _note(self) -> str:
        """What all pictures have in common."""
        axes = {self.x.kind, self.y.kind if self.y else ""}
        base, sampling = self.base, self.base.sampling
        lora = {LORA, CHECKPOINT} & axes
        said = {
            PROMPT: one_line(base.text[:_LABEL]) if self.y else "",
            SEED: f"seed {base.seed}" if self.y else "",
            LORA: base.adapter.stem if base.adapter and not lora else "",
            STRENGTH: f"strength {base.strength:g}" if base.adapter or lora else "",
            STEPS: f"{sampling.steps} steps",
            SAMPLER: f"{sampling.sampler_name}, {sampling.scheduler}",
            GUIDANCE: f"guidance {sampling.guidance:g}",
        }
        return ",  ".join(text for kind, text in said.items() if text and kind not in axes)


class FromDisk(Mapping):
    """The pictures of a grid by (row, column), each read when it is asked for, so that one at a time is in memory."""

    def __init__(self, cells: Mapping[tuple[int, int], PictureSpec], painted: PaintedSpecs) -> None:
        self._files = {place: painted.files[spec] for place, spec in cells.items() if spec in painted.files}

    def __getitem__(self, place: tuple[int, int]) -> Image.Image:
        return seen(self._files[place])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _changed(spec: PictureSpec, values: Mapping[str, Any]) -> PictureSpec:
    of_sampling = {name: value for name, value in values.items() if name in Sampling.__dataclass_fields__}
    others = {name: value for name, value in values.items() if name not in of_sampling}
    return replace(spec, sampling=replace(spec.sampling, **of_sampling), **others)


def api_form(
    graph: Mapping[str, Mapping[str, Any]], node_id: str, spec: PictureSpec, lora: str | None
) -> dict[str, dict[str, Any]]:
    """A graph in ComfyUI's API format that gives one picture by core's own nodes, on the models of a queued grid.

    Args:
        graph: the queued graph, in which `node_id` is the grid's node with links `model`, `clip` and `vae`.
        lora: name of the LoRA in ComfyUI's list; None for none.
    """
    links = {name: graph[node_id]["inputs"][name] for name in ("model", "clip", "vae")}
    made = {each: dict(graph[each]) for each in sorted(_before(graph, [link[0] for link in links.values()]))}
    sampling = spec.sampling
    model = links["model"]
    if lora is not None:
        made["cell_lora"] = _node("LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=spec.strength)
        model = ["cell_lora", 0]
    size = {"width": sampling.width, "height": sampling.height}
    return made | {
        "cell_text": _node("CLIPTextEncode", clip=links["clip"], text=spec.text),
        "cell_guidance": _node("FluxGuidance", conditioning=["cell_text", 0], guidance=sampling.guidance),
        "cell_noise": _node("EmptySD3LatentImage", **size, batch_size=1),
        "cell_sampler": _node(
            "KSampler",
            model=model,
            positive=["cell_guidance", 0],
            negative=["cell_guidance", 0],  # not computed at cfg 1
            latent_image=["cell_noise", 0],
            seed=spec.seed,
            steps=sampling.steps,
            cfg=1.0,
            sampler_name=sampling.sampler_name,
            scheduler=sampling.scheduler,
            denoise=1.0,
        ),
        "cell_picture": _node("VAEDecode", samples=["cell_sampler", 0], vae=links["vae"]),
        "cell_file": _node("SaveImage", images=["cell_picture", 0], filename_prefix="impasto/cell"),
    }


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def _before(graph: Mapping[str, Mapping[str, Any]], ends: Sequence[str]) -> set[str]:
    """The nodes that `ends` need, themselves included."""
    reached, waiting = set(), list(ends)
    while waiting:
        node = waiting.pop()
        if node in graph and node not in reached:
            reached.add(node)
            values = graph[node].get("inputs", {}).values()
            waiting += [value[0] for value in values if isinstance(value, list) and value and isinstance(value[0], str)]
    return reached
