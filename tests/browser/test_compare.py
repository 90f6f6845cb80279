"""Two pictures of a grid under one slider, opened from the node that made the grid."""

from __future__ import annotations

import uuid

from ..comfyui.test_xy_grid import graph
from .conftest import Page

BUTTON = "Compare pictures"
SEAM = "() => document.querySelector('.impasto .compare .seam').style.left"
RIGHT = "() => document.querySelectorAll('.impasto .compare .name')[1].textContent"
SEEN = "() => [...document.querySelectorAll('.impasto .compare img')].every(image => image.naturalWidth === 64)"
OFFERED = f"() => app.rootGraph.nodes.some(node => node.widgets?.some(widget => widget.name === '{BUTTON}'))"
PRESS = f"""() => app.rootGraph.nodes.flatMap(node => node.widgets ?? []).find(
    widget => widget.name === '{BUTTON}').callback()"""


def painted(page: Page) -> dict:
    """The graph as a page saves it, once its three pictures are painted."""
    form = graph(f"compare-{page.vue}".lower(), x_axis="seed", x_values="1\n2\n3", steps=1)
    page.tab.evaluate("graph => app.loadApiJson(graph, 'compared')", form)
    page.tab.evaluate("id => { app.rootGraph.id = id }", str(uuid.uuid4()))
    saved = page.tab.evaluate("app.rootGraph.serialize()")
    page.tab.evaluate("() => { app.queuePrompt(0) }")
    page.tab.wait_for_function(OFFERED)
    return saved


def test_two_pictures_are_compared_by_keyboard_and_by_pointer_and_again_after_a_reload(page: Page, tmp_path):
    saved = painted(page)
    page.open()
    page.load(saved)
    page.tab.wait_for_function(OFFERED)
    page.tab.evaluate(PRESS)
    page.tab.wait_for_function(SEEN)
    assert "3" in page.tab.evaluate(RIGHT)
    page.tab.keyboard.press("ArrowLeft")  # the focus is on the column
    assert "2" in page.tab.evaluate(RIGHT)
    page.tab.keyboard.press("Shift+Tab")
    page.tab.keyboard.press("ArrowLeft")
    assert page.tab.evaluate(SEAM) == "49%"
    box = page.tab.locator(".impasto .compare .stage").bounding_box()
    page.tab.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    assert page.tab.evaluate(SEAM) == "25%"
    page.tab.screenshot(path=tmp_path / f"compare-{'vue' if page.vue else 'classic'}.png")
    page.tab.keyboard.press("Escape")
    page.tab.locator("dialog.impasto").wait_for(state="detached")
    assert not page.faults
