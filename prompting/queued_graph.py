"""What a queued graph, in ComfyUI's API format, says of the pictures that a node's outputs go into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

Graph = dict[str, dict[str, Any]]


def loras_with(graph: Graph | None, node_id: str) -> str:
    """The LoRAs that meet a node's outputs further on, in some sampler: "monet 0.8, light 1.0"; "" where there is none.

    Read from core's LoRA loaders and those that name their inputs alike, and from rgthree's, which hold several.
    """
    if not graph or node_id not in graph:
        return ""
    reached = _downstream(graph, node_id)
    meeting = [each for each in graph if each in reached or _downstream(graph, each) & reached]
    return ", ".join(f"{name} {strength:g}" for each in meeting for name, strength in _loras(graph[each]))


def _downstream(graph: Graph, node_id: str) -> set[str]:
    """The nodes that a node's outputs go into, near or far."""
    reached: set[str] = set()
    following = [node_id]
    while following:
        source = following.pop()
        new = {each for each, node in graph.items() if each not in reached and source in _sources(node)}
        reached |= new
        following += new
    return reached


def _sources(node: dict[str, Any]) -> set[str]:
    links = (value for value in node["inputs"].values() if isinstance(value, list) and len(value) == 2)
    return {str(source) for source, _ in links}


def _loras(node: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """File names without their ending, with the strength on the diffusion model; those that are off are left out."""
    inputs = node["inputs"]
    found = [(inputs.get("lora_name"), inputs.get("strength_model", inputs.get("strength", 1.0)))]
    rows = [value for value in inputs.values() if isinstance(value, dict) and value.get("on", True)]
    found += [(row.get("lora"), row.get("strength", 1.0)) for row in rows]
    for file, strength in found:
        if isinstance(file, str) and isinstance(strength, (int, float)) and strength:
            yield PurePosixPath(file.replace("\\", "/")).stem, strength
