"""The Florence-2 Captioner on a real server: resumed after Cancel, asked nothing twice, unable to fetch unasked."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from impasto.setup.serving import ComfyServer, Interrupted, NodeFailed

from ..small_sources import Painting, picture_bytes, write_shard

MODEL = "LLM/Florence-2-tiny"
PICTURES = 60


@pytest.fixture(scope="module")
def source(server: ComfyServer, tiny_florence: Path) -> str:
    """Small paintings in the server's datasets folder, and the tiny Florence-2 among its models."""
    shutil.copytree(tiny_florence, server.base / "models" / MODEL)
    paintings = [Painting(picture_bytes(seed)) for seed in range(PICTURES)]
    write_shard(server.base / "datasets" / "florence-source" / "train.parquet", paintings)
    return "florence-source"


def captioning(source: str, name: str, **widgets: object) -> dict:
    labels = {"source": source, "style": "any", "genre": "any", "artist": "any"}
    asked = {"model": MODEL, "download": False, "task": "caption", "trigger_word": "mntgrdn", "clean_up": False}
    asked |= {"num_beams": 1, "max_new_tokens": 60, "batch_size": 2}
    prompt = {
        "load": ("ImpastoWikiArtLoader", labels | {"count": PICTURES, "seed": 0, "name": name}),
        "caption": ("ImpastoFlorence2Captioner", {"dataset": ["load", 0]} | asked | widgets),
        "report": ("PreviewAny", {"source": ["caption", 1]}),
    }
    return {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in prompt.items()}


def ledger(server: ComfyServer, name: str) -> list[dict]:
    path = server.base / "datasets" / name / "captions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_cancel_keeps_what_is_captioned_and_queueing_again_asks_only_for_the_rest(server: ComfyServer, source: str):
    execution = server.submit(captioning(source, "florence-cancelled"))
    deadline = time.monotonic() + 120
    while not ledger(server, "florence-cancelled"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.interrupt()
    with pytest.raises(Interrupted) as cancelled:
        execution.wait(60)
    assert cancelled.value.node_id == "caption"
    kept = ledger(server, "florence-cancelled")
    assert 0 < len(kept) < PICTURES

    result = server.queue(captioning(source, "florence-cancelled"))
    captioned = ledger(server, "florence-cancelled")
    assert captioned[: len(kept)] == kept
    assert len(captioned) == len({line["image"] for line in captioned}) == PICTURES
    assert all(line["text"].endswith("boat on the water. A house stands behind it.") for line in captioned)
    assert f"{PICTURES} of {PICTURES} pictures captioned" in result.outputs["report"]["text"][0]

    again = server.queue(captioning(source, "florence-cancelled", trigger_word="other"))
    assert "0 of them asked about" in again.outputs["report"]["text"][0]
    assert ledger(server, "florence-cancelled") == captioned


def test_a_missing_model_is_answered_in_the_node_and_nothing_is_fetched(server: ComfyServer, source: str):
    model = "florence-community/Florence-2-base"
    with pytest.raises(NodeFailed, match="Turn on download") as failure:
        server.queue(captioning(source, "florence-missing", model=model))
    assert failure.value.node_id == "caption"
    assert not (server.base / "models" / "florence2").exists()
    listed = server.object_info("ImpastoFlorence2Captioner")["ImpastoFlorence2Captioner"]["input"]["required"]["model"]
    assert MODEL in json.dumps(listed)
