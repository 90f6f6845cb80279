"""ComfyUI's own modules inside the test process, on the CPU: for comparing numbers, not for running graphs.

Ask for the fixture `comfyui`; import `comfy.…`, `nodes` and `impasto.nodes.…` inside the test, never at module level,
so that collecting needs no ComfyUI. Graphs are run on a real server: see tests/comfyui/.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class ComfyUI:
    """Where the ComfyUI under test lies, and the empty base directory that its folders were pointed at."""

    path: Path
    base: Path


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory) -> ComfyUI:
    """ComfyUI importable as `comfy`, `folder_paths`, `nodes`; CPU only; its folders in a temporary base directory."""
    path = Path(os.environ.get("COMFYUI_PATH") or REPOSITORY / ".impasto" / "ComfyUI")
    assert (path / "comfy" / "cli_args.py").is_file(), f"No ComfyUI in {path}: run ./test.sh, or set COMFYUI_PATH."
    base = tmp_path_factory.mktemp("comfyui")
    sys.path.insert(0, str(path))

    # These must be set before comfy.model_management and folder_paths are imported: both read them at import.
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = str(base)
    import folder_paths

    folder_paths.set_output_directory(str(base / "output"))
    folder_paths.set_temp_directory(str(base / "temp"))
    return ComfyUI(path=path, base=base)


@pytest.fixture(scope="module")
def tiny(comfyui):
    """MODEL, CLIP and VAE of the seeded tiny FLUX."""
    from impasto.nodes.embedded import TinyFluxLoader

    return TinyFluxLoader.execute(seed=0).args


@pytest.fixture
def without_gradients():
    """As ComfyUI runs its nodes."""
    import torch

    with torch.inference_mode():
        yield
