"""A training run on disk: its folder, what it was asked to do, how far it is, and the LoRA files it gives.

The folder is the door between the trainer's process, which writes it, and everything else, which reads it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ImpastoError, NameRefused, TrainingError
from ...files import (
    appearing,
    content_hash,
    file_hash,
    link_or_copy,
    parsed_json,
    read_jsonl,
    remove_partials,
    write_changed,
    write_whole,
)
from ...paths import MAX_NAME_LENGTH, checked_name, child_of
from ..features.index import DATASET_CONFIG
from ..flux.fingerprint import fingerprint as flux_fingerprint
from ..lora import file_formats as lora_files
from ..settings import FIXED, Settings
from . import checkpoints
from .checkpoints import ADAPTER_FILE

LOCK_SECONDS = 330.0  # how long a trainer waits for another one of the same run
MAX_RUN_ID_LENGTH = MAX_NAME_LENGTH + 9  # the name, a dash and eight digits of the hash
CHECKPOINT_FORMAT = "diffusers"  # of the LoRAs in checkpoints, in `lora_files.FORMATS`
BESIDE_THE_LORA = ("settings.toml", DATASET_CONFIG, "workflow.json")
LATEST = "latest"  # no run's id, which ends in a dash and a hash
RUN_VERSION = 2  # raise when the same inputs would train to other weights
METRIC_NAMES = ("loss", "learning_rate", "seconds", "held_out_loss")


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
            return parsed_json((self.path / "status.json").read_bytes())
        except FileNotFoundError:
            return {}

    @property
    def finished(self) -> bool:
        """Whether it has come to the end that it is now asked for: a finished run may be given more steps."""
        status, settings = self.status(), Job.read(self).settings
        if status.get("state") != "finished" or status["total"] != settings.steps:
            return False
        return status["step"] == settings.steps or status["patience"] == settings.early_stop_patience

    @property
    def begun(self) -> bool:
        """Whether it has come to its first step."""
        return bool(self.checkpoints()) or any("loss" in record for record in self.metrics())

    def metrics(self) -> list[dict[str, Any]]:
        """One record per step in order of steps: `loss`, `learning_rate`, `seconds`; some with `held_out_loss`."""
        by_step: dict[int, dict[str, Any]] = {}
        for record in read_jsonl(self.path / "metrics.jsonl", step=int):
            if not all(isinstance(record.get(name, 0.0), int | float) for name in METRIC_NAMES):
                continue  # written by nobody who trains
            # a milestone's held-out loss is a line of its own
            by_step.setdefault(record["step"], {}).update(record)
        return [by_step[step] for step in sorted(by_step)]

    def evaluations(self) -> list[tuple[int, float]]:
        """(step, held-out loss) at the milestones that this run trained itself, in order."""
        first = Job.read(self).first_step
        return [
            (record["step"], record["held_out_loss"])
            for record in self.metrics()
            if record["step"] > first and math.isfinite(record.get("held_out_loss", math.nan))
        ]

    def best_step(self) -> int | None:
        """The step with the lowest held-out loss; None as long as none was measured."""
        return min(self.evaluations(), key=lambda evaluation: evaluation[1], default=(None, 0))[0]

    def checkpoints(self) -> dict[int, Path]:
        """Step -> checkpoint folder, in order of steps."""
        return checkpoints.found(self.path / "checkpoints")

    def samples(self) -> dict[int, Path]:
        """Step -> file of the samples drawn there: `latents`, scaled, `(prompts, 16, h, w)`; in order of steps."""
        files = sorted((self.path / "samples").glob("step-*/latents.safetensors"))
        return {int(file.parent.name.removeprefix("step-")): file for file in files}


@dataclass(frozen=True)
class Job:
    """What a run is asked to do, as `settings.toml` in its folder holds it.

    Attributes:
        name: of the LoRA.
        weights: the base model's file, and `fingerprint` what identifies its content.
        start_lora: file of the LoRA that training starts from, and `start_hash` what identifies its content; "" for a
            new LoRA.
        continued_from: id of the run that this one goes on from, and `first_step` where it does.
        prompts: the file in `features_folder` that lists the prompts of its samples; "" for none.
    """

    name: str
    settings: Settings
    features_folder: str
    features_key: str
    weights: str
    fingerprint: str
    start_lora: str = ""
    start_hash: str = ""
    continued_from: str = ""
    first_step: int = 0
    prompts: str = ""

    def identity(self) -> dict[str, Any]:
        """Everything that the final weights depend on: contents, not places."""
        return {
            "version": RUN_VERSION,
            "settings": self.settings.deciding(),
            "features": self.features_key,
            "weights": self.fingerprint,
            "start": self.start_hash,
            "continued": [self.continued_from, self.first_step],
        }

    def write(self, run: Run) -> None:
        import tomlkit

        inputs = dataclasses.asdict(self)
        document = {"name": inputs.pop("name"), "inputs": inputs, "training": self.settings.to_dict()}
        del inputs["settings"]
        write_changed(run.path / "settings.toml", tomlkit.dumps(document).encode())

    def check_places(self) -> None:
        """Refuse other contents where a person has set the places of a copied run anew.

        Raises:
            TrainingError: the features or the weights are not those that the run is of.
            ModelError: there are no weights, or they are damaged.
        """
        if Path(self.features_folder).name != self.features_key:
            raise TrainingError(
                f"features_folder is {self.features_folder}, but this run is of the features {self.features_key}. Set "
                "features_folder in its settings.toml to the folder of that name."
            )
        if flux_fingerprint(self.weights) != self.fingerprint:
            raise TrainingError(
                f"{self.weights} holds other weights than those that this run is of (fingerprint {self.fingerprint}). "
                "Set weights in its settings.toml to a copy of the same file."
            )

    @classmethod
    def read(cls, run: Run) -> Job:
        """What `write` wrote.

        Raises:
            TrainingError: the folder is no run's, or its settings.toml is not TOML.
            SettingsError: a setting is unknown or out of its range.
        """
        import tomlkit
        from tomlkit.exceptions import TOMLKitError

        file = run.path / "settings.toml"
        try:
            document = tomlkit.parse(file.read_text(encoding="utf-8")).unwrap()
        except FileNotFoundError as error:
            raise TrainingError(f"There is no {file}. Give the folder of a run, which has that file.") from error
        except (TOMLKitError, UnicodeDecodeError) as error:
            raise TrainingError(
                f"{file} is not TOML ({error}). Write paths with / also on Windows, and save it as UTF-8."
            ) from error
        return cls(name=document["name"], settings=Settings.from_dict(document["training"]), **document["inputs"])


def create_run(runs_root: Path, job: Job) -> Run:
    """Make, or find again, the folder of the run that `job` defines.

    Raises:
        NameRefused: the name is not plain.
        TrainingError: the run has been trained for more steps than it is now asked for.
    """
    child_of(runs_root, job.name, what="LoRA name")
    job = dataclasses.replace(job, name=job.name.strip())
    run_id = f"{job.name}-{content_hash(job.identity(), 8)}"
    run = Run(run_id, str(child_of(runs_root, run_id, what="run id", longest=MAX_RUN_ID_LENGTH)))
    done = max(run.checkpoints(), default=0)
    if done > job.settings.steps:
        raise TrainingError(
            f"The run '{run.id}' has already been trained for {done} steps, more than the {job.settings.steps} asked "
            f"for. Set steps to {done} or more, or use an earlier checkpoint's LoRA: {job.name}-<step>.safetensors."
        )
    run.path.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # features that something else made
        write_changed(run.path / DATASET_CONFIG, (Path(job.features_folder) / DATASET_CONFIG).read_bytes())
    job.write(run)
    return run


def continue_run(
    runs_root: Path, earlier: Run, more_steps: int, weights: Path, fingerprint: str, **changes: Any
) -> Run:
    """Make, or find again, the run that goes on from `earlier`'s last checkpoint for `more_steps`.

    The learning rate is planned anew from there, with its warm-up; optimiser state and data order go on. `earlier`
    stays as it is.

    Args:
        changes: settings that are to be others from here on.

    Raises:
        TrainingError: `earlier` has no checkpoint, was trained on another model, or a change makes its state useless.
    """
    job = Job.read(earlier)
    step = max(earlier.checkpoints(), default=0)
    if not step:
        raise TrainingError(
            f"The run '{earlier.id}' has no checkpoint to continue from. Queue FLUX LoRA Trainer with its settings."
        )
    if fingerprint != job.fingerprint:
        raise TrainingError(
            f"The run '{earlier.id}' was trained on {job.weights}, and {weights} holds other weights. "
            "Its LoRA would be wrong there: load the model it was trained on."
        )
    settings = dataclasses.replace(job.settings, **changes, steps=step + more_steps)
    if settings.warmup_steps >= more_steps and settings.warmup_steps:
        raise TrainingError(
            f"The run '{earlier.id}' warms its learning rate up over {settings.warmup_steps} steps, and only "
            f"{more_steps} more are asked for: it would never reach it. Ask for more steps than that."
        )
    for name in FIXED:
        asked, trained = getattr(settings, name), getattr(job.settings, name)
        if asked != trained:
            raise TrainingError(
                f"{name} was {trained} in the run '{earlier.id}' and is {asked} now, which its checkpoint cannot go on "
                f"with. Leave it at {trained}, or begin a new run with start_from."
            )
    job = dataclasses.replace(job, settings=settings, weights=str(weights), continued_from=earlier.id, first_step=step)
    run = create_run(runs_root, job)
    if not run.checkpoints():
        target = run.path / "checkpoints" / earlier.checkpoints()[step].name
        records = [record for record in earlier.metrics() if record["step"] <= step]
        write_whole(run.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))
        with appearing(target) as temporary:
            shutil.copytree(earlier.checkpoints()[step], temporary, copy_function=link_or_copy)
    return run


def list_runs(runs_root: Path) -> list[str]:
    """Ids of the runs in `runs_root`: that which was trained last first, those never trained behind all others."""
    folders = (path.parent for path in runs_root.glob("*/settings.toml"))
    return [folder.name for folder in sorted(folders, key=_last_trained, reverse=True)]


def _last_trained(run_folder: Path) -> tuple[int, int]:
    """When a trainer last said something of a run, and when the run was last asked for something new."""
    status, settings = run_folder / "status.json", run_folder / "settings.toml"
    return status.stat().st_mtime_ns if status.exists() else 0, settings.stat().st_mtime_ns


def find_run(runs_root: Path, run_id: str) -> Run:
    """The run with this id; for `LATEST` the one trained last, for a step at least, of those that continue no other.

    Asking for a finished run again does not train it. Continued runs are left out so that continuing the latest twice
    is one run, and runs that failed before their first step because there is nothing to plot or to continue.

    Raises:
        NameRefused: `run_id` is not a plain name.
        TrainingError: there is no such run; the text names those that there are.
    """
    if run_id == LATEST:
        runs = (find_run(runs_root, known) for known in list_runs(runs_root))
        run_id = next((run.id for run in runs if run.begun and not Job.read(run).continued_from), LATEST)
    folder = child_of(runs_root, run_id, what="run id", longest=MAX_RUN_ID_LENGTH)
    if not (folder / "settings.toml").is_file():
        known = list_runs(runs_root)
        if run_id == LATEST and known:
            raise TrainingError(
                f"None of the runs in {runs_root} is one that FLUX LoRA Trainer has trained for a step. Queue it, or "
                f"choose a run by its name: {', '.join(known)}."
            )
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
        run = find_run(runs_root, run_id)
        return run.id + (run.path / "status.json").read_text(encoding="utf-8")  # two runs may have come equally far
    except (ImpastoError, FileNotFoundError):
        return ""


def lora_folder(loras_root: Path, name: str) -> Path:
    """Where the LoRA's files go.

    Raises:
        NameRefused: the name is not plain, or a symbolic link of that name leads out of `loras_root`.
    """
    return child_of(loras_root, name, what="LoRA name")


def publish(run: Run, name: str, loras_root: Path, format: str = CHECKPOINT_FORMAT) -> Path | None:
    """Put the LoRAs where ComfyUI lists them: `<name>/<name>-<step>.safetensors` and the finished `<name>.safetensors`.

    The finished one is the last, or the best by held-out loss if the run was to stop early. It lies there a second
    time, as `<run id>-<step>.safetensors`: ComfyUI's loaders keep what they read under a file's name, so that another
    LoRA needs another name. What the first two names held of another run or step is kept under its name of that kind,
    and so is every step of another run. Only a finished run takes `<name>.safetensors` from the one that finished
    before it. Beside it lie its run's settings, dataset config and workflow.

    Args:
        format: a name in `lora_files.FORMATS`.

    Returns:
        The finished LoRA's path under the name that no other has, or None as long as the run is not finished.
    """
    folder = lora_folder(loras_root, name)
    remove_partials(folder)  # ComfyUI would list them
    trained = run.checkpoints()
    files = {step: folder / f"{folder.name}-{step:06d}.safetensors" for step in trained}
    for step, file in files.items():
        _publish_file(trained[step] / ADAPTER_FILE, file, format)
    if trained:
        _set_aside_others(run, folder, files.values())
    if not run.finished or not trained:
        return None
    chosen = run.best_step() if Job.read(run).settings.early_stop_patience else None
    source = files.get(chosen, files[max(files)])
    final = source.with_name(_own_name(source))
    for target in (final, folder / f"{folder.name}.safetensors"):
        _publish_file(source, target, format)
    for file in BESIDE_THE_LORA:
        if (run.path / file).is_file():
            write_changed(folder / f"{folder.name}.{file}", (run.path / file).read_bytes())
    return final


def _set_aside_others(run: Run, folder: Path, own: Iterable[Path]) -> None:
    """Give the steps of other runs their own names, so that a series of step numbers is one run's.

    Files that do not say which run they are of were not trained here, and stay.
    """
    step_file = re.compile(re.escape(folder.name) + r"-\d{6,}\.safetensors")
    for file in set(folder.iterdir()).difference(own):
        if step_file.fullmatch(file.name) and _described(file)[0] not in ("", run.id):
            os.replace(file, file.with_name(_own_name(file)))
            file.unlink(missing_ok=True)  # POSIX renames nothing where both names are already the same file's


def _publish_file(source: Path, target: Path, format: str) -> None:
    """Have at `target` the LoRA of `source`, which is in our form or in `format`; nothing is written that is there."""
    wanted, present = _described(source), _described(target)
    if present == (*wanted[:2], format) and target.stat().st_mtime >= source.stat().st_mtime:
        return
    with appearing(target) as temporary:
        if wanted[2] == format:
            link_or_copy(source, temporary)
        else:
            lora_files.export(source, temporary, format)
        if target.exists() and present[:2] != wanted[:2]:
            os.replace(target, target.with_name(_own_name(target)))


def _described(lora: Path) -> tuple[str, str, str]:
    """Run, step and format of a LoRA file, by what it says of itself; "" for what it does not say."""
    metadata = lora_metadata(lora)
    return metadata.get("impasto_run", ""), metadata.get("impasto_step", ""), lora_files.format_of(lora)


def _own_name(lora: Path) -> str:
    """A file name that is no other LoRA's: of its run and step, or where it was not trained here, of its content."""
    run, step, _ = _described(lora)
    try:
        return f"{checked_name(run, longest=MAX_RUN_ID_LENGTH)}-{int(step):06d}.safetensors"
    except (NameRefused, ValueError):
        return f"{lora.stem}.{file_hash(lora)[:8]}.safetensors"


def lora_metadata(path: Path) -> dict[str, str]:
    """The metadata in a safetensors file's header; empty if there is none, or no such file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (FileNotFoundError, SafetensorError):
        return {}
