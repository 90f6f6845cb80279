"""Florence-2 is found where people keep it, the old release is explained, and nothing is fetched unasked."""

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from impasto.captioners.florence import load_florence
from impasto.captioners.florence_checkpoints import (
    REPOSITORIES,
    choose_checkpoint,
    destination,
    download_checkpoint,
    find_checkpoints,
    fingerprint,
    missing_checkpoint,
)
from impasto.errors import ModelError

BASE = "florence-community/Florence-2-base"
REVISION = "0123456789abcdef0123456789abcdef01234567"


def put(folder: Path, native: bool = True, weights: str = "model.safetensors") -> Path:
    """A folder that looks like a checkpoint: small files only."""
    folder.mkdir(parents=True)
    config = {"model_type": "florence2"} | (
        {} if native else {"auto_map": {"AutoModelForCausalLM": "modeling_florence2.Florence2ForConditionalGeneration"}}
    )
    (folder / "config.json").write_text(json.dumps(config))
    (folder / weights).write_bytes(b"weights")
    return folder


def test_checkpoints_are_found_wherever_people_keep_them(tmp_path):
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere" / "LLM"
    put(models / "florence2" / "Florence-2-base")
    put(models / "LLM" / "Florence-2-large", native=False)
    put(models / "LLM" / "florence-community" / "Florence-2-base-ft")
    put(models / "text_encoders" / ".hidden")
    put(elsewhere / "my-florence")
    (models / "LLM" / "llama").mkdir()
    (models / "LLM" / "llama" / "config.json").write_text('{"model_type": "llama"}')
    (models / "LLM" / "torn").mkdir()
    (models / "LLM" / "torn" / "config.json").write_text('{"model_type": "flor')
    found = find_checkpoints(models, [models / "LLM", elsewhere, tmp_path / "missing"])
    assert [(one.name, one.own_code) for one in found] == [
        ("LLM/Florence-2-large", True),
        ("LLM/florence-community/Florence-2-base-ft", False),
        ("LLM/my-florence", False),
        ("florence2/Florence-2-base", False),
    ]


def test_a_repository_is_the_folder_of_its_name_anywhere(tmp_path):
    folder = put(tmp_path / "LLM" / "Florence-2-base")
    assert choose_checkpoint(BASE, find_checkpoints(tmp_path)).folder == folder
    assert choose_checkpoint("LLM/Florence-2-base", find_checkpoints(tmp_path)).folder == folder
    assert choose_checkpoint(REPOSITORIES[1], find_checkpoints(tmp_path)) is None


def test_the_old_release_is_refused_with_its_replacement(tmp_path):
    put(tmp_path / "LLM" / "Florence-2-large-ft", native=False)
    found = find_checkpoints(tmp_path)
    with pytest.raises(ModelError, match="auto_map.*florence-community/Florence-2-large-ft.*download"):
        choose_checkpoint("LLM/Florence-2-large-ft", found)
    assert choose_checkpoint("florence-community/Florence-2-large-ft", found) is None
    message = str(missing_checkpoint("florence-community/Florence-2-large-ft", tmp_path, found))
    assert "LLM/Florence-2-large-ft is another format" in message


def test_a_checkpoint_with_pickled_weights_only_is_refused(tmp_path):
    put(tmp_path / "LLM" / "mine", weights="pytorch_model.bin")
    with pytest.raises(ModelError, match="no model.safetensors"):
        choose_checkpoint("LLM/mine", find_checkpoints(tmp_path))


def test_an_unknown_name_lists_what_there_is(tmp_path):
    put(tmp_path / "LLM" / "mine")
    with pytest.raises(ModelError, match="LLM/mine, florence-community/Florence-2-base"):
        choose_checkpoint("../../etc", find_checkpoints(tmp_path))


def test_a_missing_model_is_told_with_size_destination_and_the_switch(tmp_path):
    message = str(missing_checkpoint(BASE, tmp_path, []))
    assert str(tmp_path / "florence2" / "Florence-2-base") in message
    assert "GB" in message
    assert "Turn on download" in message


