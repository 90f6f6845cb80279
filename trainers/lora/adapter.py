"""The LoRA on the transformer: where it goes, how it starts, what it computes in, and what a checkpoint keeps of it.

LoRA (Hu et al. 2021, arXiv:2106.09685) adds (alpha / rank) · B·A to a frozen weight; PEFT puts it into the model. The
files that other programs read, and those that training can start from, are in `lora_files.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import SettingsError, TrainingError
from ..flux.sharding import whole
from . import file_formats as lora_files
from .file_formats import ALPHA, DORA_SCALE, LORA_A, LORA_B, MAGNITUDE, PREFIX

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

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
}

ADAPTER = "default"  # PEFT's name for the adapter being trained
_BLOCKS = {"double": "transformer_blocks", "single": "single_transformer_blocks"}
_RULE = re.compile(r"(?P<kind>double|single|rest)(?P<blocks>[\s\d,-]*):\s*(?P<rank>\d+)", re.IGNORECASE)
_SPAN = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")
_GRAMMAR = "Write for example 'double 0-4: 8; single 10-37: 4; rest: 0'."
MAX_RANK = 1024
_SMALLEST_SQUARE = 1e-24  # of a row's norm: a row of zeros is divided by its norm too


def add_lora(
    transformer: FluxTransformer2DModel,
    rank: int,
    alpha: float,
    targets: str,
    seed: int,
    dropout: float = 0.0,
    rslora: bool = False,
    dora: bool = False,
    block_ranks: str = "",
) -> list[torch.nn.Parameter]:
    """Add a LoRA that changes nothing yet (B is zero) and return its parameters, all float32 whatever the base is.

    A starts as Kaiming-uniform (as in PEFT and kohya), drawn on the CPU from `seed` in the order of the modules, so
    that every device starts alike; the global random state is left as it was. A and B compute in the dtype of their
    input: on a bfloat16 base nothing of a layer's input is kept in float32 for the backward pass.

    Args:
        transformer: frozen; changed in place.
        rank: at least 1.
        alpha: the LoRA is scaled by alpha / rank in every block, whatever the block's own rank, so that a smaller
            rank means less capacity and neither more strength nor a higher learning rate.
        targets: a name in `TARGETS`.
        seed: of the initial A.
        dropout: probability in [0, 1) of dropping each input of A during training. It is drawn from torch's global
            generators: whoever trains seeds them for each batch, so that a resumed run drops the same.
        rslora: scale by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732). That is folded into the LoRA's
            alpha, because the programs that load it know only alpha / rank.
        dora: learn each output's magnitude too (Liu et al. 2024, arXiv:2402.09353).
        block_ranks: see `parse_block_ranks`.

    Raises:
        SettingsError: unknown targets, or rank, alpha, dropout or block_ranks out of range, or no module matched.
    """
    _check_settings(rank, alpha, dropout)
    scale = alpha / math.sqrt(rank) if rslora else alpha / rank
    _insert(transformer, rank, scale, targets, dropout, block_ranks)
    generator = torch.Generator().manual_seed(seed)
    for layer in _layers(transformer).values():
        _start(layer, generator)
        if dora:
            _add_magnitude(layer)
    return lora_parameters(transformer)


def check(
    empty: FluxTransformer2DModel, rank: int, targets: str, dora: bool, block_ranks: str, start_lora: str = ""
) -> None:
    """Refuse what `add_lora` and `load_existing` would refuse once the base model is loaded.

    Args:
        empty: from `flux_weights.empty_transformer`, on the meta device; of no further use.
        start_lora: file of the LoRA to start from; "" for none.

    Raises:
        SettingsError: as for `add_lora`.
        TrainingError: as for `load_existing`.
    """
    with torch.device("meta"):
        _insert(empty, rank, 1.0, targets, 0.0, block_ranks)
        for layer in _layers(empty).values() if dora else ():
            _add_magnitude(layer)
    if start_lora:
        _read_fitting(start_lora, _layers(empty))


def target_modules(transformer: FluxTransformer2DModel, targets: str) -> list[str]:
    """Name the linear layers of a named target set, in the model's own order.

    Raises:
        SettingsError: the set is unknown, or this model has no such layer.
    """
    if targets not in TARGETS:
        raise SettingsError(f"There are no LoRA targets called '{targets}'. Choose one of: {', '.join(TARGETS)}.")
    names = [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and any(fnmatchcase(name, pattern) for pattern in TARGETS[targets])
    ]
    if not names:
        raise SettingsError(f"This model has no layer of the LoRA targets '{targets}'. Choose other targets.")
    return names


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


def ranks_by_block(transformer: FluxTransformer2DModel, text: str, rank: int) -> dict[str, int]:
    """The rank of every block, such as {"transformer_blocks.0": 8, …}; `text` as in `parse_block_ranks`.

    Raises:
        SettingsError: as for `parse_block_ranks`, or a rule names blocks that the model does not have.
    """
    rules = parse_block_ranks(text)
    rest = next((rule.rank for rule in rules if rule.kind == "rest"), rank)
    ranks = {}
    for kind, blocks in _BLOCKS.items():
        count = len(getattr(transformer, blocks, ()))
        ranks |= {f"{blocks}.{index}": rest for index in range(count)}
        for rule in rules:
            if rule.kind != kind:
                continue
            last = count - 1 if rule.last is None else rule.last
            if last >= count:
                raise SettingsError(
                    f"block_ranks '{text}': at character {rule.position}, there is no {kind} block {last}: this model "
                    f"has {count}, numbered 0 to {count - 1}. Name only those."
                )
            ranks |= {f"{blocks}.{index}": rule.rank for index in range(rule.first, last + 1)}
    return ranks


def lora_parameters(transformer: FluxTransformer2DModel) -> list[torch.nn.Parameter]:
    """List the adapter's parameters in the model's order, each layer's A before its B, and then its magnitude."""
    return [parameter for layer in _layers(transformer).values() for parameter in _parameters(layer)]


