"""What the log and the trainer say where libraries are missing, or ComfyUI is too old; no test installs anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from impasto import installation
from impasto.errors import TrainingError
from impasto.trainers.libraries import check_trainer

REPOSITORY = Path(installation.__file__).resolve().parent


@pytest.fixture
def required(tmp_path: Path, monkeypatch):
    """Sets the pack's requirements for this test."""

    def require(*lines: str) -> None:
        file = tmp_path / "requirements.txt"
        file.write_text("\n".join(lines))
        monkeypatch.setattr(installation, "REQUIREMENTS", file)

    return require


def test_nothing_is_missing_where_the_requirements_are_installed():
    assert installation.missing() == []


def test_what_is_missing_or_too_old_is_told_with_the_line_that_installs_it(required):
    required("packaging>=20", "impasto-nowhere>=1.2", "filelock>=999", "tzdata>=999; sys_platform == 'nowhere'")
    missing, old = installation.missing()
    assert (missing.name, missing.found) == ("impasto-nowhere", "")
    assert old.name == "filelock" and old.found
    said = installation.said([missing, old])
    assert said.startswith(f"ComfyUI's Python lacks impasto-nowhere>=1.2, filelock>=999 ({old.found} is there).")
    assert str(REPOSITORY / "setup" / "install.py") in said and sys.executable in said
    assert "\n" not in said


def test_the_line_can_be_typed_where_a_folder_has_a_space(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/opt/Comfy UI/python")
    assert installation.command("peft").startswith('"/opt/Comfy UI/python" ')


def test_the_trainer_names_only_what_it_needs_itself(required):
    required("matplotlib>=999")
    check_trainer()
    required("matplotlib>=999", "peft>=999")
    with pytest.raises(TrainingError, match=r"The trainer cannot run: .* lacks peft>=999 .*install\.py"):
        check_trainer()


def comfyui(folder: Path, version: str, api: str) -> Path:
    (folder / "comfy_api" / "latest").mkdir(parents=True)
    (folder / "comfy_api" / "__init__.py").touch()
    (folder / "comfy_api" / "latest" / "__init__.py").write_text(api)
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return folder


@pytest.mark.parametrize("api", ["", "class ComfyExtension: pass\nclass io: pass\n"], ids=["no such API", "less API"])
def test_an_older_comfyui_gets_one_sentence(api: str, tmp_path: Path):
    program = f"""
import asyncio, sys
sys.path[:0] = [{str(comfyui(tmp_path, "0.29.4", api))!r}, {str(REPOSITORY / "tests")!r}]
import conftest, impasto
try:
    extension = asyncio.run(impasto.comfy_entrypoint())
    asyncio.run(extension.get_node_list())
except Exception as error:  # ComfyUI logs it as it stands
    sys.stdout.write(str(error))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    needs = "Impasto needs ComfyUI 0.30.0 or newer, and this one is 0.29.4. Update ComfyUI and start it again."
    assert done.stdout == needs, done.stderr
