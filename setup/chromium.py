"""The Chromium that the tests of ComfyUI's page drive: one that is there already, else Debian's or Ubuntu's package.

Playwright, the Python package, is among the test packages; it brings no browser.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .steps import StepFailed, Steps

CHOSEN = "IMPASTO_CHROMIUM"  # environment variable: a program to use, whatever else there is
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")  # as systems call it
DEBIAN = Path("/etc/debian_version")  # Ubuntu has it too
LISTS_SECONDS = 120
DOWNLOAD_SECONDS = 300  # for some 150 MB
INSTALL_SECONDS = 300
ANSWER_SECONDS = 60
MISSING = (
    "not found, so tests/browser is skipped. To get it: apt-get install chromium, or .impasto/venv/bin/playwright "
    f"install --with-deps chromium, or {CHOSEN}=/path/to/chrome"
)
_PLAYWRIGHTS = """
from playwright.sync_api import sync_playwright
with sync_playwright() as started:
    print(started.chromium.executable_path)
"""


def find(python: Path | str = sys.executable) -> Path | None:
    """The Chromium or Chrome to use: the one chosen, else one on PATH, else the one that Playwright has downloaded.

    Args:
        python: of an environment that may have Playwright.

    Raises:
        StepFailed: the one that `IMPASTO_CHROMIUM` names is not there.
    """
    if chosen := os.environ.get(CHOSEN):
        if program := shutil.which(chosen):
            return Path(program)
        raise StepFailed(f"{CHOSEN}={chosen} is no program. Set it to the file of a Chromium or Chrome, or unset it.")
    if program := next(filter(None, map(shutil.which, NAMES)), None):
        return Path(program)
    with contextlib.suppress(subprocess.TimeoutExpired):
        # In a process of its own: Playwright leaves an event loop running, and is not in the Python of the setup.
        command = [python, "-c", _PLAYWRIGHTS]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS)
        own = Path(asked.stdout.strip())
        return own if own.is_file() else None
    return None


def find_or_install(steps: Steps, python: Path) -> str:
    """Where Chromium is, installed if need be and if that can be done; else that there is none, and how to get it."""
    if found := find(python):
        return str(found)
    if not (DEBIAN.is_file() and shutil.which("apt-get") and os.geteuid() == 0):
        return MISSING
    steps.screen.line("  There is no Chromium for the tests of the page: installing the system's package.")
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=60", "--yes", "--no-install-recommends"]
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with contextlib.suppress(StepFailed):  # the lists that are there may do
        steps.run([*apt, "update"], quiet, LISTS_SECONDS)
    try:
        # The download apart, because it may have to be given up, and a killed installation leaves half a package.
        steps.run([*apt, "install", "--download-only", "chromium"], quiet, DOWNLOAD_SECONDS)
        steps.run([*apt, "install", "chromium"], quiet, INSTALL_SECONDS)
    except StepFailed as failure:
        return f"{MISSING} (it could not be installed: {str(failure).splitlines()[0].rstrip(':')})"
    return str(find(python) or MISSING)
