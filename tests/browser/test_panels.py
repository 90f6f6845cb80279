"""The panels where things are harder: a run that failed, a subgraph, a second tab; by keyboard alone; in French."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from impasto.trainers.features.index import Features
from impasto.trainers.run import create
from impasto.trainers.run import folder as runs
from impasto.trainers.settings import Settings

from . import test_sidebar
from .conftest import PATIENCE, READY, Page
from .test_colours import LETTERS

ERROR = "The card has no memory left at step 3.\n\n" + "\n".join(f"block {n} lies on the card" for n in range(40))
LAST_WORDS = "Lower the rank, or set blocks_to_swap to 18."
# A trainer inside a subgraph, whose run has ended: ids of the node that stands for the subgraph, and of the trainer.
NESTED = """([run, id]) => {
    const trainer = window.LiteGraph.createNode('ImpastoFluxLoraTrainer');
    app.rootGraph.add(trainer);
    app.rootGraph.id = id;
    const {subgraph, node} = app.rootGraph.convertToSubgraph(new Set([trainer]));
    const ids = [node.id, subgraph.nodes[0].id];
    const told = {node: ids.join(':'), display_node: ids.join(':'), output: {impasto_run: [run]}};
    app.api.dispatchCustomEvent('executed', told);
    return ids;
}"""
PANEL = """([outer, inner]) => app.rootGraph.getNodeById(outer)?.subgraph?.getNodeById(inner)?.widgets
    ?.find(widget => widget.name === 'impasto_training')?.element"""
SAYS = f"([ids, said]) => ({PANEL})(ids)?.textContent.includes(said)"
# Whatever a person can use within an element, in the order of the page, and how it stands out while it has the focus.
CONTROLS = """selector => [...document.querySelector(selector).querySelectorAll(
    'button, input, select, textarea, summary, [tabindex="0"]')]
    .filter(control => !control.disabled && control.tabIndex >= 0 && control.getClientRects().length)
    .map((control, place) => (control.dataset.place = String(place)))"""
FOCUSED = """selector => {
    const here = document.activeElement;
    if (!here?.closest(selector)) return null;
    const {outlineStyle, outlineWidth} = getComputedStyle(here);
    return [here.dataset.place, outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2];
}"""
# The least contrast of a text to what lies behind it (WCAG 2.1), within an element.
CONTRAST = """selector => {
    const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const drawn = colours => {
        context.clearRect(0, 0, 1, 1);
        for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
        return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map(part => part / 255)
            .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
            .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
    };
    const behind = element => {
        const colours = [];
        for (let at = element; at; at = at.parentElement) colours.unshift(getComputedStyle(at).backgroundColor);
        return ['#fff', ...colours];
    };
    const texts = [...document.querySelector(selector).querySelectorAll('*')].filter(element => !element.disabled
        && element.getClientRects().length
        && [...element.childNodes].some(child => child.nodeType === 3 && child.textContent.trim()));
    return texts.map(element => {
        const back = behind(element), colour = getComputedStyle(element).color;
        const [dark, light] = [drawn(back), drawn([...back, colour])].sort((one, other) => one - other);
        return [(light + 0.05) / (dark + 0.05), element.textContent.slice(0, 60)];
    }).sort(([one], [other]) => one - other)[0];
}"""
LEAST_CONTRAST = 4.5


def kept_run(server, folder: Path, name: str, **status) -> runs.Run:
    """A run as a trainer leaves it behind, without having trained."""
    features = Features(str(folder / "features"), "abc")
    Path(features.folder).mkdir(exist_ok=True)
    job = runs.Job(name, Settings(steps=40), features.folder, features.key, "/models/flux.safetensors", "f1")
    run = create.create_run(server.base / "output" / "impasto" / "runs", job)
    (run.path / "status.json").write_text(json.dumps({"step": 3, "total": 40} | status))
    (run.path / "train.log").write_text("loading\ntraining\n" + LAST_WORDS)
    return run


def say_words_in(page: Page, ids: list, *words: str) -> None:
    for said in words:
        page.tab.wait_for_function(SAYS, arg=[ids, said])


def test_a_failed_run_is_told_whole_in_a_subgraph_and_in_a_second_tab(page: Page, server, tmp_path: Path):
    run = kept_run(server, tmp_path, f"failed-{page.vue}".lower(), state="failed", error=f"{ERROR}\n{LAST_WORDS}")
    ids = page.tab.evaluate(NESTED, [run.id, str(uuid.uuid4())])
    say_words_in(page, ids, "Failed at step 3 of 40", "block 39 lies on the card", LAST_WORDS)
    saved = page.tab.evaluate("app.rootGraph.serialize()")
    with page.tab.expect_popup() as opened:
        page.tab.evaluate("() => { window.open(location.href) }")
    second = opened.value
    second.set_default_timeout(PATIENCE)
    second.wait_for_function(READY)
    second.evaluate("graph => app.loadGraphData(graph)", saved)
    for said in ("Failed at step 3 of 40", LAST_WORDS):
        second.wait_for_function(SAYS, arg=[ids, said])
    second.close()
    # Where a person looks for it: inside the subgraph, and with the log.
    page.tab.evaluate("outer => app.canvas.setGraph(app.rootGraph.getNodeById(outer).subgraph)", ids[0])
    page.tab.wait_for_function(f"ids => ({PANEL})(ids).getClientRects().length > 0", arg=ids)
    page.tab.evaluate(f"ids => ({PANEL})(ids).querySelector('summary').click()", ids)
    page.tab.wait_for_function(f"ids => ({PANEL})(ids).querySelector('pre').textContent.includes('loading')", arg=ids)
    page.tab.screenshot(path=tmp_path / f"failed-{page.vue}.png")
    assert not page.faults


@pytest.mark.parametrize(("state", "said"), [("stopped", "Stopped, saved at step 0 of 40"), ("finished", "Finished: ")])
def test_a_run_that_ended_otherwise_says_how_and_what_to_do(page: Page, server, tmp_path: Path, state: str, said: str):
    run = kept_run(server, tmp_path, f"{state}-{page.vue}".lower(), state=state)
    ids = page.tab.evaluate(NESTED, [run.id, str(uuid.uuid4())])
    say_words_in(page, ids, said)
    assert not page.faults


def test_every_control_of_a_dialog_and_the_sidebar_is_reached_by_tab_and_seen_to_be(page: Page, shelf, tmp_path: Path):
    sidebar = test_sidebar.opened(page)
    for selector, begin in ((".impasto.sidebar", sidebar.get_by_role("searchbox")), ("dialog.impasto", None)):
        if begin is None:
            sidebar.locator(test_sidebar.ROW.format("harbours")).get_by_role("button", name="Compare").click()
            page.tab.wait_for_selector(selector)
        else:
            begin.focus()
        wanted = set(page.tab.evaluate(CONTROLS, selector))
        seen = {}
        for _ in range(2 * len(wanted) + 5):
            if found := page.tab.evaluate(FOCUSED, selector):
                seen[found[0]] = found[1]
            page.tab.keyboard.press("Tab")
        assert wanted and wanted <= seen.keys() and all(seen.values()), (selector, wanted - seen.keys(), seen)
    assert not page.faults


def test_texts_of_the_sidebar_and_of_a_dialog_stand_out_in_both_themes(page: Page, server, shelf, tmp_path: Path):
    kept_run(server, tmp_path, f"faulty-{page.vue}".lower(), state="failed", error=ERROR)
    sidebar = test_sidebar.opened(page)
    for theme in LETTERS:
        page.tab.evaluate("name => app.extensionManager.setting.set('Comfy.ColorPalette', name)", theme)
        page.tab.wait_for_function(
            "letters => getComputedStyle(document.documentElement).getPropertyValue('--fg-color').trim() === letters",
            arg=LETTERS[theme],
        )
        sidebar.locator(test_sidebar.ROW.format("harbours")).get_by_role("button", name="Compare").click()
        page.tab.wait_for_selector("dialog.impasto .compare")
        for selector in (".impasto.sidebar", "dialog.impasto"):
            contrast, text = page.tab.evaluate(CONTRAST, selector)
            assert contrast >= LEAST_CONTRAST, (theme, selector, text)
        page.tab.screenshot(path=tmp_path / f"{theme}-{page.vue}.png")
        page.tab.keyboard.press("Escape")
    assert not page.faults


def test_the_panels_speak_french_with_the_page(page: Page, server, shelf, tmp_path: Path):
    page.tab.evaluate("() => app.extensionManager.setting.set('Comfy.Locale', 'fr')")
    try:
        page.open()
        page.tab.evaluate(test_sidebar.OPEN)
        run = page.tab.locator(".impasto.sidebar").locator(test_sidebar.ROW.format("harbours"))
        run.get_by_role("button", name="Comparer").wait_for()
        assert "fini, 40 sur 40 pas, meilleur au pas 20" in run.inner_text()
        page.tab.get_by_role("searchbox", name="Chercher").wait_for()
        button = """() => {
            const node = window.LiteGraph.createNode('ImpastoCaptionEditor');
            app.rootGraph.add(node);
            return node.widgets.find(widget => widget.name === 'Edit captions …').label;
        }"""
        assert page.tab.evaluate(button) == "Modifier les légendes …"
        ids = page.tab.evaluate(NESTED, [shelf.id, str(uuid.uuid4())])
        say_words_in(page, ids, "Fini : pas 40 sur 40")
        page.tab.screenshot(path=tmp_path / f"french-{page.vue}.png")
    finally:
        page.tab.evaluate("() => app.extensionManager.setting.set('Comfy.Locale', 'en')")
        page.tab.close()  # it goes on in French until it is loaded again
    assert not page.faults


shelf = test_sidebar.shelf
