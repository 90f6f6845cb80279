"""LoRA files: reading the layouts that FLUX.1 LoRAs are published in, and writing three of them.

Our own form, which a checkpoint holds and which is the format "diffusers", has for each linear layer of diffusers'
model `transformer.<module>.lora_A.weight` (rank, inputs), `.lora_B.weight` (outputs, rank) and `.alpha` (scalar): the
layer gets (alpha / rank) · B·A. The BFL layout, which ComfyUI and kohya's sd-scripts use, fuses q, k and v into one
layer, and in single blocks the feed-forward's first layer too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from ... import checksums
from ...errors import SettingsError, TrainingError
from ...files import parsed_json
from ..flux.layout import FluxArchitecture, Source, layout
from . import families
from .targets import is_target

if TYPE_CHECKING:
    from .targets import LoraShape

# Name -> what stands before each module's name.
FORMATS = {
    "diffusers": "transformer.",  # diffusers' own names
    "kohya": "lora_unet_",  # BFL's names with underscores for dots, as sd-scripts writes them
    "comfyui": "diffusion_model.",  # BFL's names, as ComfyUI's SaveLoRA writes them
}
PREFIX = FORMATS["diffusers"]  # of our form: diffusers' pipelines and ComfyUI's comfy.lora both know keys that start so
LORA_A, LORA_B, ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"
MAGNITUDE = ".lora_magnitude_vector"  # DoRA in diffusers and PEFT, (outputs,)
DORA_SCALE = ".dora_scale"  # DoRA in ComfyUI and LyCORIS, (outputs, 1)

# What programs write before a module's name.
_PREFIXES = (
    "base_model.model.transformer.",  # PEFT around a pipeline's transformer
    "transformer.base_model.model.",  # SimpleTuner, up to 2024
    "base_model.model.",  # PEFT's save_pretrained
    "model.diffusion_model.",  # as in a checkpoint
    "lora_transformer_",  # OneTrainer
    "lycoris_",  # SimpleTuner
    *FORMATS.values(),
    "",
)
# What they write after it -> what that is in our form.
_ENDINGS = {
    LORA_A: LORA_A,
    LORA_B: LORA_B,
    ".lora_down.weight": LORA_A,
    ".lora_up.weight": LORA_B,
    ".lora.down.weight": LORA_A,
    ".lora.up.weight": LORA_B,
    "_lora.down.weight": LORA_A,  # diffusers, up to 2023
    "_lora.up.weight": LORA_B,
    ".lora_linear_layer.down.weight": LORA_A,
    ".lora_linear_layer.up.weight": LORA_B,
    ".down.weight": LORA_A,  # XLabs
    ".up.weight": LORA_B,
    ALPHA: ALPHA,
    DORA_SCALE: DORA_SCALE,
    f"{MAGNITUDE}.weight": MAGNITUDE,
    MAGNITUDE: MAGNITUDE,
}
# The same with the name of PEFT's adapter: default, default_0, or what a script called it.
_OF_AN_ADAPTER = re.compile(r"(?P<part>\.lora_A|\.lora_B|\.lora_magnitude_vector)\.[\w-]+\.weight")
_PEFT_SETTINGS = "lora_adapter_metadata"  # where diffusers' save_lora_weights writes alpha
_MOST_BLOCKS = 200  # of each kind that names are known for; FLUX.1 has 19 and 38
_REMEDY = "Choose another LoRA."

Tensors = dict[str, torch.Tensor]
Rows = tuple[tuple[int, int], ...]  # ranges (start, stop) of a fused layer's outputs, in units of the hidden size


def read(path: str | Path) -> Tensors:
    """Read a FLUX.1 transformer's LoRA file in any known layout, in our form, float32.

    Fused layers are taken apart: each part gets its own rows of B, and the columns that are not zero there with their
    rows of A. Nothing is approximated. A file without `.alpha` has the alpha of its PEFT settings, else its rank.

    Raises:
        TrainingError: no such file, not safetensors, not a FLUX.1 LoRA, incomplete, or with parts that no LoRA of the
            transformer has (text encoders, changed biases, other kinds of adapter); the text names its family and the
            first of them.
    """
    tensors, metadata = _load(Path(path))
    modules: dict[str, Tensors] = {}
    names = _known_names(_count_blocks(tensors))
    for key, tensor in tensors.items():
        module, ending = _split(key, names) or _refuse(path, key, tensors)
        if ending in modules.setdefault(module, {}):
            raise _given_twice(path, key)
        modules[module][ending] = tensor.float()
    state: Tensors = {}
    for module, layer in modules.items():
        _check_layer(path, module, layer, names[module])
        alpha = _peft_alpha(metadata, module, len(layer[LORA_A]))
        for name, part in _take_apart(names[module], {ALPHA: torch.tensor(alpha)} | layer).items():
            if f"{PREFIX}{name}{ALPHA}" in state:
                raise _given_twice(path, name)
            state |= {f"{PREFIX}{name}{ending}": tensor.contiguous() for ending, tensor in part.items()}
    return state


def convert(state: Mapping[str, torch.Tensor], format: str) -> Tensors:
    """Put a LoRA of our form into a named format.

    In BFL's layout the parts of a fused layer become the blocks on the diagonal of one B, under one A that stacks
    theirs: the rank is the sum of theirs, and alpha grows with it, so that alpha / rank stays. Parts that have the same
    A share it.

    Args:
        state: as `adapter.lora_state_dict` and `read` give it.
        format: a name in `FORMATS`.

    Raises:
        SettingsError: unknown format, or a DoRA that the format cannot hold.
    """
    check_format(format)
    if format == "diffusers":
        return dict(state)
    layers: dict[str, Tensors] = {}
    for key, tensor in state.items():
        ending = next(ending for ending in _ENDINGS if key.endswith(ending))
        layers.setdefault(key.removeprefix(PREFIX).removesuffix(ending), {})[ending] = tensor
    converted = {}
    for module, parts in _fused_modules(_count_blocks(state)).items():
        present = {name: layers.pop(name) for name in parts if name in layers}
        if present:
            if any(MAGNITUDE in part or DORA_SCALE in part for part in present.values()):
                scaled = sum(DORA_SCALE in part for part in present.values())
                _check_dora(format, module, whole=scaled == len(parts))
            name = FORMATS[format] + (_underscored(module) if format == "kohya" else module)
            converted |= {f"{name}{ending}": tensor for ending, tensor in _fuse(parts, present).items()}
    if layers:
        raise SettingsError(f"The LoRA has the layer '{next(iter(layers))}', which FLUX.1 does not have.")
    return converted


def check_format(format: str, shape: LoraShape | None = None) -> None:
    """Refuse a format that cannot hold what is to be trained.

    Args:
        format: a name in `FORMATS`.
        shape: of the LoRA; None where only the name is to be checked.

    Raises:
        SettingsError: unknown format, or a DoRA that the format cannot hold.
    """
    if format not in FORMATS:
        raise SettingsError(f"There is no LoRA file format '{format}'. Choose one of: {', '.join(FORMATS)}.")
    if shape is None or not shape.dora or format == "diffusers":
        return
    for module, parts in _fused_modules(1).items():
        trained = [name for name in parts if is_target(name, shape.targets)]
        if trained:
            _check_dora(format, module, whole=len(trained) == len(parts))


def export(source: Path, target: Path, format: str) -> None:
    """Write the LoRA file `source`, which is in our form, to `target` in a named format, with the same metadata.

    Raises:
        SettingsError: as for `convert`.
    """
    from safetensors.torch import save_file

    tensors, metadata = _load(source)
    save_file(convert(tensors, format), target, metadata | checksums.UNSEALED)
    checksums.seal(target)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in a safetensors file's header; empty if there is none, no such file, or not a whole one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            described = file.metadata() or {}
            described.pop(checksums.SEAL, None)  # of the file, not of the LoRA: another format has another
            return described
    except (FileNotFoundError, SafetensorError):
        return {}


def format_of(path: Path) -> str:
    """The format, by the names of its keys, of a file that was written here; "" for other, damaged or no files."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            first = next(iter(file.keys()), "")
    except (FileNotFoundError, SafetensorError):
        return ""
    return next((name for name, prefix in FORMATS.items() if first.startswith(prefix)), "")