def lora_state_dict(transformer: FluxTransformer2DModel) -> dict[str, torch.Tensor]:
    """Copy the adapter to the CPU in its exported form, float32.

    Per layer `transformer.<module>.lora_A.weight` (rank, inputs), `.lora_B.weight` (outputs, rank) and `.alpha`
    (scalar); without the last, loaders assume alpha = rank. A DoRA has besides `.lora_magnitude_vector` (outputs,),
    which diffusers reads, and `.dora_scale` (outputs, 1), which ComfyUI reads. The file's metadata must not have
    diffusers' own `lora_adapter_metadata`: its loader refuses to be given both.
    """
    state = {}
    for name, layer in _layers(transformer).items():
        key = f"{PREFIX}{name}"
        state[key + LORA_A] = _exported(layer.lora_A[ADAPTER].weight)
        state[key + LORA_B] = _exported(layer.lora_B[ADAPTER].weight)
        state[key + ALPHA] = torch.tensor(float(layer.lora_alpha[ADAPTER]))
        if ADAPTER in layer.lora_magnitude_vector:
            magnitude = layer.lora_magnitude_vector[ADAPTER]
            state[key + MAGNITUDE] = _exported(magnitude.weight)
            state[key + DORA_SCALE] = _exported(magnitude.weight / _norm_growth(layer))[:, None]
    return state


def load_existing(transformer: FluxTransformer2DModel, path: str | Path) -> None:
    """Let training start from a LoRA file, in any format that `lora_files.read` knows, instead of from nothing.

    The adapter of `add_lora` then does what the file does at strength 1, to float32 rounding: B takes up the ratio of
    the file's alpha / rank to this one's, and a smaller rank is filled up with A as `add_lora` drew it and a B of zero.
    Layers that the file does not have start from nothing. In a DoRA, a file without magnitudes gets those that leave
    its effect as it is.

    Raises:
        TrainingError: unreadable, or the file has what this adapter cannot hold; the text says what, and the remedy.
    """
    layers = _layers(transformer)
    state, names = _read_fitting(path, layers)
    for name in names:
        _start_from(layers[name], f"{PREFIX}{name}", state)


def _read_fitting(path: str | Path, layers: Mapping[str, Any]) -> tuple[lora_files.Tensors, list[str]]:
    """A LoRA file in our form and the names of its layers, all of which `layers` can hold."""
    state = lora_files.read(path)
    names = list(dict.fromkeys(key.removeprefix(PREFIX).removesuffix(LORA_A) for key in state if key.endswith(LORA_A)))
    outside = [name for name in names if name not in layers]
    if outside:
        raise TrainingError(
            f"The LoRA {path} changes {len(outside)} layers that this run does not train, such as '{outside[0]}'. "
            "Choose LoRA targets and block_ranks that cover them, such as 'all linear', or another LoRA."
        )
    for name in names:
        _check_fits(path, name, layers[name], state)
    return state, names


class _FollowingLinear(torch.nn.Linear):
    """A or B: its weights stay float32, but it computes in the dtype of its input.

    PEFT's own way is to cast the input to float32, which autograd then keeps: once for each layer that shares it.
    """

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(inputs, self.weight.to(inputs.dtype))


