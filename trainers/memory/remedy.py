"""Turns what can go wrong in the trainer's process into the words a person can act on."""

from __future__ import annotations

import errno
import re
import traceback
from typing import TYPE_CHECKING

from ...errors import ImpastoError
from ...texts import first_line
from . import estimate as memory_plan

if TYPE_CHECKING:
    from ..settings import Settings
    from .estimate import Budget

OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # torch's words on a device and on the CPU
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_IN_WORDS = tuple(f"os error {number})" for number in (*_FULL, 112))  # safetensors; 112 is Windows' own
SAID = "impasto: "  # begins a line of the log that is meant for the person
QUEUE_AGAIN = "Queue again: training goes on from the last checkpoint."
QUEUE_WITH_LESS = (
    "Queue again: training goes on from the last checkpoint, unless it is precision, optimizer, batch_size, resolution "
    "or rank that you set: that is another run, which begins at step 0."
)
_LOST = ("DistBackendError", "DistNetworkError", "DistStoreError")  # of torch.distributed, which not every build has


def explained(error: Exception, settings: Settings, budget: Budget | None = None) -> str:
    """What to show for an exception raised while training; `settings` and `budget` as they were planned with."""
    if isinstance(error, ImpastoError):
        return str(error)
    if is_full_disk(error):
        return f"The disk is full: {first_line(error)}. The checkpoints are whole. Free some space. {QUEUE_AGAIN}"
    if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in OUT_OF_MEMORY):
        # They hold tensors, and the checkpoint that the block failed in: its hooks would still take what the plan
        # below keeps for its backward pass, and there compute the real block again.
        traceback.clear_frames(error.__traceback__)
        return f"Out of memory while training: {first_line(error)} {cheaper(settings, budget)} {QUEUE_WITH_LESS}"
    return f"Training failed: {type(error).__name__}: {first_line(error)}. The full report is in the run's train.log."


def is_full_disk(error: Exception) -> bool:
    """Whether a writer found no room, as the system reports it or as safetensors does. PyTorch gives no reason."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(words in str(error) for words in _FULL_IN_WORDS)


def is_lost_process(error: Exception) -> bool:
    """Whether another of several processes is gone: why, that one has said."""
    return type(error).__name__ in _LOST or "gloo/transport" in str(error)


def killed(log: str) -> str:
    """What to show when the process ended without reporting; `log` is what it and its launcher printed."""
    said = re.findall(rf"^{re.escape(SAID)}(.+)$", log, re.MULTILINE)
    if said:
        return said[-1]
    signal = re.search(r"died with <Signals\.(SIG\w+)", log)
    if signal and signal[1] == "SIGKILL":
        return (
            "The trainer's process was killed from outside (SIGKILL). The usual cause is the system running out of "
            f"memory. Close other programs, or choose a smaller resolution, batch_size or base precision. {QUEUE_AGAIN}"
        )
    ending = "\n".join(log.strip().splitlines()[-5:])
    how = f" ({signal[1]})" if signal else ""
    return f"The trainer's process ended unexpectedly{how}. {QUEUE_AGAIN} Its last words:\n{ending}"


def cheaper(settings: Settings, budget: Budget | None) -> str:
    """The cheapest change of settings that needs clearly less memory; `budget` is None before anything was planned."""
    if budget is None or not memory_plan.is_settled(settings):
        return "Close other programs that use memory."
    return memory_plan.after_running_out(settings, budget)
