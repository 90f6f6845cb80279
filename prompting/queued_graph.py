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
    consumers = _consumers(graph)
    reached = _downstream(consumers, node_id)
    found = [
        lora
        for each, node in graph.items()
        if (loras := list(_loras(node))) and not reached.isdisjoint({each} | _downstream(consumers, each))
        for lora in loras
    ]
    return ", ".join(name if strength is None else f"{name} {strength:g}" for name, strength in found)


def _consumers(graph: Graph) -> dict[str, set[str]]:
    """Node -> those that its outputs go into."""
    consumers: dict[str, set[str]] = {each: set() for each in graph}
    for each, node in graph.items():
        for source in _sources(node) & consumers.keys():
            consumers[source].add(each)
    return consumers


def _downstream(consumers: dict[str, set[str]], node_id: str) -> set[str]:
    """The nodes that a node's outputs go into, near or far."""
    reached: set[str] = set()
    following = [node_id]
    while following:
        new = consumers[following.pop()] - reached
        reached |= new
        following += new
    return reached


def _sources(node: dict[str, Any]) -> set[str]:
    links = (value for value in _inputs(node).values() if isinstance(value, list) and len(value) == 2)
    return {str(source) for source, _ in links}


def _inputs(node: dict[str, Any]) -> dict[str, Any]:
    """None where the node leads to no output: ComfyUI has not looked at it then."""
    return node.get("inputs") or {}


def _loras(node: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    """File names without their ending, with the strength on the diffusion model; those that are off are left out.

    A strength that comes over a link is None. A name that does is not known here.
    """
    inputs = _inputs(node)
    found = [(inputs.get("lora_name"), inputs.get("strength_model", inputs.get("strength", 1.0)))]
    rows = [value for value in inputs.values() if isinstance(value, dict) and value.get("on", True)]
    found += [(row.get("lora"), row.get("strength", 1.0)) for row in rows]
    for file, strength in found:
        linked = isinstance(strength, list)
        if isinstance(file, str) and (linked or (isinstance(strength, (int, float)) and strength)):
            yield PurePosixPath(file.replace("\\", "/")).stem, None if linked else strength
