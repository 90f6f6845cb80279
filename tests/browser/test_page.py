"""What an artist sees when a shipped graph opens, and what stays on a node when it has run."""

from __future__ import annotations

import json
import uuid

import pytest

from ..comfyui.conftest import REPOSITORY
from .conftest import Page

WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
LEAST_SCALE = 8 / 14  # of 14-pixel letters; below it, the classic renderer draws no text


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_shipped_graph_opens_whole_and_readable_with_no_node_over_another(page: Page, workflow):
    page.load(json.loads(workflow.read_text(encoding="utf-8")))
    page.tab.wait_for_function("least => app.canvas.ds.scale !== 1", arg=LEAST_SCALE)
    scale = page.tab.evaluate("app.canvas.ds.scale")
    assert not page.overlapping() and scale >= LEAST_SCALE and not page.faults


def written(name: str) -> dict:
    """A graph in API form that takes no time: a prompt set, and its export under a name."""
    return {
        "1": {"class_type": "ImpastoPromptSet", "inputs": {"text": "a harbour\na barn", "seed": 3}},
        "2": {
            "class_type": "ImpastoPromptSetExport",
            "inputs": {"prompts": ["1", 0], "name": name, "width": 64, "height": 64, "steps": 2, "guidance": 3.5},
        },
    }


@pytest.mark.parametrize(("name", "said", "failed"), [("samples", "kohya.txt", False), ("../samples", "plain", True)])
def test_what_became_of_a_node_is_read_on_it_and_again_when_the_page_is_loaded_anew(page: Page, name, said, failed):
    page.tab.evaluate("graph => app.loadApiJson(graph, 'written')", written(f"{name}-{page.vue}"))
    page.tab.evaluate("id => { app.rootGraph.id = id }", str(uuid.uuid4()))
    saved = page.tab.evaluate("app.rootGraph.serialize()")
    page.tab.evaluate("() => { app.queuePrompt(0) }")
    page.wait_for_text("ImpastoPromptSetExport", said, failed)
    page.open()
    page.load(saved)
    page.wait_for_text("ImpastoPromptSetExport", said, failed)
    assert not page.faults
