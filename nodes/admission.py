"""What the inputs of every node may carry, checked before it runs.

ComfyUI checks what is typed into widgets. It does not check what comes through a node that passes anything on, nor what
an API call has in place of a link: a text for a dataset, nothing for a number, a number beyond the widget's range.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from comfy_api.latest import io

from ..dataset.config_writer import DatasetConfig
from ..dataset.records import Dataset
from ..errors import SettingsError, check_finite
from ..prompting.prompt_set import Prompt
from ..rendering.picture_grid import PictureGrid
from ..trainers.features.index import Features
from ..trainers.run.folder import Run
from ..trainers.settings import Settings
from . import sockets

SHOWN = 60  # characters of a text in an error


def _are_prompts(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(prompt, Prompt) for prompt in value)


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _has(*names: str) -> Callable[[Any], bool]:
    """Other packs wrap ComfyUI's models in classes of their own: what they can do tells them, not their class."""
    return lambda value: all(callable(getattr(value, name, None)) for name in names)


# Type of socket -> whether a value belongs there, what it takes, and from which nodes.
TAKEN: Mapping[str, tuple[Callable[[Any], bool], str, str]] = {
    sockets.Dataset.io_type: (_is(Dataset), "a dataset", "a loader; Dataset by Name takes a name"),
    sockets.DatasetConfig.io_type: (_is(DatasetConfig), "a dataset config", "Dataset TOML Writer"),
    sockets.Prompts.io_type: (_are_prompts, "a prompt set", "Prompt Set"),
    sockets.Features.io_type: (_is(Features), "encoded training data", "Encode Training Data"),
    sockets.Training.io_type: (_is(Settings), "training settings", "Training Settings or Training Preset"),
    sockets.Run.io_type: (_is(Run), "a training run", "FLUX LoRA Trainer or Training Run Loader"),
    sockets.PictureGrid.io_type: (_is(PictureGrid), "a picture grid", "Progress Grid or Sample Grid"),
    sockets.Captioner.io_type: (_has("prompt", "caption", "close"), "a captioner", "a captioner's output of that name"),
    io.Model.io_type: (_has("clone", "get_model_object"), "a diffusion model", "Load Diffusion Model"),
    io.Clip.io_type: (_has("clone", "tokenize"), "text encoders", "DualCLIPLoader"),
    io.Vae.io_type: (_has("encode", "decode"), "an autoencoder", "Load VAE"),
    io.LossMap.io_type: (_is(Mapping), "a loss map", "the output loss of FLUX LoRA Trainer or of core's Train LoRA"),
    io.ClipVision.io_type: (_has("encode_image"), "a CLIP vision model", "Load CLIP Vision"),
}
# Type of widget -> the Python types that it gives, and how a sentence calls them; NumPy's numbers are such numbers.
TYPED: Mapping[str, tuple[tuple[type, ...], str]] = {
    io.Int.io_type: ((numbers.Integral,), "a whole number"),
    io.Float.io_type: ((numbers.Real,), "a number"),
    io.String.io_type: ((str,), "a text"),
    io.Boolean.io_type: ((numbers.Integral,), "on or off"),
    io.Combo.io_type: ((str,), "one of its list"),
}

PLAIN: Mapping[str, type] = {io.Int.io_type: int, io.Float.io_type: float, io.Boolean.io_type: bool}


def checks(node: type[io.ComfyNode], schema: io.Schema) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function that gives back what `execute` of `node` is to get: what is None and may be left out is left out.

    Raises (that function):
        SettingsError: names the input, what came and what belongs there.
    """
    known = {widget.id: widget for widget in schema.inputs}

    def admitted(inputs: Mapping[str, Any]) -> dict[str, Any]:
        values = {}
        for name, value in inputs.items():
            if name not in known:
                raise SettingsError(f"{schema.display_name} has no input '{name[:SHOWN]}'. Take that link away.")
            if value is not None or not known[name].optional:
                values[name] = _checked(node, known[name], value)
        return values

    return admitted


def _checked(node: type[io.ComfyNode], known: io.Input, value: Any) -> Any:
    kind = known.get_io_type()
    if kind in TAKEN:
        belongs, what, source = TAKEN[kind]
        if not belongs(value):
            raise SettingsError(f"{known.id} takes {what}, and got {_called(value)}. Connect it to {source}.")
    elif kind in TYPED:
        types, what = TYPED[kind]
        if not isinstance(value, types):
            raise SettingsError(f"{known.id} takes {what}, and got {_called(value)}. Connect it to something else.")
        if kind == io.Combo.io_type:
            _check_choice(node, known, value)
        elif kind in PLAIN:
            _check_range(known, value)
            return value if isinstance(value, int | float) else PLAIN[kind](value)
    return value


def _check_range(known: io.Input, value: float) -> None:
    if not isinstance(value, numbers.Integral):  # which may be more than a float holds
        check_finite(**{known.id: float(value)})
    low, high = getattr(known, "min", None), getattr(known, "max", None)
    if (low is not None and value < low) or (high is not None and value > high):
        raise SettingsError(f"{known.id} is {_called(value)}. It must be between {low} and {high}.")


def _check_choice(node: type[io.ComfyNode], known: io.Input, value: str) -> None:
    """Choices that a node looks at itself may be more than the list."""
    if value in known.options or known.id in inspect.signature(node.validate_inputs).parameters:
        return
    now = next(widget.options for widget in node.define_schema().inputs if widget.id == known.id)
    if value not in now:  # other packs may have added to ComfyUI's lists after this one was loaded
        raise SettingsError(f"{known.id} is {_called(value)}. Choose one of: {', '.join(map(str, now))[:500]}.")


def _called(value: Any) -> str:
    """What a value is, in a few words."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text '{value[:SHOWN]}{'…' if len(value) > SHOWN else ''}'"
    if isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**SHOWN else "a number of very many digits"
    return {list: "a list", tuple: "a list", dict: "a mapping"}.get(
        type(value), f"a value of type {type(value).__name__}"
    )
