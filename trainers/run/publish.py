"""Puts a run's LoRAs where ComfyUI lists them, under names that no other LoRA has, with what made them beside them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ... import checksums
from ...errors import DiskError, NameRefused, TrainingError
from ...files import (
    appearing,
    file_hash,
    is_held,
    link_or_copy,
    remove_partials,
    write_changed,
)
from ...paths import checked_name, child_of
from ..features.index import DATASET_CONFIG
from ..lora import file_formats as lora_files
from . import checkpoints
from .checkpoints import ADAPTER_FILE
from .folder import MAX_RUN_ID_LENGTH, Job, Run

logger = logging.getLogger(__name__)

CHECKPOINT_FORMAT = "diffusers"  # of the LoRAs in checkpoints, in `file_formats.FORMATS`
_LET_GO = "Unload the models in ComfyUI, or restart it, and queue the trainer again: it puts the names right."
BESIDE_THE_LORA = ("settings.toml", DATASET_CONFIG, "workflow.json")


def lora_folder(loras_root: Path, name: str) -> Path:
    """Where the LoRA's files go.

    Raises:
        NameRefused: the name is not plain, or a symbolic link of that name leads out of `loras_root`.
    """
    checked_name(name, "LoRA name")  # of new files and of a run, whatever lies in the folder already
    return child_of(loras_root, name, what="LoRA name")


def publish(
    run: Run,
    name: str,
    loras_root: Path,
    format: str = CHECKPOINT_FORMAT,
    tell: Callable[[str], object] = logger.warning,
) -> Path | None:
    """Put the LoRAs where ComfyUI lists them: `<name>/<name>-<step>.safetensors` and the finished `<name>.safetensors`.

    The finished one is the last, or the best by held-out loss if the run was to stop early. It lies there a second
    time, as `<run id>-<step>.safetensors`: ComfyUI's loaders keep what they read under a file's name, so that another
    LoRA needs another name. What the first two names held of another run or step is kept under its name of that kind,
    and so is every step of another run. Only a finished run takes `<name>.safetensors` from the one that finished
    before it. Beside it lie its run's settings, dataset config and workflow.

    On Windows nothing can replace or remove a file that ComfyUI has mapped into memory. What such a file was to become
    is then put beside it, under the name that no other has; it stays as it is until the LoRA is published again.

    Args:
        format: a name in `file_formats.FORMATS`.
        tell: is told of each file that had to stay.

    Returns:
        The finished LoRA's path under the name that no other has, or None as long as the run is not finished.
    """
    folder = lora_folder(loras_root, name)
    remove_partials(folder)  # ComfyUI would list them
    chosen = chosen_step(run)
    trained = _whole_checkpoints(run, chosen)
    files = {step: folder / f"{folder.name}-{step:06d}.safetensors" for step in trained}
    for step, file in files.items():
        files[step] = _publish_file(trained[step] / ADAPTER_FILE, file, format, tell)
    _set_aside_damaged(folder, run.checkpoints().keys() - trained.keys(), tell)
    if trained:
        _set_aside_others(run, folder, files.values(), tell)
    if not run.finished or not trained:
        return None
    source = files.get(chosen, files[max(files)])
    final = _publish_file(source, source.with_name(_own_name(source)), format, tell)
    _publish_file(source, folder / f"{folder.name}.safetensors", format, tell)
    for file in BESIDE_THE_LORA:
        if (run.path / file).is_file():
            write_changed(folder / f"{folder.name}.{file}", (run.path / file).read_bytes())
    return final


def chosen_step(run: Run) -> int | None:
    """The step whose LoRA a finished run that was to stop early ends with; None where that is its last."""
    return run.best_step() if run.finished and Job.read(run).settings.early_stop_patience else None


def displaced(run: Run, name: str, loras_root: Path) -> Path | None:
    """Where `publish` will keep the finished LoRA that has this name now, if it is another run's; None if it is not."""
    folder = lora_folder(loras_root, name)
    present = folder / f"{folder.name}.safetensors"
    if not present.is_file() or _described(present)[0] == run.id:
        return None
    return _damaged_name(present) if checksums.damage_of(present) else present.with_name(_own_name(present))


