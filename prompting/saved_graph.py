"""Writing what a node decided into the graph that pictures are saved with, so that the file alone gives it again."""

from __future__ import annotations

from typing import Any


def write_value(
    prompt: dict[str, Any] | None, workflow: dict[str, Any] | None, node_id: str, name: str, place: int, value: str
) -> None:
    """Set an input of a node in both forms of a graph, where they hold that node.

    Args:
        prompt: API format; None or without the node where it was not sent.
        workflow: UI format, as the browser sent it; None over the API.
        node_id: of the queued prompt; in a subgraph "7:3", which only the API format has.
        name: of the input.
        place: of its widget among the node's widgets.
        value: what to write.
    """
    if prompt and node_id in prompt:
        prompt[node_id]["inputs"][name] = value
    for node in (workflow or {}).get("nodes", ()):
        if str(node.get("id")) == node_id and len(node.get("widgets_values") or ()) > place:
            node["widgets_values"][place] = value
