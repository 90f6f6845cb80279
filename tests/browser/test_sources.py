"""WikiArt Loader's source: chosen from what the server knows, or typed."""

from __future__ import annotations

from impasto.embedded.paintings import write_wikiart_shards

from .conftest import Page

NODE = "app.rootGraph.nodes.find(node => node.type === 'ImpastoWikiArtLoader')"
PRESS = f"() => {NODE}.widgets.find(widget => widget.name.startsWith('Choose a source')).callback()"


def test_a_source_is_chosen_by_the_keyboard_from_a_list_in_which_folders_are_too(page: Page, server, tmp_path):
    museum = server.base / "datasets" / "my museum"
    if not museum.exists():
        write_wikiart_shards(museum, 2)
    page.tab.evaluate("() => { app.rootGraph.add(window.LiteGraph.createNode('ImpastoWikiArtLoader')) }")
    page.tab.evaluate(PRESS)
    chosen = page.tab.get_by_role("button", name="embedded-wikiart")
    chosen.wait_for()
    assert chosen.get_attribute("aria-pressed") == "true"
    assert page.tab.evaluate("document.activeElement.textContent").startswith("embedded-wikiart")
    page.tab.screenshot(path=tmp_path / f"sources-{page.vue}.png")
    assert page.tab.locator("dialog.impasto").bounding_box()["height"] < 600  # no higher than what it holds
    for _ in range(page.tab.get_by_role("group", name="Sources").get_by_role("button").count() - 1):
        page.tab.keyboard.press("Tab")
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_function("() => !document.querySelector('dialog.impasto')")
    assert page.tab.evaluate(f"{NODE}.widgets.find(widget => widget.name === 'source').value") == "my museum"
    saved = page.tab.evaluate(f"{NODE}.serialize().widgets_values")
    assert saved[0] == "my museum" and all(value != "Choose a source …" for value in saved) and not page.faults
