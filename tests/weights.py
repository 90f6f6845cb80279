"""What tests ask of weights: those that a run ended with, and whether two sets are the same bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from impasto.trainers.run.checkpoints import ADAPTER_FILE
from impasto.trainers.run.folder import Run
from safetensors.torch import load_file


def final_adapter(run: Run) -> dict[str, torch.Tensor]:
    """The LoRA of a run's last checkpoint."""
    checkpoints = run.checkpoints()
    return load_file(checkpoints[max(checkpoints)] / ADAPTER_FILE)


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