def _whole_checkpoints(run: Run, chosen: int | None) -> dict[int, Path]:
    """Those whose LoRA is as it was written; of the others the log tells.

    Raises:
        TrainingError: the one that a finished run ends with, which is `chosen` if it is there, is damaged.
    """
    trained = run.checkpoints()
    damaged = {step: folder for step, folder in trained.items() if not checkpoints.has_whole_adapter(folder)}
    for step, folder in damaged.items():
        logger.warning("The LoRA of step %d is damaged and is not published: %s", step, folder / ADAPTER_FILE)
    whole = {step: folder for step, folder in trained.items() if step not in damaged}
    last = chosen if chosen in trained else max(trained, default=0)
    if last in damaged and run.finished:
        if (damaged[last] / checkpoints.STATE_FILE).exists():
            delete, then = f"{run.path / 'status.json'}", "it is written anew from that checkpoint's state"
        else:
            delete = f"{run.path / 'status.json'} and the folder {run.path / 'checkpoints'}"
            then = "the run is trained again, to the same weights"
        raise TrainingError(
            f"The LoRA {damaged[last] / ADAPTER_FILE}, which the run ends with, is damaged: it is not as it was "
            f"written. Delete {delete}, and queue FLUX LoRA Trainer with the settings of that run: {then}. Steps whose "
            f"LoRA is whole: {', '.join(map(str, whole)) or 'none'}."
        )
    return whole


def _set_aside_damaged(folder: Path, steps: Iterable[int], tell: Callable[[str], object]) -> None:
    """Have ComfyUI no longer list a published LoRA that is damaged, of a step whose checkpoint is damaged too.

    They are one file where the file system has hard links, and nothing makes it again.
    """
    for step in steps:
        file = folder / f"{folder.name}-{step:06d}.safetensors"
        if file.is_file() and (damage := checksums.damage_of(file)):
            with _unless_held(file, tell):
                os.replace(file, _damaged_name(file))
                logger.warning("%s. Nothing can make it again; it is kept as %s", damage, _damaged_name(file))


def _set_aside_others(run: Run, folder: Path, own: Iterable[Path], tell: Callable[[str], object]) -> None:
    """Give the steps of other runs their own names, so that a series of step numbers is one run's.

    Files that do not say which run they are of were not trained here, and stay.
    """
    step_file = re.compile(re.escape(folder.name) + r"-\d{6,}\.safetensors")
    for file in set(folder.iterdir()).difference(own):
        if step_file.fullmatch(file.name) and _described(file)[0] not in ("", run.id):
            with _unless_held(file, tell):
                os.replace(file, file.with_name(_own_name(file)))
                file.unlink(missing_ok=True)  # POSIX renames nothing where both names are already the same file's


@contextlib.contextmanager
def _unless_held(file: Path, tell: Callable[[str], object]) -> Iterator[None]:
    """Leave a file where it is that another program holds."""
    try:
        yield
    except OSError as error:
        if not is_held(error):
            raise
        tell(f"{file} is in use and stays under that name for now ({error}). {_LET_GO}")


def _publish_file(source: Path, target: Path, format: str, tell: Callable[[str], object]) -> Path:
    """Have at `target` the LoRA of `source`, which is in our form or in `format`; nothing is written that is there.

    Returns:
        `target`, or where the LoRA is if another program holds what is there.
    """
    try:
        _put(source, target, format)
        return target
    except (OSError, DiskError) as error:
        if not (target.exists() and is_held(error)):
            raise
        held = error
    beside = _own_name(source)
    if beside == target.name:
        beside = f"{target.stem}.{file_hash(source)[:8]}.safetensors"
    _put(source, target.with_name(beside), format)  # a folder that may not be written to is told here
    tell(f"{target} is in use and stays as it is for now ({held}); the new LoRA is {beside}. {_LET_GO}")
    return target.with_name(beside)


def _put(source: Path, target: Path, format: str) -> None:
    wanted, present = _described(source), _described(target)
    if damaged := target.is_file() and checksums.damage_of(target):
        logger.warning("%s. It is published anew", damaged)
    elif present == (*wanted[:2], format) and target.stat().st_mtime >= source.stat().st_mtime:
        return
    with appearing(target, source.stat().st_size) as temporary:
        if wanted[2] == format:
            link_or_copy(source, temporary)
        else:
            lora_files.export(source, temporary, format)
        if target.exists() and present[:2] != wanted[:2]:
            os.replace(target, _damaged_name(target) if damaged else target.with_name(_own_name(target)))


def _described(lora: Path) -> tuple[str, str, str]:
    """Run, step and format of a LoRA file, by what it says of itself; "" for what it does not say."""
    metadata = lora_files.read_metadata(lora)
    return metadata.get("impasto_run", ""), metadata.get("impasto_step", ""), lora_files.format_of(lora)


def _damaged_name(lora: Path) -> Path:
    """Where a LoRA that is damaged is kept: ComfyUI does not list it."""
    return lora.with_name(f"{lora.name}.damaged")


def _own_name(lora: Path) -> str:
    """A file name that is no other LoRA's: of its run and step, or where it was not trained here, of its content."""
    run, step, _ = _described(lora)
    try:
        return f"{checked_name(run, longest=MAX_RUN_ID_LENGTH)}-{int(step):06d}.safetensors"
    except (NameRefused, ValueError):
        return f"{lora.stem}.{file_hash(lora)[:8]}.safetensors"
