import copy
import json
from pathlib import Path

from impasto.prompting.saved_graph import write_value

SAVED = Path(__file__).parents[1] / "comfyui"  # graphs as ComfyUI's page saves them
PLACE = 5  # of 'replay' among the Seed Manager's widgets


def saved(name: str) -> dict:
    return json.loads((SAVED / f"{name}.json").read_text(encoding="utf-8"))


def values(graph: dict, node_id: int) -> list:
    """The widgets' values of a node of a graph or of a subgraph's definition."""
    return next(node["widgets_values"] for node in graph["nodes"] if node["id"] == node_id)


def test_a_value_is_written_into_both_forms_of_a_graph():
    prompt = {"3": {"class_type": "X", "inputs": {"profile": "random", "replay": ""}}}
    nodes = [{"id": 2, "type": "X", "widgets_values": ["a", "b"]}, {"id": 3, "type": "X", "widgets_values": ["c", ""]}]
    workflow = {"nodes": nodes}
    write_value(prompt, workflow, "3", "replay", 1, "18446744073709551615")
    assert prompt["3"]["inputs"] == {"profile": "random", "replay": "18446744073709551615"}
    assert [node["widgets_values"] for node in workflow["nodes"]] == [["a", "b"], ["c", "18446744073709551615"]]


def test_a_graph_that_was_not_sent_or_lacks_the_node_is_left_alone():
    write_value(None, None, "3", "replay", 1, "5")
    prompt = {"1": {"inputs": {}}}
    workflow = {"nodes": [{"id": 1, "type": "X"}, {"id": 3, "type": "X", "widgets_values": []}]}
    for node_id in ("7:3", "3:3", "3"):
        write_value(prompt, workflow, node_id, "replay", 1, "5")
    write_value(None, {"version": 0.4}, "3", "replay", 1, "5")
    assert prompt == {"1": {"inputs": {}}}
    assert workflow["nodes"][1]["widgets_values"] == []


def test_in_a_subgraph_the_value_is_written_into_its_definition():
    workflow = saved("subgraph")
    write_value(None, workflow, "8:4", "replay", PLACE, "5")
    (definition,) = workflow["definitions"]["subgraphs"]
    assert values(definition, 4) == ["random", 0, "", 1, "subgraph", "5", "", ""]
    assert values(workflow, 8) == [0]  # only the seed is shown on the box


def test_a_widget_shown_on_the_subgraphs_box_is_written_there():
    """Node 4 lies in the subgraph of node 8, which shows `replay`; node 8 lies in that of node 9, which does not."""
    workflow = saved("nested_subgraph")
    write_value(None, workflow, "9:8:4", "replay", PLACE, "5")
    inner, outer = workflow["definitions"]["subgraphs"]
    assert values(inner, 4)[PLACE] == "5"
    assert values(outer, 8) == [0, "5"]
    assert values(workflow, 9) == [0]


def test_in_a_subgraph_that_is_used_twice_only_its_box_is_written():
    workflow = saved("nested_subgraph")
    outer = workflow["definitions"]["subgraphs"][1]
    outer["nodes"].append(copy.deepcopy(outer["nodes"][0]) | {"id": 10})
    write_value(None, workflow, "9:8:4", "replay", PLACE, "5")
    write_value(None, workflow, "9:10:4", "replay", PLACE, "6")
    inner = workflow["definitions"]["subgraphs"][0]
    assert (values(inner, 4)[PLACE], values(outer, 8), values(outer, 10)) == ("", [0, "5"], [0, "6"])
    workflow["nodes"].append(copy.deepcopy(workflow["nodes"][-1]) | {"id": 11})
    write_value(None, workflow, "9:8:4", "replay", PLACE, "7")  # node 8 now stands for two
    assert values(outer, 8) == [0, "5"]
