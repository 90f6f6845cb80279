"""FLUX.1 weights: what a file holds, and the way from its BFL layout to diffusers' FluxTransformer2DModel.

Files are read by memory map, tensor by tensor, and quantised as they are read, so that loading costs about what the
model takes in the end. Nothing here ever unpickles. How weights are quantised is in `quantisation.py`, the forward pass
in `velocity.py`, the adapter in `adapter.py`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import ModelError
from ...files import parsed_json
from ...progress import Progress, silent
from . import quantisation

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

logger = logging.getLogger(__name__)

HEAD_WIDTH = 128  # channels per attention head in every FLUX.1; ComfyUI: hidden_size // sum(axes_dim)
ROPE_AXES = (16, 56, 56)  # channels of a head given to index, row and column; BFL flux/util.py
TIMESTEP_WIDTH = 256  # sinusoidal features of sigma and of guidance; BFL flux/modules/layers.py
MLP_RATIO = 4  # feed-forward width over hidden size; BFL flux/util.py
PREFIXES = (
    "model.diffusion_model.",
    "diffusion_model.",
    "",
)  # checkpoint, saved diffusion model, bare transformer
READABLE_DTYPES = ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")  # a cast turns these into the training dtype
# Formats of scaled weights that ComfyUI multiplies by one scale (comfy/quant_ops.py QUANT_ALGOS) -> what it stores.
SCALED_FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
# The linear layers in the blocks are quantised, and modulation with them: that is 27 % of FLUX.1-dev, 6.5 GB in bf16,
# for which a card that needs NF4 has no room. The embedders and what comes after the blocks (final modulation and
# projection) stay in bf16, being 1 % of the weights, and all norms and biases do. Peers: diffusers'
# flux_lora_quantization quantises the embedders too, which saves 0.1 GB and on normally distributed weights gives the
# velocity a 1.4 times larger error; vllm-omni (PR 2795), which quantises activations as well, leaves out modulation.
QUANTISED_PARENTS = ("transformer_blocks.", "single_transformer_blocks.")

_HEADER_LIMIT = 100_000_000  # bytes; the safetensors library's own limit
_SAMPLES, _SAMPLE_BYTES = 4, 4096  # what the fingerprint reads of each tensor: 16 KiB, at most
_REMEDY = "Choose a FLUX.1 model (dev, schnell, Krea or Kontext) as one .safetensors file."
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
class FluxArchitecture:
    """The shape of one FLUX.1 transformer, read from its file.

    `in_channels` counts a 2x2 patch: latent channels * 4. `prefix` is what stands before each key in the file.
    `parameters` counts weights, not bytes.
    """

    hidden_size: int
    heads: int
    double_blocks: int
    single_blocks: int
    context_width: int
    pooled_width: int
    in_channels: int
    guidance: bool
    prefix: str
    parameters: int


@dataclass(frozen=True)
class Source:
    """One tensor of the BFL layout, and the diffusers parameters that are made of its rows.

    `parameters` gives for each diffusers name the row ranges (start, stop) that, joined in that order, are its value.
    """

    key: str
    shape: tuple[int, ...]
    parameters: Mapping[str, tuple[tuple[int, int], ...]]


@dataclass(frozen=True)
class StoredWeight:
    """Rows of one tensor as the file stores them, and the one number, float32, that ComfyUI multiplies them by."""

    values: torch.Tensor
    scale: torch.Tensor | None

    def to(self, dtype: torch.dtype) -> torch.Tensor:
        """What ComfyUI computes with in `dtype` (comfy_kitchen `dequantize_per_tensor_fp8`), in memory of its own."""
        # copy=True: an aligned allocation of our own, because a matmul's last bit may depend on alignment and
        # because the file may be replaced while training goes on.
        values = self.values.to(dtype, copy=True)
        return values if self.scale is None else values.mul_(self.scale.to(dtype))


def inspect(path: str | Path) -> FluxArchitecture:
    """Read a file's architecture from its header, and from the few bytes that say how scaled weights are to be read.

    Raises:
        ModelError: no such file, not safetensors, truncated, not FLUX.1, quantised in a way that cannot be trained on,
            or with weights missing or unknown.
    """
    header = _read_header(path)
    prefix = _find_prefix(path, header.tensors)
    scaled = _scaled_layers(path, header, prefix)
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


def load_transformer(
    path: str | Path,
    precision: str = "bf16",
    device: str | torch.device = "cpu",
    progress: Progress = silent,
    in_host_memory: tuple[str, ...] = (),
    shard: Callable[[torch.nn.Module], None] | None = None,
) -> FluxTransformer2DModel:
    """Build diffusers' transformer from a BFL-layout file, in `precision` on `device`, frozen and in eval mode.

    Host memory peaks at about the model in `precision` (on the CPU) or at one tensor (on another device): each tensor
    is quantised as it is read, on the device.

    Args:
        path: a file that `inspect` accepts.
        precision: one of `quantisation.PRECISIONS`; for the quantised ones see `QUANTISED_PARENTS`.
        device: where the model goes.
        progress: called before each tensor.
        in_host_memory: what the names of parameters begin with that go back to the CPU once they are quantised.
        shard: called with each block once it has its weights, before the next one's are read.

    Raises:
        ModelError: as for `inspect`.
        SettingsError: no such precision, or nf4 without bitsandbytes.
    """
    dtype = quantisation.compute_dtype(precision)
    architecture = inspect(path)
    transformer = empty_transformer(architecture)
    sizes = weight_sizes(architecture, precision)
    done = quantised = 0
    for block, tensors in groupby(stream(path, architecture, device), key=lambda tensor: _block_of(tensor[0])):
        for name, stored in tensors:
            progress(done, len(sizes), f"Loading the base model in {precision}")
            done += 1
            quantised += _put(transformer, name, precision, stored)
            if name.startswith(in_host_memory):
                for parameter in transformer.get_submodule(name.rpartition(".")[0]).parameters():
                    if not parameter.is_meta:
                        parameter.data = parameter.data.cpu()
        if block and shard:
            shard(transformer.get_submodule(block))
    logger.info(
        "Base model %s: %d of %d tensors in %s, the others in %s, %.2f GB in all",
        *(Path(path).name, quantised, len(sizes), precision, dtype, sum(sizes.values()) / 1e9),
    )
    return transformer.eval()


def is_quantised(name: str, shape: tuple[int, ...], precision: str) -> bool:
    """Whether the diffusers parameter `name` is kept quantised: the matrix of a linear layer in a block."""
    return precision in quantisation.QUANTISED and len(shape) == 2 and name.startswith(QUANTISED_PARENTS)


def weight_sizes(architecture: FluxArchitecture, precision: str) -> dict[str, int]:
    """Bytes of each diffusers parameter, scales included, as `load_transformer` would keep it; in the layout's order.

    Raises:
        SettingsError: no such precision.
    """
    dtype = quantisation.compute_dtype(precision)
    sizes = {}
    for source in layout(architecture):
        for name, ranges in source.parameters.items():
            shape = (sum(stop - start for start, stop in ranges), *source.shape[1:])
            if is_quantised(name, shape, precision):
                sizes[name] = quantisation.weight_bytes(shape, precision)
            else:
                sizes[name] = math.prod(shape) * dtype.itemsize
    return sizes


def empty_transformer(architecture: FluxArchitecture) -> FluxTransformer2DModel:
    """Build the transformer on the meta device: every module in its place, no weight allocated."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        return FluxTransformer2DModel(
            patch_size=1,
            in_channels=architecture.in_channels,
            num_layers=architecture.double_blocks,
            num_single_layers=architecture.single_blocks,
            attention_head_dim=HEAD_WIDTH,
            num_attention_heads=architecture.heads,
            joint_attention_dim=architecture.context_width,
            pooled_projection_dim=architecture.pooled_width,
            guidance_embeds=architecture.guidance,
            axes_dims_rope=ROPE_AXES,
        )


