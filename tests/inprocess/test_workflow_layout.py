"""The shipped graphs open as they were laid out: each node has the room that it needs, none covers another."""

import asyncio
import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pytest

WORKFLOWS = sorted((Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))
# In pixels of the classic page, as frontend 1.47.12 computed the heights of the nodes in these files.
LARGEST = 2760, 1440  # pixels of a graph that a window of 1920 x 1080 shows at 60 %
TITLE, SOCKET, WIDGET, MULTILINE, PADDING, PADDING_OF_WIDGETS = 30, 20, 24, 30, 6, 8


@dataclass(frozen=True)
class Box:
    """A rectangle on the canvas; a node's has its title bar, which lies above its position."""

    name: str
    left: float
    top: float
    right: float
    bottom: float

    def covers(self, other: "Box") -> bool:
        across = min(self.right, other.right) - max(self.left, other.left)
        return across > 0 and min(self.bottom, other.bottom) - max(self.top, other.top) > 0

    def has_the_centre_of(self, other: "Box") -> bool:
        x, y = (other.left + other.right) / 2, (other.top + other.bottom) / 2
        return self.left <= x <= self.right and self.top <= y <= self.bottom

    def holds(self, other: "Box") -> bool:
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom


def read(workflow: Path) -> dict:
    return json.loads(workflow.read_text(encoding="utf-8"))


def boxes(graph: dict) -> list[Box]:
    return [
        Box(f"{node['id']} {node.get('title') or node['type']}", x, y - TITLE, x + width, y + shown_height(node))
        for node in graph["nodes"]
        for (x, y), (width, _) in [(node["pos"], node["size"])]
    ]


def shown_height(node: dict) -> float:
    """Below the title; none of a node that is folded up."""
    return 0 if node["flags"].get("collapsed") else node["size"][1]


def least_height(sockets: int, widgets: int, multiline: int) -> int:
    """Height in pixels below the title; a page that gives texts or previews more room only adds to it."""
    body = WIDGET * widgets + PADDING_OF_WIDGETS if widgets else 0
    return SOCKET * sockets + body + MULTILINE * multiline + PADDING


def height_by_schema(schema) -> int:
    from comfy_api.latest import io

    widgets = [item for item in schema.inputs if isinstance(item, io.WidgetInput) and not item.force_input]
    controls = [item for item in widgets if getattr(item, "control_after_generate", None)]
    sockets = max(len(schema.inputs) - len(widgets), len(schema.outputs))
    multiline = sum(bool(getattr(item, "multiline", None)) for item in widgets)
    return least_height(sockets, len(widgets) + len(controls), multiline)


def height_as_saved(node: dict) -> int:
    """The same of a node of ComfyUI's own, whose widgets the file lists."""
    inputs = [item for item in node["inputs"] if "widget" not in item]
    widgets = 0 if node["type"] == "MarkdownNote" else len(node["widgets_values"])
    return least_height(max(len(inputs), len(node["outputs"])), widgets, 0)


@pytest.fixture(scope="module")
def schemas(comfyui) -> dict:
    from impasto.nodes import ImpastoExtension

    classes = asyncio.run(ImpastoExtension().get_node_list())
    return {schema.node_id: schema for schema in (node.GET_SCHEMA() for node in classes)}


def test_the_height_by_schema_is_what_the_page_computed(schemas):
    writer = 876 + SOCKET  # the page computed 876 before watched was an input
    measured = {"ImpastoMetadataCaptioner": 122, "ImpastoTrainingSettings": 514, "ImpastoDatasetTOMLWriter": writer}
    assert {name: height_by_schema(schemas[name]) for name in measured} == measured


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_node_is_as_high_as_its_widgets_need(workflow: Path, schemas):
    low = {}
    for node in read(workflow)["nodes"]:
        needed = height_by_schema(schemas[node["type"]]) if node["type"] in schemas else height_as_saved(node)
        if node["size"][1] < needed:
            low[f"{node['id']} {node['type']}"] = (node["size"][1], needed)
    assert not low


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_the_whole_graph_can_be_read_when_it_opens(workflow: Path):
    """ComfyUI fits the graph into its window, and draws no text where a letter would be less than 8 pixels high."""
    graph = read(workflow)
    groups = [(x, y, x + width, y + height) for x, y, width, height in (group["bounding"] for group in graph["groups"])]
    drawn = [(box.left, box.top, box.right, box.bottom) for box in boxes(graph)] + groups
    left, top = (min(box[side] for box in drawn) for side in (0, 1))
    right, bottom = (max(box[side] for box in drawn) for side in (2, 3))
    assert right - left <= LARGEST[0] and bottom - top <= LARGEST[1]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_no_node_covers_another(workflow: Path):
    assert not [(one.name, two.name) for one, two in combinations(boxes(read(workflow)), 2) if one.covers(two)]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_node_lies_within_its_group(workflow: Path):
    graph = read(workflow)
    groups = [
        Box(group["title"], x, y, x + width, y + height)
        for group in graph["groups"]
        for x, y, width, height in [group["bounding"]]
    ]
    nodes = boxes(graph)
    assert not [(one.name, two.name) for one, two in combinations(groups, 2) if one.covers(two)]
    assert not [
        (group.name, node.name)
        for group in groups
        for node in nodes
        if group.has_the_centre_of(node) and not group.holds(node)
    ]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_no_link_runs_back_to_the_left(workflow: Path):
    graph = read(workflow)
    left = {node["id"]: node["pos"][0] for node in graph["nodes"]}
    assert not [(source, target) for _, source, _, target, _, _ in graph["links"] if left[source] > left[target]]
