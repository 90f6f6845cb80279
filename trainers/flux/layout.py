"""What a FLUX.1 transformer consists of: its shape, and what each tensor is called in BFL's layout and in diffusers'.

Names and numbers only; `detection` finds them in a file, `loading` makes a model of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HEAD_WIDTH = 128  # channels per attention head in every FLUX.1; ComfyUI: hidden_size // sum(axes_dim)
ROPE_AXES = (16, 56, 56)  # channels of a head given to index, row and column; BFL flux/util.py
TIMESTEP_WIDTH = 256  # sinusoidal features of sigma and of guidance; BFL flux/modules/layers.py
MLP_RATIO = 4  # feed-forward width over hidden size; BFL flux/util.py
# Kind of a block -> what diffusers' names for its parts begin with; then comes the block's number.
BLOCKS = {"double": "transformer_blocks", "single": "single_transformer_blocks"}


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

    @property
    def blocks(self) -> int:
        return self.double_blocks + self.single_blocks


@dataclass(frozen=True)
class Source:
    """One tensor of the BFL layout, and the diffusers parameters that are made of its rows.

    `parameters` gives for each diffusers name the row ranges (start, stop) that, joined in that order, are its value.
    """

    key: str
    shape: tuple[int, ...]
    parameters: Mapping[str, tuple[tuple[int, int], ...]]


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


def block_of(name: str) -> str:
    """The block that a diffusers parameter belongs to, such as `transformer_blocks.3`; '' for those of none."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] in BLOCKS.values() else ""


def canonical(key: str) -> str:
    """BFL's name of a query or key norm ends in `scale`; files written by ComfyUI say `weight`."""
    return f"{key[: -len('weight')]}scale" if key.endswith(("query_norm.weight", "key_norm.weight")) else key


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
