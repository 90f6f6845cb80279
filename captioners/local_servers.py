"""Whether a server is there at all: told at once, before pictures are encoded and attempts are spaced out."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
from urllib.parse import urlsplit

from ..errors import CaptionError
from .keys import Endpoint, without_keys

LOCAL, REMOTE = 1.5, 10.0  # seconds for a connection, to a server of this network and to one elsewhere
_STARTS = {
    "ollama": "Start Ollama (its app, or: ollama serve)",
    "lm-studio": "Load a model in LM Studio and start its server (Developer, Start server)",
    "vllm": "Start it (vllm serve MODEL)",
    "llama.cpp": "Start it (llama-server -m MODEL.gguf --mmproj PROJECTOR.gguf)",
}


async def look_for(endpoint: Endpoint) -> None:
    """Connect to a server once, and say nothing.

    Raises:
        CaptionError: nobody listens there.
    """
    address = urlsplit(endpoint.base_url)
    try:
        host, port = address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
        patience = LOCAL if is_local(host) else REMOTE
        connecting = asyncio.open_connection(host, port, happy_eyeballs_delay=0.25)
        _, writer = await asyncio.wait_for(connecting, patience)
    except asyncio.TimeoutError:
        reason = f"it did not answer within {patience:g} s"
    except (OSError, ValueError) as error:
        reason = without_keys(str(error) or type(error).__name__, [endpoint.key])
    else:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return
    start = _STARTS.get(endpoint.name, "Start it")
    raise CaptionError(
        f"No server '{endpoint.name}' is at {address.scheme}://{host_and_port(endpoint)}: {reason}. {start}, or have "
        "its base_url in openai.toml corrected, and queue again."
    )


def is_local(host: str) -> bool:
    """Whether a host is of this machine or its own network: by address, or by a name without a domain."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or bool(re.search(r"\.(?:local|localhost|lan|home|internal)$", host, re.IGNORECASE))


def host_and_port(endpoint: Endpoint) -> str:
    """The part of an address that may be shown: without the name and password that may stand before it."""
    return urlsplit(endpoint.base_url).netloc.rpartition("@")[2]