def stream(
    path: str | Path, architecture: FluxArchitecture, device: str | torch.device = "cpu"
) -> Iterator[tuple[str, StoredWeight]]:
    """Yield every diffusers parameter by name, one at a time from the memory map; on the CPU it still lies in the map.

    Raises:
        ModelError: as for `inspect`.
    """
    from safetensors import safe_open

    scaled = _scaled_layers(path, _read_header(path), architecture.prefix)
    with safe_open(str(path), framework="pt") as file:
        stored = {_canonical(key): key for key in file.keys()}  # noqa: SIM118 (the file is no mapping)
        for source in layout(architecture):
            mapped, scale = file.get_tensor(stored[architecture.prefix + source.key]), None
            layer = scaled.get(source.key.removesuffix(".weight"))
            if layer and source.key.endswith(".weight"):
                mapped = mapped.to(SCALED_FORMATS[layer.format])  # as ComfyUI does, whatever the file's own dtype is
                scale = file.get_tensor(layer.scale_key).float().reshape(()).to(device)
            for name, ranges in source.parameters.items():
                yield name, StoredWeight(_join(mapped, ranges).to(device), scale)


def layout(architecture: FluxArchitecture) -> list[Source]:
    """List every tensor of the BFL layout with its shape and where its rows go in diffusers' model.

    Fused projections are split: qkv to to_q, to_k, to_v; a single block's linear1 to the same and proj_mlp. The final
    modulation is (shift, scale) in BFL and (scale, shift) in diffusers, so its halves change places.
    Sources: BFL flux/model.py and flux/modules/layers.py; diffusers models/transformers/transformer_flux.py.
    """
    hidden = architecture.hidden_size
    sources = [
        *_linear("img_in", architecture.in_channels, {"x_embedder": hidden}),
        *_linear("txt_in", architecture.context_width, {"context_embedder": hidden}),
        *_embedder("time_in", TIMESTEP_WIDTH, "timestep_embedder", hidden),
        *_embedder("vector_in", architecture.pooled_width, "text_embedder", hidden),
    ]
    if architecture.guidance:
        sources += _embedder("guidance_in", TIMESTEP_WIDTH, "guidance_embedder", hidden)
    for index in range(architecture.double_blocks):
        sources += _double_block(f"double_blocks.{index}", f"transformer_blocks.{index}", hidden)
    for index in range(architecture.single_blocks):
        sources += _single_block(f"single_blocks.{index}", f"single_transformer_blocks.{index}", hidden)
    swapped = ((hidden, 2 * hidden), (0, hidden))
    sources += [
        Source("final_layer.adaLN_modulation.1.weight", (2 * hidden, hidden), {"norm_out.linear.weight": swapped}),
        Source("final_layer.adaLN_modulation.1.bias", (2 * hidden,), {"norm_out.linear.bias": swapped}),
        *_linear("final_layer.linear", hidden, {"proj_out": architecture.in_channels}),
    ]
    return sources


