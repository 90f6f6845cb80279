"""The folder of a published LoRA, as a reader of the Hub's cards, a Python compiler and a loader of LoRAs meet it."""

import ast
import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml
from impasto.errors import SettingsError
from impasto.publishing.lora_folder import SPACE_FOLDER, Publication, write_folder
from impasto.publishing.model_card import BASE_MODELS
from impasto.publishing.rights import AS_STATED, MINE, rights_of
from impasto.rendering.grid import Label
from impasto.rendering.picture_grid import PictureGrid
from impasto.trainers.features.index import Features
from impasto.trainers.run import create
from impasto.trainers.run import folder as runs
from impasto.trainers.settings import Settings
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from ..curation.test_exports import AWKWARD, painted

PUBLIC = "Public domain"


@pytest.fixture
def run(tmp_path):
    (tmp_path / "features").mkdir()
    features = Features(str(tmp_path / "features"), "abc")
    job = runs.Job(
        "monet", Settings(steps=40, rank=8), features.folder, features.key, "/home/me/flux.safetensors", "f1"
    )
    return create.create_run(tmp_path / "runs", job)


@pytest.fixture
def weights(tmp_path):
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({"x": torch.ones(2)}, file, {"modelspec.trigger_phrase": "mntgrdn"})
    return file


def grid(tmp_path: Path) -> PictureGrid:
    (tmp_path / "grid").mkdir()
    files = []
    for number in range(4):
        files.append(tmp_path / "grid" / f"{number}.png")
        Image.new("RGB", (64, 48), (60 * number, 0, 0)).save(files[-1])
    rows = (Label('a "harbour": #1'), Label("a barn"))
    cells = (((files[0],), (files[1],)), ((files[2],), (files[3],)))
    return PictureGrid(Label("monet"), rows, (Label("base model"), Label("step 40")), cells, (64, 48))


def published(tmp_path, run, weights, **changes) -> Path:
    dataset = painted(tmp_path / AWKWARD, rights=PUBLIC)
    given = {"rights": rights_of(dataset), "dataset": dataset, "grid": grid(tmp_path), "repository": "me/monet"}
    what = Publication("monet", weights, run, "FLUX.1-dev", **(given | changes))
    return write_folder(what, tmp_path / "published").folder


def head_of(card: Path) -> dict:
    return yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])


def test_the_hub_reads_from_the_card_what_the_lora_is_for_and_shows_its_pictures(tmp_path, run, weights):
    folder = published(tmp_path, run, weights)
    head = head_of(folder / "README.md")
    assert head["base_model"] == "black-forest-labs/FLUX.1-dev" and head["base_model_relation"] == "adapter"
    assert head["license"] == "other" and head["license_name"] == "flux-1-dev-non-commercial-license"
    assert head["instance_prompt"] == "mntgrdn"
    assert [sample["text"] for sample in head["widget"]] == ['a "harbour": #1', "a barn"]
    shown = [folder / sample["output"]["url"] for sample in head["widget"]]
    assert [Image.open(file).size for file in shown] == [(64, 48)] * 2
    assert Image.open(shown[1]).getpixel((5, 5))[0] > 170  # the last column
    assert "![" in (folder / "README.md").read_text() and Image.open(folder / "grid.png").width > 128


def test_the_weights_are_the_run_s_own_and_nothing_names_a_folder_of_this_machine(tmp_path, run, weights):
    folder = published(tmp_path, run, weights)
    assert (folder / "monet.safetensors").read_bytes() == weights.read_bytes()
    with safe_open(folder / "monet.safetensors", "pt") as file:
        assert file.metadata() == {"modelspec.trigger_phrase": "mntgrdn"}
    for file in (tmp_path / "published").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert str(tmp_path).encode() not in content and b"/home/me" not in content, file


def test_the_card_tells_settings_dataset_rights_and_the_evaluation(tmp_path, run, weights):
    (run.path / "evaluation").mkdir()
    figures = {"verdict": {"keep": 40, "why": ["Keep step 40: 80 % of the way to the set."]}}
    (run.path / "evaluation" / "1.json").write_text(json.dumps(figures))
    card = (published(tmp_path, run, weights) / "README.md").read_text(encoding="utf-8")
    for said in ("| rank | 8 |", "3 pictures", "huggan/wikiart@1234", f"| {PUBLIC} | 3 |", "80 % of the way"):
        assert said in card, said


