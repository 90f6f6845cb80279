"""A training run on disk: its folder, what it was asked to do, how far it is, and the LoRA files it gives.

The folder is the door between the trainer's process, which writes it, and everything else, which reads it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ImpastoError, TrainingError
from ..files import appearing, content_hash, read_jsonl, write_whole
from ..names import MAX_NAME_LENGTH, child_of
from .features import DATASET_CONFIG, Features
from .settings import Settings

LOCK_SECONDS = 330.0  # how long a trainer waits for another one of the same run
MAX_RUN_ID_LENGTH = MAX_NAME_LENGTH + 9  # the name, a dash and eight digits of the hash
RUN_VERSION = 1  # raise when the same inputs would train to other weights


@dataclass(frozen=True)
class Run:
    """A finished, running or stopped training run.

    Attributes:
        id: `<name>-<hash>`, the hash covering everything that the final weights depend on.
        folder: absolute path of the run's folder.
    """

    id: str
    folder: str

    @property
    def path(self) -> Path:
        return Path(self.folder)

    def status(self) -> dict[str, Any]:
        """What the trainer last said: `state`, `step`, `total`, and `error` if it failed; empty before it started."""
        try:
            return json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}

    @property
    def finished(self) -> bool:
        return self.status().get("state") == "finished"

    def metrics(self) -> list[dict[str, Any]]:
        """One record per step in order of steps: `loss`, `learning_rate`, `seconds`; some with `held_out_loss`."""
        by_step = {record["step"]: record for record in read_jsonl(self.path / "metrics.jsonl")}
        return [by_step[step] for step in sorted(by_step)]

    def checkpoints(self) -> dict[int, Path]:
        """Step -> checkpoint folder, in order of steps."""
        folders = sorted((self.path / "checkpoints").glob("step-*"))
        return {int(folder.name.removeprefix("step-")): folder for folder in folders}


@dataclass(frozen=True)
class Job:
    """What a run is asked to do, as `settings.toml` in its folder holds it."""

    name: str
    settings: Settings
    features_folder: str
    features_key: str
    weights: str
    fingerprint: str

    def identity(self) -> dict[str, Any]:
        """Everything that the final weights depend on: contents, not places."""
        return {
            "version": RUN_VERSION,
            "settings": self.settings.to_dict(),
            "features": self.features_key,
            "weights": self.fingerprint,
        }

    def write(self, run: Run) -> None:
        import tomlkit

        document = {
            "name": self.name,
            "inputs": {
                "features_folder": self.features_folder,
                "features_key": self.features_key,
                "weights": self.weights,
                "fingerprint": self.fingerprint,
            },
            "training": self.settings.to_dict(),
        }
        write_whole(run.path / "settings.toml", tomlkit.dumps(document))

    @classmethod
    def read(cls, run: Run) -> Job:
        import tomlkit

        document = tomlkit.parse((run.path / "settings.toml").read_text(encoding="utf-8")).unwrap()
        return cls(name=document["name"], settings=Settings.from_dict(document["training"]), **document["inputs"])


def create_run(
    runs_root: Path, name: str, settings: Settings, features: Features, weights: Path, fingerprint: str
) -> Run:
    """Make, or find again, the folder of the run that these inputs define.

    Args:
        name: of the LoRA, as the person typed it.
        weights: the base model's file.
        fingerprint: content identity of the base model's weights, so that a moved file is the same model.

    Raises:
        NameRefused: `name` is not a plain name.
    """
    child_of(runs_root, name, what="LoRA name")
    job = Job(name.strip(), settings, features.folder, features.key, str(weights), fingerprint)
    run_id = f"{job.name}-{content_hash(job.identity(), 8)}"
    run = Run(run_id, str(child_of(runs_root, run_id, what="run id", longest=MAX_RUN_ID_LENGTH)))
    run.path.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # features that something else made
        write_whole(run.path / DATASET_CONFIG, (Path(features.folder) / DATASET_CONFIG).read_bytes())
    job.write(run)
    return run


def list_runs(runs_root: Path) -> list[str]:
    """Ids of the runs in `runs_root`, the newest first."""
    settings = sorted(runs_root.glob("*/settings.toml"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.name for path in settings]


def find_run(runs_root: Path, run_id: str) -> Run:
    """The run with this id.

    Raises:
        NameRefused: `run_id` is not a plain name.
        TrainingError: there is no such run; the text names those that there are.
    """
    folder = child_of(runs_root, run_id, what="run id", longest=MAX_RUN_ID_LENGTH)
    if not (folder / "settings.toml").is_file():
        known = list_runs(runs_root)
        raise TrainingError(
            f"There is no training run '{run_id}' in {runs_root}. "
            + (f"There are: {', '.join(known)}." if known else "No run has been started yet: queue FLUX LoRA Trainer.")
        )
    return Run(folder.name, str(folder))


@contextlib.contextmanager
def sole_trainer(run: Run, stop_requested: Callable[[], bool]) -> Iterator[None]:
    """Hold the run's lock, so that a trainer whose ComfyUI died can save its step before the next one reads it.

    Only the first process of several takes the lock.

    Raises:
        TrainingError: another trainer still holds it after `LOCK_SECONDS`, or this one was asked to stop meanwhile.
    """
    from filelock import FileLock, Timeout

    if os.environ.get("RANK", "0") != "0":
        yield
        return
    lock = FileLock(run.path / "run.lock")
    deadline = time.monotonic() + LOCK_SECONDS
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except Timeout as error:
            if stop_requested() or time.monotonic() > deadline:
                raise TrainingError(
                    f"Another trainer is at work on the run '{run.id}'. Wait until it is finished, or stop it there, "
                    "and queue again."
                ) from error
    try:
        yield
    finally:
        lock.release()


def state_of(runs_root: Path, run_id: str) -> str:
    """A text that changes whenever the run goes on; empty as long as there is no such run."""
    try:
        return (find_run(runs_root, run_id).path / "status.json").read_text(encoding="utf-8")
    except (ImpastoError, FileNotFoundError):
        return ""


def lora_folder(loras_root: Path, name: str) -> Path:
    """Where the LoRA's files go.

    Raises:
        NameRefused: the name is not plain, or a symbolic link of that name leads out of `loras_root`.
    """
    return child_of(loras_root, name, what="LoRA name")


def publish(run: Run, name: str, loras_root: Path) -> Path | None:
    """Put the LoRAs where ComfyUI lists them: `<name>/<name>-<step>.safetensors` and the finished `<name>.safetensors`.

    A file of that name made by another run is kept, renamed to `<stem>.<its run>.safetensors`.

    Returns:
        The finished LoRA's path, or None as long as the run is not finished.
    """
    folder = lora_folder(loras_root, name)
    checkpoints = run.checkpoints()
    for step, checkpoint in checkpoints.items():
        _publish_file(checkpoint / "adapter.safetensors", folder / f"{folder.name}-{step:06d}.safetensors")
    if not run.finished or not checkpoints:
        return None
    final = folder / f"{folder.name}.safetensors"
    _publish_file(checkpoints[max(checkpoints)] / "adapter.safetensors", final)
    return final


def _publish_file(source: Path, target: Path) -> None:
    if target.exists():
        if target.samefile(source) or target.read_bytes() == source.read_bytes():
            return
        other = lora_metadata(target).get("impasto_run", "other")
        os.replace(target, target.with_name(f"{target.stem}.{other}{target.suffix}"))
    with appearing(target) as temporary:
        try:
            os.link(source, temporary)  # no second copy on disk where the file system can
        except OSError:
            shutil.copyfile(source, temporary)


def lora_metadata(path: Path) -> dict[str, str]:
    """The metadata in a safetensors file's header; empty if there is none or the file is not safetensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except SafetensorError:
        return {}
