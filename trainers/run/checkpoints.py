"""Checkpoints of a run: the adapter, and what is needed to go on from it as if nothing had happened.

No random state is kept: order, noise and dropout are drawn from the seed and the step (see `objective.derived_seed`),
so the step itself is the data position and the random state.
"""

from __future__ import annotations

import logging
import re
import zipfile
import zlib
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import checksums
from ...errors import TrainingError
from ...files import appearing, is_held, remove, temporary_beside

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

ADAPTER_FILE = "adapter.safetensors"
STATE_FILE = "state.pt"
ZIP = b"PK\x03\x04"  # how the files of torch.save begin
ASKED_FOR = "asked-for"  # an empty file in a checkpoint that a person asked for: it stays
NOT_VALIDATED = "by-stop"  # an empty file in a checkpoint that was not measured: of a stop, or not measured yet


@dataclass(frozen=True)
class Checkpoint:
    step: int
    folder: Path

    def state(self) -> dict[str, Any]:
        """What `Learner.state_dict` gave: the trained weights, optimiser, schedule and moving average.

        Raises:
            TrainingError: it is not as it was written.
        """
        import torch

        check(self.folder)
        return torch.load(self.folder / STATE_FILE, map_location="cpu", weights_only=True)


def found(folder: Path) -> dict[int, Path]:
    """Step -> checkpoint folder in `folder`, in order of steps."""
    named = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.glob("step-*") if path.is_dir())
    return {step: path for step, path in sorted((int(match[1]), path) for match, path in named if match)}


