"""The libraries that only some settings ask for: whether they are there, and what installs them."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from ..errors import TrainingError
from .optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from .settings import Settings


def check_installed(settings: Settings) -> None:
    """Look for the libraries that `settings` ask for, without importing them.

    Raises:
        TrainingError: one is not installed; the text has the line that installs it.
    """
    asked = {f"The optimizer {settings.optimizer}": OPTIMIZERS[settings.optimizer].package}
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
    return f"'{sys.executable} -m pip install {package}'"
