"""`python -m impasto.mcp`: the routes of a running server as tools of the Model Context Protocol, over standard input.

The tools are what the server's OpenAPI document says that there is; nothing about single routes is known here. Needs
the official SDK, package `mcp`, of this module's name: it is found because this folder is not on the module path.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from . import worker
from .client import SERVER, TOKEN, Client, NotReachable, RequestRefused
from .errors import ImpastoError

JSON = "application/json"
OWN = "impasto_"  # in every operation's id
ANSWER = 3_700.0  # seconds: what is waited for by itself waits for an hour


class SdkMissing(ImpastoError):
    """The package `mcp` is not installed; the text says what installs it."""


@dataclass(frozen=True)
class RouteTool:
    """A route as a tool: `inputs` is the JSON Schema of its arguments, those of the path and the query among them."""

    name: str
    summary: str
    method: str
    path: str
    inputs: dict[str, Any]
    in_path: tuple[str, ...]
    in_query: tuple[str, ...]

    def call(self, client: Client, arguments: Mapping[str, Any]) -> Any:
        rest = dict(arguments)
        path = self.path
        for name in self.in_path:
            path = path.replace(f"{{{name}}}", client.quoted(str(rest.pop(name, ""))))
        query = {name: rest.pop(name) for name in self.in_query if name in rest}
        if self.method == "post":
            return client.post(path, rest)
        return client.get(path, **query)


def operations(document: Mapping[str, Any]) -> dict[str, RouteTool]:
    """The routes of an OpenAPI document that answer with JSON, by the names of their tools."""
    found = {}
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            answered = [set(answer.get("content", ())) for answer in told["responses"].values()]
            if all(JSON in media for media in answered) and not path.endswith("openapi.json"):
                operation = _operation(document, path, method, told)
                found[operation.name] = operation
    return found


def _operation(document: Mapping[str, Any], path: str, method: str, told: Mapping[str, Any]) -> RouteTool:
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    if body := told.get("requestBody"):
        schemas = document["components"]["schemas"]
        name = body["content"][JSON]["schema"]["$ref"].rpartition("/")[2]
        # References are within the document; a tool's schema stands alone.
        whole = json.loads(json.dumps(schemas).replace("#/components/schemas/", "#/$defs/"))
        schema = whole[name] | {"$defs": {other: whole[other] for other in _used(whole, name)}}
    places: dict[str, list[str]] = {"path": [], "query": []}
    for parameter in told["parameters"]:
        places[parameter["in"]].append(parameter["name"])
        described = parameter["schema"] | {"description": parameter.get("description", "")}
        schema["properties"] = schema["properties"] | {parameter["name"]: described}
    schema["required"] = [*schema.get("required", ()), *places["path"]]
    name = told["operationId"].replace(OWN, "")
    return RouteTool(name, told["summary"], method, path, schema, tuple(places["path"]), tuple(places["query"]))


def _used(schemas: Mapping[str, Any], name: str) -> set[str]:
    """The schemas that one refers to, also by way of others."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        text = json.dumps(schemas[waiting.pop()])
        new = {other for other in schemas if f'"#/$defs/{other}"' in text} - found
        found |= new
        waiting += new
    return found


async def serve(client: Client) -> None:
    """Answer on standard input and output until the input ends.

    Raises:
        SdkMissing: the SDK is not installed.
        NotReachable, RequestRefused: the server does not give its OpenAPI document.
    """
    try:
        lowlevel, stdio = import_module("mcp.server.lowlevel"), import_module("mcp.server.stdio")
        types = import_module("mcp_types")
    except ImportError as error:
        raise SdkMissing(f"The official SDK is not installed: pip install 'mcp>=2.3' ({error}).") from error
    offered = operations(client.get("/impasto/openapi.json"))

    async def list_tools(context: Any, asked: Any) -> Any:
        tools = [
            types.Tool(name=each.name, description=each.summary, input_schema=each.inputs) for each in offered.values()
        ]
        return types.ListToolsResult(tools=tools)

    async def call_tool(context: Any, asked: Any) -> Any:
        failed = False
        try:
            if asked.name not in offered:
                raise ImpastoError(f"There is no tool '{asked.name}'. There are: {', '.join(offered)}.")
            told = await asyncio.to_thread(offered[asked.name].call, client, asked.arguments or {})
            said = json.dumps(told)
        except (ImpastoError, NotReachable, RequestRefused) as error:
            said, failed = str(error), True
        return types.CallToolResult(content=[types.TextContent(type="text", text=said)], is_error=failed)

    server = lowlevel.Server("impasto", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio.stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def main() -> int:
    """Exit status: 0 when the input has ended, 1 where the SDK or the server is not there."""
    parser = argparse.ArgumentParser(prog="impasto.mcp", description="Impasto's jobs as tools of MCP, over stdio.")
    parser.add_argument("--server", default=SERVER, help=f"a running ComfyUI (default {SERVER}); token: ${TOKEN}")
    asked = parser.parse_args()
    worker.leave_out(worker.PACK)
    try:
        asyncio.run(serve(Client(asked.server, timeout=ANSWER)))
    except (SdkMissing, NotReachable, RequestRefused, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
