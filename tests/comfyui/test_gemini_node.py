"""Gemini, its fallback and the editor in one graph on a real server, against Gemini's wire format on loopback."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from impasto.captioners.quota import ProjectLimits
from impasto.setup import comfy_cli
from impasto.setup.environment import HOME
from impasto.setup.serving import ComfyServer, Interrupted, NodeFailed

from ..captioners.gemini_server import GeminiServer, serving
from ..captioners.test_gemini import KEYS, PLENTY, write_keys
from ..small_sources import Painting, picture_bytes, write_shard
from .workflows import shipped

MODEL = "LLM/Florence-2-fallback"
PICTURES = 8
WORKFLOW = shipped(5)


def give_pictures(server: ComfyServer) -> None:
    paintings = [Painting(picture_bytes(seed, 600, 520)) for seed in range(PICTURES)]
    write_shard(server.base / "datasets" / "gemini-source" / "train.parquet", paintings)


@pytest.fixture(scope="module")
def gemini(server: ComfyServer, tiny_florence: Path) -> Iterator[GeminiServer]:
    """A Gemini that the ComfyUI server's owner has a key for, eight paintings, and the tiny Florence-2."""
    shutil.copytree(tiny_florence, server.base / "models" / MODEL)
    give_pictures(server)
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


def without_fallback(name: str) -> dict:
    prompt = captioning(name)
    del prompt["caption"]["inputs"]["fallback"], prompt["local"]
    return prompt


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
    gemini.fault = lambda number, picture: "slow" if number > before + 3 else None
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
    server.queue(captioning("gemini-cancelled"))  # waits for the calls under way, and asks for none of them again
    assert len(gemini.requests) == before + PICTURES
    assert len(ledger.read_text().splitlines()) == PICTURES


def test_a_killed_comfyui_loses_only_the_calls_under_way_and_says_how_many(own_server: ComfyServer):
    give_pictures(own_server)
    with serving(GeminiServer({KEYS["one"]: PLENTY}, latency=3.0)) as gemini:
        write_keys(own_server.base / "user" / "impasto", gemini.url)
        graph = without_fallback("gemini-killed")
        own_server.submit(graph)
        deadline = time.monotonic() + 60
        while len(gemini.requests) < PICTURES:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        own_server.kill()
        gemini.latency = 0.0
        own_server.restart()
        shown = own_server.queue(graph).outputs
    captions = json.loads(shown["table"]["text"][0])
    assert len(captions) == PICTURES and all(row["caption"] for row in captions)
    assert len(gemini.requests) == 2 * PICTURES
    assert f"In flight when an earlier run was cut off: {PICTURES}." in shown["report"]["text"][0]


def test_a_project_without_a_key_is_answered_in_the_node(server: ComfyServer, gemini: GeminiServer):
    with pytest.raises(NodeFailed, match="no key for the project 'GEMINI_API_KEY_NONE'") as failure:
        server.queue(captioning("gemini-keyless", projects="GEMINI_API_KEY_NONE"))
    assert failure.value.node_id == "caption"


def test_the_same_graph_goes_on_with_what_a_busy_service_left_open(server: ComfyServer, gemini: GeminiServer):
    begin = len(gemini.requests)

    def over_rate_from_the_sixth_picture_on(number: int, picture: str) -> str | None:
        first = dict.fromkeys(request.picture for request in gemini.requests[begin:])
        return None if picture in list(first)[:5] else "429 soon"

    gemini.fault = over_rate_from_the_sixth_picture_on
    graph = without_fallback("gemini-busy")
    del graph["write"], graph["toml"]  # which refuses a picture without a caption
    first = server.queue(graph)
    assert "service was busy: 3. Queue again" in first.outputs["report"]["text"][0]

    gemini.fault = lambda number, picture: None
    asked = len(gemini.requests)
    second = server.queue(graph)
    assert len(gemini.requests) == asked + 3
    assert "8 of 8 pictures captioned, 3 of them asked about in this run" in second.outputs["report"]["text"][0]
    assert all(row["caption"] for row in json.loads(second.outputs["table"]["text"][0]))
    assert "caption" in server.queue(graph).cached  # nothing is open any more


def test_the_same_graph_goes_on_when_the_days_quota_is_back(server: ComfyServer, gemini: GeminiServer):
    usage = server.base / "user" / "impasto" / "usage"
    graph = without_fallback("gemini-day")
    gemini.fault = lambda number, picture: None
    gemini.projects = {KEYS["one"]: ProjectLimits(1_000, 10**9, len(gemini.requests) + 5)}
    answered = gemini.answered.copy()
    try:
        for _ in range(2):
            with pytest.raises(NodeFailed, match=r"day are used up .*come back at .*queue again") as stopped:
                server.queue(graph)
            assert stopped.value.node_id == "caption"
    finally:
        gemini.projects = {KEYS["one"]: PLENTY}
    for file in usage.glob("*.jsonl"):  # of yesterday
        file.unlink()
    done = server.queue(graph)
    assert "8 of 8 pictures captioned" in done.outputs["report"]["text"][0]
    assert "3 of them asked about in this run" in done.outputs["report"]["text"][0]
    assert (gemini.answered - answered).total() == PICTURES


@pytest.fixture
def owners_folder(server: ComfyServer, gemini: GeminiServer, tiny_florence: Path) -> Iterator[Path]:
    """A folder of pictures where the shipped graph looks for one, Gemini's default key, and a Florence-2."""
    keys = server.base / "user" / "impasto" / "gemini.toml"
    before = keys.read_text()
    keys.write_text(f'{before}[projects.GEMINI_API_KEY]\nkey = "{KEYS["one"]}"\n')
    model = server.base / "models" / "LLM" / "Florence-2-base"
    shutil.copytree(tiny_florence, model)
    folder = server.base / "input" / "pictures"
    folder.mkdir()
    for seed in range(PICTURES):
        (folder / f"{seed}.jpg").write_bytes(picture_bytes(100 + seed, 600, 520))
    yield folder
    shutil.rmtree(folder)
    shutil.rmtree(model)
    keys.write_text(before)


def test_the_shipped_graph_captions_a_folder(server: ComfyServer, gemini: GeminiServer, owners_folder: Path):
    begin = len(gemini.requests)
    gemini.fault = lambda number, picture: "prompt blocked" if number == begin + 3 else None
    server.queue(comfy_cli.to_api(HOME, WORKFLOW, server.port))
    gemini.fault = lambda number, picture: None
    dataset = server.base / "datasets" / "captioned-pictures"
    answers = [json.loads(line) for line in (dataset / "captions.jsonl").read_text().splitlines()]
    assert [answer["captioner"] for answer in answers if answer["text"]].count("gemini") == PICTURES - 1
    assert [answer["captioner"] for answer in answers if answer["text"]].count("florence-2") == 1
    [train] = (dataset / "train").iterdir()
    captions = [path.read_text(encoding="utf-8") for path in train.glob("*.txt")]
    assert len(captions) == PICTURES and all(caption.startswith("impasto style, A ") for caption in captions)
    assert len(list(dataset.glob("*.toml"))) == 1
    asked = len(gemini.requests)
    server.queue(comfy_cli.to_api(HOME, WORKFLOW, server.port))
    assert len(gemini.requests) == asked