def _sources(blocks: int) -> list[Source]:
    # With a hidden size of 1, rows are in units of the hidden size.
    return layout(FluxArchitecture(1, 1, blocks, blocks, 1, 1, 1, True, "", 0))


@lru_cache(maxsize=4)
def _fused_modules(blocks: int) -> dict[str, dict[str, Rows]]:
    """BFL's linear modules -> the diffusers modules that each is made of, with the rows of each."""
    return {
        source.key.removesuffix(".weight"): {
            name.removesuffix(".weight"): rows for name, rows in source.parameters.items()
        }
        for source in _sources(blocks)
        if source.key.endswith(".weight")
    }


@lru_cache(maxsize=4)
def _known_names(blocks: int) -> dict[str, dict[str, Rows]]:
    """Module names of both layouts, dotted and with underscores -> the diffusers modules that each is made of.

    With them those of XLabs' LoRAs, which are attention processors, and of ComfyUI for q, k and v of a single block.
    """
    fused = _fused_modules(blocks)
    names = dict(fused)
    for parts in fused.values():
        names |= {name: {name: ((0, 1),)} for name in parts}
    for index in range(blocks):
        double, single = f"double_blocks.{index}", f"single_blocks.{index}"
        for part in ("qkv", "proj"):
            names[f"{double}.processor.{part}_lora1"] = fused[f"{double}.img_attn.{part}"]
            names[f"{double}.processor.{part}_lora2"] = fused[f"{double}.txt_attn.{part}"]
        query_key_value = dict(list(fused[f"{single}.linear1"].items())[:3])
        names |= {f"{single}.processor.qkv_lora": query_key_value, f"{single}.linear1_qkv": query_key_value}
        names[f"{single}.processor.proj_lora"] = fused[f"{single}.linear2"]
    return names | {_underscored(name): parts for name, parts in names.items()}


