"""The shape of a LoRA: which of FLUX's layers it changes, of what rank in which block, and how strongly.

Strings and numbers only, so that settings are checked without a model; `adapter` puts the LoRA into one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ...errors import SettingsError
from ..flux.layout import BLOCKS

ADAPTER = "default"  # PEFT's name for the adapter being trained

_IMAGE_ATTENTION = tuple(f"transformer_blocks.*.attn.{layer}" for layer in ("to_q", "to_k", "to_v", "to_out.0"))
_TEXT_ATTENTION = tuple(
    f"transformer_blocks.*.attn.{layer}" for layer in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
)
_SINGLE_ATTENTION = tuple(f"single_transformer_blocks.*.attn.{layer}" for layer in ("to_q", "to_k", "to_v"))
_FEED_FORWARD = tuple(
    f"transformer_blocks.*.{stream}.{layer}" for stream in ("ff", "ff_context") for layer in ("net.0.proj", "net.2")
)
_SINGLE_FEED_FORWARD = ("single_transformer_blocks.*.proj_mlp", "single_transformer_blocks.*.proj_out")
_DOUBLE_MODULATION = ("transformer_blocks.*.norm1.linear", "transformer_blocks.*.norm1_context.linear")
_SINGLE_MODULATION = ("single_transformer_blocks.*.norm.linear",)
_ATTENTION = (*_IMAGE_ATTENTION, *_TEXT_ATTENTION, *_SINGLE_ATTENTION)
_SINGLE = (*_SINGLE_ATTENTION, *_SINGLE_FEED_FORWARD)
_DOUBLE = (*_IMAGE_ATTENTION, *_TEXT_ATTENTION, *_FEED_FORWARD, *_DOUBLE_MODULATION)
_ALL_LINEAR = (*_DOUBLE, *_SINGLE, *_SINGLE_MODULATION)
_OUTSIDE_BLOCKS = ("x_embedder", "context_embedder", "time_text_embed.*.linear_*", "norm_out.linear", "proj_out")

# Name in the settings -> diffusers' module names, `*` standing for the number of a block.
TARGETS: dict[str, tuple[str, ...]] = {
    # The Mucha QLoRA (huggingface.co/blog/flux-qlora): to_k to_q to_v to_out.0
    "image attention": (*_IMAGE_ATTENTION, *_SINGLE_ATTENTION),
    # SimpleTuner's default ("all")
    "attention": _ATTENTION,
    # SimpleTuner's "all+ffs", without its norms
    "attention and feed-forward": (*_ATTENTION, *_FEED_FORWARD, *_SINGLE_FEED_FORWARD),
    "all linear": _ALL_LINEAR,
    # Single blocks only, without their modulation
    "single blocks": _SINGLE,
    "double blocks": _DOUBLE,
    # examples/dreambooth/train_dreambooth_lora_flux.py: the single blocks' feed-forward is left out
    "diffusers": (*_ATTENTION, *_FEED_FORWARD),
    # sd-scripts networks/lora_flux.py: every linear layer of the blocks, and those of the single blocks
    # (train_blocks=single). There q, k and v share one A, here each has its own.
    "kohya": _ALL_LINEAR,
    "kohya single blocks": (*_SINGLE, *_SINGLE_MODULATION),
    # ai-toolkit toolkit/lora_special.py: every linear layer of the blocks
    "ai-toolkit": _ALL_LINEAR,
    # OneTrainer's layer preset "full"
    "whole transformer": (*_ALL_LINEAR, *_OUTSIDE_BLOCKS),
}

MAX_RANK = 1024

_RULE = re.compile(r"(?P<kind>double|single|rest)(?P<blocks>[\s\d,-]*):\s*(?P<rank>\d+)", re.IGNORECASE)
_SPAN = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")
_GRAMMAR = "Write for example 'double 0-4: 8; single 10-37: 4; rest: 0'."


@dataclass(frozen=True)
class LoraShape:
    """All that decides what a LoRA can learn and how strongly it acts, but not how it starts.

    Attributes:
        rank: of A and B, at least 1.
        alpha: the LoRA is scaled by alpha / rank in every block, whatever the block's own rank, so that a smaller
            rank means less capacity and neither more strength nor a higher learning rate.
        targets: which layers it changes, a name in `TARGETS`.
        dropout: probability in [0, 1) of dropping each input of A during training.
        rslora: scale by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732).
        dora: learn each output's magnitude too (Liu et al. 2024, arXiv:2402.09353).
        block_ranks: ranks of single blocks, see `parse_block_ranks`; "" gives every block `rank`.

    Raises:
        SettingsError: unknown targets, or rank, alpha, dropout or block_ranks out of range.
    """

    rank: int
    alpha: float
    targets: str
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    block_ranks: str = ""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise SettingsError(f"The LoRA rank is {self.rank}. Use at least 1, for example 16.")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise SettingsError(f"The LoRA alpha is {self.alpha}. Use a number above 0, for example the rank.")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"The LoRA dropout is {self.dropout}. Use 0 or more, and less than 1.")
        if self.targets not in TARGETS:
            raise SettingsError(
                f"There are no LoRA targets called '{self.targets}'. Choose one of: {', '.join(TARGETS)}."
            )
        parse_block_ranks(self.block_ranks)

    @property
    def scale(self) -> float:
        """What B·A is multiplied by."""
        return self.alpha / math.sqrt(self.rank) if self.rslora else self.alpha / self.rank

    @property
    def rest(self) -> int:
        """The rank of every layer whose block no rule of `block_ranks` names, or that is in no block."""
        rules = parse_block_ranks(self.block_ranks)
        return next((rule.rank for rule in rules if rule.kind == "rest"), self.rank)

    def ranks(self, double: int, single: int) -> dict[str, int]:
        """The rank of every block, such as {"transformer_blocks.0": 8, …}, of a model with so many of each kind.

        Raises:
            SettingsError: a rule names blocks that the model does not have.
        """
        rules, rest, ranks = parse_block_ranks(self.block_ranks), self.rest, {}
        for kind, count in (("double", double), ("single", single)):
            ranks |= {f"{BLOCKS[kind]}.{index}": rest for index in range(count)}
            for rule in rules:
                if rule.kind != kind:
                    continue
                last = count - 1 if rule.last is None else rule.last
                if last >= count:
                    raise SettingsError(
                        f"block_ranks '{self.block_ranks}': at character {rule.position}, there is no {kind} block "
                        f"{last}: this model has {count}, numbered 0 to {count - 1}. Name only those."
                    )
                ranks |= {f"{BLOCKS[kind]}.{index}": rule.rank for index in range(rule.first, last + 1)}
        return ranks


@dataclass(frozen=True)
class BlockRank:
    """One rule of `block_ranks`.

    Attributes:
        kind: "double", "single" or "rest".
        first, last: numbers of the first and the last block, counted from 0; `last` is None for all from `first` on.
        rank: 0 leaves these blocks without a LoRA.
        position: the character, counted from 1, at which the text gives it.
    """

    kind: str
    first: int
    last: int | None
    rank: int
    position: int

    def overlaps(self, other: BlockRank) -> bool:
        ends = [math.inf if rule.last is None else rule.last for rule in (self, other)]
        return self.kind == other.kind and self.first <= ends[1] and other.first <= ends[0]


def is_target(layer: str, targets: str) -> bool:
    """Whether a linear layer, by diffusers' name, is in a named target set of `TARGETS`."""
    return any(fnmatchcase(layer, pattern) for pattern in TARGETS[targets])


