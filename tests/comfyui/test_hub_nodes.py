"""WikiArt Loader and Dataset Composition on a real server, with a Hugging Face Hub on loopback behind HF_ENDPOINT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from impasto.dataset.records import Dataset, Record
from impasto.setup.serving import ComfyServer, NodeFailed

from ..small_sources import Painting, picture_bytes, write_shard
from ..sources.loopback_hub import LoopbackHub, serving

TOKEN = "hf_onlyForThisTest"
GOOD, SMALL = (600, 520), (300, 260)


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[LoopbackHub]:
    """24 landscapes and 8 portraits, of which three in four landscapes are smaller than 512 pixels."""
    folder = tmp_path_factory.mktemp("museum")
    for shard in range(4):
        landscapes = [Painting(picture_bytes(10 * shard + n, *(SMALL if n % 4 else GOOD))) for n in range(6)]
        portraits = [Painting(picture_bytes(10 * shard + n, *GOOD), genre="portrait") for n in (6, 7)]
        write_shard(folder / "data" / f"train-{shard}.parquet", landscapes + portraits, rows_per_group=4)
    with serving() as running:
        running.publish("museum/paintings", folder)
        yield running


@pytest.fixture(scope="module")
def hub_token() -> str:
    return TOKEN


def composition(name: str, top_up: int, **loader: object) -> dict:
    quotas = "landscape: 5\nportrait: 3"
    asked = {"source": "museum/paintings", "style": "any", "genre": "any", "artist": "any", "count": 1, "seed": 1}
    thresholds = {"min_side": 512, "max_aspect": 2.0, "min_bytes_per_pixel": 0.05}
    wanted = {"quotas": quotas, "by": "genre", "max_per_artist": 0, "seed": 0, "top_up": top_up}
    prompt = {
        "load": ("ImpastoWikiArtLoader", asked | {"name": name, "quotas": quotas} | loader),
        "filter": ("ImpastoQualityFilter", {"dataset": ["load", 0]} | thresholds),
        "compose": ("ImpastoDatasetComposition", {"dataset": ["filter", 0]} | wanted),
        "loaded": ("PreviewAny", {"source": ["load", 1]}),
        "composed": ("PreviewAny", {"source": ["compose", 1]}),
    }
    return {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in prompt.items()}


def newest(server: ComfyServer, name: str, size: int) -> list[Dataset]:
    manifests = (server.base / "datasets" / name / "manifests").glob("*.jsonl")
    datasets = [Dataset(name, str(path.parent.parent), path.stem) for path in manifests]
    return [dataset for dataset in datasets if len(dataset.records()) == size]


def min_side(records: Sequence[Record]) -> int:
    return min(min(record.width, record.height) for record in records)


def test_the_plan_alone_fetches_no_picture_and_runs_nothing_behind_it(hub: LoopbackHub, hub_server: ComfyServer):
    result = hub_server.queue(composition("planned", 0, plan_only=True))
    plan = result.outputs["loaded"]["text"][0]
    assert "To fetch: " in plan and "plan_only is on" in plan
    assert "composed" not in result.outputs
    assert not (hub_server.base / "datasets" / "planned").exists()


def test_a_quota_that_the_filter_left_short_is_topped_up_in_the_same_run(hub: LoopbackHub, hub_server: ComfyServer):
    short = hub_server.queue(composition("paintings", 0)).outputs["composed"]["text"][0]
    assert "landscape:" in short and "short. Raise 'spare'" in short

    full = hub_server.queue(composition("paintings", 4)).outputs["composed"]["text"][0]
    assert "8 of 8 asked for" in full
    [row] = [line.split() for line in full.splitlines() if line.startswith("landscape ")]
    assert row[:3] == ["landscape", "24", "5"] and row[-1] == "5"
    composed = [dataset.records() for dataset in newest(hub_server, "paintings", 8)]
    genres = [sorted(record.genre for record in records) for records in composed if min_side(records) >= 512]
    assert ["landscape"] * 5 + ["portrait"] * 3 in genres

    before = hub.sent()
    assert not hub_server.queue(composition("paintings", 4)).seconds
    assert hub.sent() == before


def test_a_repository_that_is_not_there_is_answered_in_the_loader(hub_server: ComfyServer):
    with pytest.raises(NodeFailed, match="Check its spelling") as failure:
        hub_server.queue(composition("missing", 0, source="museum/nothing"))
    assert failure.value.node_id == "load"


def test_the_token_is_used_and_written_nowhere(hub: LoopbackHub, hub_server: ComfyServer):
    hub_server.queue(composition("with-token", 0))
    assert set(hub.tokens) == {f"Bearer {TOKEN}"}
    files = [path for path in hub_server.base.glob("[!c]*/**/*") if path.is_file()] + [hub_server.base / "comfyui.log"]
    assert len(files) > 10 and not any(TOKEN.encode() in path.read_bytes() for path in files)
