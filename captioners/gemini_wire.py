"""The way to Gemini: google-genai, through the system's proxy, telling when a request has left."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from .. import installation
from ..errors import CaptionError

REQUIREMENT = "google-genai>=2.33"  # as in pyproject's extra "gemini"
on_sent: ContextVar[Callable[[], None]] = ContextVar("on_sent")  # called when this task's request has left


def google_genai() -> Any:
    """The package, imported when the first picture is sent: it takes half a second.

    Raises:
        CaptionError: it is not installed.
    """
    try:
        from google import genai
    except ImportError:
        raise CaptionError(
            "The Gemini Captioner needs the package google-genai, which is not installed. Install it into ComfyUI's "
            f"Python and restart ComfyUI:\n{installation.command(REQUIREMENT)}"
        ) from None
    # Its log lines carry whole requests at the debug level.
    logging.getLogger("google_genai").setLevel(logging.WARNING)
    return genai


def http_library() -> Any:
    """What google-genai itself speaks HTTP with: httpx2 from version 3 on, httpx before."""
    try:
        import httpx2

        return httpx2
    except ModuleNotFoundError:
        import httpx

        return httpx


def proxy_for(url: str) -> str | None:
    """The address of the proxy that the system's settings (HTTPS_PROXY, NO_PROXY …) have for `url`."""
    service, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(service.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(service.hostname or ""):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def transport(proxy: str | None) -> Any:
    """HTTP that tells `on_sent` when a request is on its way: building many at once takes longer than sending one.

    Raises:
        CaptionError: the proxy is of a kind that cannot be used.
    """
    http = http_library()

    class Transport(http.AsyncHTTPTransport):
        async def handle_async_request(self, request: Any) -> Any:
            async def trace(event: str, _: Any) -> None:
                if event.endswith("send_request_body.complete"):  # encode.io/httpcore: extensions, "trace"
                    on_sent.get()()

            request.extensions = {**request.extensions, "trace": trace}
            return await super().handle_async_request(request)

    try:
        return Transport(proxy=proxy)
    except (ImportError, ValueError):  # the text may quote the address, and a password in it
        raise CaptionError(
            "The proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names is of a kind that cannot be used here. Name one "
            "that begins with http://, or install socksio into ComfyUI's Python for one that begins with socks5://."
        ) from None
