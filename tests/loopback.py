"""An aiohttp application on loopback, for stand-ins of what the pack talks to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from aiohttp import web


@contextlib.contextmanager
def serving(application: web.Application, **options: object) -> Iterator[str]:
    """Serve from a thread of its own on a free port of 127.0.0.1, and yield the address; `options` of AppRunner."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(application, **({"shutdown_timeout": 0.1} | options))

    async def start() -> str:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
