"""The real ComfyUI and its real page in Chromium, in both of its node renderers.

`test.sh` finds or installs a Chromium for them; where there is none, the tests here are skipped with a line that says
what is missing.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import pytest
from impasto.setup import chromium
from impasto.setup.serving import ComfyServer

from ..comfyui.conftest import new_server

WINDOW = {"width": 1920, "height": 1080}
PATIENCE = 900_000  # milliseconds: until a graph trained took up to 147,000 beside two other processes
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
TIDY = """async palette => {
    for (const dialog of document.querySelectorAll('dialog.impasto')) dialog.close();
    const {activeSidebarTabId, toggleSidebarTab} = app.extensionManager.sidebarTab;
    if (activeSidebarTabId) toggleSidebarTab(activeSidebarTabId);
    const {setting} = app.extensionManager;
    if (setting.get('Comfy.ColorPalette') !== palette) await setting.set('Comfy.ColorPalette', palette);
    sessionStorage.removeItem('impasto.token');
    await app.loadGraphData({nodes: [], links: [], groups: [], version: 0.4, last_node_id: 0, last_link_id: 0});
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [0, 0];
}"""


@pytest.fixture(scope="session")
def chromium_program() -> Path:
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: run ./test.sh")
    program = chromium.find()
    if not program:
        pytest.skip(f"Chromium: {chromium.MISSING}")
    return program


class Browsing:
    """Chromium and the pages that tests share, by server and renderer: to open one takes seconds."""

    def __init__(self) -> None:
        self._playwright = self._browser = None
        self._pages: dict[tuple[str, bool], Page] = {}

    def browser(self, program: Path):
        if not self._browser:
            from playwright.sync_api import sync_playwright

            self._playwright = sync_playwright().start()
            options = {"executable_path": program, "args": ["--no-sandbox"], "timeout": PATIENCE}
            self._browser = self._playwright.chromium.launch(**options)
            self._browser.new_context(viewport=WINDOW)  # of all pages: what the first one loaded is in its cache
        return self._browser

    def page(self, program: Path, server: ComfyServer, vue: bool) -> Page:
        """The page of this server in this renderer, as if nothing had been done in it yet."""
        page = self._pages.get((server.url, vue))
        if not page or page.tab.is_closed() or not page.is_tidied():
            if page:
                page.tab.close()
            page = self._pages[server.url, vue] = Page(self.browser(program), server, vue)
            page.is_tidied()  # ComfyUI opens a new one with a graph of its own
        page.tab.bring_to_front()  # one behind another draws once a second
        return page

    def close(self) -> None:
        if self._browser:
            self._browser.close()
            self._playwright.stop()
        self.__init__()


browsing = Browsing()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None):
    """End Playwright where the tests of the page do: it leaves an event loop running, which others must not meet."""
    ended = yield
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        browsing.close()
    return ended


@pytest.fixture
def browser(chromium_program: Path):
    return browsing.browser(chromium_program)


@pytest.fixture(scope="session")
def server(chromium_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A running server that the tests of the page share; a file that needs another has its own under this name."""
    yield from serving(new_server(tmp_path_factory.mktemp("page")))


def serving(server: ComfyServer) -> Iterator[ComfyServer]:
    """Started, and ended without the leave that it takes its time for while pages are connected."""
    server.start()
    yield server
    server.kill()
    server.stop()


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

    def is_tidied(self) -> bool:
        """Whether it could be made as if it were new: what an earlier test left in it and on the server is gone."""
        from playwright.sync_api import Error

        if self.server.is_busy():
            self.server.clear_queue()
            self.server.interrupt()
        self.faults.clear()
        try:
            self.tab.unroute_all()
            self.tab.evaluate(TIDY, SETTINGS["Comfy.ColorPalette"])
        except Error:  # the test before this one left the page as no person would
            return False
        return True

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

    def busy(self, work: Callable[[], None]) -> float:
        """Milliseconds that the main thread computed for this, without what others took of the processor meanwhile."""
        devtools = self.tab.context.new_cdp_session(self.tab)
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

        def spent() -> float:
            told = devtools.send("Performance.getMetrics")["metrics"]
            return 1000 * next(metric["value"] for metric in told if metric["name"] == "TaskDuration")

        begun = spent()
        work()
        taken = spent() - begun
        devtools.detach()
        return taken

    def wait_for_text(self, kind: str, said: str, failed: bool = False) -> None:
        """Until a node of this type shows this of its last run, or as its error where it `failed`.

        Where no error is waited for, one that some node shows ends the wait.
        """
        self.tab.wait_for_function(
            """([kind, said, failed]) => {
                const results = app.rootGraph.nodes.flatMap(node => (node.widgets ?? [])
                    .filter(widget => widget.name === 'impasto_result').map(({element}) => [node.type, element]));
                if (results.some(([type, element]) => type === kind && element.textContent.includes(said)
                    && (element.dataset.state === 'failed') === failed && element.getClientRects().length)) return true;
                const other = results.find(([, element]) => element.dataset.state === 'failed');
                if (other && !failed) throw new Error(`${other[0]}: ${other[1].textContent}`);
            }""",
            arg=[kind, said, failed],
        )


@pytest.fixture(params=RENDERERS)
def page(request: pytest.FixtureRequest, chromium_program: Path, server: ComfyServer) -> Page:
    return browsing.page(chromium_program, server, RENDERERS[request.param])


@pytest.fixture
def one_page(chromium_program: Path, server: ComfyServer) -> Page:
    """Where the renderer of nodes makes no difference."""
    return browsing.page(chromium_program, server, vue=True)


@pytest.fixture
def pages(chromium_program: Path, server: ComfyServer) -> list[Page]:
    """One in each renderer."""
    return [browsing.page(chromium_program, server, vue) for vue in RENDERERS.values()]
