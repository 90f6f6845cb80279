"""Installing into a ComfyUI that has transformers 4: real resolutions against PyPI, of which nothing is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import impasto
import pytest
from impasto.setup import install

REPOSITORY = Path(impasto.__file__).resolve().parent
UV = REPOSITORY / ".impasto" / "tools" / "bin" / "uv"
# `pip freeze` of a ComfyUI 0.30 for Python 3.11 whose environment was made in December 2025, before transformers 5.
FREEZE = (Path(__file__).parent / "comfyui-with-transformers-4.txt").read_text().splitlines()
THERE = dict(line.split("==") for line in FREEZE)
RESOLVING = 120  # seconds; it takes about 4


@pytest.fixture(scope="module")
def pypi() -> None:
    if not UV.is_file():
        pytest.skip(f"{UV} is not there: ./test.sh makes it")
    command = [UV, "pip", "compile", "--no-cache", "--no-deps", "-"]
    done = subprocess.run(command, input="tomlkit", capture_output=True, text=True, timeout=RESOLVING)
    if done.returncode:
        pytest.skip(f"PyPI cannot be reached: {done.stderr.strip()[-300:]}")


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python that takes the packages of the freeze for installed; without pip, as uv makes them."""
    home = tmp_path / "venv"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, home], check=True, timeout=RESOLVING)
    for name, version in THERE.items():
        put(home, name, version)
    return home / "bin" / "python"


def put(home: Path, name: str, version: str) -> None:
    """What pip leaves behind of an installed package, beside its modules."""
    site = next(home.glob("lib/python3*/site-packages"))
    for earlier in site.glob(f"{name.replace('-', '_')}-*.dist-info"):
        for file in earlier.iterdir():
            file.unlink()
        earlier.rmdir()
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "INSTALLER").write_text("pip\n")
    (folder / "RECORD").touch()


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"UV": str(UV), "NO_COLOR": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=RESOLVING)


def changes(done: subprocess.CompletedProcess[str]) -> tuple[set[str], set[str]]:
    """Names of the packages that uv would install and remove."""
    said = done.stdout + done.stderr
    return tuple(set(re.findall(rf"^ {re.escape(sign)} ([\w.-]+)==", said, re.MULTILINE)) for sign in "+-")


def test_installing_moves_nothing_that_is_there(pypi, python: Path):
    done = run(python, REPOSITORY / "setup" / "install.py", "--dry-run")
    assert done.returncode == 0, done.stderr
    added, removed = changes(done)
    assert not removed and not added & THERE.keys()
    assert {"accelerate", "diffusers", "peft", "pyarrow", "tomlkit"} <= added


def test_without_constraints_the_same_requirements_move_it(pypi, python: Path):
    """What the script is for; where this fails one day, it has become needless."""
    done = run(UV, "pip", "install", "--dry-run", "--python", python, "-r", REPOSITORY / "requirements.txt")
    assert "huggingface-hub" in changes(done)[1]


def test_a_package_that_is_too_old_is_named_and_moves_only_where_that_is_asked_for(pypi, python: Path):
    put(python.parent.parent, "filelock", "3.0.12")
    script = REPOSITORY / "setup" / "install.py"
    refused = run(python, script, "--dry-run")
    assert refused.returncode != 0
    assert "filelock is 3.0.12, and Impasto needs 3.12 or newer" in refused.stderr
    asked = re.search(r"--may-move \w+", refused.stderr)[0]
    done = run(python, script, "--dry-run", *asked.split())
    assert done.returncode == 0 and changes(done)[1] == {"filelock"}


def test_only_versions_that_pip_can_read_are_constraints():
    there = {"torch": "2.9.1+cu128", "old": "2004-r7", "mine": "1.0.dev3", "let": "1.0"}
    assert install.constraints(there, ["Let"]) == ["mine==1.0.dev3", "torch==2.9.1+cu128"]


def test_what_this_python_has_is_found_under_the_names_that_pip_uses():
    there = install.installed()
    assert there["huggingface-hub"] and all(name == install.canonical(name) for name in there)


def test_a_package_that_moved_all_the_same_is_told():
    assert install.changes({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2"}) == ["b 1 -> 2", "c 1 -> removed"]


def test_a_python_that_leaves_the_users_packages_out_installs_without_them():
    """As Windows portable's line `python_embeded\\python.exe -s` has it."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import install; sys.stdout.write(' '.join(install.installer()))"
    )
    tools = REPOSITORY / ".impasto" / "tools" / "bin" / "python"
    if not tools.exists():
        pytest.skip(f"{tools}, which has pip, is not there: ./test.sh makes it")
    said = run(tools, "-s", "-c", code, REPOSITORY / "setup").stdout
    assert said.strip() == f"{tools} -s -m pip install"
