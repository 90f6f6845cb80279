"""The real ComfyUI and its real page in Chromium, in both of its node renderers.

`test.sh --browser` finds or installs a Chromium for them; without it, or where there is none, the tests here are
skipped with a line that says what is missing.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import pytest
from impasto.setup import chromium
from impasto.setup.serving import ComfyServer

from ..comfyui.conftest import new_server

WINDOW = {"width": 1920, "height": 1080}
PATIENCE = 300_000  # milliseconds: a page without a graphics card on two busy cores
TOUCHING = 1.0  # pixels of the graph that rounding may take
RENDERERS = {"classic": False, "nodes 2.0": True}
READY = "window.app?.extensionManager?.setting && window.app.rootGraph && window.app.vueAppReady"
# Of a person who has installed ComfyUI now and has seen it before: the first time, its templates lie over everything.
# And no page begins with the graph of the one before it.
SETTINGS = {
    "Comfy.InstalledVersion": version("comfyui-frontend-package"),
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": False,
    "Comfy.ColorPalette": "dark",
}


@pytest.fixture(scope="session")
def chromium_program() -> Path:
    if not os.environ.get(chromium.WANTED):
        pytest.skip("./test.sh --browser runs the tests of ComfyUI's page, in some twenty minutes more")
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: run ./test.sh")
    program = chromium.find()
    if not program:
        pytest.skip(f"Chromium: {chromium.MISSING}")
    return program


@pytest.fixture(scope="module")  # Playwright leaves an event loop running, which other files' tests must not meet
def browser(chromium_program: Path) -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        options = {"executable_path": chromium_program, "args": ["--no-sandbox"], "timeout": PATIENCE}
        launched = started.chromium.launch(**options)
        launched.new_context(viewport=WINDOW)  # of all pages, which find what the first one loaded in its cache
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def server(chromium_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A running server that the tests of the page share; a file that needs another has its own under this name."""
    running = new_server(tmp_path_factory.mktemp("page"))
    running.start()
    yield running
    running.stop()


class Page:
    """ComfyUI's page in one renderer, and what went wrong in code of ours."""

    def __init__(self, browser, server: ComfyServer, vue: bool, outlives: bool = False) -> None:
        """`outlives`: for a server that the test kills; else the page ends with it, and so does each wait on it."""
        self.server, self.vue, self.faults = server, vue, []
        self.tab = browser.contexts[0].new_page()
        self.tab.set_default_timeout(PATIENCE)
        self.tab.on("pageerror", lambda error: self._note(str(error.stack or error)))
        self.tab.on("console", lambda said: said.type == "error" and self._note(f"{said.text} {said.location}"))
        if not outlives:
            self.tab.on("websocket", lambda socket: socket.on("close", self._end_with_the_server))
        self.open()

    def _note(self, text: str) -> None:
        if "impasto" in text.lower():
            self.faults.append(text)

    def _end_with_the_server(self, _socket) -> None:
        if self.server.process.poll() is not None:
            self.tab.close()

    def open(self) -> None:
        body = json.dumps(SETTINGS | {"Comfy.VueNodes.Enabled": self.vue}).encode()
        request = urllib.request.Request(f"{self.server.url}/settings", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=PATIENCE / 1000).close()
        self.tab.goto(self.server.url)
        self.tab.wait_for_function(READY)

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

    def overlapping(self) -> list[tuple[str, str]]:
        """The nodes that lie over each other, in pairs."""
        return [
            (one, other)
            for (one, a), (other, b) in combinations(self.rectangles().items(), 2)
            if min(a[2], b[2]) - max(a[0], b[0]) > TOUCHING and min(a[3], b[3]) - max(a[1], b[1]) > TOUCHING
        ]

    def queue(self) -> None:
        """Queue the graph, and wait until it has ended."""
        self.tab.evaluate("""() => {
            window.ended = null;
            const end = ({detail}) => { window.ended = detail; };
            for (const kind of ['execution_success', 'execution_error'])
                app.api.addEventListener(kind, end, {once: true});
            app.queuePrompt(0);
        }""")
        self.tab.wait_for_function("window.ended")
        failure = self.tab.evaluate("window.ended.exception_message")
        assert not failure, failure

    def wait_for_text(self, kind: str, said: str) -> None:
        """Until a node of this type shows this of its last run; an error that some node shows instead ends the wait."""
        self.tab.wait_for_function(
            """([kind, said]) => {
                const results = app.rootGraph.nodes.flatMap(node => (node.widgets ?? [])
                    .filter(widget => widget.name === 'impasto_result').map(({element}) => [node.type, element]));
                if (results.some(([type, element]) => type === kind && element.textContent.includes(said)
                    && element.getClientRects().length > 0)) return true;
                const failed = results.find(([, element]) => element.dataset.state === 'failed');
                if (failed) throw new Error(`${failed[0]}: ${failed[1].textContent}`);
            }""",
            arg=[kind, said],
        )


@pytest.fixture(params=RENDERERS)
def page(request: pytest.FixtureRequest, browser, server: ComfyServer) -> Iterator[Page]:
    opened = Page(browser, server, RENDERERS[request.param])
    yield opened
    opened.tab.close()


@pytest.fixture(scope="module", params=RENDERERS)
def lasting_page(request: pytest.FixtureRequest, browser, server: ComfyServer) -> Iterator[Page]:
    """One page a renderer for all tests of a file that do not mind what another one did in it."""
    opened = Page(browser, server, RENDERERS[request.param])
    yield opened
    opened.tab.close()
