"""No text that a stranger, a file name or a console's encoding brings about stops the queue."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from impasto.files import read_jsonl
from impasto.setup.serving import ComfyServer, NodeFailed, PromptRefused
from PIL import Image

from ..comfyui.conftest import new_server

NOT_UTF8 = os.fsdecode(b"caf\xe9")  # as an archive packed on an old Windows unpacks


@pytest.fixture(scope="module", params=["utf-8", "cp1252"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with a strict console of this encoding, and pictures and folders with names that it lacks."""
    running = new_server(tmp_path_factory.mktemp("console"))
    pictures = running.base / "input" / "pictures"
    for folder in (f"8_{NOT_UTF8}", "梅"):
        (pictures / folder).mkdir(parents=True)
    for name in (NOT_UTF8, "梅"):
        (running.base / "input" / name).mkdir()
    for number, place in enumerate(("plain", NOT_UTF8, "梅/梅", f"8_{NOT_UTF8}/red")):
        Image.new("RGB", (64, 64), (60 * number, 0, 0)).save(pictures / f"{place}.png")
    (pictures / "metadata.jsonl").write_text('{"file_name": "plain.png", "text": "half \\ud83d"}\n')
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONIOENCODING", request.param)
        running.start()
    yield running
    running.stop()


def load(folder: str) -> dict:
    inputs = {"root": "input", "folder": folder, "name": "loaded", "format": "JPEG"}
    return {
        "load": {"class_type": "ImpastoImageFolderLoader", "inputs": inputs},
        "show": {"class_type": "PreviewAny", "inputs": {"source": ["load", 1]}},
    }


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("a cat \ud83d", "no folder 'a cat '"),
        ("nope", r"no folder 'nope'.*Choose one of these: 3d, pictures, 梅"),
        ("梅花", "no folder '梅花'"),
        ("a\x1b[2Jcat", "no folder 'acat'"),
    ],
)
def test_a_text_that_cannot_be_written_is_an_error_and_the_next_prompt_runs(server, folder, said):
    with pytest.raises((NodeFailed, PromptRefused)) as failed:
        server.queue(load(folder), timeout=60)
    for part in said.split(".*"):
        assert part in str(failed.value)
    good = {"show": {"class_type": "PreviewAny", "inputs": {"source": f"after {len(folder)}"}}}
    assert server.queue(good, timeout=60).outputs["show"]


def test_pictures_whose_names_are_not_utf8_are_loaded(server):
    result = server.queue(load("pictures"), timeout=60)
    report = result.outputs["show"]["text"][0]
    assert "4 pictures" in report and r"8_caf\xe9" in report
    [manifest] = (server.base / "datasets" / "loaded" / "manifests").glob("*.jsonl")
    records = read_jsonl(manifest)
    assert [record["source"] for record in records] == [
        *(r"pictures/8_caf\xe9/red.png", r"pictures/caf\xe9.png", "pictures/plain.png", "pictures/梅/梅.png"),
    ]
    assert [record["text"] for record in records] == [r"caf\xe9", "", "half", ""]