def fingerprint(path: str | Path) -> str:
    """Identify a safetensors file by its content, reading at most 16 KiB of each tensor: 16 hexadecimal digits.

    The tensors' names, types, shapes and places are hashed, with evenly spaced samples of each (tensors up to 16 KiB
    whole). The file's name, date and metadata don't count: a copy has the same fingerprint. A change that misses every
    sample of every tensor would not be seen; no merge, conversion or further training is that small.

    Raises:
        ModelError: not a whole safetensors file.
    """
    header = _read_header(path)
    digest = hashlib.sha256(json.dumps(header.tensors, sort_keys=True, separators=(",", ":")).encode())
    with open(path, "rb") as file:
        for key in sorted(header.tensors):
            start, stop = header.tensors[key]["data_offsets"]
            for offset in _sample_offsets(stop - start):
                file.seek(header.data_start + start + offset)
                digest.update(file.read(min(_SAMPLE_BYTES, stop - start - offset)))
    return digest.hexdigest()[:16]


def _sample_offsets(size: int) -> list[int]:
    if size <= _SAMPLES * _SAMPLE_BYTES:
        return list(range(0, size, _SAMPLE_BYTES))
    return [(size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1) for sample in range(_SAMPLES)]


def _join(tensor: torch.Tensor, ranges: tuple[tuple[int, int], ...]) -> torch.Tensor:
    pieces = [tensor[start:stop] for start, stop in ranges]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _linear(key: str, width: int, outputs: Mapping[str, int]) -> list[Source]:
    """A linear layer of the file (`width` inputs) whose output rows belong to these diffusers layers, in this order."""
    rows, total = {}, 0
    for name, count in outputs.items():
        rows[name] = ((total, total + count),)
        total += count
    return [
        Source(f"{key}.weight", (total, width), {f"{name}.weight": span for name, span in rows.items()}),
        Source(f"{key}.bias", (total,), {f"{name}.bias": span for name, span in rows.items()}),
    ]


