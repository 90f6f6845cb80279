"""The dataset and caption nodes on a real server, from parquet to the files that trainers read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from impasto.setup.serving import ComfyServer, NodeFailed

from ..small_sources import Painting, picture_bytes, write_shard


@pytest.fixture
def source(server: ComfyServer, request: pytest.FixtureRequest) -> str:
    """A source of the test's own: six good paintings, a small one, a truncated one and one that is no picture."""
    name = request.node.name.partition("[")[0][:60]
    good = [Painting(picture_bytes(seed, 600, 520), genre="still_life") for seed in range(6)]
    small, torn = picture_bytes(7, 300, 300), picture_bytes(8, 600, 600)[:-50_000]
    bad = [Painting(data, genre="still_life") for data in (small, torn, b"no picture")]
    write_shard(server.base / "datasets" / name / "data" / "train-00000-of-00001.parquet", good + bad)
    return name


def curation(source: str, name: str, **loader: object) -> dict:
    """From the loader to the TOML, with what people read shown by core nodes."""
    labels = {"source": source, "style": "any", "genre": "any", "artist": "any"}
    thresholds = {"min_side": 512, "max_aspect": 2.0, "min_bytes_per_pixel": 0.05}
    toml = {"resolution": 512, "batch_size": 1, "num_repeats": 2, "enable_bucket": True}
    toml |= {"min_bucket_reso": 256, "max_bucket_reso": 1024, "bucket_reso_steps": 64, "bucket_no_upscale": False}
    toml |= {"validation_split": 0.2, "validation_seed": 1}
    prompt = {
        "load": ("ImpastoWikiArtLoader", labels | {"count": 20, "seed": 3, "name": name} | loader),
        "filter": ("ImpastoQualityFilter", {"dataset": ["load", 0]} | thresholds),
        "caption": ("ImpastoMetadataCaptioner", {"dataset": ["filter", 0], "trigger_word": "mntgrdn"}),
        "write": ("ImpastoDatasetTOMLWriter", {"dataset": ["caption", 0]} | toml),
        "loaded": ("PreviewAny", {"source": ["load", 1]}),
        "filtered": ("PreviewAny", {"source": ["filter", 2]}),
        "captioned": ("PreviewAny", {"source": ["caption", 1]}),
        "toml": ("PreviewAny", {"source": ["write", 1]}),
        "sheet": ("SaveImage", {"images": ["filter", 1], "filename_prefix": "tests/rejected"}),
    }
    return {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in prompt.items()}


def test_a_source_becomes_a_captioned_dataset_and_its_config(server: ComfyServer, source: str):
    result = server.queue(curation(source, "still-lifes", genre="still_life"))

    shown = {node: result.outputs[node]["text"][0] for node in ("loaded", "filtered", "captioned", "toml")}
    assert "9 available, 20 asked for, 8 taken" in shown["loaded"]
    assert "8 pictures in, 6 kept, 2 refused" in shown["filtered"]
    assert "mntgrdn, a still life" in shown["captioned"]
    folder = server.base / "datasets" / "still-lifes"
    [train] = (folder / "train").iterdir()
    assert f'image_dir = "{train.as_posix()}"' in shown["toml"]
    assert [path.read_text(encoding="utf-8") for path in folder.glob("*.toml")] == [shown["toml"]]
    assert len(list(train.glob("*.jpg"))) == len(list(train.glob("*.txt"))) == 6
    assert {path.read_text() for path in train.glob("*.txt")} == {"mntgrdn, a still life\n"}
    [sheet] = server.output_files(result, "sheet")
    assert sheet.stat().st_size > 10_000


def test_queueing_again_runs_nothing_until_the_source_changes(server: ComfyServer, source: str):
    prompt = curation(source, "cached")
    server.queue(prompt)
    assert not server.queue(prompt).seconds
    write_shard(server.base / "datasets" / source / "data" / "more.parquet", [Painting(picture_bytes(50, 600, 600))])
    again = server.queue(prompt)
    assert "10 available" in again.outputs["loaded"]["text"][0]


@pytest.mark.parametrize(
    ("loader", "text"),
    [
        ({"style": "Plein air"}, r"style 'Plein air'.*Impressionism \(9\)"),
        ({"artist": "Rembrandt"}, r"artist 'Rembrandt'.*claude-monet \(9\)"),
        ({"source": "../models"}, "must be a plain name"),
        ({"source": "louvre"}, "Choose one of these: .*test_bad"),
        ({"name": "../escape"}, "must be a plain name"),
        ({"name": "/tmp/escape"}, "must be a plain name"),
    ],
)
def test_bad_inputs_are_answered_in_the_loader_with_the_remedy(
    server: ComfyServer, source: str, loader: dict[str, str], text: str
):
    prompt = curation(source, "bad-inputs")
    prompt["load"]["inputs"] |= loader
    with pytest.raises(NodeFailed, match=text) as failure:
        server.queue(prompt)
    assert failure.value.node_id == "load"
    assert not (server.base / "escape").exists() and not Path("/tmp/escape").exists()


