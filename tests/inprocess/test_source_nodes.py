"""The nodes that load folders and URLs and show statistics, executed with ComfyUI's own folders."""

from __future__ import annotations

import json

import pytest

from ..small_sources import picture_bytes


@pytest.fixture
def folder(comfyui):
    pictures = comfyui.base / "input" / "barns"
    pictures.mkdir(parents=True, exist_ok=True)
    for number in range(4):
        (pictures / f"{number}.jpg").write_bytes(picture_bytes(number, 96, 64))
        (pictures / f"{number}.txt").write_text("a barn by a river")
    return pictures


def load_barns():
    from impasto.nodes.sources import ImageFolderLoader

    return ImageFolderLoader.execute("input", "barns", "barns", "JPEG").args


def test_a_folder_is_loaded_filtered_and_looked_at(comfyui, folder):
    from impasto.nodes.dataset import QualityFilter
    from impasto.nodes.statistics import DatasetStatistics

    dataset, report = load_barns()
    assert "4 files, 4 pictures stored" in report
    limits = {"min_side": 32, "max_aspect": 2.0, "min_bytes_per_pixel": 0.0}  # as graphs from before send them
    kept, sheet, text, histograms = QualityFilter.execute(dataset, **limits).args
    assert kept == dataset and "0 refused" in text
    assert sheet.shape[-1] == 3 and histograms.shape == (1, 990, 1600, 3)
    figure, contact, numbers = DatasetStatistics.execute(dataset, 512).args
    assert figure.shape == (1, 1240, 1760, 3) and contact.ndim == 4
    counted = json.loads(numbers)
    assert counted["buckets"] == {"640x384": 4} or sum(counted["buckets"].values()) == 4
    assert counted["tokens"]["clip"]["greatest"] == 7 and counted["tokens"]["t5"]["greatest"] >= 6


@pytest.mark.parametrize("resolution", [64, 256, 1024, 4096])
def test_statistics_count_buckets_at_any_resolution(comfyui, folder, resolution):
    from impasto.nodes.statistics import DatasetStatistics

    numbers = json.loads(DatasetStatistics.execute(load_barns()[0], resolution).args[2])
    assert sum(numbers["buckets"].values()) == 4


def test_the_url_loader_fetches_from_no_host_that_the_server_does_not_allow(comfyui, monkeypatch):
    from impasto.errors import DatasetError, NameRefused
    from impasto.nodes.host import folders
    from impasto.nodes.sources import ImageURLLoader
    from impasto.sources import download as fetch

    def never(*arguments):
        raise AssertionError(f"the network was asked for {arguments}")

    monkeypatch.setattr(fetch, "Network", lambda: fetch_network)
    fetch_network = type("Nowhere", (), {"resolve": never, "connect": never, "context": never})
    with pytest.raises(DatasetError, match="'evil.example' is not among the allowed hosts"):
        ImageURLLoader.execute("https://evil.example/a.jpg", "", "web", "JPEG")
    with pytest.raises(NameRefused):
        ImageURLLoader.execute("", "../list.txt", "web", "JPEG")
    with pytest.raises(DatasetError, match="There is no list 'none.txt'"):
        ImageURLLoader.execute("", "none.txt", "web", "JPEG")
    (comfyui.base / "input").mkdir(exist_ok=True)
    (comfyui.base / "input" / "list.csv").write_text("url,text\nhttps://listed.example/a.jpg,a barn\n")
    with pytest.raises(DatasetError, match="'listed.example' is not among"):
        ImageURLLoader.execute("", "list.csv", "web", "JPEG")
    own = folders.allowed_hosts_file()
    assert own == comfyui.base / "user" / "impasto" / "allowed_hosts.txt"


def test_a_hand_written_config_is_loaded_again_when_a_caption_has_changed(comfyui):
    from impasto.nodes.exports import DatasetTOMLLoader

    folder = comfyui.base / "datasets" / "by-hand"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(picture_bytes(1))
    (folder / "a.txt").write_text("a barn")
    (folder / "mine.toml").write_text('[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = "."\n')
    settings = {"target": "sd-scripts", "resolution": 0, "batch_size": 0, "num_repeats": 0}

    def loaded():
        fingerprint = DatasetTOMLLoader.fingerprint_inputs("by-hand/mine.toml", **settings)
        return fingerprint, DatasetTOMLLoader.execute("by-hand/mine.toml", **settings).args[0]

    before = loaded()
    assert loaded() == before
    (folder / "a.txt").write_text("a barn by a river")
    assert loaded()[0] != before[0] and loaded()[1] != before[1]


def test_statistics_count_the_tokens_that_the_text_encoders_get(comfyui, folder):
    """Brackets and what stands in them too: captions are read literally."""
    from impasto.nodes.statistics import DatasetStatistics

    for number in range(4):
        (folder / f"{number}.txt").write_text("a (barn:1.2) by a river")
    counted = json.loads(DatasetStatistics.execute(load_barns()[0], 512).args[2])
    assert counted["tokens"]["clip"]["greatest"] == 13


def test_a_datasets_folder_that_comes_before_the_others_takes_what_is_new_and_hides_nothing(comfyui, folder):
    """As extra_model_paths.yaml with is_default gives it."""
    import folder_paths
    from impasto.nodes.exports import DatasetTOMLLoader
    from impasto.nodes.sources import ImageFolderLoader

    before = load_barns()[0]
    by_hand = comfyui.base / "datasets" / "tree" / "3_barns"
    by_hand.mkdir(parents=True)
    (by_hand / "a.jpg").write_bytes(picture_bytes(1))
    second = comfyui.base / "second disk" / "datasets"
    known = list(folder_paths.get_folder_paths("datasets"))
    folder_paths.add_model_folder_path("datasets", str(second), is_default=True)
    try:
        assert load_barns()[0] == before
        new = ImageFolderLoader.execute("datasets", "tree", "new", "JPEG").args[0]
        assert new.folder == str(second / "new")
        config, toml = DatasetTOMLLoader.execute("tree", target="sd-scripts", resolution=64).args
        assert by_hand.as_posix() in toml and "num_repeats = 3" in toml and config.path.startswith(str(by_hand.parent))
    finally:
        folder_paths.folder_names_and_paths["datasets"][0][:] = known