def _underscored(name: str) -> str:
    return name.replace(".", "_")


def _count_blocks(keys: Mapping[str, Any]) -> int:
    numbers = (int(number) for key in keys for number in re.findall(r"blocks[._](\d{1,6})[._]", key))
    return min(1 + max(numbers, default=0), _MOST_BLOCKS)


def _load(path: Path) -> tuple[Tensors, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise TrainingError(f"There is no LoRA file {path}. Choose another LoRA, or put the file back.")
    if damage := checksums.damage_of(path):
        raise TrainingError(f"{damage}, and cannot be used. Copy the LoRA again, or choose another.")
    try:
        with safe_open(path, "pt") as file:
            metadata = {key: value for key, value in (file.metadata() or {}).items() if key != checksums.SEAL}
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except SafetensorError as error:
        raise TrainingError(
            f"{path} is not a whole safetensors file ({error}). Copy it again, or choose another LoRA."
        ) from error


def _split(key: str, names: Mapping[str, Any]) -> tuple[str, str] | None:
    """A file's key as (name of the module, our ending); None where no module of FLUX.1 is called so."""
    for stem, ending in _stems(key):
        for prefix in _PREFIXES:
            if stem.startswith(prefix) and stem.removeprefix(prefix) in names:
                return stem.removeprefix(prefix), ending
    return None


def _stems(key: str) -> Iterator[tuple[str, str]]:
    """Each way to read a key as something before an ending that we know, and that ending in our form."""
    for ending, ours in _ENDINGS.items():
        if key.endswith(ending):
            yield key.removesuffix(ending), ours
    named = _OF_AN_ADAPTER.search(key)
    if named and named.end() == len(key):
        yield key[: named.start()], _ENDINGS[f"{named['part']}.weight"]


def _refuse(path: str | Path, key: str, tensors: Mapping[str, Any]) -> NoReturn:
    reason, remedy = families.described(key, tensors, _followed(_count_blocks(tensors)))
    raise TrainingError(f"The LoRA {path} cannot be read as one of FLUX.1: {reason} ('{key}'). {remedy}")


def _followed(blocks: int) -> set[str]:
    """What stands before a key's ending where ComfyUI finds a layer by it (comfy/lora.py `model_lora_keys_unet`)."""
    stems = set()
    for source in _sources(blocks):
        module = source.key.rpartition(".")[0]
        stems |= {f"diffusion_model.{module}", f"lora_unet_{_underscored(module)}"}
        for name in (name.rpartition(".")[0] for name in source.parameters):
            stems |= {name, f"transformer.{name}"}
            stems |= {f"{prefix}{_underscored(name)}" for prefix in ("lora_transformer_", "lycoris_")}
    return stems


def _given_twice(path: str | Path, what: str) -> TrainingError:
    return TrainingError(f"The LoRA {path} gives '{what}' twice, under two names. {_REMEDY}")


def _check_layer(path: str | Path, module: str, layer: Mapping[str, torch.Tensor], parts: Mapping[str, Rows]) -> None:
    lora_a, lora_b = layer.get(LORA_A), layer.get(LORA_B)
    whole = lora_a is not None and lora_b is not None and lora_a.dim() == lora_b.dim() == 2
    if not whole or not 0 < lora_a.shape[0] == lora_b.shape[1] or layer.get(ALPHA, torch.ones(())).numel() != 1:
        raise TrainingError(f"The LoRA {path} is incomplete: its layer '{module}' has no A and B that fit. {_REMEDY}")
    units = max(stop for rows in parts.values() for _, stop in rows)
    if len(lora_b) % units:
        raise TrainingError(
            f"The LoRA {path} is for another model than FLUX.1, such as FLUX.2: its layer '{module}' has {len(lora_b)} "
            f"outputs, not a multiple of {units}. Choose a LoRA of FLUX.1."
        )
    scale = layer.get(DORA_SCALE, layer.get(MAGNITUDE))
    if scale is not None and (scale.numel() != lora_b.shape[0] or scale.shape[0] != lora_b.shape[0]):
        raise TrainingError(
            f"The LoRA {path} is a DoRA with a magnitude for each input of '{module}'; here each output has one. "
            f"{_REMEDY}"
        )
    if not all(tensor.isfinite().all() for tensor in layer.values()):
        raise TrainingError(f"The LoRA {path} has values in '{module}' that are not finite. {_REMEDY}")


def _peft_alpha(metadata: Mapping[str, str], module: str, rank: int) -> float:
    """alpha of a module by the settings that diffusers writes into the metadata; without them, its rank."""
    try:
        settings = parsed_json(metadata[_PEFT_SETTINGS])
        patterns = settings.get(f"{PREFIX}alpha_pattern") or {}
        fitting = (value for name, value in patterns.items() if f".{module}".endswith(f".{name}"))
        alpha = float(next(fitting, settings[f"{PREFIX}lora_alpha"]))
        return alpha * math.sqrt(rank) if settings.get(f"{PREFIX}use_rslora") else alpha
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError):
        return float(rank)