def test_a_filter_that_nothing_passes_says_what_to_loosen_and_the_pictures_stay(server: ComfyServer, source: str):
    prompt = curation(source, "too-strict")
    prompt["filter"]["inputs"]["min_side"] = 2000
    with pytest.raises(
        NodeFailed, match="8 refused by min_side.*Lower min_side: the nearest picture measures 600"
    ) as end:
        server.queue(prompt)
    assert end.value.node_id == "filter"
    assert len(list((server.base / "datasets" / "too-strict" / "images").iterdir())) == 8


def test_settings_that_sd_scripts_would_refuse_fail_in_the_writer(server: ComfyServer, source: str):
    prompt = curation(source, "wrong-settings")
    prompt["write"]["inputs"]["resolution"] = 1536
    with pytest.raises(NodeFailed, match="Raise max_bucket_reso to 1536") as end:
        server.queue(prompt)
    assert end.value.node_id == "write"


def test_a_dataset_is_exported_and_its_config_rewritten(server: ComfyServer, source: str):
    prompt = curation(source, "exported", genre="still_life")
    settings = {"resolution": 768, "num_repeats": 2, "caption_dropout_rate": 0.1, "license": "cc0-1.0"}
    export = {"dataset": ["caption", 0], "format": "SimpleTuner"} | settings
    prompt["export"] = {"class_type": "ImpastoDatasetExport", "inputs": export}
    prompt["write"]["inputs"] |= {"target": "FluxTrainer", "validation_split": 0.0, "caption_prefix": 'a "b"'}
    for shown, link in (("config", ["export", 1]), ("card", ["export", 2])):
        prompt[shown] = {"class_type": "PreviewAny", "inputs": {"source": link}}
    outputs = server.queue(prompt).outputs
    images, embeddings = json.loads(outputs["config"]["text"][0])
    assert len(list(Path(images["instance_data_dir"]).glob("*.txt"))) == 6
    assert embeddings["dataset_type"] == "text_embeds"
    assert "| still\\_life | 6 |" in outputs["card"]["text"][0]
    assert "resolution = [512, 512]" in outputs["toml"]["text"][0]

    [written] = (server.base / "datasets" / "exported").glob("*.toml")
    by_hand = {"file": f"exported/{written.name}", "target": "sd-scripts", "num_repeats": 7}
    inputs = by_hand | {"resolution": 0, "batch_size": 0}
    rewrite = {"load": {"class_type": "ImpastoDatasetTOMLLoader", "inputs": inputs}}
    rewrite["toml"] = {"class_type": "PreviewAny", "inputs": {"source": ["load", 1]}}
    text = server.queue(rewrite).outputs["toml"]["text"][0]
    assert text == written.read_text(encoding="utf-8").replace("num_repeats = 2", "num_repeats = 7")


def test_the_writer_takes_regularisation_pictures_and_more_keys(server: ComfyServer, source: str):
    prompt = curation(source, "with-regularisation", genre="still_life")
    inputs = prompt["load"]["inputs"] | {"name": "regularisation", "count": 2}
    prompt["regular"] = {"class_type": "ImpastoWikiArtLoader", "inputs": inputs}
    words = {"dataset": ["regular", 0], "trigger_word": ""}
    prompt["words"] = {"class_type": "ImpastoMetadataCaptioner", "inputs": words}
    prompt["write"]["inputs"] |= {"regularisation": ["words", 0], "regularisation_repeats": 4}
    prompt["write"]["inputs"]["more_keys"] = 'class_tokens = "a painting"'
    text = server.queue(prompt).outputs["toml"]["text"][0]
    regular = (server.base / "datasets" / "regularisation").as_posix()
    assert text.count("[[datasets.subsets]]") == 2 and 'class_tokens = "a painting"' in text
    assert f'image_dir = "{regular}/train/' in text and "num_repeats = 4" in text and "is_reg = true" in text

    prompt["write"]["inputs"]["more_keys"] = 'image_dir = "/etc"'
    with pytest.raises(NodeFailed, match="Paths are not taken from a graph") as end:
        server.queue(prompt)
    assert end.value.node_id == "write"
