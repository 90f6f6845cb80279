"""What the tiny FLUX's two trainings share: state that survives a kill, averaged weights, sheets of pictures."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..files import appearing, write_whole
from ..progress import duration

logger = logging.getLogger(__name__)


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write tensors and numbers so that `path` holds the old state or the new one, never half of it."""
    with appearing(path) as temporary:
        torch.save(state, temporary)


def load_state(path: str | Path) -> dict[str, Any] | None:
    """The state saved last, or None where there is none."""
    return torch.load(path, weights_only=True) if Path(path).exists() else None


class AveragedWeights:
    """An exponential moving average of a module's floating weights, which is what is shown and shipped."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """The average begins short, so that the random start is soon forgotten."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        current = module.state_dict()
        names = list(self.values)
        torch._foreach_lerp_([self.values[name] for name in names], [current[name] for name in names], share)

    def into(self, module: nn.Module) -> nn.Module:
        module.load_state_dict(self.values)
        return module


class ProgressLine:
    """Logs the step, the running mean of the loss, and what is left, every so many steps."""

    def __init__(self, total: int, every: int) -> None:
        self.total, self.every = total, every
        self.losses: list[float] = []
        self.began = time.monotonic()

    def step(self, done: int, loss: float) -> None:
        self.losses.append(loss)
        if done % self.every and done != self.total:
            return
        seconds = (time.monotonic() - self.began) / len(self.losses)
        mean, self.losses, self.began = sum(self.losses) / len(self.losses), [], time.monotonic()
        left = duration(seconds * (self.total - done))
        logger.info("step %d of %d, loss %.4f, %.2f s a step, %s left", done, self.total, mean, seconds, left)


def learning_rate(step: int, total: int, peak: float, warm_up: int, falling: float, last: float = 0.0) -> float:
    """Linear warm-up, then level, then a linear fall over the last share `falling` of all steps down to `last`."""
    fall = max(0.0, (step - (1 - falling) * total) / max(1.0, falling * total))
    return min(1.0, (step + 1) / warm_up) * (peak + (last - peak) * min(1.0, fall))


def as_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 `(n, height, width, 3)` to float32 `(n, 3, height, width)` in 0…1, channels last in memory."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)


def as_pixels(pictures: Tensor) -> np.ndarray:
    """The inverse of `as_tensor`."""
    return pictures.float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def write_sheet(path: str | Path, rows: Sequence[Sequence[np.ndarray]], quality: int = 90) -> None:
    """A sheet of pictures, each uint8 (height, width, 3), in rows; JPEG."""
    import io

    height = max(picture.shape[0] for row in rows for picture in row)
    width = max(picture.shape[1] for row in rows for picture in row)
    sheet = Image.new("RGB", (width * max(map(len, rows)), height * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (x * width, y * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=quality)
    write_whole(path, buffer.getvalue())
