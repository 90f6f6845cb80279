"""How a training process can end before its time, and the words for it; `memory.remedy` has those that need a plan."""

from __future__ import annotations

import errno
import re

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_IN_WORDS = tuple(f"os error {number})" for number in (*_FULL, 112))  # safetensors; 112 is Windows' own
SAID = "impasto: "  # begins a line of the log that is meant for the person
QUEUE_AGAIN = "Queue again: training goes on from the last checkpoint."
_LOST = ("DistBackendError", "DistNetworkError", "DistStoreError")  # of torch.distributed, which not every build has


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
