"""What the pack adds to ComfyUI's start."""

import json
import os
import subprocess
import sys

import pytest
from impasto.setup.serving import ComfyServer

from ..test_architecture import HEAVY

SHARE = 0.08  # of what ComfyUI itself takes to load; it was 0.04, 0.3 of 8 seconds

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
measured = {"succeeded": succeeded, "own": began, "seconds": seconds}
print(json.dumps(measured | {"modules": sorted(set(sys.modules) - loaded)}))
"""


@pytest.fixture(scope="module")
def start(server: ComfyServer) -> dict:
    """Processor time of ComfyUI's own modules and of the pack, in seconds, and the modules that the pack brought."""
    pack = server.base / "custom_nodes" / "impasto"
    program = MEASURE.replace("PACK", repr(str(pack)))
    command = [sys.executable, "-c", program, "--cpu", "--base-directory", str(server.base)]
    environment = os.environ | {"PYTHONPATH": str(server.comfyui)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the server has written it, as any start of ComfyUI does
    done = subprocess.run(command, cwd=server.comfyui, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_pack_takes_a_small_part_of_comfyuis_own_start(start: dict):
    assert start["succeeded"]
    assert start["seconds"] < SHARE * start["own"]


def test_importing_the_pack_loads_no_heavy_library(start: dict):
    assert not {module.split(".")[0] for module in start["modules"]} & HEAVY
