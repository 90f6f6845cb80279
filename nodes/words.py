"""What the page calls the inputs of every node: their names in code, in words.

The names in code are a contract with saved graphs and with the API, and errors and help pages use them; what a person
reads on the node stays so close to them that each is found by the other.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from comfy_api.latest import io

NAMES: Mapping[str, str] = {
    "spare": "spare, %",
    "prefer": "prefer (from the Hub)",
    "by": "kind of label",
    "top_up": "top up, times at most",
    "held_out": "held-out prompts",
    "batch_size": "batch size, pictures a step",
    "num_repeats": "repeats of each picture",
    "min_bucket_reso": "min bucket side, px",
    "max_bucket_reso": "max bucket side, px",
    "bucket_reso_steps": "bucket step, px",
    "validation_split": "validation split, share held out",
    "flip_aug": "mirror at random",
    "color_aug": "change colours at random",
    "is_reg": "regularisation",
    "dora": "DoRA",
    "rslora": "rank-stabilised scaling",
    "ema_decay": "moving average (EMA) decay",
    "lora": "LoRA",
    "lora_format": "LoRA format",
    "lora_dropout": "LoRA dropout",
    "t5_limit": "T5 limit, tokens",
    "clip_l_text": "CLIP-L text",
    "true_cfg": "true CFG",
    "at_a_time": "pictures at a time",
    "clip_device": "CLIP's device",
    "vae_device": "VAE's device",
}


def name_inputs(node: type[io.ComfyNode]) -> None:
    """Have the schema of `node` give each input without a name of its own one in words."""
    define = node.define_schema.__func__
    if hasattr(define, "__wrapped__"):
        return

    @functools.wraps(define)
    def named(cls) -> io.Schema:
        schema = define(cls)
        for given in schema.inputs:
            given.display_name = given.display_name or NAMES.get(given.id, given.id.replace("_", " "))
        return schema

    node.define_schema = classmethod(named)
