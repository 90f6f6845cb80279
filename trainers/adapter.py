"""The LoRA on the transformer: where it goes, how it starts, and the file that ComfyUI and diffusers both load whole.

LoRA (Hu et al. 2021, arXiv:2106.09685) adds (alpha / rank) · B·A to a frozen weight; PEFT does the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch

from ..errors import SettingsError, TrainingError

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
_MODULATION = (
    "transformer_blocks.*.norm1.linear",
    "transformer_blocks.*.norm1_context.linear",
    "single_transformer_blocks.*.norm.linear",
)
_ATTENTION = (*_IMAGE_ATTENTION, *_TEXT_ATTENTION, *_SINGLE_ATTENTION)

# Name in the settings -> diffusers' module names, `*` standing for the number of a block.
TARGETS: dict[str, tuple[str, ...]] = {
    # diffusers' dreambooth script and the Mucha QLoRA: to_k to_q to_v to_out.0
    "image attention": (*_IMAGE_ATTENTION, *_SINGLE_ATTENTION),
    # SimpleTuner's default ("all")
    "attention": _ATTENTION,
    # SimpleTuner's "all+ffs", without its norms
    "attention and feed-forward": (*_ATTENTION, *_FEED_FORWARD, *_SINGLE_FEED_FORWARD),
    # Every linear layer in the blocks: the default of kohya sd-scripts (lora_flux) and of ai-toolkit
    "all linear": (*_ATTENTION, *_FEED_FORWARD, *_SINGLE_FEED_FORWARD, *_MODULATION),
    # What kohya calls single blocks only (train_blocks=single), without their modulation
    "single blocks": (*_SINGLE_ATTENTION, *_SINGLE_FEED_FORWARD),
}

ADAPTER = "default"  # PEFT's name for the adapter being trained
EXPORT_PREFIX = "transformer."  # diffusers' pipelines and ComfyUI's comfy.lora both know keys that start so


def add_lora(
    transformer: FluxTransformer2DModel, rank: int, alpha: float, targets: str, seed: int, dropout: float = 0.0
) -> list[torch.nn.Parameter]:
    """Add a LoRA that changes nothing yet (B is zero) and return its parameters, all float32 whatever the base is.

    A starts as Kaiming-uniform (as in PEFT and kohya), drawn on the CPU from `seed` in the order of the modules, so
    that every device starts alike; the global random state is left as it was.

    Args:
        transformer: frozen; changed in place.
        rank: at least 1.
        alpha: the LoRA is scaled by alpha / rank.
        targets: a name in `TARGETS`.
        seed: of the initial A.
        dropout: probability in [0, 1) of dropping each input of A during training.

    Raises:
        SettingsError: unknown targets, or rank, alpha or dropout out of range, or no module matched.
    """
    from peft import LoraConfig

    _check_settings(rank, alpha, dropout)
    modules = target_modules(transformer, targets)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules, lora_dropout=dropout, init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):  # PEFT's layers first draw weights from the global state; replaced below
        transformer.add_adapter(config, ADAPTER)
    generator = torch.Generator().manual_seed(seed)
    for _, lora_a, lora_b in _layers(transformer):
        start = torch.empty(lora_a.weight.shape, dtype=torch.float32)
        torch.nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
        _set_weight(lora_a, start)
        _set_weight(lora_b, torch.zeros(lora_b.weight.shape, dtype=torch.float32))
    return lora_parameters(transformer)


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


def lora_parameters(transformer: FluxTransformer2DModel) -> list[torch.nn.Parameter]:
    """List the adapter's parameters in the model's order, each layer's A before its B."""
    return [layer.weight for _, lora_a, lora_b in _layers(transformer) for layer in (lora_a, lora_b)]


def lora_state_dict(transformer: FluxTransformer2DModel) -> dict[str, torch.Tensor]:
    """Copy the adapter to the CPU in its exported form, float32.

    Per layer `transformer.<module>.lora_A.weight` (rank, inputs), `.lora_B.weight` (outputs, rank) and `.alpha`
    (scalar); without the last, loaders assume alpha = rank. The file's metadata must not have
    diffusers' own `lora_adapter_metadata`: its loader refuses to be given both.
    """
    alpha = float(transformer.peft_config[ADAPTER].lora_alpha)
    state = {}
    for name, lora_a, lora_b in _layers(transformer):
        state[f"{EXPORT_PREFIX}{name}.lora_A.weight"] = _exported(lora_a.weight)
        state[f"{EXPORT_PREFIX}{name}.lora_B.weight"] = _exported(lora_b.weight)
        state[f"{EXPORT_PREFIX}{name}.alpha"] = torch.tensor(alpha)
    return state


def load_lora_state_dict(transformer: FluxTransformer2DModel, state: Mapping[str, torch.Tensor]) -> None:
    """Put an exported adapter back into the one that `add_lora` made, bit for bit.

    Raises:
        TrainingError: the state has other layers, shapes or alpha than the adapter.
    """
    current = lora_state_dict(transformer)
    if current.keys() != state.keys():
        differing = sorted(current.keys() ^ state.keys())
        raise TrainingError(
            f"The saved adapter has other layers than this one: {len(differing)} keys differ, such as "
            f"'{differing[0]}'. Train with the LoRA targets it was saved with, or start a new run."
        )
    for key, value in current.items():
        if value.shape != state[key].shape:
            raise TrainingError(
                f"The saved adapter's '{key}' has shape {tuple(state[key].shape)}, this one's {tuple(value.shape)}. "
                "Train with the rank and the model it was saved with, or start a new run."
            )
        if key.endswith(".alpha") and value != state[key]:
            raise TrainingError(
                f"The saved adapter has alpha {state[key].item():g}, this one {value.item():g}. "
                "Train with the alpha it was saved with, or start a new run."
            )
    for name, lora_a, lora_b in _layers(transformer):
        with torch.no_grad():
            lora_a.weight.copy_(state[f"{EXPORT_PREFIX}{name}.lora_A.weight"])
            lora_b.weight.copy_(state[f"{EXPORT_PREFIX}{name}.lora_B.weight"])


def _check_settings(rank: int, alpha: float, dropout: float) -> None:
    if rank < 1:
        raise SettingsError(f"The LoRA rank is {rank}. Use at least 1, for example 16.")
    if not (math.isfinite(alpha) and alpha > 0):
        raise SettingsError(f"The LoRA alpha is {alpha}. Use a number above 0, for example the rank.")
    if not 0 <= dropout < 1:
        raise SettingsError(f"The LoRA dropout is {dropout}. Use 0 or more, and less than 1.")


def _layers(transformer: FluxTransformer2DModel) -> Iterator[tuple[str, torch.nn.Linear, torch.nn.Linear]]:
    """Yield (module name, A, B) of every layer with the adapter, in the model's order."""
    for name, module in transformer.named_modules():
        lora_a = getattr(module, "lora_A", None)
        if isinstance(lora_a, torch.nn.ModuleDict) and ADAPTER in lora_a:
            yield name, lora_a[ADAPTER], module.lora_B[ADAPTER]


def _set_weight(layer: torch.nn.Linear, weight: torch.Tensor) -> None:
    layer.weight = torch.nn.Parameter(weight.to(layer.weight.device))


def _exported(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().to("cpu", torch.float32, copy=True).contiguous()
