"""The shipped graph that makes a WikiArt dataset, on a real server, with a Hub on loopback behind HF_ENDPOINT."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from impasto.dataset.config_reader import pictures, read
from impasto.dataset.labels import label_key
from impasto.dataset.records import Dataset
from impasto.embedded.paintings import write_wikiart_shards
from impasto.setup import comfy_cli
from impasto.setup.environment import HOME
from impasto.setup.serving import ComfyServer, Result
from PIL import Image

from ..sources.loopback_hub import LoopbackHub, serving
from .workflows import shipped

WORKFLOW = shipped(6)
GOOD, REFUSED = 16, 2  # paintings; the third defect is of another style than the graph asks for


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[LoopbackHub]:
    """Embedded paintings in the schema of huggan/wikiart: four of each kind, and three that no filter lets pass."""
    folder = tmp_path_factory.mktemp("wikiart")
    write_wikiart_shards(folder, GOOD, shards=2, defects=True)
    with serving() as running:
        running.publish("huggan/wikiart", folder)
        yield running


@pytest.fixture(scope="module")
def shipped(hub_server: ComfyServer) -> dict:
    return comfy_cli.to_api(HOME, WORKFLOW, hub_server.port)


def titled(title: str) -> str:
    """The id of the node that the graph shows under a title."""
    nodes = json.loads(WORKFLOW.read_text(encoding="utf-8"))["nodes"]
    return next(str(node["id"]) for node in nodes if node.get("title") == title)


def loader_id(shipped: dict) -> str:
    """The id of the loader, which says on itself what it did."""
    [found] = [name for name, node in shipped.items() if node["class_type"] == "ImpastoWikiArtLoader"]
    return found


def text(result: Result, title: str) -> str:
    return result.outputs[titled(title)]["text"][0]


def test_the_shipped_graph_plans_first_and_writes_a_captioned_dataset_when_told_to(
    hub: LoopbackHub, hub_server: ComfyServer, shipped: dict
):
    planned = hub_server.queue(shipped)
    plan = text(planned, "The plan, then what was loaded")
    assert "To fetch: " in plan and "plan_only is on" in plan
    assert set(planned.outputs) == {titled("The plan, then what was loaded"), loader_id(shipped)}
    assert not (hub_server.base / "datasets" / "wikiart-impressionism").exists()

    [loader] = [node for node in shipped.values() if node["class_type"] == "ImpastoWikiArtLoader"]
    loader["inputs"]["plan_only"] = False
    done = hub_server.queue(shipped)
    assert f"{GOOD} kept, {REFUSED} refused" in text(done, "What the filter did")
    assert f"{GOOD} of 100 asked for" in text(done, "Asked for and taken")
    assert json.loads(text(done, "The numbers"))["pictures"] == GOOD
    for title in ("Save the statistics", "Save the contact sheet", "What the filter refused, and why"):
        [picture] = hub_server.output_files(done, titled(title))
        assert min(Image.open(picture).size) > 100

    folder = hub_server.base / "datasets" / "wikiart-impressionism"
    [config] = folder.glob("*.toml")
    samples = pictures(read(config))
    assert len(samples) == GOOD and all(sample.caption.startswith("impasto style, ") for sample in samples)
    captioned = [Dataset(folder.name, str(folder), path.stem) for path in (folder / "manifests").glob("*.jsonl")]
    kinds = {label_key(record.genre) for dataset in captioned for record in dataset.records() if record.text}
    assert kinds == {label_key(genre) for genre in ("landscape", "portrait", "cityscape", "still_life")}
    sent = hub.sent()
    assert hub_server.queue(shipped).outputs and hub.sent() == sent