class _Magnitude(torch.nn.Module):
    """DoRA's magnitude of each output, in the place of PEFT's `DoraLinearLayer` and called as that is.

    PEFT multiplies an identity matrix by A and B at every call to get the norm of W + s·B·A (for FLUX's widest layer
    15,360 x 15,360 float32, 944 MB). |W + sBA|² = |W|² + 2s·W·(BA) + s²|BA|² needs only products of width `rank`.

    Args:
        square: of the norm of each row of the frozen weight, `(outputs,)`, float32.
    """

    def __init__(self, square: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("square", square, persistent=False)
        self.weight = torch.nn.Parameter(self.base_norm())

    def base_norm(self) -> torch.Tensor:
        """Norm of each row of W, `(outputs,)`, float32."""
        return self.square.clamp_min(_SMALLEST_SQUARE).sqrt()

    @torch.no_grad()
    def norm(self, lora_a: torch.Tensor, lora_b: torch.Tensor, scaling: float, base: torch.nn.Linear) -> torch.Tensor:
        """Norm of each row of W + s·B·A, `(outputs,)`, float32; a constant to autograd, as in section 4.3 of DoRA."""
        weight = _base_weight(base).to(lora_a.device)  # a streamed one is in host memory unless its block runs
        product = torch.nn.functional.linear(lora_a.to(weight.dtype), weight).float()  # (rank, outputs)
        across = (product.T * lora_b).sum(dim=1)
        own = (lora_b @ (lora_a @ lora_a.T) * lora_b).sum(dim=1)
        square = self.square.to(lora_a.device) + 2 * scaling * across + scaling**2 * own
        return square.clamp_min(_SMALLEST_SQUARE).sqrt()

    def forward(
        self,
        x: torch.Tensor,
        *,
        lora_A: torch.nn.Module,
        lora_B: torch.nn.Module,
        scaling: float,
        base_layer: torch.nn.Linear,
        base_result: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """What DoRA adds to the base layer's output. Without `base_result`, `x` is what dropout left of the input."""
        direction = base_layer(x) if base_result is None else base_result
        if base_layer.bias is not None:
            direction = direction - base_layer.bias
        lora = lora_B(lora_A(x)) * scaling
        norm = self.norm(lora_A.weight, lora_B.weight, scaling, base_layer)
        # As what is missing from 1: bfloat16 has steps of 1/128 just above 1, and the magnitude would hardly learn.
        gain = (self.weight / norm - 1).to(x.dtype)
        return gain * (direction + lora) + lora


def _check_settings(rank: int, alpha: float, dropout: float) -> None:
    if rank < 1:
        raise SettingsError(f"The LoRA rank is {rank}. Use at least 1, for example 16.")
    if not (math.isfinite(alpha) and alpha > 0):
        raise SettingsError(f"The LoRA alpha is {alpha}. Use a number above 0, for example the rank.")
    if not 0 <= dropout < 1:
        raise SettingsError(f"The LoRA dropout is {dropout}. Use 0 or more, and less than 1.")


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


def _insert(
    transformer: FluxTransformer2DModel, rank: int, scale: float, targets: str, dropout: float, block_ranks: str
) -> None:
    """Let PEFT wrap the layers that get a rank; their A and B are still what PEFT draws."""
    from peft import LoraConfig

    ranks = ranks_by_block(transformer, block_ranks, rank)
    modules = [name for name in target_modules(transformer, targets) if ranks[_block_of(name)]]
    if not modules:
        raise SettingsError(
            f"block_ranks '{block_ranks}' gives rank 0 to every layer of the LoRA targets '{targets}'. "
            "Give at least one of their blocks a rank."
        )
    # One pattern per block of another rank: PEFT searches them for every layer.
    patterns = {rf"{re.escape(block)}\..*": own for block, own in ranks.items() if own not in (0, rank)}
    config = LoraConfig(
        r=rank,
        lora_alpha=scale * rank,
        rank_pattern=patterns,
        alpha_pattern={pattern: scale * own for pattern, own in patterns.items()},
        target_modules=modules,
        lora_dropout=dropout,
        init_lora_weights=False,
    )
    with torch.random.fork_rng(devices=[]):  # PEFT's layers first draw weights from the global state
        transformer.add_adapter(config, ADAPTER)
    transformer.train(transformer.training)  # new modules think they are being trained, whatever the model is


def _start(layer: Any, generator: torch.Generator) -> None:
    """Replace PEFT's A and B of a layer by float32 ones that follow their input's dtype."""
    for matrices, draw in ((layer.lora_A, True), (layer.lora_B, False)):
        device, (outputs, inputs) = matrices[ADAPTER].weight.device, matrices[ADAPTER].weight.shape
        start = torch.zeros(outputs, inputs)
        if draw:
            torch.nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
        linear = _FollowingLinear(inputs, outputs, bias=False, device="meta")
        linear.weight = torch.nn.Parameter(start.to(device))
        matrices[ADAPTER] = linear
    layer.cast_input_dtype_enabled = False


def _add_magnitude(layer: Any) -> None:
    """Make a layer's LoRA a DoRA, as PEFT's `DoraLinearVariant.init` does, but with our magnitude."""
    from peft.tuners.lora.variants import DoraLinearVariant

    square = torch.linalg.vector_norm(_base_weight(layer.base_layer), dim=1, dtype=torch.float32).square()
    layer.lora_variant[ADAPTER] = DoraLinearVariant()
    layer.lora_magnitude_vector[ADAPTER] = _Magnitude(square.to(layer.lora_A[ADAPTER].weight.device))


def _base_weight(base: torch.nn.Linear) -> torch.Tensor:
    """The frozen weight `(outputs, inputs)` in a floating dtype, dequantised and gathered if need be."""
    from peft.utils.integrations import dequantize_module_weight

    return whole(dequantize_module_weight(base)).detach()


def _norm_growth(layer: Any) -> torch.Tensor:
    """|W + s·B·A| / |W| of each output.

    ComfyUI's `weight_decompose` divides by |W| where the paper and PEFT divide by |W + s·B·A|; dividing the magnitude
    by this makes ComfyUI compute what was trained.
    """
    magnitude = layer.lora_magnitude_vector[ADAPTER]
    norm = magnitude.norm(
        layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, layer.scaling[ADAPTER], layer.base_layer
    )
    return norm / magnitude.base_norm().to(norm.device)


def _check_fits(path: str | Path, name: str, layer: Any, state: Mapping[str, torch.Tensor]) -> None:
    matrix_a, matrix_b = (state[f"{PREFIX}{name}{ending}"] for ending in (LORA_A, LORA_B))
    lora_a, lora_b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    if (matrix_b.shape[0], matrix_a.shape[1]) != (lora_b.shape[0], lora_a.shape[1]):
        raise TrainingError(
            f"The LoRA {path} is for another model: '{name}' has {matrix_a.shape[1]} inputs and {matrix_b.shape[0]} "
            f"outputs there, {lora_a.shape[1]} and {lora_b.shape[0]} in this one. Choose a LoRA of this model."
        )
    if matrix_a.shape[0] > lora_a.shape[0]:
        raise TrainingError(
            f"The LoRA {path} has rank {matrix_a.shape[0]} in '{name}', this run {lora_a.shape[0]}. "
            f"Set the rank to {matrix_a.shape[0]} or more, or choose a LoRA of a smaller rank."
        )
    is_dora = any(f"{PREFIX}{name}{ending}" in state for ending in (MAGNITUDE, DORA_SCALE))
    if is_dora and ADAPTER not in layer.lora_magnitude_vector:
        raise TrainingError(f"The LoRA {path} is a DoRA, this run trains none. Switch dora on, or choose another LoRA.")


@torch.no_grad()
def _start_from(layer: Any, key: str, state: Mapping[str, torch.Tensor]) -> None:
    lora_a, lora_b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    rank = state[key + LORA_A].shape[0]
    scale = state[key + ALPHA].item() / rank
    lora_a[:rank] = state[key + LORA_A].to(lora_a)
    lora_b[:, :rank] = state[key + LORA_B].to(lora_b) * (scale / layer.scaling[ADAPTER])
    if ADAPTER in layer.lora_magnitude_vector:
        magnitude = layer.lora_magnitude_vector[ADAPTER]
        start = magnitude.base_norm().to(lora_b.device) * _norm_growth(layer)
        if key + MAGNITUDE in state:
            start = state[key + MAGNITUDE]
        elif key + DORA_SCALE in state:
            start = state[key + DORA_SCALE].flatten().to(start) * _norm_growth(layer)
        magnitude.weight.copy_(start)


def _layers(transformer: FluxTransformer2DModel) -> dict[str, Any]:
    """Module name -> PEFT's layer, of every layer with the adapter, in the model's order."""
    return {
        name: module
        for name, module in transformer.named_modules()
        if isinstance(getattr(module, "lora_A", None), torch.nn.ModuleDict) and ADAPTER in module.lora_A
    }


def _parameters(layer: Any) -> list[torch.nn.Parameter]:
    matrices = (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector)
    return [matrix[ADAPTER].weight for matrix in matrices if ADAPTER in matrix]


def _block_of(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _exported(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().to("cpu", torch.float32, copy=True).contiguous()
