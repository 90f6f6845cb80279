"""Florence-2 checkpoints on disk: finding them under ComfyUI's model folders, and fetching one when a person says so.

Only what transformers itself understands is used. A checkpoint that brings its own code is recognised and refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError
from ..files import TEMPORARY_PREFIX, parsed_json, remove
from ..progress import Progress, silent
from ..texts import first_line

REPOSITORIES = tuple(f"florence-community/Florence-2-{size}" for size in ("base", "large", "base-ft", "large-ft"))
FILES = ("*.json", "*.txt", "*.safetensors")  # no pickles, no code: what from_pretrained reads of a native checkpoint
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
MAX_CONFIG = 1_000_000  # bytes; Florence-2's is 3 kB
SAMPLES = 256  # places of a weights file that are looked at to recognise it; a fine-tune changes nearly all values
SAMPLE_BYTES = 256
STANDSTILL = 120.0  # seconds without a new byte after which a download is given up
POLL = 0.2  # seconds between two looks at a download


@dataclass(frozen=True)
class FlorenceCheckpoint:
    """A folder with Florence-2 in it."""

    name: str  # as a person chooses it: the path below the models folder, "LLM/Florence-2-base"
    folder: Path
    own_code: bool  # microsoft's first release, whose config.json names code to be run (`auto_map`)


def find_checkpoints(models_root: Path, other_folders: Iterable[Path] = ()) -> tuple[FlorenceCheckpoint, ...]:
    """Every Florence-2 up to three folders below `models_root` and two below the other model folders, by name.

    Of two with one name the first counts, as in ComfyUI's own lists.
    """
    found: dict[str, FlorenceCheckpoint] = {}
    places = [(models_root, models_root, 3)]
    places += [(other, other.parent, 2) for other in other_folders if not other.is_relative_to(models_root)]
    for start, root, depth in places:
        for folder in _folders(start, depth):
            config = _config(folder)
            if config.get("model_type") == "florence2":
                name = folder.relative_to(root).as_posix()
                found.setdefault(name, FlorenceCheckpoint(name, folder, "auto_map" in config))
    return tuple(found[name] for name in sorted(found))


def choose_checkpoint(name: str, found: Sequence[FlorenceCheckpoint]) -> FlorenceCheckpoint | None:
    """The checkpoint that a person means by a name from the list or by one of `REPOSITORIES`; None if it is not there.

    A repository is found wherever its folder lies, as long as the folder bears the repository's own name.

    Raises:
        ModelError: the name is neither, or the checkpoint brings its own code, or it has no safetensors.
    """
    if name in REPOSITORIES:
        same = [one for one in found if one.folder.name == name.split("/")[1] and not one.own_code]
    else:
        same = [one for one in found if one.name == name]
        if not same:
            known = ", ".join([one.name for one in found if not one.own_code] + list(REPOSITORIES))
            raise ModelError(
                f"There is no Florence-2 called '{name}' in ComfyUI's model folders. Choose one of: {known}."
            )
    for checkpoint in same:
        _refuse_unusable(checkpoint)
    return same[0] if same else None


def missing_checkpoint(name: str, models_root: Path, found: Sequence[FlorenceCheckpoint]) -> ModelError:
    """What to tell a person whose chosen repository is not on this machine, download being off."""
    folder = destination(models_root, name)
    old = [one.name for one in found if one.own_code]
    hint = (
        f" The old microsoft release in {', '.join(old)} is another format and cannot stand in for it." if old else ""
    )
    return ModelError(
        f"{name} is not in ComfyUI's model folders.{hint} Turn on download to fetch it to {folder} (about "
        f"{_expected_size(name)}), or copy its files there yourself, or choose a Florence-2 that is there."
    )


def destination(models_root: Path, repository: str) -> Path:
    """Where the download of one of `REPOSITORIES` goes."""
    return models_root / "florence2" / repository.split("/")[1]


def fingerprint(folder: Path) -> str:
    """Recognises a checkpoint by content, wherever it lies: its small files whole, samples of its weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")):
        digest.update(path.name.encode() + path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with open(path, "rb") as file:
            for place in range(SAMPLES):
                file.seek(size * place // SAMPLES)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def download_checkpoint(repository: str, models_root: Path, progress: Progress = silent) -> FlorenceCheckpoint:
    """Fetch one of `REPOSITORIES` from the Hugging Face hub, or from the mirror that `HF_ENDPOINT` names.

    The folder appears whole, and one that is there is never replaced. After a stop, files that came whole are kept.

    Raises:
        ModelError: the repository is none of them, the folder is taken, the hub does not answer, the disk is too full.
    """
    if repository not in REPOSITORIES:
        raise ModelError(f"'{repository}' is not fetched. Only these are: {', '.join(REPOSITORIES)}.")
    final = destination(models_root, repository)
    if final.exists():
        raise ModelError(
            f"{final} is there already, but is no complete native Florence-2, so {repository} is not fetched over it. "
            "Move that folder away, then queue again."
        )
    partial = final.with_name(f"{TEMPORARY_PREFIX}{final.name}")
    endpoint = os.environ.get("HF_ENDPOINT") or None
    progress(0, 1, f"Asking {endpoint or 'huggingface.co'} for {repository}")
    revision, size = _look_up(repository, endpoint)
    partial.mkdir(parents=True, exist_ok=True)
    for torso in partial.rglob("*.incomplete"):  # of a killed process: the hub's library takes none of them up again
        with contextlib.suppress(OSError):  # a download stopped a moment ago still has it open (Windows)
            torso.unlink()
    free = shutil.disk_usage(partial).free + _bytes_in(partial)
    if free < size:
        raise ModelError(
            f"{repository} has {size / 1e9:.2f} GB, and {partial.parent} has {free / 1e9:.2f} GB free. Free some space."
        )
    _fetch(repository, revision, endpoint, partial, size, progress)
    remove(partial / ".cache")
    os.rename(partial, final)
    checkpoint = FlorenceCheckpoint(final.relative_to(models_root).as_posix(), final, "auto_map" in _config(final))
    _refuse_unusable(checkpoint)
    return checkpoint


def _folders(start: Path, depth: int) -> Iterator[Path]:
    """The folders up to `depth` below `start`, hidden ones left out."""
    try:
        children = sorted(entry.path for entry in os.scandir(start) if entry.is_dir() and entry.name[0] != ".")
    except OSError:  # gone or not readable: nothing of ours is in it
        return
    for child in children:
        yield Path(child)
        if depth > 1:
            yield from _folders(Path(child), depth - 1)


def _config(folder: Path) -> dict:
    """What the folder's config.json holds; nothing where there is none, or another program's."""
    path = folder / "config.json"
    try:
        if path.stat().st_size > MAX_CONFIG:
            return {}
        config = parsed_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _refuse_unusable(checkpoint: FlorenceCheckpoint) -> None:
    name = checkpoint.folder.name
    if checkpoint.own_code:
        native = f"florence-community/{name}" if f"florence-community/{name}" in REPOSITORIES else REPOSITORIES[0]
        raise ModelError(
            f"{checkpoint.folder} holds microsoft's first release of Florence-2: its config.json names Python code to "
            "be run (auto_map), which fails with today's transformers and is not run here. The same model in native "
            f"format is {native}: choose that and turn on download. The old folder is not touched."
        )
    if not any((checkpoint.folder / weights).is_file() for weights in WEIGHTS):
        raise ModelError(
            f"{checkpoint.folder} has no {WEIGHTS[0]}. Fetch the checkpoint again; pickled weights (.bin) are not read."
        )


def _expected_size(repository: str) -> str:
    return "0.5 to 1 GB" if "base" in repository else "1.6 to 3.3 GB"  # 0.24 and 0.8 billion weights of 2 or 4 bytes


def _look_up(repository: str, endpoint: str | None) -> tuple[str, int]:
    """The present revision of a repository, and the bytes of the files that will be fetched."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    try:
        info = HfApi(endpoint=endpoint).model_info(repository, files_metadata=True, timeout=20)
    except Exception as error:  # httpx, OS and hub errors share no base class
        raise _unreachable(repository, endpoint, error) from error
    files = filter_repo_objects(info.siblings, allow_patterns=list(FILES), key=lambda file: file.rfilename)
    return info.sha, sum(file.size or 0 for file in files)


class _Stopped(BaseException):
    """Ends the download's threads when the person has pressed Cancel."""


def _fetch(repository: str, revision: str, endpoint: str | None, folder: Path, size: int, progress: Progress) -> None:
    """Download in a thread of its own, so that Cancel is heard while the network is silent."""
    stop, failures = threading.Event(), []
    thread = threading.Thread(target=_download, args=(repository, revision, endpoint, folder, stop, failures))
    thread.daemon = True  # a connection that hangs must not keep the server from ending
    thread.start()
    done, last_change = -1, time.monotonic()
    try:
        while thread.is_alive():
            thread.join(POLL)
            now = _bytes_in(folder)
            if now != done:
                done, last_change = now, time.monotonic()
            if time.monotonic() - last_change > STANDSTILL:
                raise _unreachable(repository, endpoint, f"no byte came for {STANDSTILL:.0f} seconds")
            progress(
                min(done, size),
                size,
                f"Fetching {repository} to {folder.parent}: {done / 1e9:.2f} of {size / 1e9:.2f} GB",
            )
    finally:
        stop.set()
    if failures:
        raise _unreachable(repository, endpoint, failures[0]) from failures[0]


def _download(
    repository: str, revision: str, endpoint: str | None, folder: Path, stop: threading.Event, failures: list
) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Heeding(tqdm):
        """The hub's progress bar, unseen; it is updated with every piece, so that a download can be ended here."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n=1):
            if stop.is_set():
                raise _Stopped
            return super().update(n)

    try:
        snapshot_download(
            repository,
            revision=revision,
            endpoint=endpoint,
            local_dir=folder,
            allow_patterns=list(FILES),
            max_workers=4,
            tqdm_class=Heeding,
        )
    except _Stopped:
        pass
    except Exception as error:
        failures.append(error)


def _bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder, those that a download is still writing included."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:  # renamed by the download between the listing and this
                continue
    return total


def _unreachable(repository: str, endpoint: str | None, error: Exception | str) -> ModelError:
    first = first_line(error, type(error).__name__)
    return ModelError(
        f"{repository} could not be fetched from {endpoint or 'huggingface.co'}: {first}. Files that came whole are "
        "kept; queue again to go on. Behind a firewall, set HF_ENDPOINT to a mirror before starting ComfyUI."
    )
