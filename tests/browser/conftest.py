"""The real ComfyUI and its real page in Chromium, in both of its node renderers.

`test.sh` installs Playwright and finds or installs a Chromium; without either, the tests here are skipped with a line
that says what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from impasto.setup import chromium
from impasto.setup.serving import ComfyServer

from ..comfyui.conftest import new_server

WINDOW = {"width": 1920, "height": 1080}
PATIENCE = 300_000  # milliseconds: a page without a graphics card on two busy cores
RENDERERS = {"classic": False, "nodes 2.0": True}
READY = "window.app?.extensionManager?.setting && window.app.rootGraph && window.app.vueAppReady"


@pytest.fixture(scope="module")  # Playwright leaves an event loop running, which other files' tests must not meet
def browser() -> Iterator:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: run ./test.sh"
    ).sync_playwright
    program = chromium.find()
    if not program:
        pytest.skip(f"Chromium: {chromium.MISSING}")
    with playwright() as started:
        launched = started.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=PATIENCE)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    running = new_server(tmp_path_factory.mktemp("page"))
    running.start()
    yield running
    running.stop()


class Page:
    """ComfyUI's page in one renderer, and what went wrong in code of ours."""

    def __init__(self, browser, server: ComfyServer, vue: bool) -> None:
        self.server, self.vue, self.faults = server, vue, []
        self.tab = browser.new_page(viewport=WINDOW)
        self.tab.set_default_timeout(PATIENCE)
        self.tab.on("pageerror", lambda error: self._note(str(error.stack or error)))
        self.tab.on("console", lambda said: said.type == "error" and self._note(f"{said.text} {said.location}"))
        self.open()

    def _note(self, text: str) -> None:
        if "impasto" in text.lower():
            self.faults.append(text)

    def open(self) -> None:
        self.tab.goto(self.server.url)
        self.tab.wait_for_function(READY)
        for name, value in {"Comfy.VueNodes.Enabled": self.vue, "Comfy.TutorialCompleted": True}.items():
            self.tab.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [name, value])

    def load(self, graph: dict) -> None:
        self.tab.evaluate("graph => app.loadGraphData(graph)", graph)
        self.tab.wait_for_function("count => app.rootGraph.nodes.length === count", arg=len(graph["nodes"]))
        if self.vue:
            count = "count => document.querySelectorAll('[data-node-id]').length >= count"
            self.tab.wait_for_function(count, arg=len(graph["nodes"]))

    def rectangles(self) -> dict[str, tuple[float, float, float, float]]:
        """Of each node as it is drawn, title included: left, top, right, bottom in the graph's own pixels."""
        drawn = """() => [...document.querySelectorAll('[data-node-id]')].map(element => {
            const {left, top, right, bottom} = element.getBoundingClientRect();
            return [element.dataset.nodeId, ...[left, top, right, bottom].map(side => side / app.canvas.ds.scale)];
        })"""
        known = """() => app.rootGraph.nodes.map(node => {
            node.updateArea?.(app.canvas.ctx);
            const [left, top, width, height] = node.boundingRect;
            return [String(node.id), left, top, left + width, top + height];
        })"""
        return {name: tuple(sides) for name, *sides in self.tab.evaluate(drawn if self.vue else known)}

    def wait_for_text(self, kind: str, said: str) -> None:
        """Until a node of this type shows this of its last run."""
        self.tab.wait_for_function(
            """([kind, said]) => app.rootGraph.nodes.some(node => node.type === kind && node.widgets?.some(
                widget => widget.name === 'impasto_result' && widget.element.textContent.includes(said)
                    && widget.element.getClientRects().length > 0))""",
            arg=[kind, said],
        )


@pytest.fixture(params=RENDERERS)
def page(request: pytest.FixtureRequest, browser, server: ComfyServer) -> Iterator[Page]:
    opened = Page(browser, server, RENDERERS[request.param])
    yield opened
    opened.tab.close()
