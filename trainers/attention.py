"""The kernels that attention can be computed by, one row each: what diffusers calls them, and what each asks for.

diffusers has more. Left out are those without a backward pass, which cannot train, and those that it would download.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionBackend:
    """One way to compute attention.

    Attributes:
        called: its name in diffusers' `set_attention_backend`.
        about: what to know for choosing it, in a few words.
        package: what has to be installed for it, as it is imported; "" where PyTorch has it.
        on_cpu: whether it computes, and differentiates, on the CPU too.
        in_fp32: whether it takes float32 on a card.
        compiled: whether it is a fused kernel only where blocks are compiled.
    """

    called: str
    about: str
    package: str = ""
    on_cpu: bool = False
    in_fp32: bool = True
    compiled: bool = False


# Name in the settings -> the backend, in the order of the node's list: diffusers' names without a leading underscore.
ATTENTION_BACKENDS = {
    "native": AttentionBackend("native", "PyTorch chooses", on_cpu=True),
    "native_flash": AttentionBackend("_native_flash", "PyTorch's FlashAttention", on_cpu=True, in_fp32=False),
    "native_cudnn": AttentionBackend("_native_cudnn", "cuDNN's", in_fp32=False),
    "native_efficient": AttentionBackend("_native_efficient", "PyTorch's memory-efficient attention"),
    "flash": AttentionBackend("flash", "the package flash_attn", "flash_attn", in_fp32=False),
    "xformers": AttentionBackend("xformers", "the package xformers", "xformers"),
    "flex": AttentionBackend("flex", "FlexAttention, with compile", compiled=True),
}
# What else of diffusers' has no backward pass: SageAttention's kernels, which quantise for inference, and
# FlashAttention 3, which diffusers 0.42 wraps into an operator without a gradient (attention_dispatch.py).
_FOR_INFERENCE = ("sage", "flash_3", "flash_varlen_3")


def is_for_inference(name: object) -> bool:
    """Whether diffusers has a backend of this name that cannot train: it gives no gradient."""
    return str(name).lstrip("_").startswith(_FOR_INFERENCE)


def described() -> str:
    """For each its name and what to know for choosing it."""
    return "; ".join(f"{name}: {backend.about}" for name, backend in ATTENTION_BACKENDS.items())
