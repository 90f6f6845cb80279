"""The Chromium for the tests of the page: found, or installed where that can be done, else told in one line."""

import os
import sys
from pathlib import Path

import pytest
from impasto.setup import chromium
from impasto.setup.steps import Screen, StepFailed, Steps


def program(path: Path, lines: str = "exit 1") -> Path:
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path, Screen())


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Debian of root's whose PATH is this empty folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv(chromium.CHOSEN, raising=False)
    monkeypatch.setattr(chromium, "DEBIAN", program(tmp_path / "debian_version"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return folder


@pytest.mark.parametrize("name", chromium.NAMES)
def test_a_browser_on_the_path_is_found_and_a_chosen_one_goes_before_it(bare: Path, monkeypatch, tmp_path, name):
    there = program(bare / name)
    assert chromium.find() == there
    chosen = program(tmp_path / "chrome of mine")
    monkeypatch.setenv(chromium.CHOSEN, str(chosen))
    assert chromium.find() == chosen


def test_a_chosen_browser_that_is_not_there_is_named(bare: Path, steps: Steps, monkeypatch):
    program(bare / "chromium")
    monkeypatch.setenv(chromium.CHOSEN, "/no/such/chrome")
    with pytest.raises(StepFailed, match="IMPASTO_CHROMIUM=/no/such/chrome is no program"):
        chromium.find_or_install(steps, Path(sys.executable))


def test_the_one_that_playwright_has_downloaded_is_found_last(bare: Path, tmp_path: Path):
    own = program(tmp_path / "playwrights-chrome")
    python = program(tmp_path / "python", f"echo '{own}'")
    assert chromium.find(python) == own
    assert chromium.find(program(tmp_path / "another", f"echo '{tmp_path / 'not downloaded'}'")) is None
    systems = program(bare / "chromium")
    assert chromium.find(python) == systems


def test_where_none_is_there_the_systems_package_is_installed(bare: Path, steps: Steps, tmp_path: Path):
    ready = program(tmp_path / "ready")
    installed = bare / "chromium"
    cases = ["*update*) exit 100;;", "*--download-only*) ;;", f'*"install chromium") /bin/cp {ready} {installed};;']
    program(bare / "apt-get", f'case "$*" in {" ".join(cases)} esac')
    assert chromium.find_or_install(steps, tmp_path / "ready") == str(installed)


@pytest.mark.parametrize(("debian", "user", "apt"), [(False, 0, True), (True, 1000, True), (True, 0, False)])
def test_where_it_cannot_be_installed_one_line_says_how_to_get_it(
    bare: Path, steps: Steps, monkeypatch, tmp_path: Path, debian: bool, user: int, apt: bool
):
    if not debian:
        monkeypatch.setattr(chromium, "DEBIAN", tmp_path / "none")
    if apt:
        program(bare / "apt-get", f"/usr/bin/touch {tmp_path / 'asked'}")
    monkeypatch.setattr(os, "geteuid", lambda: user)
    said = chromium.find_or_install(steps, program(tmp_path / "python"))
    assert said == chromium.MISSING and "apt-get install chromium" in said and not (tmp_path / "asked").exists()


@pytest.mark.parametrize(("does", "why"), [("exit 100", "exit status 100"), ("exec /bin/sleep 30", "exit status -9")])
def test_an_installation_that_fails_or_hangs_is_no_error_but_the_line(
    bare: Path, steps: Steps, monkeypatch, tmp_path: Path, does: str, why: str
):
    if "sleep" in does:
        for limit in ("LISTS_SECONDS", "DOWNLOAD_SECONDS"):
            monkeypatch.setattr(chromium, limit, 0.1)
    program(bare / "apt-get", does)
    with steps.step("Chromium"):
        said = chromium.find_or_install(steps, program(tmp_path / "python"))
    assert said.startswith(chromium.MISSING) and why in said and "\n" not in said
