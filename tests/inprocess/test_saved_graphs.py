"""What saved graphs hold to: node ids, inputs in their order, defaults, choices, outputs; see `golden.conftest`."""

from __future__ import annotations

import json

import pytest

from ..golden import current
from ..golden.conftest import check, write_base_weights
from ..golden.record_version import VERSIONS, unpack

FROM_A_FOLDER = {  # lists of this machine's
    *("source", "root", "folder", "file", "run_id", "checkpoint", "start_from", "category", "lora"),
}


def test_schemas(comfyui):
    check("nodes", current.node_schemas())


def test_a_seed_stays_until_somebody_changes_it(comfyui):
    """To an input of this name that does not say so, ComfyUI's page gives another value after each queue."""
    import asyncio

    from impasto.nodes import ImpastoExtension

    schemas = [node.GET_SCHEMA() for node in asyncio.run(ImpastoExtension().get_node_list())]
    inputs = [(schema.node_id, each) for schema in schemas for each in schema.inputs]
    seeds = [(node, each) for node, each in inputs if each.id in ("seed", "noise_seed")]
    assert len(seeds) > 5
    for node, seed in seeds:
        assert getattr(seed, "control_after_generate", None) in ("fixed", False), node


def test_the_identity_of_a_model(comfyui, tmp_path):
    """Baked models, painted pictures and encoded training data are found by it."""
    weights = write_base_weights(tmp_path / "flux.safetensors")
    check("model_identity", {"of the base model": current.identity_of_model(weights)})


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
def test_graphs_saved_by_an_earlier_version_fit_the_nodes(comfyui, tmp_path, version):
    nodes = current.node_sockets()
    graphs = sorted((unpack(version, tmp_path) / "graphs").glob("*.json"))
    assert graphs
    for graph in graphs:
        content = json.loads(graph.read_text(encoding="utf-8"))
        parts = [content, *content.get("definitions", {}).get("subgraphs", ())]
        for node in (node for part in parts for node in part["nodes"] if node["type"].startswith("Impasto")):
            check_saved(node, nodes[node["type"]], f"{graph.name}: {node['type']}")


def check_saved(node: dict, sockets: dict, where: str) -> None:
    assert {each["name"] for each in node["inputs"]} <= set(sockets["inputs"]), where
    types = [each["type"] for each in node["outputs"]]
    assert types == sockets["outputs"][: len(types)], where
    values = node.get("widgets_values") or []
    assert len(values) <= len(sockets["widgets"]), where
    for value, widget in zip(values, sockets["widgets"], strict=False):
        assert takes(value, *widget), f"{where}: {widget[0]} is {value!r}"


def takes(value, name, kind, options, low, high) -> bool:
    """Whether a widget of the present node has room for a value that a graph was saved with."""
    if kind == "COMBO":
        return isinstance(value, str) and (name in FROM_A_FOLDER or value in options)
    if kind in ("INT", "FLOAT"):
        number = isinstance(value, int if kind == "INT" else (int, float)) and not isinstance(value, bool)
        return number and (low is None or low <= value) and (high is None or value <= high)
    return isinstance(value, {"BOOLEAN": bool, "STRING": str}[kind])