def latest(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder` with the most steps of those that training can go on from."""
    return _newest(folder)


def _newest(folder: Path, without: Set[Path] = frozenset()) -> Checkpoint | None:
    whole = {step: path for step, path in found(folder).items() if (path / STATE_FILE).exists() and path not in without}
    return Checkpoint(max(whole), whole[max(whole)]) if whole else None


def state_damage(checkpoint_folder: Path) -> str:
    """How a checkpoint's state is not as it was written; "" where it is.

    It is compared with the sums (CRC-32) that PyTorch writes into it.
    """
    state = checkpoint_folder / STATE_FILE
    try:
        with open(state, "rb") as opened:
            # PyTorch's older kind is another reader's, which before 2.6 runs code even so (CVE-2025-32434).
            if opened.read(len(ZIP)) != ZIP:
                return f"{state} is not what the trainer wrote there"
        with zipfile.ZipFile(state) as records:
            changed = records.testzip()
    except FileNotFoundError:  # as of every checkpoint that nothing goes on from
        return ""
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        return f"{state} is not whole ({error})"
    return f"{state} has other content than was written ({changed})" if changed else ""


def has_whole_adapter(checkpoint_folder: Path) -> bool:
    """Whether a checkpoint's LoRA is as it was written. If not, it can be written anew from a whole state."""
    try:
        return not checksums.damage_of(checkpoint_folder / ADAPTER_FILE)
    except FileNotFoundError:
        return False


def check(checkpoint_folder: Path) -> None:
    """Refuse a checkpoint that training cannot go on from.

    Raises:
        TrainingError: with what to do.
    """
    if damage := state_damage(checkpoint_folder):
        raise TrainingError(
            f"The checkpoint {checkpoint_folder.name} is damaged: {damage}. Delete the folder {checkpoint_folder} and "
            "the run's status.json, and queue FLUX LoRA Trainer with the settings of that run: it trains those steps "
            "again, to the same weights."
        )


def set_aside_damaged(folder: Path) -> str:
    """Have the newest checkpoint that is whole be the `latest`; those after it get another name, and are kept.

    The steps after it are trained again, to the same weights.

    Returns:
        What was set aside, for the person; "" where nothing is damaged.

    Raises:
        TrainingError: there are checkpoints to go on from, and none is whole; all stay as they are.
    """
    damaged: list[tuple[Path, str]] = []
    while checkpoint := _newest(folder, without={path for path, _ in damaged}):
        damage = state_damage(checkpoint.folder)
        if not damage:
            break
        damaged.append((checkpoint.folder, damage))
    if not damaged:
        return ""
    what = "; ".join(damage for _, damage in damaged)
    if checkpoint is None:
        raise TrainingError(
            f"{what}. There is no earlier checkpoint that training can go on from. Delete the folder {folder}, and "
            "queue again: training begins where this run began and comes to the same weights. LoRAs that were "
            "published stay."
        )
    for path, _ in damaged:
        aside = path.with_name(f"damaged-{path.name}")
        remove(aside)
        path.rename(aside)
    return f"{what}. Training goes on from step {checkpoint.step}; what is damaged is kept as damaged-… in {folder}."


def save(
    folder: Path,
    step: int,
    adapter: dict[str, Tensor],
    metadata: dict[str, str],
    state: dict[str, Any],
) -> Checkpoint:
    """Write `step-<step>` into `folder` so that it is there whole or not at all; it does not count as validated before
    `mark_validated`.

    Raises:
        DiskError: it cannot be written; the checkpoints before this one are untouched.
    """
    import torch
    from safetensors.torch import save_file

    checkpoint = Checkpoint(step, folder / f"step-{step:06d}")
    with appearing(checkpoint.folder, _bytes_in([adapter, state])) as temporary:
        temporary.mkdir()
        save_file(adapter, temporary / ADAPTER_FILE, metadata | checksums.UNSEALED)
        checksums.seal(temporary / ADAPTER_FILE)
        torch.save(state, temporary / STATE_FILE)
        (temporary / NOT_VALIDATED).touch()
    return checkpoint


def is_validated(checkpoint_folder: Path) -> bool:
    """Whether the checkpoint was measured, and is to be kept; one that a stop left is dropped by the next."""
    return not (checkpoint_folder / NOT_VALIDATED).exists()


def mark_validated(checkpoint_folder: Path, asked_for: bool = False) -> None:
    """Have a checkpoint count as measured; one that a person asked for stays, however many come after it."""
    if asked_for:
        (checkpoint_folder / ASKED_FOR).touch()
    (checkpoint_folder / NOT_VALIDATED).unlink()


def prune(folder: Path, step: int, keep: int, best: int | None) -> None:
    """Drop the checkpoints before `step` that were not validated, and all but the latest and the best of the others.

    Those that a person asked for stay.

    Of those that stay, only the one of `step` is gone on from: the others keep their LoRA alone.

    Args:
        folder: of the checkpoints.
        step: of the newest one.
        keep: how many of the latest stay, that of `step` among them; 0 for all.
        best: the step with the lowest held-out loss, if any was measured.
    """
    earlier = {at: path for at, path in found(folder).items() if at < step}
    asked_for = {at for at, path in earlier.items() if (path / ASKED_FOR).exists() and is_validated(path)}
    validated = [at for at, path in earlier.items() if is_validated(path) and at not in asked_for]
    others = keep - 1
    kept = {*(validated[-others:] if others > 0 else validated if others < 0 else ()), best, *asked_for}
    for at, path in earlier.items():
        if at in kept:
            drop_state(path)
        else:
            discard(path)


def drop_state(checkpoint_folder: Path) -> None:
    """Keep only the LoRA of a checkpoint that nothing goes on from."""
    (checkpoint_folder / STATE_FILE).unlink(missing_ok=True)


def discard(checkpoint_folder: Path) -> None:
    """Remove a checkpoint; killed half-way, what is left does not look like one.

    On Windows its LoRA cannot be removed while ComfyUI has the published one mapped, which is the same file: it goes
    with the next checkpoint, or the next start.
    """
    leaving = temporary_beside(checkpoint_folder)
    try:
        checkpoint_folder.rename(leaving)
        remove(leaving)
    except OSError as error:
        if not is_held(error):
            raise
        logger.warning("%s is in use, and is removed later: %s", checkpoint_folder, error)


def _bytes_in(value: Any) -> int:
    """Of all tensors in a state."""
    if isinstance(value, dict):
        return sum(map(_bytes_in, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_bytes_in, value))
    return getattr(value, "nbytes", 0)
