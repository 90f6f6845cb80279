"""LoRA XY Grid on a real server, over its queue: each cell's graph by core's own nodes gives that very cell; Cancel."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from impasto.setup.serving import ComfyServer, Interrupted
from PIL import Image

from .workflows import offer_models

TEXT = '"quoted" 🎨 夜の港 ميناء'


def graph(name: str, lora: str = "none", **axes: str) -> dict:
    links = {"model": ["tiny", 0], "clip": ["tiny", 1], "vae": ["tiny", 2]}
    settings = {"prompt": TEXT, "seed": 3, "lora": lora, "strength": 1.0, "width": 64, "height": 64, "steps": 2}
    settings |= {"guidance": 3.5, "name": name, "save_api": True, "sampler_name": "euler", "scheduler": "simple"}
    settings |= {"y_axis": "none", "y_values": ""} | axes
    prompt = {
        "tiny": ("ImpastoTinyFluxLoader", {"seed": 0}),
        "grid": ("ImpastoLoraXYGrid", links | settings),
        "save": ("SaveImage", {"images": ["grid", 0], "filename_prefix": f"tests/{name}"}),
    }
    return {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in prompt.items()}


def folder(server: ComfyServer, name: str) -> Path:
    return server.base / "output" / "impasto" / "grids" / name


def test_the_graph_beside_each_cell_gives_that_cell_by_core_s_own_nodes(server: ComfyServer):
    repository = Path(__file__).resolve().parents[2]
    offer_models(server, repository / "workflows" / "08 LoRA, restyle a picture of my own.json")
    lora = "wikiart-impressionism/wikiart-impressionism.safetensors"
    axes = {"x_axis": "strength", "x_values": "0.4\n1", "y_axis": "guidance", "y_values": "2"}
    server.queue(graph("apis", lora, **axes), timeout=900)
    pictures = sorted(folder(server, "apis").glob("*.png"))
    assert len(pictures) == 2
    for picture in pictures:
        form = json.loads(picture.with_suffix(".json").read_text(encoding="utf-8"))
        assert {node["class_type"] for node in form.values() if node["class_type"].startswith("Impasto")} == {
            "ImpastoTinyFluxLoader"
        }
        result = server.queue(form, timeout=900)
        (saved,) = server.output_files(result, "cell_file")
        assert Image.open(saved).tobytes() == Image.open(picture).tobytes()


def test_cancel_keeps_the_cells_done_and_queueing_again_makes_the_rest(server: ComfyServer):
    under_way = threading.Event()

    def listen(kind: str, data: dict) -> None:
        if kind == "progress_text" and "Picture 2 of 3: step 1" in data["text"]:
            under_way.set()

    prompt = graph("cancelled", x_axis="seed", x_values="1\n2\n3", steps=12)
    execution = server.submit(prompt, listener=listen)
    assert under_way.wait(900)
    server.interrupt()
    with pytest.raises(Interrupted):
        execution.wait(300)
    done = {file.name: file.stat().st_mtime_ns for file in folder(server, "cancelled").glob("*.png")}
    assert 1 <= len(done) < 3
    server.queue(prompt, timeout=900)
    now = {file.name: file.stat().st_mtime_ns for file in folder(server, "cancelled").glob("*.png")}
    assert len(now) == 3 and done.items() <= now.items()
