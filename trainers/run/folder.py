"""A training run on disk: its folder, what it was asked to do, how far it is, and which runs there are.

The folder is the door between the trainer's process, which writes it, and everything else, which reads it: this module
imports little, so that reading a run costs little. Making a run is in `create`, its LoRA files are in `publish`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ImpastoError, TrainingError
from ...files import has_types, jsonl_records, parsed_json, read_jsonl, write_changed
from ...paths import MAX_NAME_LENGTH, existing_child, in_a_row, offered
from ..settings import Settings
from . import checkpoints

MAX_RUN_ID_LENGTH = MAX_NAME_LENGTH + 9  # the name, a dash and eight digits of the hash
LATEST = "latest"  # no run's id, which ends in a dash and a hash
RUN_VERSION = 2  # raise when the same inputs would train to other weights
END_BYTES = 16_384  # of metrics.jsonl, read at first for its last steps
METRIC_NAMES = ("loss", "learning_rate", "seconds", "held_out_loss")

logger = logging.getLogger(__name__)


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

    @property
    def name(self) -> str:
        """What a person called it: the id without its hash."""
        return re.sub(r"-[0-9a-f]{8}$", "", self.id)

    def status(self) -> dict[str, Any]:
        """What the trainer last said: `state`, `step`, `total`, and `error` if it failed; empty before it started.

        Empty also where the file is damaged: queued again, the run goes on from its last checkpoint, be it the end.
        """
        file = self.path / "status.json"
        try:
            status = parsed_json(file.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            status = None
        if isinstance(status, dict) and has_types(status, state=str):
            return status
        logger.warning("%s is damaged, and counts for nothing until the trainer writes it anew", file)
        return {}

    @property
    def finished(self) -> bool:
        """Whether it has come to the end that it is now asked for: a finished run may be given more steps."""
        return self.has_finished(Job.read(self).settings)

    def has_finished(self, settings: Settings) -> bool:
        """Whether it has come to the end of these settings, as `job.settings` in its folder or to be written there."""
        status = self.status()
        if status.get("state") != "finished" or status.get("total") != settings.steps:
            return False
        return status.get("step") == settings.steps or status.get("patience") == settings.early_stop_patience

    @property
    def begun(self) -> bool:
        """Whether it has come to its first step."""
        return bool(self.checkpoints()) or any("loss" in record for record in self.metrics())

    def metrics(self) -> list[dict[str, Any]]:
        """One record per step in order of steps: `loss`, `learning_rate`, `seconds`; some with `held_out_loss`."""
        return _in_order(read_jsonl(self.path / "metrics.jsonl", step=int))

    def last_metrics(self, wanted: int) -> list[dict[str, Any]]:
        """Those of the last steps, at least `wanted` where there are as many; only the end of the file is read."""
        length, is_all, records = END_BYTES, False, []
        while len(records) < wanted and not is_all:
            lines, is_all = end_of(self.path / "metrics.jsonl", length)
            records = _in_order(jsonl_records(lines.decode(errors="replace"), step=int))
            length *= 8
        return records

    def evaluations(self) -> list[tuple[int, float]]:
        """(step, held-out loss) at the checkpoints that this run trained and validated itself, in order."""
        measured = [
            (record["step"], record["held_out_loss"])
            for record in self.metrics()
            if math.isfinite(record.get("held_out_loss", math.nan))
        ]
        first = Job.read(self).first_step if measured else 0  # a run that nobody has made yet has no job to read
        return [(step, loss) for step, loss in measured if step > first]

    def best_step(self) -> int | None:
        """The step with the lowest held-out loss; None as long as none was measured."""
        return min(self.evaluations(), key=lambda evaluation: evaluation[1], default=(None, 0))[0]

    def checkpoints(self) -> dict[int, Path]:
        """Step -> checkpoint folder, in order of steps."""
        return checkpoints.found(self.path / "checkpoints")

    def samples(self) -> dict[int, Path]:
        """Step -> file of the samples drawn there: `latents`, scaled, `(prompts, 16, h, w)`; in order of steps."""
        folders = checkpoints.found(self.path / "samples")
        return {step: file for step, folder in folders.items() if (file := folder / "latents.safetensors").is_file()}

    def samples_file(self, step: int) -> Path:
        """Where the samples drawn at a step lie."""
        return self.path / "samples" / f"step-{step:06d}" / "latents.safetensors"


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

    @classmethod
    def read(cls, run: Run) -> Job:
        """What `write` wrote.

        Raises:
            TrainingError: the folder is no run's, or its settings.toml is damaged.
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
        try:
            job = cls(name=document["name"], settings=Settings.from_dict(document["training"]), **document["inputs"])
            for field in dataclasses.fields(cls):
                if type(value := getattr(job, field.name)).__name__ != field.type:
                    raise TypeError(f"{field.name} is {value!r}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TrainingError(
                f"{file} is damaged: it does not say all that the run is asked to do ({error}). Queue FLUX LoRA "
                "Trainer with the settings of that run, which writes it anew and goes on from the last checkpoint; or "
                "move the run's folder away."
            ) from error
        return job