def test_a_second_time_only_what_differs_is_written(tmp_path, run, weights):
    dataset = painted(tmp_path / AWKWARD, rights=PUBLIC)
    what = Publication("monet", weights, run, "FLUX.1-dev", rights_of(dataset), dataset=dataset, grid=grid(tmp_path))
    folder = write_folder(what, tmp_path / "published").folder
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert write_folder(what, tmp_path / "published").folder == folder
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


def test_what_lies_in_the_folder_of_somebody_else_is_no_part_of_it(tmp_path, run, weights):
    dataset = painted(tmp_path / AWKWARD, rights=PUBLIC)
    what = Publication("monet", weights, run, "FLUX.1-dev", rights_of(dataset), grid=grid(tmp_path))
    first = write_folder(what, tmp_path / "published")
    assert set(first.files) == {
        file.relative_to(first.folder).as_posix() for file in first.folder.rglob("*") if file.is_file()
    }
    (first.folder / "images" / "ComfyUI_00001_.png").write_bytes(b"of another graph")
    bare = dataclasses.replace(what, grid=None)
    assert write_folder(what, tmp_path / "published") == first
    assert write_folder(bare, tmp_path / "published").files == ("README.md", "monet.safetensors")


def test_a_base_of_another_licence_than_the_lora_was_trained_on_is_refused(tmp_path, run, weights):
    save_file({"x": torch.ones(2)}, weights, {"modelspec.architecture": "flux-1-dev/lora"})
    what = Publication("monet", weights, run, "FLUX.1-schnell", rights_of(None, MINE))
    with pytest.raises(SettingsError, match=r"trained on flux-1-dev, which has another licence\. Choose FLUX\.1-dev"):
        write_folder(what, tmp_path / "published")
    assert not (tmp_path / "published").exists()
    assert write_folder(dataclasses.replace(what, base="FLUX.1-Krea-dev"), tmp_path / "published").folder.is_dir()


@pytest.mark.parametrize("stated", ["", PUBLIC])
def test_nothing_is_made_of_pictures_whose_rights_nobody_knows_unless_the_person_has_them(
    tmp_path, run, weights, stated
):
    dataset = painted(tmp_path / AWKWARD, rights=stated)
    asked = Publication("monet", weights, run, "FLUX.1-dev", rights_of(dataset, AS_STATED), dataset=dataset)
    if stated:
        assert write_folder(asked, tmp_path / "published").folder.is_dir()
        return
    with pytest.raises(SettingsError, match=r"of 3 of its 3 pictures no source states"):
        write_folder(asked, tmp_path / "published")
    assert not (tmp_path / "published").exists()
    unknown = Publication("monet", weights, run, "FLUX.1-dev", rights_of(None))
    with pytest.raises(SettingsError, match="no dataset is connected"):
        write_folder(unknown, tmp_path / "published")
    mine = Publication("monet", weights, run, "FLUX.1-dev", rights_of(dataset, MINE), dataset=dataset)
    card = (write_folder(mine, tmp_path / "published").folder / "README.md").read_text(encoding="utf-8")
    assert "says that they have the right to" in card


@pytest.mark.parametrize("base", BASE_MODELS)
def test_the_space_is_a_program_that_loads_this_lora_on_this_base(tmp_path, run, weights, base):
    write_folder(
        Publication("mo\"'net", weights, run, base, rights_of(None, MINE), 'a "trig"\'\\ger', repository="me/monet"),
        tmp_path / "published",
    )
    space = tmp_path / "published" / SPACE_FOLDER
    program = ast.parse((space / "app.py").read_text(encoding="utf-8"))
    [constants] = [
        node for node in program.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple)
    ]
    assert ast.literal_eval(constants.value) == (
        BASE_MODELS[base].repository,
        "me/monet",
        "mo\"'net.safetensors",
        'a "trig"\'\\ger',
    )
    wanted = {line.split("==")[0] for line in (space / "requirements.txt").read_text().split()}
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(program)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported <= wanted
    head = head_of(space / "README.md")
    assert head["sdk"] == "gradio" and head["app_file"] == "app.py"