def test_a_checkpoint_is_recognised_by_content_wherever_it_lies(tiny_florence, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(tiny_florence, moved)
    assert fingerprint(moved) == fingerprint(tiny_florence)
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[len(weights) // 4 :] = bytes(len(weights) - len(weights) // 4)
    (moved / "model.safetensors").write_bytes(weights)
    assert fingerprint(moved) != fingerprint(tiny_florence)


@dataclass
class Hub:
    """What the hub of the test holds, and how it behaves."""

    files: dict[str, bytes]
    address: str = ""
    asked: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)  # the second half of long files waits for it


@pytest.fixture
def hub(tiny_florence, monkeypatch) -> Iterator[Hub]:
    """A Hugging Face hub on loopback that holds the tiny Florence-2 as Florence-2-base, named by HF_ENDPOINT."""
    files = {path.name: path.read_bytes() for path in tiny_florence.iterdir()}
    state = Hub(files | {"pytorch_model.bin": b"pickle", "modeling_florence2.py": b"code"})
    state.gate.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(state))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", state.address)
    yield state
    state.gate.set()
    server.shutdown()
    server.server_close()


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool):
            hub.asked.append(self.path)
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/models/{BASE}/tree/"):
                return self.json([{"type": "file", "path": n, "size": len(d), "oid": n} for n, d in hub.files.items()])
            if path.startswith(f"/api/models/{BASE}"):
                siblings = [{"rfilename": name, "size": len(data)} for name, data in hub.files.items()]
                return self.json({"id": BASE, "sha": REVISION, "siblings": siblings, "tags": [], "private": False})
            name = path.removeprefix(f"/{BASE}/resolve/{REVISION}/")
            if name not in hub.files:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            return self.file(hub.files[name], body)

        def json(self, value):
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def file(self, data: bytes, body: bool):
            self.send_response(200)
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("ETag", f'"{len(data)}-{hash(data) & 0xFFFF}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                half = len(data) // 2
                self.wfile.write(data[:half])
                self.wfile.flush()
                if len(data) > 10_000_000:
                    hub.gate.wait(30)
                with contextlib.suppress(ConnectionError):  # the download was stopped
                    self.wfile.write(data[half:])

    return Handler


def test_an_opted_in_download_appears_whole_and_can_be_loaded(hub, tmp_path):
    told = []
    checkpoint = download_checkpoint(BASE, tmp_path, lambda done, total, text="", preview=None: told.append(text))
    assert checkpoint.folder == destination(tmp_path, BASE) == tmp_path / "florence2" / "Florence-2-base"
    assert choose_checkpoint(BASE, find_checkpoints(tmp_path)) == checkpoint
    assert load_florence(checkpoint.folder).model.num_parameters() > 100_000
    assert sorted(path.name for path in checkpoint.folder.iterdir()) == sorted(
        name for name in hub.files if name.endswith((".json", ".txt", ".safetensors"))
    ), "no code, no pickles, nothing of the hub's own"
    assert [path.name for path in checkpoint.folder.parent.iterdir()] == ["Florence-2-base"]
    assert hub.address in told[0]
    assert any(str(tmp_path / "florence2") in text and "GB" in text for text in told)


def test_only_the_four_repositories_are_ever_fetched(hub, tmp_path):
    for other in ("microsoft/Florence-2-base", "florence-community/../evil/model", "someone/Florence-2-base"):
        with pytest.raises(ModelError, match="Only these are"):
            download_checkpoint(other, tmp_path)
    assert hub.asked == []


def test_cancel_ends_a_download_within_a_second_and_the_next_goes_on(hub, tmp_path):
    class Cancelled(BaseException):
        pass

    hub.files["model.safetensors"] += bytes(30_000_000)  # after the weights: no longer a model, but a long file
    hub.gate.clear()
    pressed = 0.0

    def cancel(done, total, text="", preview=None):
        nonlocal pressed
        if done > 10_000_000:
            pressed = time.monotonic()
            raise Cancelled

    with pytest.raises(Cancelled):
        download_checkpoint(BASE, tmp_path, cancel)
    assert time.monotonic() - pressed < 1
    assert not destination(tmp_path, BASE).exists()
    hub.gate.set()
    partial = destination(tmp_path, BASE).with_name(".partial-Florence-2-base")
    whole = {path.name for path in partial.glob("*.*")}
    (partial / ".cache" / "killed.incomplete").write_bytes(b"of a process that was killed")
    hub.asked.clear()
    download_checkpoint(BASE, tmp_path)
    folder = destination(tmp_path, BASE)
    assert folder.joinpath("model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert not (folder / ".cache").exists()
    fetched = {path.rpartition("/")[2] for path in hub.asked if "resolve" in path}
    assert "model.safetensors" in fetched
    assert not fetched & whole, "what came whole is not fetched again"


def test_a_hub_that_cannot_be_reached_is_said_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="127.0.0.1:9.*HF_ENDPOINT"):
        download_checkpoint(BASE, tmp_path)
    assert not (tmp_path / "florence2" / "Florence-2-base").exists()


def test_a_folder_in_the_way_is_never_replaced(hub, tmp_path):
    old = put(tmp_path / "florence2" / "Florence-2-base", native=False)
    with pytest.raises(ModelError, match="Move that folder away"):
        download_checkpoint(BASE, tmp_path)
    assert (old / "model.safetensors").read_bytes() == b"weights"


def test_a_full_disk_is_said_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(ModelError, match="GB free"):
        download_checkpoint(BASE, tmp_path)
    assert not [path for path in hub.asked if "resolve" in path]
