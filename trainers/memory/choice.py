"""The settings that a run leaves open, chosen so that it fits into the memory that is free."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...errors import SettingsError
from ..flux.streaming import RING
from .block_profile import BatchShape
from .estimate import GIGABYTE, Budget, fits, forecast, is_settled, usable
from .remedy import SMALLER_PRECISIONS, remedy

if TYPE_CHECKING:
    from ..flux.layout import FluxArchitecture
    from ..settings import Settings

# Best first. int8 errs by 0.9 % of a normally distributed weight, fp8 by 2.6 %, at the same size.
PRECISIONS = {"cpu": ("fp32", "bf16"), "accelerator": ("bf16", "int8", "nf4")}
TAKEN = 0.7 * GIGABYTE  # of an otherwise idle card, by the desktop and the CUDA contexts of ComfyUI and the trainer


def choose(settings: Settings, budget: Budget) -> Settings:
    """Settle `precision="auto"` and `streamed_blocks=-1` so that the run fits into the free memory.

    The best precision that fits is taken, without streaming where that is left open. If none does, as few blocks as fit
    are streamed, in the smallest precision that may be chosen.

    Raises:
        SettingsError: nothing that may be chosen fits; it names the cheapest setting that does. Or something is left
            open and the free memory is not known.
    """
    if budget.free is None and not is_settled(settings):
        open_ones = {
            f"precision to one of {', '.join(usable(SMALLER_PRECISIONS))}": settings.precision == "auto",
            "streamed_blocks to 0, or higher where memory runs out": settings.streamed_blocks < 0,
        }
        raise SettingsError(
            f"precision auto and streamed_blocks -1 go by the free memory, which PyTorch does not tell on this device "
            f"({budget.device_type}). In Training Memory Settings, set "
            f"{', and '.join(text for text, is_open in open_ones.items() if is_open)}."
        )
    settled = _settled(settings, budget)
    if settled is None:
        smallest = list(_candidates(settings, budget))[-1]
        raise SettingsError(f"{forecast(smallest, budget)} {remedy(smallest, budget)}")
    return settled


def simulate(settings: Settings, architecture: FluxArchitecture, shape: BatchShape, card: int) -> Settings | None:
    """What `choose` would settle on a CUDA card of `card` gigabytes that nothing else uses; None if nothing fits."""
    budget = Budget(architecture, (shape,), "cuda", int(card * GIGABYTE - TAKEN))
    return _settled(settings, budget)


def _settled(settings: Settings, budget: Budget) -> Settings | None:
    return next((candidate for candidate in _candidates(settings, budget) if fits(candidate, budget)), None)


def _candidates(settings: Settings, budget: Budget) -> Iterator[Settings]:
    """The settings with what they leave open filled in, from what is liked best to what needs least."""
    precisions = usable(PRECISIONS["cpu" if budget.device_type == "cpu" else "accelerator"])
    precisions = precisions if settings.precision == "auto" else (settings.precision,)
    streamable = settings.streamed_blocks < 0
    for precision in precisions:
        resident = dataclasses.replace(settings, precision=precision)
        yield dataclasses.replace(resident, streamed_blocks=0) if streamable else resident
    # On the CPU, host memory is what there is too little of. The ring itself has room for as many blocks.
    if streamable and budget.can_stream:
        for count in range(RING + 1, budget.architecture.blocks + 1):
            yield dataclasses.replace(settings, precision=precisions[-1], streamed_blocks=count)
