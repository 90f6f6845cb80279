"""What a LoRA file is that training cannot start from: its family, by the names of its tensors, and what helps.

The names are those of the projects' own models and trainers. What ComfyUI's nodes follow is in its comfy/lora.py and
comfy/weight_adapter.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_ANOTHER = "Choose a LoRA of FLUX.1."
_ON_TOP = "Choose another LoRA; or load it onto the MODEL with ComfyUI's own node, and train a new one on top of it."
_TEXT_ENCODERS = ("lora_te", "text_encoder")  # kohya and OneTrainer; diffusers and ComfyUI
# What the name of one tensor of the transformer has -> what the file is. The first that fits counts.
_FAMILIES = {
    r"(^|\.)(img_in|x_embedder|conv_in)\.weight$": "a whole model, not a LoRA",
    r"(double|single)_stream_modulation|to_qkv_mlp_proj|ff(_context)?[._]linear_in": "a LoRA of FLUX.2",
    r"distilled_guidance_layer": "a LoRA of Chroma",
    r"context_refiner|noise_refiner|cap_embedder|(^|[._])layers[._]\d+[._](attention|feed_forward|adaLN)": (
        "a LoRA of Z-Image or Lumina"
    ),
    r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|ffn)[._]": "a LoRA of Wan",
    r"(img|txt)_mlp[._]net[._]|(img|txt)_mod[._]1([._]|$)": "a LoRA of Qwen-Image",
    r"individual_token_refiner|_mlp[._]fc\d|_mod[._]linear|\.(img|txt)_attn_(qkv|proj)": "a LoRA of HunyuanVideo",
    r"(double|single)_stream_blocks": "a LoRA of HiDream",
    r"joint_transformer_blocks": "a LoRA of AuraFlow",
    r"joint_blocks": "a LoRA of Stable Diffusion 3",
    r"(down|up|input|output)_blocks.*transformer_blocks[._][1-9]": "a LoRA of SDXL",
    r"(down|up|input|output)_blocks|mid(dle)?_block": "a LoRA of Stable Diffusion 1.5 or 2",
    r"transformer_blocks[._]\d+[._]attn1[._]": "a LoRA of LTX-Video or PixArt",
    r"ip_adapter|image_proj": "an IP-Adapter",
    r"^bundle_emb\.|^emb_params$|^string_to_param|^(clip_l|clip_g|t5xxl)$": (
        "embeddings for a text encoder (a textual inversion), which is not trained here"
    ),
    r"^(double|single)_blocks\..*_norm\.scale$": "a FLUX.1 control LoRA (Depth, Canny), for a model with more inputs",
}
# What a key has -> what that says of the file, and whether ComfyUI applies it to FLUX.1's layers.
_KINDS = {
    r"\.diff(_b)?$": ("changed norms, biases or whole weights", True),
    r"\.w_norm$": ("changed norms", True),
    r"\.lokr_": ("a LoKr", True),
    r"\.hada_": ("a LoHa", True),
    r"\.oft_": ("an OFT", True),
    r"\.a1\.weight$": ("a GLoRA", True),
    r"\.lora_mid\.": ("a LoCon with a middle matrix", False),
    r"\.lora_B\.bias$": ("a LoRA with biases", False),
}


def described(key: str, keys: Collection[str], followed: Collection[str]) -> tuple[str, str]:
    """What a file is that has the tensor `key`, which is no part of a FLUX.1 transformer's LoRA; and what to do.

    Args:
        keys: of all its tensors.
        followed: what stands before a key's ending where ComfyUI's own node finds a layer of FLUX.1 by it.
    """
    transformer = [name for name in keys if not name.startswith(_TEXT_ENCODERS)]
    if not transformer:
        return "it is a LoRA of text encoders alone, which are not trained here", _ANOTHER
    for pattern, family in _FAMILIES.items():
        if any(re.search(pattern, name) for name in transformer):
            return f"it is {family}", _ANOTHER
    applied = all(_is_followed(name, followed) for name in transformer)
    if key.startswith(_TEXT_ENCODERS):
        return "it has parts for a text encoder, which is not trained here", _ON_TOP if applied else _ANOTHER
    for pattern, (kind, is_applied) in _KINDS.items():
        if re.search(pattern, key):
            return f"it has {kind}", _ON_TOP if is_applied and applied else _ANOTHER
    return "it has something that FLUX.1 lacks", _ANOTHER


def _is_followed(key: str, followed: Collection[str]) -> bool:
    return any(key[: dot.start()] in followed for dot in re.finditer(r"\.", key))
