"""The routes as tools of the Model Context Protocol, asked by the official SDK's own client over stdio."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import impasto
import pytest
from impasto.mcp import operations
from impasto.setup.serving import ComfyServer

REPOSITORY = Path(impasto.__file__).resolve().parent
CLIENT = """
import asyncio, json, os, sys
from mcp.client import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client

async def main():
    command = ["-P", "-m", "impasto.mcp", "--server", sys.argv[1]]
    async with stdio_client(StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))) as ends:
        async with ClientSession(*ends) as session:
            await session.initialize()
            told = {"tools": {tool.name: tool.input_schema for tool in (await session.list_tools()).tools}}
            for name, arguments in json.loads(sys.argv[2]):
                answer = await session.call_tool(name, arguments)
                told.setdefault("answers", []).append([answer.is_error, answer.content[0].text])
            print(json.dumps(told))

asyncio.run(main())
"""


def ask(server: ComfyServer, installed: Path, calls: list[tuple[str, dict]]) -> dict:
    """What the SDK's client is told, with the pack installed in a folder under its name."""
    (installed / "impasto").symlink_to(REPOSITORY, target_is_directory=True)
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-P", "-c", CLIENT, server.url, json.dumps(calls)],
        env=os.environ | {"PYTHONPATH": path},
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(find_spec("mcp_types") is None, reason="needs the SDK: pip install 'mcp>=2.3'")
def test_a_job_is_posted_as_a_tool_and_told_of_by_another(server: ComfyServer, tmp_path: Path):
    wikiart = {"source": "embedded-wikiart", "count": 2}
    job = {"output_name": "by mcp", "wikiart": wikiart, "steps": 1, "resolution": 128, "pretrained_model": "tiny-flux"}
    job["job_id"] = "00000000-0000-4000-8000-00000000000a"
    told = ask(
        server,
        tmp_path,
        [
            ("get_health", {}),
            ("post_run", job),
            ("get_status_run_id", {"run_id": job["job_id"]}),
            ("post_train", {"output_name": "no such dataset", "learning_rate": 3}),
            ("post_jobs_job_id_cancel", {"job_id": job["job_id"]}),
            ("paint", {}),
        ],
    )
    assert {"output_name", "urls"} == set(told["tools"]["post_download_images"]["required"])
    assert told["tools"]["get_status_run_id"]["required"] == ["run_id"]
    health, posted, status, refused, cancelled, unknown = told["answers"]
    assert [failed for failed, _ in told["answers"]] == [False, False, False, True, False, True]
    assert json.loads(health[1])["status"] == "ok" and json.loads(posted[1])["job_id"] == job["job_id"]
    assert json.loads(status[1])["kind"] == "run" and json.loads(status[1])["job_id"] == job["job_id"]
    assert "learning_rate is 3" in refused[1] and json.loads(cancelled[1])["job_id"] == job["job_id"]
    assert "There is no tool 'paint'" in unknown[1]


def test_every_schema_of_a_tool_stands_alone():
    from impasto.api.openapi import document
    from impasto.api.routing import Call, Places

    offered = operations(document(Call(Places(REPOSITORY, REPOSITORY, (), REPOSITORY))).value)
    assert {"post_run", "post_train", "get_status_run_id", "get_runs_run_id_metrics"} <= set(offered)
    assert not [name for name in offered if "file" in name or "events" in name or "openapi" in name]
    for operation in offered.values():
        text = json.dumps(operation.inputs)
        assert "#/components" not in text and operation.inputs["type"] == "object"
        assert all(name in operation.inputs["properties"] for name in operation.inputs["required"])
        named = set(re.findall(r"#/\$defs/(\w+)", text))
        assert named <= set(operation.inputs.get("$defs", {}))
