"""ComfyUI's folders, and the pack's own places in them."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths

from ...errors import DatasetError, ModelError
from ...files import file_hash
from ...paths import child_of

if TYPE_CHECKING:
    pass

NO_LORA = "none"  # in a node's list of LoRAs
NOT_MODELS = {"custom_nodes", "datasets", "configs"}  # folder keys of ComfyUI under which no weights lie


def datasets_roots() -> list[Path]:
    """ComfyUI's "datasets" folders, those of extra_model_paths.yaml among them; every dataset and every local source
    lies directly under one, and new ones go under the first.
    """
    return [Path(path) for path in folder_paths.get_folder_paths("datasets")]


def batches_root() -> Path:
    return Path(folder_paths.get_output_directory()) / "impasto" / "batches"


def output_root() -> Path:
    """ComfyUI's output folder, links in its path followed."""
    return Path(folder_paths.get_output_directory()).resolve()


def sequences_root() -> Path:
    return Path(folder_paths.get_output_directory()) / "impasto" / "sequences"


def runs_root() -> Path:
    return Path(folder_paths.get_output_directory()) / "impasto" / "runs"


def grids_root() -> Path:
    """Pages of grids that belong to no run."""
    return Path(folder_paths.get_output_directory()) / "impasto" / "grids"


def comparisons_root() -> Path:
    return Path(folder_paths.get_output_directory()) / "impasto" / "comparisons"


def published_root() -> Path:
    """What Publish LoRA makes: a folder a run."""
    return Path(folder_paths.get_output_directory()) / "impasto" / "published"


def animations_root() -> Path:
    return Path(folder_paths.get_output_directory()) / "impasto" / "animations"


def folder_of_pictures(given: str) -> Path:
    """A folder that a person named by its way from ComfyUI's input or output folder: "my-style/samples".

    Raises:
        NameRefused: a part of it is no plain name, or a link on the way leads out.
        DatasetError: there is no such folder in either.
    """
    parts = [part for part in given.replace("\\", "/").split("/") if part]
    roots = (input_root(), Path(folder_paths.get_output_directory()))
    found = [folder for root in roots if (folder := child_of(root, *parts, what="folder")).is_dir()]
    if not found:
        raise DatasetError(
            f"There is no folder '{given}' in {' or '.join(map(str, roots))}. Put the samples into one of them, and "
            "give the folder's way from there, for example 'my-style/samples'."
        )
    return found[0]


def loras_root() -> Path:
    """`output/loras`, which ComfyUI lists among its LoRA folders."""
    return Path(folder_paths.get_output_directory()) / "loras"


def prompts_output_root() -> Path:
    return Path(folder_paths.get_output_directory()) / "impasto" / "prompts"


def user_root() -> Path:
    """What outlives an update of the pack: prompts, seeds and wildcards, and what was sent to services; of the server's
    owner, and written by no node: keys and addresses of services, allowed hosts, launch profiles.
    """
    return Path(folder_paths.get_user_directory()) / "impasto"


def seed_book_file() -> Path:
    return user_root() / "seeds.sqlite"


def pack_models_root() -> Path:
    """Models that the pack makes for itself; no ComfyUI loader lists them."""
    return Path(folder_paths.models_dir) / "impasto"


def input_root() -> Path:
    """ComfyUI's input folder, where people upload files."""
    return Path(folder_paths.get_input_directory())


def allowed_hosts_file() -> Path:
    """The list of hosts that the owner of the server may have put under `user`; no request can write there."""
    return user_root() / "allowed_hosts.txt"


def launch_profiles_folder() -> Path:
    """Where the owner of the server keeps accelerate configurations (several GPUs or machines)."""
    return user_root() / "accelerate"


def thumbnails_folder() -> Path:
    """Under ComfyUI's temp folder, from where its page gets pictures: /view?type=temp&subfolder=impasto/thumbnails."""
    return Path(folder_paths.get_temp_directory()) / "impasto" / "thumbnails"


def results_folder() -> Path:
    """Under ComfyUI's temp folder, from where its page gets what a node shows when it has ended."""
    return Path(folder_paths.get_temp_directory()) / "impasto" / "results"


def models_root() -> Path:
    """ComfyUI's own models folder."""
    return Path(folder_paths.models_dir)


def model_folders() -> list[Path]:
    """Every folder that ComfyUI looks for models in, those of extra_model_paths.yaml included."""
    listed = {key: paths for key, (paths, _) in folder_paths.folder_names_and_paths.items()}
    return [Path(path) for key in sorted(listed.keys() - NOT_MODELS) for path in listed[key]]


def trainer_folder() -> Path:
    """Where the trainer's process runs and wandb and mlflow keep what they keep: no request can write there."""
    return user_root() / "trainer"


def lora_names() -> list[str]:
    return folder_paths.get_filename_list("loras")


def lora_path(name: str) -> Path:
    """The file of a LoRA by a name of ComfyUI's list, also as another system writes it: in another Unicode form, or
    with the other slashes.

    Raises:
        ModelError: ComfyUI lists no LoRA of that name.
    """
    names = lora_names()
    listed = name if name in names else next((other for other in names if _alike(other) == _alike(name)), None)
    path = folder_paths.get_full_path("loras", listed) if listed else None
    if path is None:  # ComfyUI's list may be older than the folder
        raise ModelError(f"ComfyUI knows no LoRA '{name}'. Choose one of its list, or put the file into models/loras.")
    return Path(path)


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def chosen_lora(name: str) -> Path | None:
    """The file of a LoRA that a node's list offers; None for its "none".

    Raises:
        ModelError: ComfyUI lists no LoRA of that name.
    """
    return None if name == NO_LORA else lora_path(name)


def lora_named(file: Path) -> str | None:
    """The name under which ComfyUI lists a LoRA file, or one of the same content; None where there is none."""
    size, content = file.stat().st_size, ""
    for name in lora_names():
        listed = folder_paths.get_full_path("loras", name)
        if listed is None or Path(listed).stat().st_size != size:
            continue
        content = content or file_hash(file)
        if os.path.samefile(listed, file) or file_hash(listed) == content:
            return name
    return None


def lora_state(name: str) -> list[str | int]:
    """What tells one content of a LoRA from a later one under the same name, without reading it."""
    path = folder_paths.get_full_path("loras", name)
    state = Path(path).stat() if path else None
    return [name, state.st_mtime_ns, state.st_size] if state else [name]
