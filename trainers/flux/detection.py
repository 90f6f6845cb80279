"""Whether a file holds a FLUX.1 transformer that can be trained, and which: read from its header alone.

Scaled weights are recognised in the ways in which ComfyUI does it; what they are is told by a few bytes of the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ModelError
from ...files import parsed_json
from .header import REMEDY, WeightsHeader, broken, read_header
from .layout import HEAD_WIDTH, FluxArchitecture, canonical, layout

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")  # checkpoint, saved diffusion model, bare transformer
READABLE_DTYPES = ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")  # a cast turns these into the training dtype
# Formats of scaled weights that ComfyUI multiplies by one scale (comfy/quant_ops.py QUANT_ALGOS); torch's dtypes.
SCALED_FORMATS = ("float8_e4m3fn", "float8_e5m2")
# Part of a key that only this family has -> its name; looked for in files that lack what every FLUX.1 has.
_OTHER_FAMILIES = (
    ("lora_A.", "a LoRA"),
    ("lora_down.", "a LoRA"),
    ("distilled_guidance_layer.", "a Chroma model"),
    ("double_stream_modulation_img.", "a FLUX.2 model"),
    ("joint_blocks.", "a Stable Diffusion 3 model"),
    ("input_blocks.", "a Stable Diffusion 1, 2 or SDXL model"),
    ("down_blocks.", "a Stable Diffusion model in diffusers' layout"),
    ("head.modulation", "a Wan model"),
    ("txt_in.individual_token_refiner.", "a HunyuanVideo model"),
    ("cap_embedder.", "a Lumina or Z-Image model"),
)


@dataclass(frozen=True)
class ScaledLayer:
    """How one layer's weight is scaled: a name in `SCALED_FORMATS`, and the file's key of the scale."""

    format: str
    scale_key: str


def inspect(path: str | Path) -> FluxArchitecture:
    """Read a file's architecture from its header, and from the few bytes that say how scaled weights are to be read.

    Raises:
        ModelError: no such file, not safetensors, truncated, not FLUX.1, quantised in a way that cannot be trained on,
            or with weights missing or unknown.
    """
    header = read_header(path)
    prefix = _find_prefix(path, header.tensors)
    scaled = scaled_layers(path, header, prefix)
    beside = _keys_beside_weights(prefix, scaled)
    entries = {
        key[len(prefix) :]: entry
        for key, entry in header.tensors.items()
        if key.startswith(prefix) and key not in beside
    }
    _refuse_unreadable(path, entries)
    shapes = {key: tuple(entry["shape"]) for key, entry in entries.items()}
    architecture = _measure(path, shapes, prefix)
    _compare_with_layout(path, shapes, architecture)
    _check_scales(path, header, prefix, scaled)
    return architecture


def check_shapes(model: str, shapes: Mapping[str, tuple[int, ...]]) -> FluxArchitecture:
    """The architecture of a model that is in memory, by the names (without prefix) and shapes of its weights.

    Args:
        model: what errors call it.

    Raises:
        ModelError: it is not FLUX.1, takes other inputs, or has weights missing or unknown.
    """
    architecture = _measure(model, shapes, "")
    _compare_with_layout(model, shapes, architecture)
    return architecture


def scaled_layers(path: str | Path, header: WeightsHeader, prefix: str) -> dict[str, ScaledLayer]:
    """Find the scaled layers by name (without prefix), in the three ways in which ComfyUI does.

    Sources: ComfyUI comfy/utils.py `convert_old_quants` (a tensor `scaled_fp8` beside `….scale_weight`, or metadata),
    comfy/ops.py `_load_quantized_module` (a tensor `….comfy_quant` beside `….weight_scale`).

    Raises:
        ModelError: a layer's description is unreadable, or its format is not one of `SCALED_FORMATS`.
    """
    found = {}
    if "_quantization_metadata" not in header.metadata and _markers(prefix) & header.tensors.keys():
        old = (key.removesuffix(".scale_weight") for key in header.tensors if key.endswith(".scale_weight"))
        # ComfyUI reads these as e4m3, whatever dtype the marker has.
        found = {layer: ScaledLayer("float8_e4m3fn", f"{layer}.scale_weight") for layer in old}
    described = _layers_in_metadata(path, header) | _layers_in_tensors(path, header)
    ours = {layer: description for layer, description in described.items() if layer.startswith(prefix)}
    found |= {layer: _described(path, layer, description) for layer, description in ours.items()}
    return {layer.removeprefix(prefix): entry for layer, entry in found.items() if layer.startswith(prefix)}


def _find_prefix(path: str | Path, tensors: Mapping[str, Any]) -> str:
    marks = ("img_in.weight", "vector_in.in_layer.weight", "double_blocks.0.img_mod.lin.weight")
    for prefix in PREFIXES:
        if all(prefix + mark in tensors for mark in marks):
            return prefix
    if any("single_transformer_blocks." in key and "lora" not in key for key in tensors):
        raise ModelError(
            f"{path} is a FLUX model in diffusers' layout; the trainer reads the BFL layout. "
            "Load it in ComfyUI, save it with the Save Model node, and choose that file."
        )
    family = next((name for mark, name in _OTHER_FAMILIES if any(mark in key for key in tensors)), None)
    example = min(tensors, default="none")
    found = f"it is {family}" if family else f"it holds {len(tensors)} tensors, such as '{example}'"
    raise ModelError(f"{path} is not a FLUX.1 transformer: {found}. {REMEDY}")


def _layers_in_metadata(path: str | Path, header: WeightsHeader) -> dict[str, Any]:
    text = header.metadata.get("_quantization_metadata")
    if text is None:
        return {}
    try:
        return dict(parsed_json(text)["layers"])
    except (ValueError, TypeError, KeyError) as error:
        raise broken(Path(path), f"its quantisation metadata cannot be read ({error!r})") from error


def _layers_in_tensors(path: str | Path, header: WeightsHeader) -> dict[str, Any]:
    from safetensors import safe_open

    keys = [key for key in header.tensors if key.endswith(".comfy_quant")]
    described = {}
    if keys:
        with safe_open(str(path), framework="pt") as file:
            for key in keys:
                try:
                    described[key.removesuffix(".comfy_quant")] = parsed_json(file.get_tensor(key).numpy().tobytes())
                except (ValueError, TypeError) as error:
                    raise broken(Path(path), f"'{key}' does not say how the layer is quantised ({error})") from error
    return described


def _described(path: str | Path, layer: str, description: Any) -> ScaledLayer:
    name = description.get("format") if isinstance(description, dict) else None
    if not isinstance(name, str) or name not in SCALED_FORMATS:
        raise ModelError(
            f"{path} stores '{layer}' in the format {name!r}, made for inference kernels; training reads "
            f"{', '.join(SCALED_FORMATS)}. Choose the bf16, fp16 or fp8 file of the same model."
        )
    return ScaledLayer(name, f"{layer}.weight_scale")


def _keys_beside_weights(prefix: str, scaled: Mapping[str, ScaledLayer]) -> set[str]:
    """The keys that tell how weights are scaled. The scales of inputs are for kernels that quantise those as well."""
    keys = _markers(prefix)
    for layer, entry in scaled.items():
        beside = (f"{prefix}{layer}.{name}" for name in ("comfy_quant", "input_scale", "scale_input"))
        keys |= {entry.scale_key, *beside}
    return keys


def _markers(prefix: str) -> set[str]:
    return {"scaled_fp8", f"{prefix}scaled_fp8"}


def _check_scales(path: str | Path, header: WeightsHeader, prefix: str, scaled: Mapping[str, ScaledLayer]) -> None:
    """Refuse scales that are missing, or are not the one number per weight that ComfyUI computes with."""
    for layer, entry in scaled.items():
        shape = header.tensors.get(entry.scale_key, {"shape": None})["shape"]
        if shape not in ([], [1], [1, 1]):
            raise ModelError(
                f"{path} has no usable scale for '{prefix}{layer}.weight': '{entry.scale_key}' has the shape {shape}. "
                "Choose the bf16, fp16 or plain fp8 file of the same model."
            )


def _refuse_unreadable(path: str | Path, tensors: Mapping[str, Mapping[str, Any]]) -> None:
    for key, entry in sorted(tensors.items()):
        if entry["dtype"] not in READABLE_DTYPES:
            raise ModelError(
                f"{path} stores '{key}' as {entry['dtype']}. "
                f"Choose a file with weights in {', '.join(READABLE_DTYPES)}."
            )


def _measure(path: str | Path, shapes: Mapping[str, tuple[int, ...]], prefix: str) -> FluxArchitecture:
    matrices = ("img_in.weight", "txt_in.weight", "vector_in.in_layer.weight", "final_layer.linear.weight")
    for key in matrices:
        if len(shapes.get(key, ())) != 2:
            raise ModelError(f"{path} has no usable '{prefix}{key}' (shape {shapes.get(key)}). {REMEDY}")
    (hidden, in_channels), (_, context_width), (_, pooled_width), (out_channels, _) = (shapes[key] for key in matrices)
    if hidden % HEAD_WIDTH:
        raise ModelError(f"{path} has hidden size {hidden}, not a multiple of {HEAD_WIDTH} as in FLUX.1. {REMEDY}")
    if in_channels != out_channels:
        raise ModelError(
            f"{path} takes {in_channels} channels and gives {out_channels}: a FLUX.1 Fill or control model, whose "
            f"extra input pictures are not part of a training set. {REMEDY}"
        )
    return FluxArchitecture(
        hidden_size=hidden,
        heads=hidden // HEAD_WIDTH,
        double_blocks=_count_blocks(shapes, "double_blocks"),
        single_blocks=_count_blocks(shapes, "single_blocks"),
        context_width=context_width,
        pooled_width=pooled_width,
        in_channels=in_channels,
        guidance="guidance_in.in_layer.weight" in shapes,
        prefix=prefix,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
    )


def _count_blocks(shapes: Mapping[str, tuple[int, ...]], kind: str) -> int:
    return len({key.split(".")[1] for key in shapes if key.startswith(f"{kind}.")})


def _compare_with_layout(
    path: str | Path, shapes: Mapping[str, tuple[int, ...]], architecture: FluxArchitecture
) -> None:
    """Refuse a file whose tensors are not exactly the layout's: a weight left out or unread gives a wrong model."""
    found = {canonical(key): shape for key, shape in shapes.items()}
    expected = {source.key: source.shape for source in layout(architecture)}
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    misshapen = [key for key in sorted(expected.keys() & found.keys()) if expected[key] != found[key]]
    problems = (
        (missing, "lacks", lambda key: f"'{key}'"),
        (unknown, "holds unknown", lambda key: f"'{key}'"),
        (misshapen, "has other shapes than FLUX.1:", lambda key: f"'{key}' {found[key]}, not {expected[key]}"),
    )
    for keys, verb, describe in problems:
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            listed = ", ".join(describe(key) for key in keys[:3])
            raise ModelError(f"{path} is not a FLUX.1 transformer as it should be: it {verb} {listed}{more}. {REMEDY}")
