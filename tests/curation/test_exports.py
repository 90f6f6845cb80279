"""Datasets for other trainers and the Hub: each file is read back with the reader of its format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from impasto.curation.dataset_card import dataset_card
from impasto.curation.exports import FORMATS, ExportSettings, export_dataset
from impasto.dataset.pictures import store_picture
from impasto.dataset.records import Dataset, Record, Refusal, write_manifest
from impasto.errors import DatasetError, SettingsError

from ..small_sources import picture_bytes

CAPTIONS = ['mntgrdn, a "quoted" [view]: #1', "two\nlines\u2028three", "übergroß 山水 \\ 'x'"]
AWKWARD = 'l\'été "1872" #1: 山'


def painted(folder: Path, captions=CAPTIONS, refusals=(), **columns: str) -> Dataset:
    records = []
    for seed, caption in enumerate(captions):
        stored = store_picture(folder, picture_bytes(seed))
        columns_of_all = {"source": "huggan/wikiart@1234/data/train-00000.parquet#1"} | columns
        record = Record(stored.file_name, stored.sha256, stored.width, stored.height, stored.size, caption)
        records.append(replace(record, **columns_of_all))
    return write_manifest(folder, records, refusals)


def captions_beside(folder: Path) -> set[str]:
    assert {path.stem for path in folder.glob("*.jpg")} == {path.stem for path in folder.glob("*.txt")}
    return {path.read_text(encoding="utf-8") for path in folder.glob("*.txt")}


def test_ai_toolkit_finds_the_pictures_and_every_caption_on_one_line(tmp_path):
    settings = ExportSettings(768, 3, 0.1)
    export = export_dataset(painted(tmp_path / AWKWARD), "ai-toolkit", settings)
    [block] = yaml.safe_load(Path(export.config).read_text(encoding="utf-8"))["datasets"]

    assert captions_beside(Path(block["folder_path"])) == {" ".join(caption.split()) + "\n" for caption in CAPTIONS}
    assert (block["resolution"], block["num_repeats"], block["caption_dropout_rate"]) == ([768], 3, 0.1)
    assert block["caption_ext"] == "txt"


def test_simple_tuner_gets_its_required_text_embeddings_and_counts_repeats_from_0(tmp_path):
    export = export_dataset(painted(tmp_path / AWKWARD), "SimpleTuner", ExportSettings(768, 3, 0.1))
    images, embeddings = json.loads(Path(export.config).read_text(encoding="utf-8"))

    assert len(captions_beside(Path(images["instance_data_dir"]))) == 3
    assert (images["resolution"], images["resolution_type"], images["repeats"]) == (768, "pixel_area", 2)
    assert images["caption_strategy"] == "textfile"
    assert (embeddings["dataset_type"], embeddings["default"]) == ("text_embeds", True)
    assert len({images["id"], embeddings["id"]}) == 2
    assert "caption_dropout_probability to 0.1" in export.note


def test_an_imagefolder_holds_each_picture_with_its_row(tmp_path):
    dataset = painted(tmp_path / AWKWARD, artist="Claude Monet")
    export = export_dataset(dataset, "Hugging Face imagefolder", ExportSettings())
    rows = [json.loads(line) for line in Path(export.config).read_text(encoding="utf-8").splitlines()]

    assert [row["text"] for row in rows] == CAPTIONS
    for row, record in zip(rows, dataset.records(), strict=True):
        assert (Path(export.config).parent / row["file_name"]).read_bytes() == dataset.image_path(record).read_bytes()
        assert (row["artist"], row["width"]) == ("Claude Monet", record.width)


@pytest.mark.parametrize("format", FORMATS)
def test_exporting_again_changes_no_file_and_what_was_removed_comes_back(tmp_path, format):
    dataset = painted(tmp_path)
    first = export_dataset(dataset, format, ExportSettings())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert export_dataset(dataset, format, ExportSettings()) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before

    for path in Path(first.folder).rglob("*.*"):
        path.unlink()
    export_dataset(dataset, format, ExportSettings())
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(before)


@pytest.mark.parametrize("format", ["ai-toolkit", "SimpleTuner"])
def test_a_trainer_gets_no_picture_without_a_caption(tmp_path, format):
    with pytest.raises(DatasetError, match="Run a captioner first"):
        export_dataset(painted(tmp_path, ["a", ""]), format, ExportSettings())


def test_a_picture_that_ai_toolkit_would_pass_over_is_written_as_jpeg(tmp_path):
    stored = store_picture(tmp_path, picture_bytes(0, format="WEBP"))
    record = Record(stored.file_name, stored.sha256, stored.width, stored.height, stored.size, "a")
    export = export_dataset(write_manifest(tmp_path, [record]), "ai-toolkit", ExportSettings())
    [block] = yaml.safe_load(Path(export.config).read_text(encoding="utf-8"))["datasets"]
    assert sorted(path.suffix for path in Path(block["folder_path"]).iterdir()) == [".jpg", ".txt"]


@pytest.mark.parametrize(
    "settings", [{"resolution": 0}, {"num_repeats": 0}, {"caption_dropout_rate": float("nan")}, {"license": "../x: y"}]
)
def test_a_setting_out_of_range_is_named(tmp_path, settings):
    with pytest.raises(SettingsError, match=next(iter(settings))):
        export_dataset(painted(tmp_path), "ai-toolkit", ExportSettings(**settings))


def test_the_card_says_composition_filters_sources_and_rights(tmp_path):
    refusals = [Refusal("a#1", "min_side", "the shorter side has 300 pixels"), Refusal("a#2", "min_side", "200")]
    card = dataset_card(painted(tmp_path, refusals=refusals, genre="landscape", rights="CC0"), "cc0-1.0")
    head = yaml.safe_load(card.split("---\n")[1])

    assert (head["license"], head["size_categories"], head["pretty_name"]) == ("cc0-1.0", ["n<1K"], tmp_path.name)
    assert "| landscape | 3 |" in card
    assert "2 of 5 pictures were refused" in card
    assert "| min\\_side | 2 | the shorter side has 300 pixels |" in card
    assert "| huggan/wikiart@1234 | 3 |" in card
    assert "| CC0 | 3 |" in card


def test_a_card_without_rights_says_so_and_text_of_others_is_no_markup(tmp_path):
    card = dataset_card(painted(tmp_path, artist="<script>x|y</script>\n# Top", source="https://a.org/p.jpg"))
    assert "state nothing about rights" in card
    assert "| \\<script\\>x\\|y\\</script\\> \\# Top | 3 |" in card
    assert "| a.org | 3 |" in card


def test_a_long_list_of_artists_ends_with_the_sum_of_the_rest(tmp_path):
    dataset = painted(tmp_path, ["a"])
    [record] = dataset.records()
    many = write_manifest(tmp_path, [replace(record, artist=f"Artist {number}") for number in range(100)])
    assert "| (70 others) | 70 |" in dataset_card(many)
