"""The pack in a process of its own: started with what this Python has, seen by nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from impasto import worker


@pytest.mark.parametrize(("flags", "passed_on"), [(["-s"], True), ([], False)])
def test_a_python_without_the_users_own_packages_starts_another_without_them(flags, passed_on, monkeypatch):
    monkeypatch.delenv("PYTHONNOUSERSITE", raising=False)
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).resolve().parent)!r}); import conftest
from impasto import worker
sys.stdout.write(str("PYTHONNOUSERSITE" in worker.environment()))
"""
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == str(passed_on), done.stderr


def test_windows_opens_no_window_for_the_process(monkeypatch):
    asked = {}
    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", 0x08000000, raising=False)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: asked.update(options))
    worker.start("accelerate.commands.launch")
    assert asked["creationflags"] & 0x08000000


def test_a_launcher_that_started_comfyui_does_not_reach_the_process(monkeypatch):
    for name in (
        *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
        *("ACCELERATE_USE_FSDP", "ACCELERATE_MIXED_PRECISION", "FSDP_OFFLOAD_PARAMS", "TORCHELASTIC_RUN_ID"),
        *("OMPI_COMM_WORLD_SIZE", "PMI_RANK"),
    ):
        monkeypatch.setenv(name, "4")
    kept = {"CUDA_VISIBLE_DEVICES": "1", "NCCL_DEBUG": "INFO", "HF_HOME": "/models", "OMP_NUM_THREADS": "2"}
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    passed_on = worker.environment()
    assert {name: passed_on[name] for name in kept} == kept
    assert "4" not in passed_on.values()
