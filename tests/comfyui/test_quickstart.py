"""What quickstart shows while a graph runs, and when it has."""

from pathlib import Path

import impasto
import pytest
from impasto.setup import comfy_cli, quickstart
from impasto.setup.serving import ComfyServer, PromptRefused
from impasto.setup.steps import Screen

from .workflows import offer_models

REPOSITORY = Path(impasto.__file__).resolve().parent
PICTURE = REPOSITORY / "tests" / "comfyui" / "picture.json"


def test_a_graph_in_ui_format_is_run_and_summed_up(server: ComfyServer, capsys: pytest.CaptureFixture):
    quickstart.run(server, PICTURE, Screen())
    shown = capsys.readouterr().out
    assert "[1/2] Canvas" in shown and "[2/2] Save the canvas" in shown
    (saved,) = [line.split(": ", 1)[1] for line in shown.splitlines() if line.startswith("  Save the canvas: ")]
    assert Path(saved).is_file()
    assert "Peak memory: server " in shown


def test_a_graph_with_an_unknown_node_is_refused_by_name(server: ComfyServer, tmp_path: Path):
    broken = tmp_path / "broken.json"
    broken.write_text(PICTURE.read_text().replace('"type": "EmptyImage"', '"type": "NoSuchNode"'))
    with pytest.raises((comfy_cli.ComfyCliFailed, PromptRefused), match="NoSuchNode"):
        quickstart.run(server, broken, Screen())


@pytest.mark.parametrize("workflow", sorted((REPOSITORY / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_comfy_cli_finds_nothing_wrong_with_a_shipped_workflow(server: ComfyServer, workflow: Path):
    offer_models(server, workflow)
    found = comfy_cli.validate(REPOSITORY / ".impasto", workflow, server.port)
    assert found["valid"], found["errors"]
