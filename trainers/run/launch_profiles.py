"""Launch profiles: on which processors a run trains. A profile beyond those built in is an accelerate configuration
file that the server's owner has put into `user/impasto/accelerate`; a graph only names it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import NameRefused, TrainingError
from ...paths import checked_name, existing_child, offered

ONE, ALL, SHARDED = "this GPU", "all GPUs", "all GPUs, base sharded"
FSDP = "--use_fsdp"
SINGLE_PROCESS = Path(__file__).with_name("single_process.yaml")


def names(folder: Path) -> list[str]:
    """Every profile there is: the built-in ones and the files in `folder`."""
    return [ONE, ALL, SHARDED, *(name for name in offered(folder) if name.lower().endswith(".yaml"))]


def is_sharded(arguments: Sequence[str]) -> bool:
    """Whether arguments of `accelerate launch` themselves ask for FSDP; a configuration file may do so too."""
    return FSDP in arguments


def launch_arguments(profile: str, folder: Path) -> list[str]:
    """Arguments of `accelerate launch` for a profile.

    Raises:
        NameRefused: the profile is no file name.
        TrainingError: there is no such file.
    """
    # Never without a file: accelerate would take the one that the person may have made for another trainer.
    single = ["--config_file", str(SINGLE_PROCESS)]
    if profile == ONE:
        return single
    if profile in (ALL, SHARDED):
        import torch

        count = torch.cuda.device_count()
        kind = ["--multi_gpu"] if profile == ALL else [FSDP, "--fsdp_version", "2"]
        return [*single, *kind, "--num_processes", str(count)] if count > 1 else single
    file = existing_child(folder, profile, what="launch profile")
    if file is None or not file.is_file():
        known = ", ".join(f"'{name}'" for name in names(folder))
        raise TrainingError(
            f"There is no launch profile '{profile}' in {folder}. Choose one of: {known}; or make it with: "
            f'accelerate config --config_file "{folder / _to_be_made(profile)}"'
        )
    return ["--config_file", str(file)]


def _to_be_made(profile: str) -> str:
    """A name for the file in a line for a shell, where not every name means itself."""
    try:
        return checked_name(profile)
    except NameRefused:
        return "my-profile.yaml"
