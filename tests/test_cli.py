"""The command line: runs in their folders, what it says of them, and how it ends."""

import html.parser
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import impasto
import pytest
import torch
from impasto.api.openapi import document
from impasto.api.routing import Call, Places
from impasto.cli import commands, fields, graphs
from impasto.errors import SettingsError
from impasto.setup.serving import free_port
from impasto.trainers.run.folder import Run
from impasto.trainers.run.samples import save_samples
from PIL import Image
from safetensors import safe_open

from .small_job import NAME, SmallJob, Stopped, write_inputs

REPOSITORY = Path(impasto.__file__).resolve().parent


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of four steps that was stopped after its second."""
    place = tmp_path_factory.mktemp("job")
    with pytest.raises(Stopped):
        SmallJob(write_inputs(place / "inputs"), place / "disk").queue(stop_after=2)
    (folder,) = (place / "disk" / "output" / "runs").iterdir()
    return Run(folder.name, str(folder))


@pytest.fixture
def call(capsys: pytest.CaptureFixture):
    """Runs a command in this process; its exit status, and what it said on its output and on errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = commands.main([str(argument) for argument in arguments])
        except SystemExit as ended:  # of argparse
            status = ended.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def start(*arguments: object, folder: Path, **options) -> subprocess.Popen[str]:
    """The command line as a person starts it, from the folder of a clone that is called as it likes."""
    command = [sys.executable, folder, *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """The pack in a folder that is no module's name, among files that bear names of its modules."""
    folder = tmp_path / "ComfyUI Impasto-main"
    folder.symlink_to(REPOSITORY, target_is_directory=True)
    yield folder
    folder.unlink()


def test_runs_are_listed_and_their_json_is_what_the_routes_answer(call, stopped):
    status, said, _ = call("list", stopped.path.parent)
    assert status == 0 and said.startswith(f"{stopped.id}  stopped  step 2 of 4")
    status, said, _ = call("list", stopped.path.parent, "--json")
    (told,) = json.loads(said)["runs"]
    assert (told["id"], told["state"], told["step"]) == (stopped.id, "stopped", 2)


def test_the_runs_of_the_comfyui_that_one_stands_in_are_listed(call, stopped, tmp_path, monkeypatch):
    (tmp_path / "output" / "impasto").mkdir(parents=True)
    (tmp_path / "output" / "impasto" / "runs").symlink_to(stopped.path.parent, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    assert stopped.id in call("list")[1]


def test_a_run_says_how_far_it_is_and_following_one_that_stopped_fails(call, stopped, monkeypatch):
    status, said, _ = call("status", stopped.path)
    assert status == 0 and "checkpoints at step 2" in said
    monkeypatch.chdir(stopped.path)
    status, said, _ = call("status", ".", "--follow", "--json")
    assert status == 1 and json.loads(said)["id"] == stopped.id


def test_a_folder_that_is_no_run_is_refused_by_name_as_json_too(call, tmp_path):
    status, said, error = call("status", tmp_path / "nothing")
    assert status == 1 and said == "" and str(tmp_path / "nothing" / "settings.toml") in error
    status, said, error = call("train", tmp_path / "nothing", "--json")
    assert status == 1 and error == "" and "settings.toml" in json.loads(said)["error"]["message"]
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("wrong", [[], ["paint"], ["status"], ["train", "run", "--steps", "4"]])
def test_a_wrong_command_line_ends_with_status_2_and_how_it_is_used(call, wrong):
    status, said, error = call(*wrong)
    assert status == 2 and said == "" and error.startswith("usage: impasto")


def test_the_report_is_one_page_that_shows_loss_and_samples_and_loads_nothing(call, stopped, tmp_path):
    save_samples(stopped, 2, torch.zeros(1, 16, 8, 8))
    Image.new("RGB", (64, 64), "teal").save(stopped.samples_file(2).with_name("preview.png"))  # as the node decodes it
    status, said, _ = call("report", stopped.path, "--to", tmp_path / "report.html")
    assert status == 0 and said.strip() == str(tmp_path / "report.html")
    shown = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            shown.append((tag, dict(attributes)))

    page = (tmp_path / "report.html").read_text()
    Reader().feed(page)
    pictures = [attributes for tag, attributes in shown if tag == "img"]
    assert [picture["alt"] for picture in pictures] == ["step 2", "loss, learning rate and sigmas over the steps"]
    assert all(picture["src"].startswith("data:image/jpeg;base64,") for picture in pictures)
    assert not {tag for tag, _ in shown} & {"script", "link", "iframe"}
    assert "learning_rate" in page and stopped.id in page


def test_a_report_as_a_picture_is_the_loss_plot(call, stopped, tmp_path):
    status, said, _ = call("report", stopped.path, "--to", tmp_path / "loss.png", "--json")
    assert status == 0 and json.loads(said) == {"report": str(tmp_path / "loss.png")}
    assert Image.open(tmp_path / "loss.png").size == (1600, 1000)


def test_a_clone_of_any_name_is_a_program_from_any_folder(clone, stopped, tmp_path):
    (tmp_path / "files.py").write_text("raise RuntimeError('a file beside the caller was run')")
    listed = start("list", stopped.path.parent, "--json", folder=clone, cwd=tmp_path)
    said, error = listed.communicate(timeout=120)
    assert listed.returncode == 0 and json.loads(said)["runs"][0]["id"] == stopped.id, error


def test_what_reads_the_output_may_stop_reading(clone, stopped):
    listed = start("list", stopped.path.parent, folder=clone)
    listed.stdout.close()
    assert listed.stderr.read() == "" and listed.wait(120) == 1


def test_a_stopped_run_is_trained_to_its_end_on_the_command_line_and_published(clone, stopped, tmp_path):
    """Interrupted first, while the trainer starts: nothing is lost by that."""
    first = start("train", stopped.path, "--cpu", folder=clone, start_new_session=True)
    wait_for(lambda: (stopped.path / "train.log").exists() or first.poll() is not None)
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait(120) == 130 and "Interrupted" in first.stderr.read()
    assert max(stopped.checkpoints()) == 2
    loras = tmp_path / "loras"
    second = start("train", stopped.path, "--cpu", "--publish", loras, "--json", folder=clone)
    said, error = second.communicate(timeout=300)
    assert second.returncode == 0, error
    told = json.loads(said)
    assert (told["state"], told["step"]) == ("finished", 4) and "Starting the trainer" in error
    with safe_open(told["lora"], "pt") as lora:
        assert lora.metadata()["impasto_run"] == stopped.id and list(lora.keys())
    assert Path(told["lora"]).parent == loras / NAME and (loras / NAME / f"{NAME}.safetensors").is_file()


@pytest.mark.parametrize("command", [["health"], ["runs"], ["status", "some-run"], ["job", "train"], ["cancel", "x"]])
def test_where_no_server_answers_the_status_is_3_and_the_address_is_told(call, command):
    address = f"http://127.0.0.1:{free_port()}"
    status, _, error = call(*command, "--server", address)
    assert status == 3 and address in error


def test_the_words_of_a_job_become_values_of_the_types_that_its_route_takes(tmp_path):
    told = document(Call(Places(tmp_path, tmp_path, (), tmp_path))).value
    (tmp_path / "urls.txt").write_text("https://one\n\nhttps://two\n")
    path, schema = fields.of_job(told, "run")
    words = ["output_name=12", "steps=30", "auto_captioning=true", f"image_urls=@{tmp_path / 'urls.txt'}"]
    words += ["captions=dusk, or dawn", "settings.rank=8", "settings.optimizer=adamw", "learning_rate=fast"]
    assert path == "/impasto/run"
    assert fields.body(words, schema) == {
        "output_name": "12",
        "steps": 30,
        "auto_captioning": True,
        "image_urls": ["https://one", "https://two"],
        "captions": ["dusk, or dawn"],
        "settings": {"rank": 8, "optimizer": "adamw"},
        "learning_rate": "fast",  # which the server refuses by name
    }
    with pytest.raises(SettingsError, match="name=value"):
        fields.body(["steps"], schema)
    with pytest.raises(SettingsError, match="download-images"):
        fields.of_job(told, "paint")


def test_inputs_of_a_graph_are_set_by_id_title_or_type_and_nothing_else_is():
    graph = {
        "1": {"class_type": "Loader", "inputs": {"count": 4}, "_meta": {"title": "Paintings"}},
        "2": {"class_type": "Save", "inputs": {"prefix": "a"}},
        "3": {"class_type": "Save", "inputs": {"prefix": "b"}},
    }
    changed = graphs.changed(graph, ["Paintings.count=8", "2.prefix=x.y", "Loader.count=9"])
    assert changed["1"]["inputs"] == {"count": 9} and changed["2"]["inputs"] == {"prefix": "x.y"}
    assert graph["1"]["inputs"] == {"count": 4} and changed["3"] == graph["3"]
    for word, said in {
        "Save.prefix=x": "2, 3",
        "4.x=1": "no node",
        "1.size=3": "It has: count",
        "count=3": "node.input",
    }.items():
        with pytest.raises(SettingsError, match=said):
            graphs.changed(graph, [word])


def wait_for(happened, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)
