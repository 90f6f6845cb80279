"""Encode Training Data on a real server: shown, cancelled, killed and queued again."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from impasto.setup.serving import ComfyServer, Execution, Interrupted, NodeFailed, ServerFailed

from ..small_sources import Painting, picture_bytes, write_shard

PICTURES = 8


def make_source(server: ComfyServer, name: str) -> None:
    paintings = [Painting(picture_bytes(seed, 450, 250 + 25 * seed), genre="landscape") for seed in range(PICTURES)]
    write_shard(server.base / "datasets" / f"{name}-source" / "data" / "train-00000-of-00001.parquet", paintings)


def encoding(name: str) -> dict:
    """From the loader to the encoded training data, whose report a core node shows."""
    labels = {"style": "any", "genre": "any", "artist": "any"}
    toml = {"resolution": 256, "batch_size": 1, "num_repeats": 2, "enable_bucket": True}
    toml |= {"min_bucket_reso": 128, "max_bucket_reso": 512, "bucket_reso_steps": 64, "bucket_no_upscale": False}
    toml |= {"validation_split": 0.2, "validation_seed": 1}
    prompt = {
        "load": ("ImpastoWikiArtLoader", labels | {"source": f"{name}-source", "count": 20, "seed": 3, "name": name}),
        "caption": ("ImpastoMetadataCaptioner", {"dataset": ["load", 0], "trigger_word": "mntgrdn"}),
        "write": ("ImpastoDatasetTOMLWriter", {"dataset": ["caption", 0]} | toml),
        "flux": ("ImpastoTinyFluxLoader", {"seed": 0}),
        "encode": (
            "ImpastoEncodeTrainingData",
            {"dataset_config": ["write", 0], "clip": ["flux", 1], "vae": ["flux", 2]},
        ),
        "report": ("PreviewAny", {"source": ["encode", 1]}),
    }
    return {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in prompt.items()}


def encoded_files(server: ComfyServer, name: str) -> dict[str, str]:
    """Path under `features/` -> SHA-256, of all there but the dataset config, which names its folder."""
    root = server.base / "datasets" / name / "features"
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "dataset.toml")
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def modification_times(server: ComfyServer, name: str) -> dict[Path, int]:
    root = server.base / "datasets" / name / "features"
    return {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")}


def run_until_picture(server: ComfyServer, name: str, number: int) -> tuple[Execution, threading.Event]:
    """Queue the prompt; the event is set when picture `number` is announced."""
    reached = threading.Event()

    def listen(kind: str, data: dict) -> None:
        if kind == "progress_text" and f"Encoding picture {number} " in data["text"]:
            reached.set()

    return server.submit(encoding(name), listener=listen), reached


def test_the_report_says_what_was_encoded_and_queueing_again_runs_nothing(server: ComfyServer):
    make_source(server, "encoded")
    result = server.queue(encoding("encoded"))

    report = result.outputs["report"]["text"][0]
    assert f"{PICTURES} pictures, 2 of them held out" in report
    assert "12 per epoch" in report
    assert "320 x 192" in report and "256 x 256" in report
    assert "2 texts" in report
    assert not server.queue(encoding("encoded")).seconds


def test_texts_go_out_as_one_file_and_in_again_with_prompts_beside_them(server: ComfyServer):
    make_source(server, "tabled")
    graph = encoding("tabled")
    graph["prompts"] = {"class_type": "ImpastoPromptSet", "inputs": {"text": "a harbour\nboats --d 9", "seed": 5}}
    graph["export"] = {
        "class_type": "ImpastoExportTextFeatures",
        "inputs": {"features": ["encode", 0], "name": "texts", "float_type": "float32"},
    }
    again = {**graph["encode"]["inputs"], "text_features": ["export", 0], "prompts": ["prompts", 0]}
    graph["again"] = {"class_type": "ImpastoEncodeTrainingData", "inputs": again}
    graph["outcome"] = {"class_type": "PreviewAny", "inputs": {"source": ["again", 1]}}
    report = server.queue(graph).outputs["outcome"]["text"][0]

    assert (server.base / "datasets" / "tabled" / "exports" / "text-features" / "texts.parquet").is_file()
    assert f"{PICTURES} pictures, 2 of them held out" in report
    assert "2 prompts for samples during training" in report


def test_cancel_keeps_what_is_encoded_and_queueing_again_goes_on(server: ComfyServer):
    make_source(server, "cancelled")
    execution, reached = run_until_picture(server, "cancelled", 4)
    assert reached.wait(120)
    server.interrupt()
    with pytest.raises(Interrupted) as cancelled:
        execution.wait(60)
    assert cancelled.value.node_id == "encode"

    kept = modification_times(server, "cancelled")
    pictures = [path for path in kept if path.parent.name == "latents"]
    assert 3 <= len(pictures) < PICTURES
    server.queue(encoding("cancelled"))
    finished = modification_times(server, "cancelled")
    assert {path: finished[path] for path in kept} == kept
    assert len(finished) == PICTURES + 2


def test_a_killed_server_leaves_what_another_goes_on_with_to_the_same_files(own_server: ComfyServer):
    for name in ("killed", "whole"):
        make_source(own_server, name)
    for number in (2, 3, 4):  # each counted from what is then missing
        execution, reached = run_until_picture(own_server, "killed", number)
        assert reached.wait(120)
        own_server.kill()
        with pytest.raises(ServerFailed):
            execution.wait(60)
        own_server.restart()
    own_server.queue(encoding("killed"))
    own_server.queue(encoding("whole"))

    assert encoded_files(own_server, "killed") == encoded_files(own_server, "whole")
    before = modification_times(own_server, "killed")
    own_server.restart()
    result = own_server.queue(encoding("killed"))
    assert "encode" in result.seconds
    assert modification_times(own_server, "killed") == before


def test_a_truncated_picture_is_named_in_the_node(server: ComfyServer):
    make_source(server, "torn")
    whole = encoding("torn")
    server.queue({node: whole[node] for node in ("load", "caption", "write")} | {"toml": show("write")})
    picture = next((server.base / "datasets" / "torn" / "train").rglob("*.jpg"))
    content = picture.read_bytes()
    picture.unlink()  # it shares its content with images/
    picture.write_bytes(content[: len(content) // 2])

    with pytest.raises(NodeFailed, match=f"{picture.name}.*Replace or remove") as failure:
        server.queue(whole)
    assert failure.value.node_id == "encode"

    picture.write_bytes(content)
    assert f"{PICTURES} pictures" in server.queue(whole).outputs["report"]["text"][0]


def show(node: str) -> dict:
    return {"class_type": "PreviewAny", "inputs": {"source": [node, 1]}}
