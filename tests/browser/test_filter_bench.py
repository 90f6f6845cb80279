"""Thresholds are dragged on the pictures' own measurements, and a refused picture is kept all the same."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

from impasto.embedded.paintings import paint, scene

from .conftest import Page

KINDS = ("landscape", "portrait", "cityscape", "still life")
PICTURES = 8
FILTER = "app.rootGraph.nodes.find(node => node.type === 'ImpastoQualityFilter')"


def filtering(name: str) -> dict:
    """A folder of pictures, and a filter that passes them all, in API form."""
    nodes = {
        "1": ("ImpastoImageFolderLoader", {"root": "input", "folder": name, "name": name, "format": "JPEG"}),
        "2": (
            "ImpastoQualityFilter",
            {"dataset": ["1", 0], "min_side": 100, "max_aspect": 3.0, "min_bytes_per_pixel": 0.0, "theme": "dark"},
        ),
        "3": ("PreviewAny", {"source": ["2", 2]}),
    }
    return {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in nodes.items()}


def value(page: Page, name: str):
    return page.tab.evaluate(f"{FILTER}.widgets.find(widget => widget.name === '{name}').value")


def wait_for(page: Page, said: str) -> None:
    page.tab.wait_for_function("said => document.querySelector('dialog.impasto').innerText.includes(said)", arg=said)


def test_a_threshold_is_dragged_and_what_it_refuses_is_seen_at_once_and_kept_anyway(page: Page, server, tmp_path: Path):
    name = f"filtered-{page.vue}".lower()
    folder = server.base / "input" / name
    folder.mkdir(exist_ok=True)
    for number in range(PICTURES):
        size = 320, 200 + 8 * number
        paint(scene(KINDS[number % 4], number), "impressionist", *size).save(folder / f"{number}.jpg", quality=92)
    page.tab.evaluate("graph => app.loadApiJson(graph, 'filtered')", filtering(name))
    page.tab.evaluate("id => { app.rootGraph.id = id }", str(uuid.uuid4()))
    press = f"() => {FILTER}.widgets.find(widget => widget.name.startsWith('Set thresholds')).callback()"
    page.tab.evaluate(press)
    wait_for(page, "Queue the graph once")
    page.tab.keyboard.press("Escape")
    page.queue()
    page.tab.evaluate(press)
    wait_for(page, f"{PICTURES} of {PICTURES} kept, 0 refused")
    # By pointer: to the middle of the histogram of the shorter side, which goes from 200 to 256.
    chart = page.tab.locator("dialog.impasto fieldset", has_text="shorter side, px").locator("svg")
    box = chart.bounding_box()
    chart.hover(position={"x": 30, "y": 32})  # at the dashed line
    page.tab.mouse.down()
    page.tab.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 20, steps=8)
    page.tab.mouse.up()
    side = value(page, "min_side")
    assert 225 < side < 256
    out = sum(200 + 8 * number < side for number in range(PICTURES))
    wait_for(page, f"{PICTURES - out} of {PICTURES} kept, {out} refused")
    # By keyboard: the slider under it.
    slider = page.tab.get_by_role("slider", name=re.compile("min side"))
    slider.focus()
    page.tab.keyboard.press("ArrowLeft")
    assert value(page, "min_side") == side - 1
    for _ in range(4):
        page.tab.keyboard.press("PageDown")
    side = value(page, "min_side")
    out = sum(200 + 8 * number < side for number in range(PICTURES))
    assert out
    wait_for(page, f"{PICTURES - out} of {PICTURES} kept, {out} refused")
    page.tab.wait_for_function(
        "[...document.querySelectorAll('dialog.impasto img')].every(image => image.naturalWidth)"
    )
    # A refused picture is kept, by the keys of the list, and given up again.
    page.tab.get_by_role("listbox").focus()
    page.tab.keyboard.press("Home")
    page.tab.keyboard.press("Enter")
    wait_for(page, f"{PICTURES - out + 1} of {PICTURES} kept, {out - 1} refused")
    assert len(value(page, "keep").splitlines()) == 1 and "kept by you" in page.tab.inner_text("dialog.impasto")
    page.tab.screenshot(path=tmp_path / f"bench-{page.vue}.png")
    page.tab.keyboard.press("Escape")
    page.queue()
    page.wait_for_text("ImpastoQualityFilter", f"{PICTURES} pictures in, {PICTURES - out + 1} kept")
    page.tab.evaluate(press)
    wait_for(page, f"{PICTURES - out + 1} of {PICTURES} kept")
    page.tab.get_by_role("button", name="Take back").click()
    wait_for(page, f"{PICTURES - out} of {PICTURES} kept, {out} refused")
    assert value(page, "keep") == "" and not page.faults
