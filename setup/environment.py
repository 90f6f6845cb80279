"""Make the environment under .impasto/: tools, ComfyUI, a virtual environment, a base directory with the pack in it.

Runs on any Python from 3.10 on, with the standard library only. Done once, it takes a second:
    python3 -m setup.environment [--test]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from . import chromium, comfyui
from .steps import Screen, StepFailed, Steps

REPOSITORY = Path(__file__).resolve().parent.parent
HOME = REPOSITORY / ".impasto"
BASE = HOME / "base"  # ComfyUI's base directory: models, datasets, output and the pack's link
CONSTRAINTS = REPOSITORY / "setup" / "constraints.txt"
TOOLS = REPOSITORY / "setup" / "tools.txt"
DISK_NEEDED = 8 * 10**9  # bytes: torch with its CUDA libraries is 5, ComfyUI and the downloads the rest
BASE_FOLDERS = ("models", "datasets", "output", "user", "input", "temp", "custom_nodes")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make Impasto's environment under .impasto/.")
    parser.add_argument("--test", action="store_true", help="with what the tests need")
    arguments = parser.parse_args()
    logs = HOME / "log"
    logs.mkdir(parents=True, exist_ok=True)
    steps = Steps(logs, Screen())
    found = accelerator()
    device = {None: "no GPU found, so the CPU", "nvidia": "NVIDIA GPU", "amd": "AMD GPU", "apple": "Apple GPU"}[found]
    steps.screen.line(f"Impasto's environment in {HOME} (Python {platform.python_version()}, {device})")
    try:
        prepare(steps, found, tests=arguments.test)
    except StepFailed as failure:
        steps.screen.line()
        steps.screen.line(str(failure))
        return 1
    except KeyboardInterrupt:
        steps.screen.line("Stopped. What was downloaded is kept; run the same command again to go on.")
        return 130
    steps.save(logs / "setup.json")
    return 0


def prepare(steps: Steps, found: str | None, tests: bool) -> None:
    """Bring each part of the environment up to date; a part that is so already costs nothing."""
    if not (HOME / "venv").exists():
        check_disk()
    with steps.step("Tools") as said:
        make_tools(steps)
        said.append("uv and comfy-cli")
    with steps.step("ComfyUI") as said:
        comfy = comfyui.find(HOME) or comfyui.fetch(HOME, steps)
        said += [comfy.version, f"at {comfy.path},", comfy.origin]
    with steps.step("Packages") as said:
        fresh = install_packages(steps, comfy.path, found, tests)
        said.append("installed" if fresh else "as installed before")
    if tests:
        with steps.step("Chromium") as said:
            said.append(chromium.find_or_install(steps, HOME / "venv" / "bin" / "python"))
    with steps.step("Base directory") as said:
        make_base()
        said.append(str(BASE))


def accelerator() -> str | None:
    """What kind of GPU the machine shows: "nvidia", "amd", "apple" or none. Whether torch can use it shows later."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "apple"
    nvidia = shutil.which("nvidia-smi")
    if nvidia and subprocess.run([nvidia, "-L"], capture_output=True, text=True).stdout.startswith("GPU"):
        return "nvidia"
    return "amd" if Path("/dev/kfd").exists() or shutil.which("rocm-smi") else None


def check_disk() -> None:
    free = shutil.disk_usage(HOME).free
    if free < DISK_NEEDED:
        raise StepFailed(
            f"{HOME} has {free / 1e9:.1f} GB free, and about {DISK_NEEDED / 1e9:.0f} GB are needed. "
            "Free some space, or put the repository on a larger disk, then run the same command again."
        )


def make_tools(steps: Steps) -> None:
    """A small environment with uv and comfy-cli, apart from ComfyUI's own so that neither constrains the other."""
    tools, stamp = HOME / "tools", HOME / "tools" / "impasto-stamp"
    wanted = digest(TOOLS.read_text())
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    uv = shutil.which("uv")
    # Anew, not on top: what an earlier attempt left may be without pip.
    made_by = [uv, "venv", "--clear", "--python", sys.executable] if uv else [sys.executable, "-m", "venv", "--clear"]
    steps.run([*made_by, tools])
    if not uv:
        pinned = next(line for line in TOOLS.read_text().splitlines() if line.startswith("uv=="))
        steps.run([tools / "bin" / "python", "-m", "pip", "install", pinned])
    steps.run([uv or tools / "bin" / "uv", "pip", "install", "--python", tools / "bin" / "python", "-r", TOOLS])
    stamp.write_text(wanted)


def install_packages(steps: Steps, comfy: Path, found: str | None, tests: bool) -> bool:
    """Install ComfyUI's and the pack's requirements at the constrained versions; False if that was done before."""
    venv, uv = HOME / "venv", HOME / "tools" / "bin" / "uv"
    python = venv / "bin" / "python"
    requirements, project = comfy / "requirements.txt", REPOSITORY / "pyproject.toml"
    texts = [path.read_text() for path in (requirements, project, CONSTRAINTS)]
    wanted = digest(platform.python_version(), str(found), *texts)
    stamp = venv / f"impasto-stamp-{'test' if tests else 'run'}"
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return False
    if not python.exists():
        steps.run([uv, "venv", "--clear", "--python", sys.executable, venv])
    command = [uv, "pip", "install", "--python", python, "-r", requirements, "-r", project, "--constraint", CONSTRAINTS]
    if tests:
        command += ["--extra", "test"]
    if found == "amd":  # PyPI's torch is built for NVIDIA and Apple GPUs; uv knows the index that has AMD's
        command += ["--torch-backend", "auto"]
    steps.run(command)
    stamp.write_text(wanted)
    return True


def make_base() -> None:
    """ComfyUI's base directory, with this repository as its custom node `impasto`.

    Raises:
        StepFailed: the link cannot be made, or something else bears its name.
    """
    for name in BASE_FOLDERS:
        (BASE / name).mkdir(parents=True, exist_ok=True)
    link_pack(BASE)


def link_pack(base: Path) -> None:
    link = base / "custom_nodes" / "impasto"
    if link.is_symlink() and link.resolve() == REPOSITORY:
        return
    if link.is_symlink():
        link.unlink()
    try:
        os.symlink(REPOSITORY, link, target_is_directory=True)
    except OSError as error:
        raise StepFailed(
            f"{link} could not be made a link to {REPOSITORY}: {error}. Remove what is there, if anything; "
            "on a file system without symbolic links, put the repository on one that has them."
        ) from error


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
