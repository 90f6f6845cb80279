"""Every node that takes the name of something finds it, whatever people have called it."""

from __future__ import annotations

import json
import unicodedata

import pytest
from impasto.errors import DatasetError, ModelError, SettingsError, TrainingError

from ..small_sources import Painting, picture_bytes, write_shard

NAMES = ["Monet (1874), sea [2] & 'boats' #1 @home’s", "मोने के चित्र", "Nymphéas"]


def other_form(name: str) -> str:
    return unicodedata.normalize("NFD" if unicodedata.is_normalized("NFC", name) else "NFC", name)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def barns(comfyui, name):
    """A folder of pictures in another Unicode form than its name is typed in, with captions in yet another."""
    folder = comfyui.base / "input" / unicodedata.normalize("NFD", name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{unicodedata.normalize('NFD', name)}.jpg").write_bytes(picture_bytes(1, 96, 64))
    (folder / f"{unicodedata.normalize('NFC', name)}.txt").write_text("a barn", encoding="utf-8")
    return folder


def test_a_folder_with_its_captions_is_loaded_and_exported(comfyui, barns, name):
    from impasto.nodes.exports import DatasetExport
    from impasto.nodes.sources import ImageFolderLoader

    assert ImageFolderLoader.fingerprint_inputs("input", name) == ImageFolderLoader.fingerprint_inputs(
        "input", other_form(name)
    )
    dataset, _ = ImageFolderLoader.execute("input", name, "barns", "JPEG").args
    assert [record.text for record in dataset.records()] == ["a barn"]
    assert dataset.records()[0].source.startswith(barns.name)
    for format in ("ai-toolkit", "SimpleTuner", "Hugging Face imagefolder"):
        assert DatasetExport.execute(dataset, format).args[0]


def test_the_choice_that_an_error_offers_is_accepted(comfyui, barns, name):
    from impasto.nodes.sources import ImageFolderLoader

    with pytest.raises(DatasetError, match="There is no folder 'Monet .1873.' .*Choose one of these") as raised:
        ImageFolderLoader.execute("input", "Monet (1873)", "barns", "JPEG")
    assert barns.name in str(raised.value)
    assert ImageFolderLoader.execute("input", barns.name, "barns", "JPEG").args[0].records()


def test_a_source_and_a_dataset_are_found(comfyui, name):
    from impasto.nodes.host import folders
    from impasto.sources.import_pictures import dataset_folder
    from impasto.sources.local import find_source

    root = folders.datasets_roots()[0]
    source = root / unicodedata.normalize("NFD", name)
    write_shard(source / "data" / "a.parquet", [Painting(picture_bytes(2))])
    assert find_source(root, name) == source
    with pytest.raises(DatasetError, match="Choose one of these") as raised:
        find_source(root, f"{name}, another")
    assert source.name in str(raised.value)
    (source / "data" / "a.parquet").unlink()
    assert dataset_folder(root, name) == source


def test_a_config_of_pictures_so_called_is_loaded(comfyui, name):
    from impasto.dataset import config_reader
    from impasto.nodes.exports import DatasetTOMLLoader
    from impasto.nodes.host import folders

    folder = folders.datasets_roots()[0] / unicodedata.normalize("NFD", f"{name} by hand")
    pictures = folder / unicodedata.normalize("NFD", name)
    pictures.mkdir(parents=True, exist_ok=True)
    (pictures / "a.jpg").write_bytes(picture_bytes(3))
    (pictures / "a.txt").write_text("a boat", encoding="utf-8")
    typed = unicodedata.normalize("NFC", name)
    (folder / f"{pictures.name}.toml").write_text(
        f'[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "{typed}"\ncaption_extension = ".txt"\n',
        encoding="utf-8",
    )
    file = f"{typed} by hand/{typed}.toml"
    loaded = DatasetTOMLLoader.execute(file, target="sd-scripts", resolution=0, batch_size=0, num_repeats=0).args[0]
    [picture] = config_reader.pictures(config_reader.read(loaded.path))
    assert picture.path.exists() and picture.caption == "a boat"
    before = DatasetTOMLLoader.fingerprint_inputs(file)
    (pictures / "a.txt").write_text("two boats", encoding="utf-8")
    assert DatasetTOMLLoader.fingerprint_inputs(file) != before
    with pytest.raises(DatasetError, match="There is no TOML file") as raised:
        DatasetTOMLLoader.execute(f"{typed} by hand/x (1).toml")
    offered = f"{typed} by hand/{pictures.name}.toml"
    assert offered in str(raised.value)


def test_lists_prompts_and_profiles_are_found(comfyui, name):
    from impasto.nodes.host import folders
    from impasto.nodes.prompt_files import prompts_folder
    from impasto.nodes.prompt_library import PromptLibraryFile
    from impasto.nodes.prompt_sets import PromptSet
    from impasto.sources.urls import list_file
    from impasto.trainers.run.launch_profiles import launch_arguments, names

    disk, typed = unicodedata.normalize("NFD", name), unicodedata.normalize("NFC", name)
    folders.input_root().mkdir(exist_ok=True)
    (folders.input_root() / f"{disk}.csv").write_text("url\nhttps://a/b.jpg\n", encoding="utf-8")
    assert "a/b.jpg" in list_file(folders.input_root(), f"{typed}.csv")
    with pytest.raises(DatasetError, match="Choose one of these") as raised:
        list_file(folders.input_root(), "none (1).csv")
    assert f"{disk}.csv" in str(raised.value)

    prompts_folder().mkdir(parents=True, exist_ok=True)
    (prompts_folder() / f"{disk}.txt").write_text("a red barn\n", encoding="utf-8")
    assert [prompt.text for prompt in PromptSet.execute("a boat", 1, file=f"{typed}.txt").args[0]][-1] == "a red barn"
    with pytest.raises(SettingsError, match=r"There is no file 'none \(1\).txt'") as raised:
        PromptSet.execute("a boat", 1, file="none (1).txt")
    assert f"{disk}.txt" in str(raised.value)
    (prompts_folder() / f"{disk}.json").write_text(json.dumps([{"text": f"barn {name}"}]), encoding="utf-8")
    assert "1 of 1 entries" in PromptLibraryFile.execute("import", f"{typed}.json").args[0]
    with pytest.raises(SettingsError, match="Choose one of these") as raised:
        PromptLibraryFile.execute("import", "none (1).json")
    assert f"{disk}.json" in str(raised.value)

    profiles = folders.launch_profiles_folder()
    profiles.mkdir(parents=True, exist_ok=True)
    (profiles / f"{disk}.yaml").touch()
    assert f"{disk}.yaml" in names(profiles)
    assert launch_arguments(f"{typed}.yaml", profiles) == ["--config_file", str(profiles / f"{disk}.yaml")]
    with pytest.raises(TrainingError, match="There is no launch profile") as raised:
        launch_arguments("2 cards (nvlink).yaml", profiles)
    assert f"{disk}.yaml" in str(raised.value)
    (profiles / f"{disk}.yaml").unlink()  # the nodes' lists of choices are frozen by another file


def test_a_lora_to_start_from_is_found_as_another_system_writes_its_name(comfyui, name):
    from impasto.nodes.host import folders

    file = folders.models_root() / "loras" / unicodedata.normalize("NFD", name) / "a (1).safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    typed = unicodedata.normalize("NFC", name)
    assert folders.lora_path(f"{typed}/{file.name}") == folders.lora_path(f"{typed}\\{file.name}") == file
    with pytest.raises(ModelError):
        folders.lora_path(f"{typed}/../{file.parent.name}/{file.name}")


def test_a_run_whose_folder_was_renamed_is_found(comfyui, tmp_path, name):
    from impasto.trainers.run import create
    from impasto.trainers.run import folder as runs
    from impasto.trainers.settings import Settings

    run = create.create_run(tmp_path, runs.Job("monet", Settings(), str(tmp_path), "key", "w", "f"))
    renamed = run.path.rename(tmp_path / unicodedata.normalize("NFD", name))
    assert runs.list_runs(tmp_path) == [renamed.name]
    assert runs.find_run(tmp_path, unicodedata.normalize("NFC", name)).path == renamed
    with pytest.raises(TrainingError, match="There are:") as raised:
        runs.find_run(tmp_path, "monet (best)")
    assert renamed.name in str(raised.value)
