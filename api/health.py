"""Whether the server is well."""

from __future__ import annotations

from .routing import Call, Refused, Reply


def health(call: Call) -> Reply:
    if call.host is None:
        raise Refused("There is no ComfyUI to ask.", status=503)
    return Reply({"status": "ok", **call.host.health()})
