"""What a run says of itself while it trains: metrics.jsonl, and when its numbers mean that it should stop."""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ...errors import TrainingError
from ...files import read_jsonl, write_whole, writing

if TYPE_CHECKING:
    from .folder import Job, Run

BROKEN_IN_A_ROW = 3  # steps whose loss is not finite, or that had no memory, before the run is given up


class Metrics:
    """The lines of metrics.jsonl, one per step, written a step late so that the host never waits for the device.

    Args:
        run: whose metrics they are.
        job: what to name in an error.
        main: whether this is the process that writes; the others only watch.
        send: takes each line's numbers and its step as well, as accelerate's trackers do.
    """

    def __init__(self, run: Run, job: Job, main: bool, send: Callable[[dict[str, float], int], None]) -> None:
        self.file = run.path / "metrics.jsonl"
        self.job = job
        self.main = main
        self.send = send
        self.pending: deque[tuple[dict[str, Any], _Arriving]] = deque()
        self.broken = 0
        self.last = time.perf_counter()

    def forget_after(self, step: int) -> None:
        """Drop the lines after `step`: those steps are trained again, to the same result."""
        if not self.main:
            return
        kept = [record for record in read_jsonl(self.file, step=int) if record["step"] <= step]
        write_whole(self.file, "".join(json.dumps(record) + "\n" for record in kept))

    def start_clock(self) -> None:
        """Leave what was done since the last step out of the next one's seconds, where nothing is under way."""
        if not self.pending:
            self.last = time.perf_counter()

    def add(self, record: dict[str, Any], loss_and_norm: torch.Tensor, errors: torch.Tensor) -> None:
        """Take a step's record, whose numbers are still being computed.

        Args:
            loss_and_norm: of the step: loss and gradient norm, `(2,)`.
            errors: of each example that the record names, before any weight.
        """
        self.pending.append((record, _Arriving(torch.cat([loss_and_norm, errors]))))

    def write_pending(self, keep: int = 0) -> None:
        """Write all records that `add` took but the `keep` newest.

        Raises:
            TrainingError: the numbers say that going on is of no use; the text says which and what to do.
        """
        while len(self.pending) > keep:
            record, arriving = self.pending.popleft()
            loss, norm, *errors = arriving.values()
            now = time.perf_counter()
            record["seconds"], self.last = round(now - self.last, 4), now
            if math.isfinite(loss + norm):
                record |= {"loss": loss, "grad_norm": norm, "losses": [float(f"{error:.5g}") for error in errors]}
            else:
                record["skipped"] = "not finite"
            self.write(record)
            self.check(record["step"], loss, norm)

    def check(self, step: int, loss: float, norm: float) -> None:
        if not math.isfinite(loss + norm):
            self.count_broken(self.diverged(step, norm if math.isfinite(loss) else loss))
            return
        self.broken = 0
        if loss == 0:
            raise TrainingError(
                f"The loss is exactly 0 at step {step}: the model is given nothing to learn. Look at the encoded "
                "training data: a mask that covers the whole picture, or pictures that are all the same grey, do this."
            )
        if norm == 0:
            raise TrainingError(
                f"All gradients are 0 at step {step}, so that the LoRA learns nothing. Choose other targets or "
                "block_ranks, and a base model whose weights are not all 0."
            )

    def count_broken(self, reason: str) -> None:
        """Count a step that taught nothing; the third in a row ends the run."""
        self.broken += 1
        if self.broken >= BROKEN_IN_A_ROW:
            raise TrainingError(reason)

    def skipped(self, record: dict[str, Any], why: str, reason: str) -> None:
        """Write the record of a step that was not taken, and count it.

        Raises:
            TrainingError: with `reason`, at the third in a row.
        """
        self.write_pending()
        self.write(record | {"skipped": why})
        self.count_broken(reason)

    def diverged(self, step: int, loss: float) -> str:
        """What to say of a loss, gradient or LoRA that is not finite."""
        if step <= BROKEN_IN_A_ROW:
            return (
                f"The loss or its gradient is {loss} before anything was learned: the base model {self.job.weights} or "
                "the encoded training data hold values that are not finite. Try another file of the model, or another "
                "VAE and CLIP."
            )
        return (
            f"The loss, its gradient or the LoRA became {loss} at step {step}; it was not saved. The checkpoints "
            f"before it are whole. Lower learning_rate (now {self.job.settings.learning_rate:g}) and queue again."
        )

    def write(self, record: dict[str, Any]) -> None:
        if not self.main:
            return
        record = {key: value for key, value in record.items() if value is not None}
        with writing(self.file), open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        numbers = {key: value for key, value in record.items() if isinstance(value, (int, float)) and key != "step"}
        self.send(numbers, record["step"])

    def flush(self) -> None:
        """Bring the lines up to a checkpoint to the disk; those after it are written again on resuming."""
        with open(self.file, "rb+") as file:
            os.fsync(file.fileno())


class _Arriving:
    """Numbers on their way from the device. On CUDA nobody waits for them before they are asked for."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers = numbers.to("cpu", non_blocking=True)  # into pinned memory
        self.event = torch.cuda.Event() if numbers.is_cuda else None
        if self.event:
            self.event.record()

    def values(self) -> list[float]:
        if self.event:
            self.event.synchronize()
        return self.numbers.tolist()
