"""Gemini, its fallback and the editor in one graph on a real server, against Gemini's wire format on loopback."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from impasto.setup.serving import ComfyServer, Interrupted, NodeFailed

from ..captioners.gemini_server import GeminiServer, serving
from ..captioners.test_gemini import KEYS, PLENTY, write_keys
from ..curation.conftest import Painting, picture_bytes, write_shard

MODEL = "LLM/Florence-2-fallback"
PICTURES = 8


@pytest.fixture(scope="module")
def gemini(server: ComfyServer, tiny_florence: Path) -> Iterator[GeminiServer]:
    """A Gemini that the ComfyUI server's owner has a key for, eight paintings, and the tiny Florence-2."""
    shutil.copytree(tiny_florence, server.base / "models" / MODEL)
    paintings = [Painting(picture_bytes(seed, 600, 520)) for seed in range(PICTURES)]
    write_shard(server.base / "datasets" / "gemini-source" / "train.parquet", paintings)
    with serving(GeminiServer({KEYS["one"]: PLENTY})) as gemini:
        write_keys(server.base / "user" / "impasto", gemini.url)
        yield gemini


def captioning(name: str, **widgets: object) -> dict:
    """Loader, Gemini with Florence-2 behind it, editor, TOML; what people read is shown, and a PNG is saved."""
    labels = {"source": "gemini-source", "style": "any", "genre": "any", "artist": "any"}
    asked = {"projects": "one", "model": "gemini-3.5-flash-lite", "trigger_word": "", "clean_up": True}
    asked |= {"estimate_only": False, "ask_again": False, "system_prompt": "Describe it.", "media_resolution": "high"}
    asked |= {"requests_per_minute": 1_000, "requests_per_day": 100_000, "tokens_per_minute": 10**8}
    local = {"model": MODEL, "download": False, "task": "caption", "trigger_word": "", "clean_up": True}
    local |= {"num_beams": 1, "max_new_tokens": 60, "batch_size": 2}
    edits = {
        "trigger_word": "mntgrdn",
        "prefix": "",
        "suffix": "",
        "replacements": ", number \\w+ => ",
        "overrides": "",
    }
    toml = {"resolution": 512, "batch_size": 1, "num_repeats": 1, "enable_bucket": True, "min_bucket_reso": 256}
    toml |= {"max_bucket_reso": 1024, "bucket_reso_steps": 64, "bucket_no_upscale": False}
    toml |= {"validation_split": 0.0, "validation_seed": 0}
    prompt = {
        "load": ("ImpastoWikiArtLoader", labels | {"count": PICTURES, "seed": 0, "name": name}),
        "local": ("ImpastoFlorence2Captioner", local),
        "caption": (
            "ImpastoGeminiCaptioner",
            {"dataset": ["load", 0], "fallback": ["local", 2]} | asked | widgets,
        ),
        "edit": ("ImpastoCaptionEditor", {"dataset": ["caption", 0], "remove_tags": ""} | edits),
        "write": ("ImpastoDatasetTOMLWriter", {"dataset": ["edit", 0]} | toml),
        "report": ("PreviewAny", {"source": ["caption", 1]}),
        "edited": ("PreviewAny", {"source": ["edit", 1]}),
        "table": ("PreviewAny", {"source": ["edit", 2]}),
        "toml": ("PreviewAny", {"source": ["write", 1]}),
        "empty": ("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 0}),
        "png": ("SaveImage", {"images": ["empty", 0], "filename_prefix": "tests/captioned"}),
    }
    return {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in prompt.items()}


def test_every_picture_is_captioned_and_the_blocked_one_by_the_fallback(server: ComfyServer, gemini: GeminiServer):
    gemini.fault = lambda number, picture: "prompt blocked" if number == 3 else None
    result = server.queue(captioning("gemini-captioned"))
    shown = {node: result.outputs[node]["text"][0] for node in ("report", "edited", "table", "toml")}
    assert "Estimate: 8 requests" in shown["report"] and "7 of 8 pictures captioned" in shown["report"]
    assert "florence-2" in shown["report"] and "1 of 1 pictures captioned" in shown["report"]
    table = json.loads(shown["table"])
    assert result.outputs["edit"]["impasto_captions"] == table
    assert all((server.base / "temp" / "impasto" / "thumbnails" / row["thumbnail"]).is_file() for row in table)
    captions = [row["caption"] for row in table]
    assert captions.count("mntgrdn, A boat on a river.") == 7
    assert all(caption.startswith("mntgrdn, A") for caption in captions)
    [train] = (server.base / "datasets" / "gemini-captioned" / "train").iterdir()
    assert sorted(path.read_text(encoding="utf-8").strip() for path in train.glob("*.txt")) == sorted(captions)

    asked = len(gemini.requests)
    again = server.queue(captioning("gemini-captioned", requests_per_minute=999))
    assert len(gemini.requests) == asked and "already" in again.outputs["report"]["text"][0]
    for file in server.base.rglob("*"):
        if file.is_file() and "custom_nodes" not in file.parts and file.name != "gemini.toml":
            assert KEYS["one"].encode() not in file.read_bytes(), file
    assert KEYS["one"] not in server.log_text() and KEYS["one"] not in json.dumps(server.history(result.prompt_id))


def test_cancel_ends_it_within_a_second_and_keeps_the_answers(server: ComfyServer, gemini: GeminiServer):
    before = len(gemini.requests)
    gemini.fault = lambda number, picture: "hang" if number > before + 3 else None
    execution = server.submit(captioning("gemini-cancelled"))
    ledger = server.base / "datasets" / "gemini-cancelled" / "captions.jsonl"
    deadline = time.monotonic() + 60
    while not ledger.exists() or len(ledger.read_text().splitlines()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    server.interrupt()
    pressed = time.monotonic()
    with pytest.raises(Interrupted) as cancelled:
        execution.wait(30)
    assert time.monotonic() - pressed < 1
    assert cancelled.value.node_id == "caption"
    gemini.fault = lambda number, picture: None
    server.queue(captioning("gemini-cancelled"))
    assert len(gemini.requests) <= before + PICTURES + 5
    assert len(ledger.read_text().splitlines()) == PICTURES


def test_a_project_without_a_key_is_answered_in_the_node(server: ComfyServer, gemini: GeminiServer):
    with pytest.raises(NodeFailed, match="no key for the project 'GEMINI_API_KEY_NONE'") as failure:
        server.queue(captioning("gemini-keyless", projects="GEMINI_API_KEY_NONE"))
    assert failure.value.node_id == "caption"
