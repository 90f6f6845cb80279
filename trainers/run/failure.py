"""How a training process can end before its time, and the words for it; `memory.remedy` has those that need a plan."""

from __future__ import annotations

import re
import sys

SAID = "impasto: "  # begins a line of the log that is meant for the person
QUEUE_AGAIN = "Queue again: training goes on from the last checkpoint."
_LOST = ("DistBackendError", "DistNetworkError", "DistStoreError")  # of torch.distributed, which not every build has


def is_lost_process(error: Exception) -> bool:
    """Whether another of several processes is gone: why, that one has said."""
    return type(error).__name__ in _LOST or "gloo/transport" in str(error)


def say(text: str) -> None:
    """Leave a text for the person as the last word in the log, where status.json cannot be written."""
    sys.stderr.write(f"\n{SAID}{text}\n")


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
