"""A server whose owner has set IMPASTO_TOKEN: the page asks for it once, and keeps it where only its requests look."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from impasto.setup.serving import ComfyServer
from PIL import Image

from ..comfyui.conftest import new_server
from . import test_sidebar
from .conftest import Page, serving
from .test_trainer_panel import PANEL

TOKEN = "a harbour – at dusk"  # with a letter that no header has as it is
DIALOG = "dialog.impasto.small"
SEEN = "selector => [...document.querySelectorAll(selector)].some(image => image.naturalWidth > 1)"
shelf = test_sidebar.shelf


@pytest.fixture(scope="module")
def server(chromium_program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("IMPASTO_TOKEN", TOKEN)
        yield from serving(new_server(tmp_path_factory.mktemp("guarded")))


def open_sidebar(page: Page):
    page.open()  # anew: whether it has asked already is the page's own knowledge
    page.tab.evaluate(test_sidebar.OPEN)
    return page.tab.locator(".impasto.sidebar")


def give(page: Page, token: str) -> None:
    page.tab.get_by_label("IMPASTO_TOKEN").fill(token)
    page.tab.keyboard.press("Enter")


def others(page: Page) -> list[str]:
    """What went wrong, but for the requests that the server refused for want of the token."""
    return [fault for fault in page.faults if "401" not in fault]


def test_the_token_is_asked_for_once_and_opens_every_panel(one_page: Page, shelf, tmp_path):
    page = one_page
    asked = []
    page.tab.on("request", lambda request: asked.append(request.url))
    samples = shelf.path / "samples" / "step-000040"
    samples.mkdir(parents=True)
    (samples / "latents.safetensors").touch()
    Image.new("RGB", (192, 64), (90, 40, 160)).save(samples / "preview.png")
    sidebar = open_sidebar(page)
    page.tab.wait_for_selector(DIALOG)
    page.tab.screenshot(path=tmp_path / "token.png")
    give(page, "a barn")
    page.tab.get_by_role("alert").get_by_text("does not take that token").wait_for()
    give(page, TOKEN)
    run = sidebar.locator(test_sidebar.ROW.format("harbours"))
    run.wait_for()
    assert page.tab.locator(DIALOG).count() == 0
    page.tab.wait_for_function(SEEN, arg=".impasto.sidebar img")
    run.get_by_role("button", name="Compare").click()
    page.tab.wait_for_function(SEEN, arg=".impasto .compare img")
    page.tab.keyboard.press("Escape")
    # Where it lies: in this tab, which keeps it when the page is loaded again; in no address, and in no graph.
    page.open()
    graph = json.dumps(page.tab.evaluate("app.rootGraph.serialize()"))
    kept = page.tab.evaluate("[JSON.stringify(localStorage), document.cookie, location.href]")
    assert page.tab.evaluate("sessionStorage.getItem('impasto.token')") == TOKEN
    assert not any("harbour" in text and "dusk" in text for text in [graph, *kept, *asked])
    node = """run => {
        const node = window.LiteGraph.createNode('ImpastoFluxLoraTrainer');
        app.rootGraph.add(node);
        app.api.dispatchCustomEvent('executed', {node: String(node.id), output: {impasto_run: [run]}});
        return node.id;
    }"""
    trainer = page.tab.evaluate(node, shelf.id)
    panel = PANEL.replace("9", str(trainer))
    page.tab.wait_for_function(f"() => {panel}?.querySelector('.sample img')?.naturalWidth === 192")
    assert page.tab.locator(DIALOG).count() == 0 and not others(page)


def test_a_person_without_the_token_is_told_so_and_asked_again_only_when_they_want(one_page: Page, shelf):
    page = one_page
    sidebar = open_sidebar(page)
    page.tab.wait_for_selector(DIALOG)
    page.tab.keyboard.press("Escape")
    sidebar.get_by_text("The server asks for its IMPASTO_TOKEN").wait_for()
    page.tab.evaluate("() => app.api.dispatchCustomEvent('execution_success', {})")
    page.tab.wait_for_timeout(500)
    assert page.tab.locator(DIALOG).count() == 0
    sidebar.get_by_role("button", name="Refresh").click()
    page.tab.wait_for_selector(DIALOG)
    give(page, TOKEN)
    sidebar.locator(test_sidebar.ROW.format("harbours")).wait_for()
    assert not others(page)


def test_a_picture_alone_asks_for_the_token_too(one_page: Page, shelf):
    """The caption editor's pictures come before anything else is asked."""
    page = one_page
    page.open()
    picture = next((page.server.base / "datasets" / "harbour pictures" / "images").iterdir()).stem
    row = {"sha256": picture, "thumbnail": "", "text": "a pier", "caption": "a pier", "flags": {}, "tokens": [3, 3]}
    page.tab.evaluate(
        """([row, name]) => {
            const node = window.LiteGraph.createNode('ImpastoCaptionEditor');
            app.rootGraph.add(node);
            app.api.dispatchCustomEvent('executed', {node: String(node.id), output: {
                impasto_captions: [row], impasto_dataset: [name]}});
            node.widgets.find(widget => widget.name.startsWith('Edit captions')).callback();
        }""",
        [row | {"edited": False, "locked": False, "file_name": ""}, "harbour pictures"],
    )
    page.tab.wait_for_selector(DIALOG)
    give(page, TOKEN)
    page.tab.wait_for_function(SEEN, arg="dialog.impasto img.large")
    page.tab.wait_for_function(SEEN, arg="dialog.impasto .pictures img")
    assert not others(page)


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """Another origin, which would take whatever a page of any server sends to it; and what came."""
    reached = []

    class Open(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reached.append(f"{self.path} {self.headers}")
            self.send_response(200)
            for name, value in (("Origin", "*"), ("Headers", "*")):
                self.send_header(f"Access-Control-Allow-{name}", value)
            self.end_headers()
            self.wfile.write(b'{"runs": []}')

        do_OPTIONS = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Open) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", reached
        server.shutdown()


def test_the_token_goes_to_no_other_server(one_page: Page, shelf, elsewhere):
    page = one_page
    address, reached = elsewhere
    page.tab.context.new_cdp_session(page.tab).send(
        "Page.setBypassCSP", {"enabled": True}
    )  # not every ComfyUI sends one
    page.open()
    page.tab.evaluate("address => fetch(`${address}/asked`)", address)
    assert reached.pop().startswith("/asked")  # it can be reached from here
    page.tab.evaluate("token => sessionStorage.setItem('impasto.token', token)", TOKEN)
    moved = {"Location": f"{address}/impasto/runs"}
    page.tab.route("**/impasto/runs", lambda route: route.fulfill(status=302, headers=moved))
    sidebar = open_sidebar(page)
    page.tab.wait_for_function("() => document.querySelector('.impasto.sidebar [role=status]')?.textContent")
    assert "does not answer" in sidebar.get_by_role("status").first.inner_text() and not reached
    page.tab.close()
