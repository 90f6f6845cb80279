"""The Florence-2 Captioner inside ComfyUI: found in its model folders, held by its memory management."""

import asyncio
import gc
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from impasto.captioners.captioner import Picture
from impasto.dataset.pictures import store_picture
from impasto.dataset.records import Record, write_manifest
from impasto.errors import ModelError
from PIL import Image

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
NAME = "LLM/Florence-2-tiny"
WIDGETS = {
    "model": NAME,
    "download": False,
    "task": "caption",
    "trigger_word": "mntgrdn",
    "clean_up": False,
    "num_beams": 1,
    "max_new_tokens": 60,
    "batch_size": 2,
}


@pytest.fixture(scope="module")
def models(comfyui, tiny_florence) -> Path:
    """ComfyUI's models folder with the tiny Florence-2 in it."""
    import folder_paths

    root = Path(folder_paths.models_dir)
    shutil.copytree(tiny_florence, root / NAME)
    yield root
    shutil.rmtree(root / NAME)


@pytest.fixture
def dataset(tmp_path):
    records = []
    for number, colour in enumerate(COLOURS.values()):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (64 + number, 64), colour).save(path)
        stored = store_picture(tmp_path / "boats", path.read_bytes())
        records.append(Record(stored.file_name, stored.sha256, stored.width, stored.height, stored.size))
    return write_manifest(tmp_path / "boats", records)


def run(**widgets):
    from impasto.nodes.florence import Florence2Captioner

    return asyncio.run(Florence2Captioner.execute(**{**WIDGETS, **widgets})).args


def test_a_dataset_is_captioned_with_a_model_of_comfyuis_folders(models, dataset):
    captioned, report, captioner = run(dataset=dataset)
    assert [record.text for record in captioned.records()] == [
        f"mntgrdn, A {colour} boat on the water. A house stands behind it." for colour in COLOURS
    ]
    assert "3 of 3 pictures captioned" in report
    assert captioner.model.startswith("Florence-2-tiny@")


def test_the_list_of_the_widget_has_what_is_in_the_folders(models):
    from impasto.nodes.florence import Florence2Captioner

    (model,) = [one for one in Florence2Captioner.define_schema().inputs if one.id == "model"]
    assert NAME in model.options
    assert model.options[0] == model.default == "florence-community/Florence-2-base"


def test_nothing_is_fetched_unless_it_is_turned_on(models, dataset, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="Turn on download"):
        run(dataset=dataset, model="florence-community/Florence-2-large")
    with pytest.raises(ModelError, match="could not be fetched from http://127.0.0.1:9"):
        run(dataset=dataset, model="florence-community/Florence-2-large", download=True)


def test_without_a_dataset_it_is_only_handed_on(models):
    dataset, report, captioner = run()
    assert dataset is None
    assert captioner.name == "florence-2"


@pytest.fixture
def captioner(models):
    return run()[2]


@pytest.fixture
def pictures(dataset) -> list[Picture]:
    return [
        Picture(record.sha256, dataset.image_path(record), record.width, record.height) for record in dataset.records()
    ]


def test_the_model_leaves_when_others_need_room_and_comes_back_for_the_next_batch(captioner, pictures):
    import comfy.model_management

    def caption():
        return [said.text for said in asyncio.run(captioner.caption(pictures[:2], lambda: None, lambda: None))]

    def loaded():
        return [one for one in comfy.model_management.loaded_models() if one is captioner.place._held[0]]

    said = caption()
    (patcher,) = loaded()
    assert patcher.loaded_size() == patcher.model_size() > 600_000
    device = comfy.model_management.get_torch_device()
    comfy.model_management.free_memory(1e30, device)  # as when a diffusion model is loaded
    assert not loaded()
    assert caption() == said
    assert loaded() == [patcher]


def test_nothing_is_held_after_a_run(dataset, monkeypatch):
    import comfy.model_management
    from impasto.nodes.host import florence as host

    opened = []
    load = host.load_florence
    monkeypatch.setattr(host, "load_florence", lambda *given: opened.append(weakref.ref(one := load(*given))) or one)
    before = len(comfy.model_management.current_loaded_models)
    run(dataset=dataset, task="detailed_caption")
    gc.collect()
    assert [one() for one in opened] == [None], "loaded once, and neither device nor host memory holds it"
    assert len(comfy.model_management.current_loaded_models) == before


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_it_computes_in_bf16_where_the_device_has_it(captioner, pictures, monkeypatch, bf16, dtype):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "should_use_bf16", lambda device: bf16)
    asyncio.run(captioner.caption(pictures[:1], lambda: None, lambda: None))
    assert {weight.dtype for weight in captioner.place._held[1].model.parameters()} == {dtype}
