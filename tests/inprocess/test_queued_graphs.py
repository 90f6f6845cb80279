"""What a request's graph leaves out has the value that its node shows by itself."""

import asyncio

import pytest


@pytest.fixture(scope="module")
def nodes(comfyui) -> dict:
    """ComfyUI's table of nodes with the pack's in it, as its server has them."""
    from impasto.nodes import ImpastoExtension

    import nodes as comfyui_nodes

    before = dict(comfyui_nodes.NODE_CLASS_MAPPINGS)
    for node in asyncio.run(ImpastoExtension().get_node_list()):
        comfyui_nodes.NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node
    yield comfyui_nodes.NODE_CLASS_MAPPINGS
    comfyui_nodes.NODE_CLASS_MAPPINGS.clear()
    comfyui_nodes.NODE_CLASS_MAPPINGS.update(before)


@pytest.mark.parametrize("captioner", ["florence2", "metadata", "gemini", "openai"])
def test_a_captioner_of_a_request_has_all_that_it_needs(nodes, captioner):
    from impasto.api import graphs
    from impasto.api.preparing import captioner_inputs
    from impasto.nodes.host.workflow import filled

    asked = captioner_inputs(captioner, "" if captioner == "metadata" else "a-model")
    graph = graphs.captioned(graphs.from_dataset("monets"), captioner, "mntgrdn", asked)
    caption = filled(graph)[graphs.CAPTION]
    needed = nodes[caption["class_type"]].INPUT_TYPES()["required"]
    assert needed.keys() <= caption["inputs"].keys()
    expected = {"trigger_word": "mntgrdn", **asked} | ({"clean_up": True} if "clean_up" in needed else {})
    assert {name: caption["inputs"][name] for name in expected} == expected
    assert caption["inputs"].get("model", "a-model") == "a-model"
    assert "num_beams" not in graph[graphs.CAPTION]["inputs"]  # the graph that came is as it was


def test_a_node_that_nobody_knows_is_left_for_comfyui_to_refuse(nodes):
    from impasto.nodes.host.workflow import filled

    graph = {"1": {"class_type": "NoSuchNode", "inputs": {"text": "x"}}}
    assert filled(graph) == graph