def _embedder(key: str, width: int, name: str, hidden: int) -> list[Source]:
    return [
        *_linear(f"{key}.in_layer", width, {f"time_text_embed.{name}.linear_1": hidden}),
        *_linear(f"{key}.out_layer", hidden, {f"time_text_embed.{name}.linear_2": hidden}),
    ]


def _norm(key: str, name: str) -> Source:
    return Source(f"{key}.scale", (HEAD_WIDTH,), {f"{name}.weight": ((0, HEAD_WIDTH),)})


def _double_block(key: str, name: str, hidden: int) -> list[Source]:
    streams = (
        ("img", "norm1", "ff", ("to_q", "to_k", "to_v", "to_out.0"), ("norm_q", "norm_k")),
        (
            "txt",
            "norm1_context",
            "ff_context",
            ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
            ("norm_added_q", "norm_added_k"),
        ),
    )
    sources = []
    for stream_name, modulation, feed_forward, (query, key_, value, out), (query_norm, key_norm) in streams:
        prefix, attention = f"{key}.{stream_name}", f"{name}.attn"
        sources += [
            *_linear(f"{prefix}_mod.lin", hidden, {f"{name}.{modulation}.linear": 6 * hidden}),
            *_linear(f"{prefix}_attn.qkv", hidden, {f"{attention}.{part}": hidden for part in (query, key_, value)}),
            _norm(f"{prefix}_attn.norm.query_norm", f"{attention}.{query_norm}"),
            _norm(f"{prefix}_attn.norm.key_norm", f"{attention}.{key_norm}"),
            *_linear(f"{prefix}_attn.proj", hidden, {f"{attention}.{out}": hidden}),
            *_linear(f"{prefix}_mlp.0", hidden, {f"{name}.{feed_forward}.net.0.proj": MLP_RATIO * hidden}),
            *_linear(f"{prefix}_mlp.2", MLP_RATIO * hidden, {f"{name}.{feed_forward}.net.2": hidden}),
        ]
    return sources


def _single_block(key: str, name: str, hidden: int) -> list[Source]:
    fused = {f"{name}.attn.{part}": hidden for part in ("to_q", "to_k", "to_v")}
    return [
        *_linear(f"{key}.modulation.lin", hidden, {f"{name}.norm.linear": 3 * hidden}),
        *_linear(f"{key}.linear1", hidden, fused | {f"{name}.proj_mlp": MLP_RATIO * hidden}),
        *_linear(f"{key}.linear2", (1 + MLP_RATIO) * hidden, {f"{name}.proj_out": hidden}),
        _norm(f"{key}.norm.query_norm", f"{name}.attn.norm_q"),
        _norm(f"{key}.norm.key_norm", f"{name}.attn.norm_k"),
    ]


@dataclass(frozen=True)
class _Header:
    """A file's table of tensors, its metadata, and the byte at which the tensors' data starts."""

    tensors: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    data_start: int


