"""The panel on the trainer's node: a real training is watched, found again after a reload, and finished early."""

from __future__ import annotations

import json
import uuid

from ..comfyui.workflows import shipped
from .conftest import Page

TRAINER = 9
KEPT = {2, 3, 4, 5, 6, 7, 8, TRAINER, 10, 13, 14}  # of the Quickstart: all but the grid and what paints with the LoRA
PANEL = "app.rootGraph.getNodeById(9)?.widgets?.find(widget => widget.name === 'impasto_training')?.element"
# A long run whose records come ten at a time, and how long each update takes.
FEED = """async () => {
    const source = performance.getEntriesByType('resource').find(entry => entry.name.includes('trainer_panel.js')).name;
    const {TrainerPanel} = await import(source);
    const node = window.LiteGraph.createNode('ImpastoFluxLoraTrainer');
    app.rootGraph.add(node);
    const panel = new TrainerPanel(node);
    panel.run = 'long-00000000';
    await new Promise(resolve => setTimeout(resolve, 1000));
    const taken = [], points = [];
    for (let step = 1; step <= 10000; step += 10) {
        const records = Array.from({length: 10}, (_, at) => ({step: step + at, loss: 1 + Math.random()}));
        const summary = {state: 'training', step: step + 9, total: 10000, active: {}, checkpoints: [step], samples: []};
        const began = performance.now();
        panel.update(summary, records);
        taken.push(performance.now() - began);
        points.push(panel.losses.points.length);
    }
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [200, 100];
    app.canvas.setDirty(true, true);
    taken.sort((a, b) => a - b);
    const covered = panel.losses.points.reduce((sum, point) => sum + point.count, 0);
    return {median: taken[500], points: Math.max(...points), covered};
}"""


def quickstart(name: str) -> dict:
    """The Quickstart without its pictures, trained for long enough that somebody can finish it."""
    graph = json.loads(shipped(1).read_text(encoding="utf-8"))
    graph["nodes"] = [node for node in graph["nodes"] if node["id"] in KEPT]
    graph["links"] = [link for link in graph["links"] if {link[1], link[3]} <= KEPT]
    kept = {link[0] for link in graph["links"]}
    for node in graph["nodes"]:
        for output in node.get("outputs", ()):
            output["links"] = [link for link in output["links"] or () if link in kept]
        if node["id"] == 2:
            node["widgets_values"][4] = 12
        elif node["id"] == 8:
            node["widgets_values"][0], node["widgets_values"][10], node["widgets_values"][-1] = 4000, 20, 2
        elif node["id"] == TRAINER:
            node["widgets_values"][0] = name
    return graph | {"id": str(uuid.uuid4()), "groups": []}


def wait_for_state(page: Page, said: str) -> None:
    page.tab.wait_for_function(f"said => {PANEL}?.querySelector('[role=status]').textContent.includes(said)", arg=said)


def test_a_training_is_watched_found_again_after_a_reload_and_finished_early(page: Page, tmp_path):
    graph = quickstart(f"panel-{'vue' if page.vue else 'classic'}")
    page.load(graph)
    page.tab.evaluate("() => { app.queuePrompt(0) }")
    wait_for_state(page, "Training: step")
    page.open()
    page.load(graph)
    wait_for_state(page, "Training: step")
    page.tab.wait_for_function(f"{PANEL}.panel.losses.heldOut.size >= 2 && {PANEL}.querySelector('button.sample')")
    page.tab.screenshot(path=tmp_path / "training.png")
    page.tab.evaluate(f"[...{PANEL}.querySelectorAll('button')].find(b => b.textContent.startsWith('Finish')).click()")
    wait_for_state(page, "Finished early")
    page.wait_for_text("ImpastoFluxLoraTrainer", "finished early, as you asked")
    finished = page.tab.evaluate(f"{PANEL}.querySelector('[role=status]').textContent")
    page.tab.screenshot(path=tmp_path / "finished.png")
    assert page.tab.evaluate(f"{PANEL}.panel.loraName").startswith(f"panel-{'vue' if page.vue else 'classic'}/")
    page.tab.evaluate("() => { app.queuePrompt(0) }")
    page.wait_for_text("ImpastoFluxLoraTrainer", "finished early, as you asked")
    assert page.tab.evaluate(f"{PANEL}.querySelector('[role=status]').textContent") == finished
    assert not page.faults


def test_ten_thousand_steps_are_all_in_a_bounded_number_of_points(page: Page, tmp_path, record_property):
    measured = page.tab.evaluate(FEED)
    page.tab.screenshot(path=tmp_path / "long.png")
    assert measured["covered"] == 10_000 and measured["points"] <= 600
    record_property("measured", f"an update of the trainer's panel: median {measured['median']:.1f} ms")
    assert not page.faults
