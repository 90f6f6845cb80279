"""The sidebar's tab: runs and datasets as they lie on the disk, and what is done with them from there."""

from __future__ import annotations

import io
import json
import shutil
import uuid
from pathlib import Path

import pytest
from impasto.dataset.pictures import store_picture
from impasto.dataset.records import Record, Refusal, write_manifest
from impasto.trainers.features.index import Features
from impasto.trainers.run import create
from impasto.trainers.run import folder as runs
from impasto.trainers.settings import Settings
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .conftest import Page

OPEN = "() => app.extensionManager.sidebarTab.toggleSidebarTab('impasto')"
ROW = "li:has(strong:text-is('{}'))"


@pytest.fixture
def shelf(server, tmp_path: Path):
    """A run that has a grid at two strengths, one that has not begun, and a dataset; gone again afterwards."""
    features = Features(str(tmp_path / "features"), "abc")
    Path(features.folder).mkdir()
    root = server.base / "output" / "impasto" / "runs"
    made = [
        create.create_run(
            root, runs.Job(name, Settings(steps=40), features.folder, features.key, "/models/flux.safetensors", "f1")
        )
        for name in ("harbours", "barns")
    ]
    harbours = made[0]
    status = {"state": "finished", "step": 40, "total": 40, "best_step": 20}
    (harbours.path / "status.json").write_text(json.dumps(status))
    (harbours.path / "workflow.json").write_text(json.dumps(saved_graph()))
    for strength in (0.5, 1.0):
        for step in (0, 20, 40):
            paint(harbours, step, strength)
    folder = server.base / "datasets" / "harbour pictures"
    write_manifest(folder, [record(folder, n) for n in range(3)], [Refusal("a#9", "min_side", "too small", 90, 512)])
    yield harbours
    for path in (*(run.path for run in made), folder):
        shutil.rmtree(path, ignore_errors=True)


def paint(run: runs.Run, step: int, strength: float) -> None:
    (run.path / "grid").mkdir(exist_ok=True)
    about = PngInfo()
    about.add_itxt(
        "impasto", json.dumps({"step": step, "prompt": "a pier", "seed": 7, "strength": strength, "steps": 2})
    )
    picture = Image.new("RGB", (96, 64), (step * 6, int(strength * 250), 90))
    picture.save(run.path / "grid" / f"step-{step:06d}-{strength}.png", pnginfo=about)


def record(folder: Path, number: int) -> Record:
    kept = io.BytesIO()
    Image.new("RGB", (320, 200), (number * 60, 90, 200)).save(kept, "PNG")
    stored = store_picture(folder, kept.getvalue())
    return Record(
        stored.file_name, stored.sha256, stored.width, stored.height, stored.size, "a pier" if number else "", title="x"
    )


def saved_graph() -> dict:
    node = {"id": 5, "type": "ImpastoPromptSet", "pos": [0, 0], "size": [300, 200], "flags": {}, "order": 0, "mode": 0}
    node |= {"inputs": [], "outputs": [], "properties": {}, "widgets_values": ["a pier", 3, "fixed"]}
    return {"id": str(uuid.uuid4()), "nodes": [node], "links": [], "groups": [], "version": 0.4, "last_node_id": 5}


def opened(page: Page):
    page.tab.evaluate(OPEN)
    sidebar = page.tab.locator(".impasto.sidebar")
    sidebar.locator(ROW.format("harbours")).wait_for()
    return sidebar


def test_runs_and_datasets_are_seen_found_and_used(page: Page, shelf: runs.Run, tmp_path: Path):
    sidebar = opened(page)
    run = sidebar.locator(ROW.format("harbours"))
    assert (
        "finished, 40 of 40 steps" in run.inner_text()
        and "not begun" in sidebar.locator(ROW.format("barns")).inner_text()
    )
    dataset = sidebar.locator(ROW.format("harbour pictures"))
    assert "3 pictures, 2 captioned, 1 refused" in dataset.inner_text()
    dataset.scroll_into_view_if_needed()  # pictures are loaded where they are seen
    page.tab.wait_for_function(
        "() => [...document.querySelectorAll('.impasto.sidebar img')].some(image => image.naturalWidth > 0)"
    )
    for theme in ("dark", "light"):
        page.tab.evaluate("name => app.extensionManager.setting.set('Comfy.ColorPalette', name)", theme)
        page.tab.screenshot(path=tmp_path / f"sidebar-{theme}-{'vue' if page.vue else 'classic'}.png")
    run.get_by_role("button", name="Use").click()
    values = "() => app.rootGraph.nodes.map(node => [node.type, node.widgets?.[0]?.value])"
    assert page.tab.evaluate(values) == [["ImpastoTrainingRunLoader", shelf.id]]
    run.get_by_role("button", name="Continue").click()
    assert sorted(kind for kind, _ in page.tab.evaluate(values))[0] == "ImpastoContinueTraining"
    assert page.tab.evaluate("() => app.rootGraph.links.size ?? Object.keys(app.rootGraph.links).length") == 1
    run.get_by_role("button", name="Open graph").click()
    page.tab.wait_for_function(
        "() => app.rootGraph.nodes.length === 1 && app.rootGraph.nodes[0].type === 'ImpastoPromptSet'"
    )
    sidebar.get_by_role("searchbox").fill("pictures")
    assert sidebar.locator("li").count() == 1 and not page.faults


def test_the_grid_of_a_run_is_compared_at_each_strength(page: Page, shelf: runs.Run, tmp_path: Path):
    sidebar = opened(page)
    sidebar.locator(ROW.format("harbours")).get_by_role("button", name="Compare").click()
    seen = (
        "strength => [...document.querySelectorAll('.impasto .compare img')].every(image => image.naturalWidth === 96)"
    )
    page.tab.wait_for_function(seen)
    right = page.tab.locator(".impasto .compare .name").nth(1)
    assert "step 40" in right.inner_text()
    page.tab.keyboard.press("ArrowLeft")
    assert "step 20" in right.inner_text()
    image = "() => document.querySelectorAll('.impasto .compare img')[0].src"
    before = page.tab.evaluate(image)
    page.tab.get_by_role("group", name="Strength of the LoRA").get_by_role("button", name="0.50").click()
    page.tab.wait_for_function(seen)
    assert "step 20" in right.inner_text() and page.tab.evaluate(image) != before
    page.tab.screenshot(path=tmp_path / f"compare-{'vue' if page.vue else 'classic'}.png")
    page.tab.keyboard.press("Escape")
    assert not page.faults


def test_a_run_is_deleted_only_after_it_was_asked_twice(page: Page, shelf: runs.Run):
    sidebar = opened(page)
    run = sidebar.locator(ROW.format("harbours"))
    run.get_by_role("button", name="Delete").click()
    assert page.tab.evaluate("() => document.activeElement.textContent") == "Keep it"
    page.tab.keyboard.press("Enter")
    assert shelf.path.is_dir() and run.get_by_role("button", name="Compare").is_visible()
    run.get_by_role("button", name="Delete").click()
    run.get_by_role("button", name="Delete for good").click()
    run.wait_for(state="detached")
    assert not shelf.path.exists() and sidebar.locator(ROW.format("barns")).is_visible() and not page.faults
