"""Sharding of the frozen base: each process keeps its part of every block, and gathers a block when its turn comes.

PyTorch's FSDP2 gathers and frees the blocks. The LoRA is not sharded, being small: each process has all of it, so its
gradients, optimiser, moving average and files are those of a run whose base is not sharded either.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from ...errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

# Blocks that are whole on the device at a time: the one that computes, twice while it is copied out of what was
# gathered, and the next one arriving meanwhile (torch.distributed.fsdp, FSDPParamGroup.wait_for_unshard).
GATHERED = 3
_OFFLOAD = "FSDP_OFFLOAD_PARAMS"  # set by accelerate's launcher, as is the next
_ASKED = "ACCELERATE_USE_FSDP"


def asked_for() -> bool:
    """Whether the launch profile wants FSDP. It is then no longer to be seen by accelerate, which would shard the LoRA.

    Raises:
        TrainingError: the profile also wants the weights in host memory.
    """
    asked = os.environ.pop(_ASKED, "").lower() == "true"
    if asked and os.environ.get(_OFFLOAD, "").lower() == "true":
        raise TrainingError(
            "The launch profile has fsdp_offload_params: true, which this trainer does not do. Set it to false there; "
            "for a base that does not fit even so, use a profile without FSDP and set streamed_blocks."
        )
    return asked


def make_mesh(device: torch.device, processes: int) -> DeviceMesh:
    """All processes in a row; the base is split into as many parts.

    Raises:
        TrainingError: PyTorch is too old.
    """
    from torch.distributed.device_mesh import init_device_mesh

    if tuple(int(number) for number in torch.__version__.split(".")[:2]) < (2, 7):
        raise TrainingError(
            f"Sharding the base needs PyTorch 2.7, this is {torch.__version__}. Update it, or choose a launch profile "
            "without FSDP."
        )
    return init_device_mesh(device.type, (processes,))


def shard(module: torch.nn.Module, mesh: DeviceMesh) -> None:
    """Leave this process its part of a block's parameters; the others' memory is free when this returns.

    Called before the adapter is added. Numbers without a dimension (NF4's `scale_mean`) cannot be split and stay whole.
    """
    from torch.distributed.fsdp import fully_shard

    for parameter in module.parameters():
        if not parameter.is_floating_point():  # FSDP takes only what could have a gradient
            parameter.data = parameter.data.view(torch.bfloat16)
    fully_shard(module, mesh=mesh, ignored_params={number for number in module.parameters() if not number.ndim})


def as_root(model: torch.nn.Module, mesh: DeviceMesh) -> None:
    """Let the blocks within `model` be gathered in the order in which its `forward` runs them.

    What it holds besides sharded blocks stays whole in every process.
    """
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=mesh, ignored_params=set(model.parameters()))


def whole(tensor: Tensor | Any) -> Tensor:
    """The tensor itself, or gathered if it is sharded. Then all processes have to ask for it, in the same order."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