@dataclass(frozen=True)
class _ScaledLayer:
    """How one layer's weight is scaled: a name in `SCALED_FORMATS`, and the file's key of the scale."""

    format: str
    scale_key: str


def _block_of(name: str) -> str:
    """The block that a diffusers parameter belongs to, such as `transformer_blocks.3`; '' for those of none."""
    return ".".join(name.split(".")[:2]) if name.startswith(QUANTISED_PARENTS) else ""


def _put(transformer: FluxTransformer2DModel, name: str, precision: str, stored: StoredWeight) -> bool:
    """Give the empty model its parameter `name`; whether it is kept quantised."""
    quantised = is_quantised(name, stored.values.shape, precision)
    if quantised:
        _set_quantised(transformer, name, precision, stored)
    else:
        module, _, leaf = name.rpartition(".")
        parameter = torch.nn.Parameter(stored.to(quantisation.compute_dtype(precision)), requires_grad=False)
        setattr(transformer.get_submodule(module), leaf, parameter)
    return quantised


def _set_quantised(transformer: FluxTransformer2DModel, name: str, precision: str, stored: StoredWeight) -> None:
    """Put a quantised layer in the place of the empty one whose weight is `name`; its bias is set after it."""
    if precision == "fp8" and stored.values.dtype == torch.float8_e4m3fn:
        tensors = quantisation.fp8_as_stored(stored.values, stored.scale)
    else:
        tensors = quantisation.quantise(stored.values if stored.scale is None else stored.to(torch.float32), precision)
    parent, _, child = name.removesuffix(".weight").rpartition(".")
    holder = transformer.get_submodule(parent)
    setattr(holder, child, quantisation.QuantisedLinear(precision, tensors, getattr(holder, child).bias))


def _read_header(path: str | Path) -> _Header:
    file_path = Path(path)
    if not file_path.is_file():
        raise ModelError(f"There is no model file {file_path}. Choose another model, or put the file back.")
    size = file_path.stat().st_size
    with open(file_path, "rb") as file:
        opening = file.read(8)
        _refuse_other_formats(file_path, opening)
        length = int.from_bytes(opening, "little")
        if size < 8 or length > min(_HEADER_LIMIT, size - 8):
            raise _broken(file_path, f"its header should end at byte {8 + length:,}, the file has {size:,}")
        header = _parse_header(file_path, file.read(length))
    metadata = header.pop("__metadata__", {})
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != size:
        raise _broken(file_path, f"its header promises {end:,} bytes, the file has {size:,}")
    return _Header(header, metadata, 8 + length)


def _parse_header(path: Path, content: bytes) -> dict[str, dict[str, Any]]:
    try:
        header = parsed_json(content)
        if not isinstance(header.get("__metadata__", {}), dict):
            raise ValueError("its metadata make no sense")
        for key, entry in header.items():
            if key != "__metadata__":
                start, stop = entry["data_offsets"]
                if not (entry["dtype"] and 0 <= start <= stop and all(side >= 0 for side in entry["shape"])):
                    raise ValueError(f"the entry of '{key}' makes no sense")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _broken(path, f"its header cannot be read ({error})") from error
    return header


def _broken(path: Path, reason: str) -> ModelError:
    return ModelError(f"{path} is not a whole safetensors file: {reason}. Download or copy it again.")


def _refuse_other_formats(path: Path, opening: bytes) -> None:
    if opening.startswith(b"GGUF"):
        raise ModelError(f"{path} is a GGUF file, whose quantised weights cannot be trained on. {_REMEDY}")
    # torch.save writes a zip (PK) or a bare pickle (its protocol); safetensors starts with a small 64-bit number.
    pickled = opening.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
    if pickled and opening[4:] != bytes(4):
        raise ModelError(f"{path} is a pickle, which can run any code when opened, so it is not read. {_REMEDY}")


