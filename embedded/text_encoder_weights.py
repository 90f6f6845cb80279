"""Seeded weights of a small CLIP-L and T5 encoder, for ComfyUI's real tokenizers: each prompt gets its own embedding.

Words keep their own random embedding, and attention with nearly equal weights mixes in the others, so an embedding
tells which words a prompt has. Nothing is known about what the words mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import token_limits

CLIP_WIDTH = 64
CLIP_LAYERS = 2  # ComfyUI tells CLIP-L from T5 by its second layer
CLIP_VOCABULARY = 49408
T5_WIDTH = 128
T5_LAYERS = 2
T5_VOCABULARY = 32128
T5_PAD = 0
T5_LEAST_TOKENS = 64  # to which the pretrained family pads prompts; FLUX, and the seeded family, to 256
T5_HEADS = 2

# Both in the terms of ComfyUI's config files; what is left out stays as in the large models.
CLIP_CONFIG = {
    "hidden_size": CLIP_WIDTH,
    "num_attention_heads": 1,
    "num_hidden_layers": CLIP_LAYERS,
    "intermediate_size": 2 * CLIP_WIDTH,
    "projection_dim": CLIP_WIDTH,
}
T5_CONFIG = {
    "d_model": T5_WIDTH,
    "d_kv": T5_WIDTH // T5_HEADS,
    "num_heads": T5_HEADS,
    "d_ff": 2 * T5_WIDTH,
    "num_layers": T5_LAYERS,
}


def clip_weights(seed: int = 0) -> dict[str, Tensor]:
    """CLIP-L text model of width 64 by transformers' keys; the token embedding float16, the rest float32."""
    uniform = _uniform(seed)
    width, prefix = CLIP_WIDTH, "text_model."
    weights = {
        f"{prefix}embeddings.token_embedding.weight": uniform(CLIP_VOCABULARY, width, deviation=1.0).half(),
        f"{prefix}embeddings.position_embedding.weight": uniform(token_limits.CLIP_L, width, deviation=0.2),
        f"{prefix}final_layer_norm.weight": torch.ones(width),
        f"{prefix}final_layer_norm.bias": torch.zeros(width),
        "text_projection.weight": torch.eye(width),
    }
    for layer in range(CLIP_LAYERS):
        block = f"{prefix}encoder.layers.{layer}."
        # Pooling reads the end token: the mean over the words must outweigh that token's own embedding.
        gains = {"q_proj": 0.7, "k_proj": 0.7, "v_proj": 1.0, "out_proj": 4.0}
        for name, gain in gains.items():
            weights[f"{block}self_attn.{name}.weight"] = uniform(width, width, deviation=gain * width**-0.5)
            weights[f"{block}self_attn.{name}.bias"] = torch.zeros(width)
        weights[f"{block}mlp.fc1.weight"] = uniform(2 * width, width, deviation=width**-0.5)
        weights[f"{block}mlp.fc1.bias"] = torch.zeros(2 * width)
        weights[f"{block}mlp.fc2.weight"] = uniform(width, 2 * width, deviation=(2 * width) ** -0.5)
        weights[f"{block}mlp.fc2.bias"] = torch.zeros(width)
        for norm in ("layer_norm1", "layer_norm2"):
            weights[f"{block}{norm}.weight"] = torch.ones(width)
            weights[f"{block}{norm}.bias"] = torch.zeros(width)
    return weights


def t5_weights(seed: int = 0) -> dict[str, Tensor]:
    """T5 encoder of width 128 by transformers' keys; the token embedding float16, the rest float32.

    The padding token is zero at its input. FLUX does not mask padding, and at the output all those positions hold a
    summary of the prompt, as they do in the real one.
    """
    uniform = _uniform(seed)
    width = T5_WIDTH
    embedding = uniform(T5_VOCABULARY, width, deviation=1.0).half()
    embedding[T5_PAD] = 0
    weights = {"shared.weight": embedding, "encoder.final_layer_norm.weight": torch.ones(width)}
    for layer in range(T5_LAYERS):
        attention, feed_forward = (f"encoder.block.{layer}.layer.{part}." for part in (0, 1))
        # T5 does not divide its scores by the square root of the head width, so queries and keys start small.
        gains = {"q": 0.3, "k": 0.3, "v": 1.0, "o": 1.0}
        for name, gain in gains.items():
            weights[f"{attention}SelfAttention.{name}.weight"] = uniform(width, width, deviation=gain * width**-0.5)
        for name in ("wi_0", "wi_1"):
            weights[f"{feed_forward}DenseReluDense.{name}.weight"] = uniform(2 * width, width, deviation=width**-0.5)
        weights[f"{feed_forward}DenseReluDense.wo.weight"] = uniform(width, 2 * width, deviation=(2 * width) ** -0.5)
        for part in (attention, feed_forward):
            weights[f"{part}layer_norm.weight"] = torch.ones(width)
    relative = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    weights[relative] = uniform(32, T5_HEADS, deviation=0.3)
    return weights


def _uniform(seed: int):
    """Uniform random tensors of a given standard deviation: the generator's bits scaled, alike on every machine."""
    generator = torch.Generator("cpu").manual_seed(seed)

    def draw(*shape: int, deviation: float) -> Tensor:
        return (torch.rand(*shape, generator=generator) * 2 - 1) * (deviation * 3**0.5)

    return draw
