"""No process of ours takes code or configuration from a folder in which a request can write."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import impasto
import pytest
from impasto import worker
from impasto.errors import TrainingError
from impasto.setup import comfy_cli
from impasto.setup.environment import HOME
from impasto.trainers.run.checkpoints import Checkpoint

from ..comfyui.test_main_job import SMALLER, WORKFLOW, node_of, only_training, run_folder, status, write_paintings

PACK = Path(impasto.__file__).resolve().parent
# What the trainer, its launcher and Python itself import or look for, early and late.
MODULES = (
    *("sitecustomize", "usercustomize", "accelerate", "torch", "numpy", "yaml", "json", "typing", "logging", "psutil"),
    *("safetensors", "filelock", "tomlkit", "impasto", "worker", "trainers", "errors", "wandb", "mlflow"),
)
PACKAGES = ("accelerate", "accelerate/commands", "torch", "impasto", "encodings")
# One that accelerate stops at, wherever it would be taken from.
CONFIGURATION = "compute_environment: LOCAL_MACHINE\nno_such_option_of_accelerate: 1\n"
CONFIGURATIONS = (
    *("default_config.yaml", "single_process.yaml", "accelerate/default_config.yaml"),
    *("huggingface/accelerate/default_config.yaml", ".cache/huggingface/accelerate/default_config.yaml"),
    *("wandb/settings", ".wandb/settings", "pyvenv.cfg", "setup.cfg", "pip.conf", ".deepspeed_env", ".git/config"),
)
STARTERS = {
    "subprocess": {"Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"},
    "os": {"system", "popen", "fork", "posix_spawn", "startfile"},
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
}


def hostile_files(marker: Path) -> Iterator[tuple[str, str]]:
    """Place and content of files that tell of themselves in `marker` where they are run, or that stop accelerate."""
    for place in [*(f"{name}.py" for name in MODULES), *(f"{name}/__init__.py" for name in PACKAGES)]:
        # Python has no `open` yet when it looks for its encodings.
        told = f"posix.write(posix.open({str(marker)!r}, 0o2101, 0o600), b'{place} ')"  # to append, made if need be
        yield place, f"import posix\n{told}\nraise SystemExit(99)\n"
    for place in CONFIGURATIONS:
        yield place, CONFIGURATION


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "ran.txt"


def test_what_a_stranger_uploads_beside_a_run_is_not_run_when_it_is_queued_again(server, port, marker):
    write_paintings(server)
    prompt = comfy_cli.to_api(HOME, WORKFLOW, server.port)
    for node in prompt.values():
        node["inputs"] |= SMALLER.get(node["class_type"], {})
    prompt = only_training(prompt, "attacked")
    settings = prompt[node_of(prompt, "ImpastoTrainingSettings")]["inputs"]
    settings |= {"steps": 2, "checkpoint_every": 2, "sample_steps": 0}
    server.queue(prompt)
    run = run_folder(server, "attacked").relative_to(server.base / "output")

    for place, content in hostile_files(marker):
        for folder in (run, run / "checkpoints", run / "logs", Path()):
            port.upload("output", str(folder / place), content)
        for kind in ("input", "temp"):
            port.upload(kind, place, content)
    port.upload("output", str(run / "status.json"), "{}")  # no word of an end: the trainer is started again
    port.forget()
    try:
        server.queue(prompt)
    finally:
        assert not marker.exists(), f"run were: {marker.read_text().split()}"
    assert status(server, "attacked")["state"] == "finished"


def test_a_process_takes_nothing_from_the_folder_that_comfyui_was_started_in(marker, tmp_path):
    server = tmp_path / "output"
    for place, content in hostile_files(marker):
        (server / place).parent.mkdir(parents=True, exist_ok=True)
        (server / place).write_text(content)
    code = f"""
import sys
sys.path[:] = [path for path in sys.path if path not in ("", ".")]
sys.path.insert(0, {str(PACK)!r})
import worker
with worker.start("accelerate.commands.launch", "--help") as process:
    said = process.communicate()[0]
sys.stdout.buffer.write(said)
sys.exit(process.returncode)
"""
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    # The empty entry is given to the process itself only: this one would be the first to fall for it.
    code = code.replace("import worker\n", "import worker, os\nos.environ['PYTHONPATH'] = os.pathsep + '.'\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=server, env=environment, capture_output=True, text=True)
    assert not marker.exists(), f"run were: {marker.read_text().split()}"
    assert done.returncode == 0, done.stderr
    assert "--config_file" in done.stdout


def test_modules_come_from_whole_paths_only(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", "output", str(tmp_path), ""]))
    assert worker.environment()["PYTHONPATH"] == str(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ".")
    assert "PYTHONPATH" not in worker.environment() and worker.environment()["PYTHONSAFEPATH"] == "1"


def test_processes_are_started_in_one_place():
    starting = set()
    for file in PACK.glob("**/*.py"):
        folder = file.relative_to(PACK).parts[0]
        if folder in ("tests", "benchmarks", "setup", "cli") or folder.startswith("."):  # run by hand
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if named and (
                node.attr in STARTERS.get(node.value.id, ())
                or (node.value.id == "os" and node.attr.startswith(("exec", "spawn")))
                or node.attr == "ProcessPoolExecutor"
            ):
                starting.add(file.name)
            imported = [node.module] if isinstance(node, ast.ImportFrom) else []
            imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(str(name).split(".")[0] in ("multiprocessing", "pty", "runpy") for name in imported):
                starting.add(file.name)
    # The type of a process and what its end raises may be named elsewhere.
    assert starting <= {"worker.py", "launch.py", "requests.py"}
    for file in ("launch.py", "requests.py"):
        assert "subprocess.Popen(" not in (PACK / "trainers" / "run" / file).read_text()


def test_a_state_of_the_kind_that_runs_code_in_older_pytorch_is_refused(tmp_path):
    import torch

    torch.save({}, tmp_path / "state.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(TrainingError, match="state.pt is not what the trainer wrote there.*Delete"):
        Checkpoint(4, tmp_path).state()
