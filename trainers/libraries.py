"""The libraries that the trainer runs on and those that only some settings ask for: whether they are there, and what
installs them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from .. import installation
from ..errors import TrainingError
from .attention import ATTENTION_BACKENDS
from .optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from .settings import Settings


TRAINER = {"accelerate", "diffusers", "filelock", "peft"}  # what every run needs beside what ComfyUI brings


def check_trainer() -> None:
    """Look for the libraries that every training needs, without importing them.

    Raises:
        TrainingError: one is not installed, or too old; the text has the line that installs it.
    """
    if lacking := [package for package in installation.missing() if package.name in TRAINER]:
        raise TrainingError(f"The trainer cannot run: {installation.said(lacking)}")


def check_installed(settings: Settings) -> None:
    """Look for the libraries that a training by `settings` needs, without importing them.

    Raises:
        TrainingError: one is not installed; the text has the line that installs it.
    """
    check_trainer()
    optimizer, attention = settings.optimizer, settings.attention_backend
    asked = {
        f"The optimizer {optimizer}": OPTIMIZERS[optimizer].package,
        f"The attention backend {attention}": ATTENTION_BACKENDS[attention].package,
    }
    if settings.precision == "nf4":
        asked["The precision nf4"] = "bitsandbytes"
    if settings.tracker != "none":
        asked[f"The tracker {settings.tracker}"] = settings.tracker
    for what, package in asked.items():
        if package and not is_installed(package):
            raise TrainingError(
                f"{what} needs {package}, which is not installed. Install it into ComfyUI's Python with "
                f"{install_command(package)}, or choose another."
            )


def is_installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def install_command(package: str) -> str:
    """What installs a package into this Python, in quotes."""
    return f"'{installation.command(package)}'"
