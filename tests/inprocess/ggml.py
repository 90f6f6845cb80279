"""Models as ComfyUI-GGUF holds them, by a stand-in: that pack is on no package index.

What others see of them is as there: a weight is a subclass of Tensor whose data are rows of bytes and whose `shape` is
that of what it stands for; `detach` and `clone` give the tensor itself; a quantised layer's part of `state_dict` is on
the meta device, the largest one's with one entry more; a LoRA is handed to the tensor and worked in when the layer
computes; and nothing says which file it is from.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy
import torch

# Kind -> bytes of a block, where its half-precision scales lie; its other bytes may be any.
SCALES = {"Q4_K": (144, (0, 2)), "Q5_K": (176, (0, 2)), "Q6_K": (210, (208,))}


def write(path: Path, tensors: dict[str, torch.Tensor], kind: str = "Q8_0", whole: str = "blocks.") -> Path:
    """A .gguf file: matrices with `whole` in their name in the type `kind`, the rest in float32.

    gguf cannot quantise to the K types: there the bytes are random, with scales that keep them small.
    """
    quantisation = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "flux")
    for name, tensor in tensors.items():
        data = tensor.float().numpy()
        if tensor.ndim != 2 or whole not in name:
            writer.add_tensor(name, data)
        else:
            packed = _random(data.shape, kind) if kind in SCALES else gguf.quants.quantize(data, quantisation)
            writer.add_tensor(name, packed, raw_dtype=quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _random(shape: tuple[int, int], kind: str) -> numpy.ndarray:
    size, places = SCALES[kind]
    blocks = numpy.random.default_rng(shape[0]).integers(0, 256, (shape[0], shape[1] // 256, size), dtype=numpy.uint8)
    for place in places:
        blocks[..., place : place + 2] = numpy.frombuffer(numpy.float16(2e-4).tobytes(), numpy.uint8)
    return blocks.reshape(shape[0], -1)


class Packed(torch.Tensor):
    """A weight as the file stores it."""

    @classmethod
    def of(cls, data: torch.Tensor, kind: gguf.GGMLQuantizationType, shape: torch.Size) -> Packed:
        return _marked(data.as_subclass(cls), SimpleNamespace(tensor_type=kind, tensor_shape=shape, patches=[]))

    def to(self, *arguments, **named):
        return _marked(super().to(*arguments, **named), self)

    def clone(self, *arguments, **named):
        return self

    def detach(self):
        return self

    @property
    def shape(self):
        return getattr(self, "tensor_shape", self.size())


def _marked(tensor: torch.Tensor, like) -> torch.Tensor:
    tensor.tensor_type = getattr(like, "tensor_type", None)
    tensor.tensor_shape = getattr(like, "tensor_shape", tensor.size())
    tensor.patches = list(getattr(like, "patches", ()))
    return tensor


def _is_quantised(weight) -> bool:
    return getattr(weight, "tensor_type", None) not in (None, 0, 1)


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .gguf file, packed."""
    state = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = torch.Size(int(side) for side in reversed(tensor.shape))
        data = torch.from_numpy(tensor.data.copy())
        data = data.view(shape) if tensor.tensor_type in (0, 1) else data
        state[tensor.name] = Packed.of(data, tensor.tensor_type, shape)
    largest = max((name for name in state if _is_quantised(state[name])), key=lambda name: state[name].numel())
    state[largest].is_largest = True
    return state


def operations():
    """ComfyUI's layers, of which linear ones dequantise their weight when they compute."""
    import comfy.lora
    import comfy.ops

    class Linear(comfy.ops.manual_cast.Linear):
        dequant_dtype = patch_dtype = None

        def __init__(self, in_features, out_features, bias=True, device=None, dtype=None):
            torch.nn.Module.__init__(self)
            self.in_features, self.out_features = in_features, out_features
            self.weight = self.bias = None

        def _load_from_state_dict(self, state, prefix, metadata, strict, missing, unexpected, errors):
            for name in ("weight", "bias"):
                if prefix + name in state:
                    setattr(self, name, torch.nn.Parameter(state[prefix + name], requires_grad=False))
            if self.weight is None:  # as CLIP-L's projection, which its file may lack
                self.weight = torch.nn.Parameter(torch.zeros(self.out_features, self.in_features), requires_grad=False)
                missing.append(f"{prefix}weight")

        def _save_to_state_dict(self, destination, prefix, keep_vars):
            if not _is_quantised(self.weight):
                return super()._save_to_state_dict(destination, prefix, keep_vars)
            for name in ("weight", "bias"):
                if (held := getattr(self, name)) is not None:
                    destination[prefix + name] = torch.zeros_like(held, device="meta")
            if getattr(self.weight, "is_largest", False):
                destination[f"{prefix}temp.weight"] = torch.empty(self.weight.shape, device="meta")

        def forward(self, inputs):
            bias = None if self.bias is None else self._whole(self.bias).to(inputs.dtype)
            return torch.nn.functional.linear(inputs, self._whole(self.weight).to(inputs.dtype), bias)

        def _whole(self, weight):
            raw = weight.as_subclass(torch.Tensor)
            if not _is_quantised(weight):
                return raw
            values = torch.from_numpy(gguf.quants.dequantize(raw.numpy(), weight.tensor_type)).reshape(weight.shape)
            for patches, key in weight.patches:
                values = comfy.lora.calculate_weight(patches, values, key)
            return values

    class Operations(comfy.ops.manual_cast):
        pass

    Operations.Linear = Linear
    return Operations


def with_packed_patches(patcher):
    """The same model under a patcher that hands patches to packed weights."""
    import comfy.model_patcher
    import comfy.utils

    class PackedPatcher(comfy.model_patcher.ModelPatcher):
        def patch_weight_to_device(self, key, device_to=None, inplace_update=False, **named):
            weight = comfy.utils.get_attr(self.model, key)
            if key not in self.patches or not _is_quantised(weight):
                return super().patch_weight_to_device(key, device_to, inplace_update, **named)
            patched = weight.to(device_to)
            patched.patches = [(self.patches[key], key)]
            comfy.utils.set_attr_param(self.model, key, patched)

        def unpatch_model(self, device_to=None, unpatch_weights=True):
            for weight in self.model.parameters() if unpatch_weights else ():
                if _is_quantised(weight):
                    weight.patches = []
            return super().unpatch_model(device_to, unpatch_weights)

    patcher.__class__ = PackedPatcher
    return patcher


def load(path: Path):
    """A MODEL of a .gguf file."""
    import comfy.sd

    options = {"custom_operations": operations()}
    return with_packed_patches(comfy.sd.load_diffusion_model_state_dict(read(path), model_options=options))
