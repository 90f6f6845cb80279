"""The blocks of a FLUX in the order in which tokens pass them, and which of them are computed twice."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel


def blocks(transformer: FluxTransformer2DModel) -> tuple[torch.nn.Module, ...]:
    """List all blocks, double before single, in the order in which tokens pass them."""
    return (*transformer.transformer_blocks, *transformer.single_transformer_blocks)


def recomputed(index: int, checkpointing: bool, interval: int, streamed: Collection[int] = ()) -> bool:
    """Whether block `index` is recomputed in the backward pass.

    A streamed block always is: what autograd keeps of a block includes views of its weights, which are gone by then.
    """
    return (checkpointing and index % interval == 0) or index in streamed


@contextmanager
def replaced_blocks(transformer: FluxTransformer2DModel, instead: torch.nn.Module) -> Iterator[None]:
    """Within it `instead` takes the place of all blocks."""
    double, single = transformer.transformer_blocks, transformer.single_transformer_blocks
    transformer.transformer_blocks = torch.nn.ModuleList()
    transformer.single_transformer_blocks = torch.nn.ModuleList([instead])
    try:
        yield
    finally:
        transformer.transformer_blocks, transformer.single_transformer_blocks = double, single
