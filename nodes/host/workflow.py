"""A graph in API format as one that ComfyUI's page opens: the same nodes, laid out, with links and widgets."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import nodes as comfyui_nodes

from ...api.graphs import is_link

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
WIDTH, GAP, ROW, HEAD = 340, 80, 26, 120  # pixels; of a node, between columns, of a line, of a node without lines
FOLLOWS = "control_after_generate"  # a widget that the page puts behind a seed


def to_workflow(graph: Mapping[str, Any]) -> dict[str, Any]:
    """The graph in the page's format, version 0.4, columns by how far a node is from the first.

    Args:
        graph: whose node types ComfyUI knows: it has been validated.
    """
    numbers = {name: place for place, name in enumerate(graph, start=1)}
    links: list[list[Any]] = []
    made = {name: _node(name, each, numbers, links, graph) for name, each in graph.items()}
    for link in links:
        number, source, slot = link[0], link[1], link[2]
        outputs = next(node for node in made.values() if node["id"] == source)["outputs"]
        outputs[slot]["links"].append(number)
        link[5] = outputs[slot]["type"]
    _lay_out(graph, made)
    return {
        "id": str(uuid.uuid4()),
        "revision": 0,
        "last_node_id": len(made),
        "last_link_id": len(links),
        "nodes": list(made.values()),
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def filled(graph: Mapping[str, Any]) -> dict[str, Any]:
    """The graph with a value for every widget that its nodes need and it does not give: that which the page would show.

    What a node takes as its default is written in the node alone; a graph of ours says what it wants otherwise.
    """
    return {name: each | {"inputs": _defaults(each) | each["inputs"]} for name, each in graph.items()}


def _defaults(each: Mapping[str, Any]) -> dict[str, Any]:
    kind = comfyui_nodes.NODE_CLASS_MAPPINGS.get(each["class_type"])  # one that is not known is refused by ComfyUI
    return {
        called: options["default"]
        for called, (type_, options) in (_declared(kind, ("required",)) if kind else {}).items()
        if type_ in WIDGETS and "default" in options and not options.get("forceInput")
    }


def _node(
    name: str, each: Mapping[str, Any], numbers: Mapping[str, int], links: list[list[Any]], graph: Mapping[str, Any]
) -> dict[str, Any]:
    kind = comfyui_nodes.NODE_CLASS_MAPPINGS[each["class_type"]]
    inputs, values = [], []
    for called, (type_, options) in _declared(kind).items():
        value = each["inputs"].get(called, options.get("default"))
        linked = is_link(value, graph)
        is_widget = type_ in WIDGETS and not options.get("forceInput")
        if linked or not is_widget:
            slot = {"name": called, "type": type_, "link": None}
            if is_widget:
                slot["widget"] = {"name": called}
            if linked:
                slot["link"] = len(links) + 1
                links.append([slot["link"], numbers[value[0]], value[1], numbers[name], len(inputs), "*"])
            inputs.append(slot)
        if is_widget:
            values.append(options.get("default") if linked else value)
            if options.get(FOLLOWS):
                values.append("fixed")
    outputs = zip(
        kind.RETURN_NAMES if hasattr(kind, "RETURN_NAMES") else kind.RETURN_TYPES, kind.RETURN_TYPES, strict=True
    )
    return {
        "id": numbers[name],
        "type": each["class_type"],
        "title": each.get("_meta", {}).get("title") or each["class_type"],
        "pos": [0, 0],
        "size": [WIDTH, HEAD + ROW * (len(values) + len(inputs))],
        "flags": {},
        "order": numbers[name] - 1,
        "mode": 0,
        "inputs": inputs,
        "outputs": [{"name": called, "type": _type(type_), "links": []} for called, type_ in outputs],
        "properties": {"Node name for S&R": each["class_type"]},
        "widgets_values": values,
    }


def _declared(kind: Any, parts: Sequence[str] = ("required", "optional")) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name of an input -> its type and options, in the order in which the page shows them."""
    types = kind.INPUT_TYPES()
    declared = {}
    for part in parts:
        for called, given in types.get(part, {}).items():
            options = given[1] if len(given) > 1 else {}
            if isinstance(given[0], list) and given[0] and "default" not in options:
                options = options | {"default": given[0][0]}
            declared[called] = (_type(given[0]), options)
    return declared


def _type(given: Any) -> str:
    return "COMBO" if isinstance(given, list | tuple) else str(given)


def _lay_out(graph: Mapping[str, Any], made: Mapping[str, dict[str, Any]]) -> None:
    column: dict[str, int] = {}

    def column_of(name: str) -> int:
        if name not in column:
            before = [value[0] for value in graph[name]["inputs"].values() if is_link(value, graph)]
            column[name] = max((column_of(each) + 1 for each in before), default=0)
        return column[name]

    used: dict[int, int] = {}
    for name, node in made.items():
        place = column_of(name)
        node["pos"] = [place * (WIDTH + GAP), used.get(place, 0)]
        used[place] = used.get(place, 0) + node["size"][1] + GAP
