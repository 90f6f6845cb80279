"""What the pack adds to ComfyUI's start."""

import json
import os
import subprocess
import sys

import pytest
from impasto.setup.serving import ComfyServer

from ..test_architecture import HEAVY

SECONDS = 0.3

# Loads what ComfyUI itself loads at start, then the pack by ComfyUI's own function, as for any custom node.
MEASURE = """
import asyncio, json, sys, time
import comfy.options
comfy.options.enable_args_parsing()
import execution, nodes, server
asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
loaded = set(sys.modules)
began = time.process_time()
succeeded = asyncio.run(nodes.load_custom_node(PACK, set(nodes.NODE_CLASS_MAPPINGS)))
seconds = time.process_time() - began
print(json.dumps({"succeeded": succeeded, "seconds": seconds, "modules": sorted(set(sys.modules) - loaded)}))
"""


@pytest.fixture(scope="module")
def start(server: ComfyServer) -> dict:
    """Seconds of processor time (unlike the clock, no other process adds to them) and modules that the pack brought."""
    pack = server.base / "custom_nodes" / "impasto"
    program = MEASURE.replace("PACK", repr(str(pack)))
    command = [sys.executable, "-c", program, "--cpu", "--base-directory", str(server.base)]
    environment = os.environ | {"PYTHONPATH": str(server.comfyui)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the server has written it, as any start of ComfyUI does
    done = subprocess.run(command, cwd=server.comfyui, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_pack_takes_under_a_third_of_a_second(start: dict):
    assert start["succeeded"]
    assert start["seconds"] < SECONDS


def test_importing_the_pack_loads_no_heavy_library(start: dict):
    assert not {module.split(".")[0] for module in start["modules"]} & HEAVY
