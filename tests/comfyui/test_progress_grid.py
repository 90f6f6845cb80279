"""The progress grid and the loss plot on a real server, over its queue: cancelled, killed, and gone on with."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from impasto.setup.serving import ComfyServer, Interrupted, NodeFailed, PromptRefused, ServerFailed
from PIL import Image
from safetensors.torch import save_file

HIDDEN_SIZE = 256  # of the tiny FLUX; checked below through the LoRA's fit
STEPS = (10, 20)


def write_run(base: Path, run_id: str, steps: tuple[int, ...] = STEPS, width: int | None = None) -> Path:
    """A run folder as the trainer leaves it, with one LoRA layer that has learned more at each checkpoint."""
    folder = base / "output" / "impasto" / "runs" / run_id
    for step in steps:
        name = "transformer.transformer_blocks.0.attn.to_q"
        width = width or HIDDEN_SIZE
        noise = torch.randn(4, width, generator=torch.Generator().manual_seed(step))
        state = {f"{name}.lora_A.weight": noise, f"{name}.lora_B.weight": torch.full((width, 4), step / 40)}
        checkpoint = folder / "checkpoints" / f"step-{step:06d}"
        checkpoint.mkdir(parents=True)
        save_file(state | {f"{name}.alpha": torch.tensor(4.0)}, checkpoint / "adapter.safetensors")
    metrics = [{"step": step, "loss": 1 / step, "learning_rate": 1e-4, "seconds": 0.1} for step in range(1, 21)]
    metrics[9]["held_out_loss"] = metrics[19]["held_out_loss"] = 0.5
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.toml").write_text('name = "harbours"\n')
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    return folder


def graph(run_id: str, text: str = "a harbour at dawn\na red barn --d 7", **grid: object) -> dict:
    settings = {"width": 64, "height": 64, "steps": 2, "guidance": 3.5, "columns": 6, "strength": 1.0}
    settings |= {"sampler_name": "euler", "scheduler": "simple"} | grid
    links = {
        "run": ["run", 0],
        "prompts": ["prompts", 0],
        "model": ["tiny", 0],
        "clip": ["tiny", 1],
        "vae": ["tiny", 2],
    }
    prompt = {
        "tiny": ("ImpastoTinyFluxLoader", {"seed": 0}),
        "run": ("ImpastoTrainingRunLoader", {"run_id": run_id}),
        "prompts": ("ImpastoPromptSet", {"text": text, "seed": 3}),
        "grid": ("ImpastoProgressGrid", links | settings),
        "plot": ("ImpastoLossPlot", {"run": ["run", 0]}),
        "save grid": ("SaveImage", {"images": ["grid", 0], "filename_prefix": "tests/grid"}),
        "save pictures": ("SaveImage", {"images": ["grid", 1], "filename_prefix": "tests/picture"}),
        "save plot": ("SaveImage", {"images": ["plot", 0], "filename_prefix": "tests/plot"}),
    }
    return {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in prompt.items()}


def pixels(run: Path) -> dict[str, bytes]:
    return {path.name: Image.open(path).tobytes() for path in (run / "grid").glob("step-*.png")}


def kept(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "grid").glob("step-*.png")}


def test_a_run_becomes_a_grid_its_pictures_and_a_loss_plot(server: ComfyServer):
    run = write_run(server.base, "harbours-00000001")
    execution = server.submit(graph(run.name))
    result = execution.wait(300)

    [grid], [plot] = server.output_files(result, "save grid"), server.output_files(result, "save plot")
    pictures = [Image.open(path).tobytes() for path in server.output_files(result, "save pictures")]
    assert len(pictures) == 6 and len(set(pictures)) == 6  # two prompts, three columns, each another picture
    assert len(kept(run)) == 6
    assert Image.open(plot).size == (1600, 1000)
    assert Image.open(grid).width > 3 * 64 and Image.open(grid).height > 2 * 64
    texts = [data["text"] for kind, data in execution.messages if kind == "progress_text"]
    assert any("step 20, prompt 2 of 2: step 1 of 2" in text for text in texts)
    states = [data["nodes"].get("grid", {}) for kind, data in execution.messages if kind == "progress_state"]
    assert any(state.get("max") == 12 for state in states)  # 6 pictures of 2 sampling steps


def test_cancel_keeps_the_pictures_done_and_queueing_again_makes_the_rest(server: ComfyServer):
    run = write_run(server.base, "harbours-00000003")
    third = threading.Event()

    def listen(kind: str, data: dict) -> None:
        if kind == "progress_text" and "step 10, prompt 1 of 2: step 1" in data["text"]:
            third.set()

    prompt = graph(run.name, steps=6)
    execution = server.submit(prompt, listener=listen)
    assert third.wait(300)
    server.interrupt()
    with pytest.raises(Interrupted):
        execution.wait(60)
    done = kept(run)
    assert 2 <= len(done) < 6
    server.queue(prompt)
    assert len(kept(run)) == 6 and done.items() <= kept(run).items()


def test_a_grid_whose_server_is_killed_goes_on_to_the_same_pictures(own_server: ComfyServer):
    whole, killed = (write_run(own_server.base, f"harbours-0000000{n}") for n in (4, 5))
    own_server.queue(graph(whole.name))

    under_way = threading.Event()

    def listen(kind: str, data: dict) -> None:
        if kind == "progress_text" and "step 10, prompt 2 of 2: step 1" in data["text"]:
            under_way.set()

    execution = own_server.submit(graph(killed.name), listener=listen)
    assert under_way.wait(300)
    own_server.kill()
    with pytest.raises(ServerFailed):
        execution.wait(60)
    done = kept(killed)
    assert 3 <= len(done) < 6
    times = {name: (killed / "grid" / name).stat().st_mtime_ns for name in done}
    own_server.restart()
    own_server.queue(graph(killed.name))
    assert pixels(killed) == pixels(whole) and done.items() <= kept(killed).items()
    assert {name: (killed / "grid" / name).stat().st_mtime_ns for name in done} == times


@pytest.mark.parametrize(
    ("steps", "width", "prompts", "text"),
    [
        ((), None, "a harbour", "'wrong-0' has no checkpoint"),
        (STEPS, 3072, "a harbour", "0 of them fit this Flux model. Connect the model"),
        (STEPS, None, "# nothing", "prompt set is empty"),
    ],
)
def test_what_cannot_be_shown_is_answered_with_the_remedy(
    server: ComfyServer, steps: tuple[int, ...], width: int | None, prompts: str, text: str, request
):
    number = request.node.callspec.indices["steps"]
    run = write_run(server.base, f"wrong-{number}", steps, width)
    with pytest.raises((NodeFailed, PromptRefused), match=text):
        server.queue(graph(run.name, prompts))