def end_of(file: Path, length: int) -> tuple[bytes, bool]:
    """The last bytes of a file, from where a line begins, and whether they are all of it; none of a missing one."""
    try:
        with open(file, "rb") as opened:
            begins = max(0, opened.seek(0, 2) - length)
            opened.seek(begins)
            content = opened.read(length)
    except FileNotFoundError:
        return b"", True
    return (content.partition(b"\n")[2] or content, False) if begins else (content, True)


def _in_order(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record a step: a checkpoint's held-out loss is a line of its own."""
    by_step: dict[int, dict[str, Any]] = {}
    for record in records:
        if all(isinstance(record.get(name, 0.0), int | float) for name in METRIC_NAMES):  # else nobody's who trains
            by_step.setdefault(record["step"], {}).update(record)
    return [by_step[step] for step in sorted(by_step)]


def list_runs(runs_root: Path) -> list[str]:
    """Ids of the runs in `runs_root`: that which was trained last first, those never trained behind all others.

    A folder that `find_run` cannot find by its name is none.
    """
    found: dict[str, tuple[int, int]] = {}
    for name in offered(runs_root):
        with contextlib.suppress(OSError):  # gone since
            if (runs_root / name / "settings.toml").is_file():
                found[name] = _last_trained(runs_root / name)
    return sorted(found, key=found.__getitem__, reverse=True)


def _last_trained(run_folder: Path) -> tuple[int, int]:
    """When a trainer last said something of a run, and when the run was last asked for something new."""
    status, settings = run_folder / "status.json", run_folder / "settings.toml"
    return status.stat().st_mtime_ns if status.exists() else 0, settings.stat().st_mtime_ns


def _latest(runs_root: Path) -> tuple[str, list[str]]:
    """Id of the run that `LATEST` stands for, `LATEST` if there is none; and what is wrong with those passed over."""
    passed_over = []
    for known in list_runs(runs_root):
        try:
            run = find_run(runs_root, known)
            if run.begun and not Job.read(run).continued_from:
                break
        except (ImpastoError, OSError) as error:
            passed_over.append(f"'{known}' is passed over: {error}")
            logger.warning("The run %s", passed_over[-1])
    else:
        return LATEST, passed_over
    return known, passed_over


def find_run(runs_root: Path, run_id: str) -> Run:
    """The run with this id; for `LATEST` the one trained last, for a step at least, of those that continue no other.

    Asking for a finished run again does not train it. Continued runs are left out so that continuing the latest twice
    is one run, and runs that failed before their first step because there is nothing to plot or to continue.

    Raises:
        NameRefused: `run_id` is no name, or a link leads out of the root.
        TrainingError: there is no such run; the text names those that there are.
    """
    if run_id == LATEST:
        run_id, passed_over = _latest(runs_root)
    folder = existing_child(runs_root, run_id, what="run id")
    if folder is None or not (folder / "settings.toml").is_file():
        known = list_runs(runs_root)
        if run_id == LATEST and known:
            raise TrainingError(
                f"None of the runs in {runs_root} is one that FLUX LoRA Trainer has trained for a step. Queue it, or "
                f"choose a run by its name: {in_a_row(known)}. {' '.join(passed_over)}".rstrip()
            )
        raise TrainingError(
            f"There is no training run '{run_id}' in {runs_root}. "
            + (f"There are: {in_a_row(known)}." if known else "No run has been started yet: queue FLUX LoRA Trainer.")
        )
    return Run(folder.name, str(folder))


def state_of(runs_root: Path, run_id: str) -> str:
    """A text that changes whenever the run goes on; empty as long as there is no such run."""
    try:
        run = find_run(runs_root, run_id)
        return run.id + (run.path / "status.json").read_text(encoding="utf-8")  # two runs may have come equally far
    except (ImpastoError, FileNotFoundError):
        return ""
