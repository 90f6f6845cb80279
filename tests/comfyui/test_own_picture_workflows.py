"""The shipped workflows that begin with a person's own picture, on a real server, on the tiny FLUX."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
from impasto.setup.serving import ComfyServer, Result
from PIL import Image

from .conftest import REPOSITORY
from .workflows import on_tiny_flux

SMALLER = {"ImageScaleToTotalPixels": {"megapixels": 0.02}, "KSampler": {"steps": 4}}
STRENGTHS = ("0.3", "0.45", "0.6", "0.8")


def run_shipped(server: ComfyServer, name: str, changes: dict[str, dict]) -> tuple[dict, Result]:
    """A shipped graph in UI format, and what it gave with changed inputs by node type."""
    workflow = REPOSITORY / "workflows" / f"{name}.json"
    prompt = on_tiny_flux(server, workflow)
    for node in prompt.values():
        node["inputs"] |= changes.get(node["class_type"], {})
    return json.loads(workflow.read_text(encoding="utf-8")), server.queue(prompt, timeout=900)


def saved(server: ComfyServer, graph: dict, result: Result, title: str) -> Path:
    (node,) = [str(node["id"]) for node in graph["nodes"] if node.get("title") == title]
    (file,) = server.output_files(result, node)
    return file


def pixels(file: Path) -> numpy.ndarray:
    return numpy.asarray(Image.open(file).convert("RGB")).astype(float)


def test_restyle_photo_shows_four_strengths_in_one_row_from_near_the_picture_to_far_from_it(server: ComfyServer):
    graph, result = run_shipped(server, "08 LoRA, restyle a picture of my own", SMALLER)
    row = pixels(saved(server, graph, result, "Save the row"))
    painted = [pixels(saved(server, graph, result, f"Save denoise {strength}")) for strength in STRENGTHS]
    height, width, _ = painted[0].shape
    assert width % 16 == height % 16 == 0 and row.shape == (height, 5 * width + 4 * 16, 3)
    own = row[:, :width]
    for place, picture in enumerate(painted, start=1):
        assert numpy.array_equal(row[:, place * (width + 16) : place * (width + 16) + width], picture)
    distances = [numpy.abs(picture - own).mean() for picture in painted]
    assert 0 < distances[0] < distances[-1]


def test_flux_kontext_edit_gives_the_pair_with_the_lora_on_the_model(server: ComfyServer):
    graph, result = run_shipped(
        server, "09 LoRA and FLUX Kontext, edit a picture of my own", {"KSampler": {"steps": 1}}
    )
    pair, new = (pixels(saved(server, graph, result, title)) for title in ("Save the pair", "Save the new picture"))
    height, width, _ = new.shape
    assert pair.shape == (height, 2 * width + 16, 3) and numpy.array_equal(pair[:, width + 16 :], new)
    (lora,) = [str(node["id"]) for node in graph["nodes"] if node["type"] == "ImpastoLoraWorkbench"]
    assert result.outputs[lora]["text"][0].startswith("1 layer, rank 4")