def _take_apart(parts: Mapping[str, Rows], layer: Mapping[str, torch.Tensor]) -> dict[str, Tensors]:
    """Split a layer of a file into diffusers' modules; those whose B is all zero are left out of a fused one."""
    lora_a, lora_b = layer[LORA_A], layer[LORA_B]
    unit = len(lora_b) // max(stop for rows in parts.values() for _, stop in rows)
    modules = {}
    for name, rows in parts.items():
        own = torch.cat([torch.arange(start * unit, stop * unit) for start, stop in rows])
        part = {ending: tensor[own] for ending, tensor in layer.items() if ending in (LORA_B, DORA_SCALE, MAGNITUDE)}
        used = part[LORA_B].any(dim=0) if len(parts) > 1 else torch.ones(len(lora_a), dtype=torch.bool)
        if used.any():
            part |= {LORA_A: lora_a[used], LORA_B: part[LORA_B][:, used]}
            part[ALPHA] = layer[ALPHA].flatten()[0] * int(used.sum()) / len(lora_a)
            modules[name] = part
    return modules


def _fuse(parts: Mapping[str, Rows], present: Mapping[str, Tensors]) -> Tensors:
    """Make one layer of a file of diffusers' modules; parts that are missing get rows of zero."""
    first_name, first = next(iter(present.items()))
    unit = len(first[LORA_B]) // sum(stop - start for start, stop in parts[first_name])
    outputs = unit * max(stop for rows in parts.values() for _, stop in rows)
    shared = all(torch.equal(part[LORA_A], first[LORA_A]) for part in present.values())
    lora_a = first[LORA_A] if shared else torch.cat([part[LORA_A] for part in present.values()])
    lora_b, dora_scale = torch.zeros(outputs, len(lora_a)), torch.zeros(outputs, 1)
    scale = _scale(first)
    column = 0
    for name, part in present.items():
        own = torch.cat([torch.arange(start * unit, stop * unit) for start, stop in parts[name]])
        rank = len(part[LORA_A])
        # Parts of another alpha / rank than the first have the difference in B.
        lora_b[own, column : column + rank] = part[LORA_B] * (_scale(part) / scale)
        column += 0 if shared else rank
        if DORA_SCALE in part:
            dora_scale[own] = part[DORA_SCALE]
    fused = {".lora_down.weight": lora_a.contiguous(), ".lora_up.weight": lora_b}
    fused[ALPHA] = first[ALPHA] * len(lora_a) / len(first[LORA_A])
    return fused | ({DORA_SCALE: dora_scale} if DORA_SCALE in first else {})


def _scale(layer: Mapping[str, torch.Tensor]) -> float:
    return layer[ALPHA].item() / len(layer[LORA_A])


def _check_dora(format: str, module: str, whole: bool) -> None:
    """Refuse a DoRA's layer in BFL's layout; `whole` says whether all of its parts are trained."""
    if format == "kohya":
        raise SettingsError("sd-scripts has no DoRA, so the LoRA format kohya cannot hold one. Choose diffusers.")
    if not whole:
        raise SettingsError(
            f"The DoRA has magnitudes for only a part of '{module}', which is one layer in the LoRA format {format}. "
            "Choose the format diffusers, or LoRA targets that cover the whole layer, such as 'all linear'."
        )
