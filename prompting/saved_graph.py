"""Writing what a node decided into the graph that pictures are saved with, so that the file alone gives it again."""

from __future__ import annotations

from collections import Counter
from typing import Any


def write_value(
    prompt: dict[str, Any] | None, workflow: dict[str, Any] | None, node_id: str, name: str, place: int, value: str
) -> None:
    """Set an input of a node in both forms of a graph, where they hold that node.

    The UI format holds the nodes of a subgraph once, however often the subgraph is used. Where it is used several
    times, only a value that stands on the subgraph's own box is written: one inside would speak for all of them.

    Args:
        prompt: API format; None or without the node where it was not sent.
        workflow: UI format, as the browser sent it; None over the API.
        node_id: of the queued prompt; "7:3" is node 3 in the subgraph that node 7 stands for.
        name: of the input.
        place: of its widget among the node's widgets.
        value: what to write.
    """
    if prompt and node_id in prompt:
        prompt[node_id]["inputs"][name] = value
    way = _way_to(node_id, workflow) if workflow else []
    for graph, node, alone in reversed(way):
        if alone and len(node.get("widgets_values") or ()) > place:
            node["widgets_values"][place] = value
        shown = _shown_outside(graph, node, name)
        if shown is None:
            return
        name, place = shown


def _way_to(node_id: str, workflow: dict[str, Any]) -> list[tuple[dict, dict, bool]]:
    """From the outermost on: a graph, the node in it, and whether that stands for no other; empty if it is not held."""
    subgraphs = {each["id"]: each for each in (workflow.get("definitions") or {}).get("subgraphs") or ()}
    uses = Counter(node.get("type") for graph in (workflow, *subgraphs.values()) for node in graph.get("nodes") or ())
    way: list[tuple[dict, dict, bool]] = []
    graph: dict[str, Any] | None = workflow
    alone = True
    for each in node_id.split(":"):
        node = next((node for node in (graph or {}).get("nodes") or () if str(node.get("id")) == each), None)
        if node is None:
            return []
        way.append((graph, node, alone))
        graph = subgraphs.get(node.get("type"))
        alone = alone and uses[node.get("type")] == 1
    return way


def _shown_outside(graph: dict[str, Any], node: dict[str, Any], name: str) -> tuple[str, int] | None:
    """The subgraph's input that a widget of a node in it is set by, and the place of that widget on the subgraph's box.

    The box has a widget for each input of the subgraph that leads to one, in their order.
    """
    inputs = [each for inner in graph["nodes"] for each in inner.get("inputs") or () if each.get("widget")]
    mine = [each["link"] for each in node.get("inputs") or () if (each.get("widget") or {}).get("name") == name]
    widgets = {each["link"] for each in inputs}
    shown = [each for each in graph.get("inputs") or () if widgets.intersection(each.get("linkIds") or ())]
    return next(
        ((each["name"], place) for place, each in enumerate(shown) if set(mine).intersection(each["linkIds"])), None
    )
