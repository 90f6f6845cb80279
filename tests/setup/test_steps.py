"""A step of the setup that fails tells which command failed, why, and what to do."""

import sys
from pathlib import Path

import pytest
from impasto.setup.steps import Screen, StepFailed, Steps


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path, Screen())


def python(program: str) -> list[str | Path]:
    return [sys.executable, "-c", program]


def test_a_step_is_timed_and_its_output_logged(steps: Steps, tmp_path: Path, capsys):
    with steps.step("Some packages") as said:
        steps.run(python("print('hello from the installer')"))
        said.append("installed")
    assert "hello from the installer" in (tmp_path / "some-packages.log").read_text()
    assert steps.seconds["Some packages"] > 0
    assert "Some packages" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("dns error: failed to lookup address", "network"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("No solution found when resolving dependencies", "Python 3.10"),
        ("something unheard of", "log says more"),
    ],
)
def test_a_failed_command_is_named_with_its_remedy_and_its_log(steps: Steps, tmp_path: Path, said: str, remedy: str):
    program = f"import sys; print({said!r}); sys.exit(3)"
    with pytest.raises(StepFailed) as failure, steps.step("Packages"):
        steps.run(python(program))
    text = str(failure.value)
    assert "Packages failed (exit status 3)" in text
    assert sys.executable in text and said in text
    assert remedy in text
    assert str(tmp_path / "packages.log") in text


def test_a_command_that_is_not_there_is_named(steps: Steps):
    with pytest.raises(StepFailed, match="no-such-command"), steps.step("Tools"):
        steps.run(["no-such-command", "--version"])


def test_a_command_that_hangs_is_ended(steps: Steps):
    with pytest.raises(StepFailed, match="ComfyUI failed"), steps.step("ComfyUI"):
        steps.run(python("import time; time.sleep(60)"), timeout=0.1)
