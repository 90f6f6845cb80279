"""What the tiny FLUX's text encoders make of a prompt, without ComfyUI: the same tensors that its CLIP socket gives.

The tokenizers are those that ComfyUI brings, in `comfy/text_encoders/t5_tokenizer` and `comfy/sd1_tokenizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import token_limits
from .text_encoder_weights import (
    CLIP_CONFIG,
    CLIP_VOCABULARY,
    T5_CONFIG,
    T5_LEAST_TOKENS,
    T5_PAD,
    T5_VOCABULARY,
    clip_weights,
    t5_weights,
)


@torch.no_grad()
def embed(prompts: Sequence[str], comfyui: str | Path, seed: int = 0) -> tuple[Tensor, Tensor]:
    """T5 embeddings `(prompts, T5_LEAST_TOKENS, 128)` and pooled CLIP-L embeddings `(prompts, 64)`, float32.

    Args:
        comfyui: ComfyUI's folder, for its tokenizers.
        seed: of the seeded encoders.

    Raises:
        ValueError: a prompt is longer than `T5_LEAST_TOKENS`, to which all are padded.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

    folder = Path(comfyui) / "comfy"
    t5_tokens = T5TokenizerFast.from_pretrained(folder / "text_encoders" / "t5_tokenizer")(list(prompts)).input_ids
    clip_tokenizer = CLIPTokenizer.from_pretrained(folder / "sd1_tokenizer")
    clip_tokens = clip_tokenizer(
        list(prompts), padding="max_length", max_length=token_limits.CLIP_L, truncation=True
    ).input_ids
    for prompt, tokens in zip(prompts, t5_tokens, strict=True):
        if len(tokens) > T5_LEAST_TOKENS:
            raise ValueError(f"'{prompt}' has {len(tokens)} T5 tokens, more than {T5_LEAST_TOKENS}.")
        tokens += [T5_PAD] * (T5_LEAST_TOKENS - len(tokens))

    t5 = T5EncoderModel(T5Config(vocab_size=T5_VOCABULARY, feed_forward_proj="gated-gelu", dropout_rate=0, **T5_CONFIG))
    _load(t5, t5_weights(seed))
    clip = CLIPTextModel(CLIPTextConfig(vocab_size=CLIP_VOCABULARY, eos_token_id=CLIP_VOCABULARY - 1, **CLIP_CONFIG))
    _load(clip, clip_weights(seed))
    return t5.eval()(torch.tensor(t5_tokens)).last_hidden_state, clip.eval()(torch.tensor(clip_tokens)).pooler_output


def _load(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """transformers 5 has left "text_model." out of CLIP's names, and keeps T5's shared embedding under two."""
    own = model.state_dict()
    named = {name: value.float() for key, value in weights.items() for name in (key, key.removeprefix("text_model."))}
    named["encoder.embed_tokens.weight"] = named.get("shared.weight")
    model.load_state_dict({name: named[name] for name in own if not name.endswith("position_ids")}, strict=False)