def parse_block_ranks(text: str) -> tuple[BlockRank, ...]:
    """Read the ranks of single blocks: "double 0-4, 7: 8; single: 4; rest: 0".

    Rules are separated by `;`. Each has `double` or `single`, numbers and ranges of blocks counted from 0 (none for all
    of them), and after the `:` a rank; 0 leaves the blocks out. `rest` stands for every block that no other rule names;
    without it they have the LoRA's own rank.

    Raises:
        SettingsError: the text is not of this form, or gives a block two ranks; it says where.
    """
    rules: list[BlockRank] = []
    position = 1
    for part in text.split(";"):
        start = position + len(part) - len(part.lstrip())
        position += len(part) + 1
        for rule in _parse_rule(part.strip(), start) if part.strip() else ():
            for other in rules:
                if rule.overlaps(other):
                    raise SettingsError(
                        f"block_ranks '{text}': at character {rule.position}, '{part.strip()}' gives a rank to blocks "
                        f"that already have one from character {other.position}. Name each block once."
                    )
            rules.append(rule)
    return tuple(rules)


def _parse_rule(text: str, position: int) -> Iterator[BlockRank]:
    match = _RULE.fullmatch(text)
    if not match:
        raise SettingsError(
            f"block_ranks: at character {position}, '{text}' is not blocks, a colon and a rank. {_GRAMMAR}"
        )
    kind, blocks, rank = match["kind"].lower(), match["blocks"].strip(), int(match["rank"])
    if rank > MAX_RANK:
        raise SettingsError(
            f"block_ranks: at character {position + match.start('rank')}, the rank is {rank}. Use at most {MAX_RANK}."
        )
    if not blocks:
        yield BlockRank(kind, 0, None, rank, position)
        return
    offset = position + match.start("blocks") + len(match["blocks"]) - len(match["blocks"].lstrip())
    for span in blocks.split(","):
        found = _SPAN.fullmatch(span.strip())
        if kind == "rest" or not found or int(found[2] or found[1]) < int(found[1]):
            raise SettingsError(
                f"block_ranks: at character {offset}, '{span.strip()}' is not a block or a range of blocks. {_GRAMMAR}"
            )
        yield BlockRank(kind, int(found[1]), int(found[2] or found[1]), rank, offset)
        offset += len(span) + 1