def _canonical(key: str) -> str:
    """BFL's name of a query or key norm ends in `scale`; files written by ComfyUI say `weight`."""
    return f"{key[: -len('weight')]}scale" if key.endswith(("query_norm.weight", "key_norm.weight")) else key


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
    raise ModelError(f"{path} is not a FLUX.1 transformer: {found}. {_REMEDY}")


def _scaled_layers(path: str | Path, header: _Header, prefix: str) -> dict[str, _ScaledLayer]:
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
        found = {layer: _ScaledLayer("float8_e4m3fn", f"{layer}.scale_weight") for layer in old}
    described = _layers_in_metadata(path, header) | _layers_in_tensors(path, header)
    ours = {layer: description for layer, description in described.items() if layer.startswith(prefix)}
    found |= {layer: _described(path, layer, description) for layer, description in ours.items()}
    return {layer.removeprefix(prefix): entry for layer, entry in found.items() if layer.startswith(prefix)}


def _layers_in_metadata(path: str | Path, header: _Header) -> dict[str, Any]:
    text = header.metadata.get("_quantization_metadata")
    if text is None:
        return {}
    try:
        return dict(parsed_json(text)["layers"])
    except (ValueError, TypeError, KeyError) as error:
        raise _broken(Path(path), f"its quantisation metadata cannot be read ({error!r})") from error


def _layers_in_tensors(path: str | Path, header: _Header) -> dict[str, Any]:
    from safetensors import safe_open

    keys = [key for key in header.tensors if key.endswith(".comfy_quant")]
    described = {}
    if keys:
        with safe_open(str(path), framework="pt") as file:
            for key in keys:
                try:
                    described[key.removesuffix(".comfy_quant")] = parsed_json(file.get_tensor(key).numpy().tobytes())
                except (ValueError, TypeError) as error:
                    raise _broken(Path(path), f"'{key}' does not say how the layer is quantised ({error})") from error
    return described


def _described(path: str | Path, layer: str, description: Any) -> _ScaledLayer:
    name = description.get("format") if isinstance(description, dict) else None
    if not isinstance(name, str) or name not in SCALED_FORMATS:
        raise ModelError(
            f"{path} stores '{layer}' in the format {name!r}, made for inference kernels; training reads "
            f"{', '.join(SCALED_FORMATS)}. Choose the bf16, fp16 or fp8 file of the same model."
        )
    return _ScaledLayer(name, f"{layer}.weight_scale")


def _keys_beside_weights(prefix: str, scaled: Mapping[str, _ScaledLayer]) -> set[str]:
    """The keys that tell how weights are scaled. The scales of inputs are for kernels that quantise those as well."""
    keys = _markers(prefix)
    for layer, entry in scaled.items():
        beside = (f"{prefix}{layer}.{name}" for name in ("comfy_quant", "input_scale", "scale_input"))
        keys |= {entry.scale_key, *beside}
    return keys


def _markers(prefix: str) -> set[str]:
    return {"scaled_fp8", f"{prefix}scaled_fp8"}


def _check_scales(path: str | Path, header: _Header, prefix: str, scaled: Mapping[str, _ScaledLayer]) -> None:
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
            raise ModelError(f"{path} has no usable '{prefix}{key}' (shape {shapes.get(key)}). {_REMEDY}")
    (hidden, in_channels), (_, context_width), (_, pooled_width), (out_channels, _) = (shapes[key] for key in matrices)
    if hidden % HEAD_WIDTH:
        raise ModelError(f"{path} has hidden size {hidden}, not a multiple of {HEAD_WIDTH} as in FLUX.1. {_REMEDY}")
    if in_channels != out_channels:
        raise ModelError(
            f"{path} takes {in_channels} channels and gives {out_channels}: a FLUX.1 Fill or control model, whose "
            f"extra input pictures are not part of a training set. {_REMEDY}"
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
    found = {_canonical(key): shape for key, shape in shapes.items()}
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
            raise ModelError(f"{path} is not a FLUX.1 transformer as it should be: it {verb} {listed}{more}. {_REMEDY}")
