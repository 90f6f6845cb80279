"""ComfyUI's own queue, as routes use it: a graph is put in, told of and cancelled like any that a person queues."""

from __future__ import annotations

import asyncio
import copy
import platform
import sys
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import comfy.model_management
import execution
import folder_paths
from comfy_execution.progress import get_progress_state
from server import PromptServer

from ... import installation
from ...api.routing import JobState, Refused
from ..results import MADE
from . import base_loader, memory, version
from .workflow import filled, to_workflow

MOST_WAITING = 1_000  # jobs in the queue, whoever queued them
VALIDATING = 60.0  # seconds


class Queue:
    """`api.routing.Host`.

    Args:
        loop: ComfyUI's, in which it validates graphs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def post(self, job_id: str, graph: Mapping[str, Any]) -> None:
        prompt, extra, outputs = self._in_loop(_checked(job_id, filled(graph)))
        workflow = to_workflow(prompt)  # in this thread: in ComfyUI's loop all others would wait for it
        extra["extra_pnginfo"] = {"workflow": workflow} | extra.get("extra_pnginfo", {})
        self._in_loop(_put(job_id, prompt, extra, outputs))

    def _in_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(VALIDATING)

    def state(self, job_id: str) -> JobState | None:
        return state(job_id)

    def cancel(self, job_id: str) -> bool:
        queue = PromptServer.instance.prompt_queue
        # In this order, since one that waits may begin meanwhile.
        return queue.delete_queue_item(lambda item: item[1] == job_id) or queue.interrupt_if_running(job_id)

    def models(self, folder: str) -> list[str]:
        return folder_paths.get_filename_list(folder)

    def loader_of(self, weights: Path, fingerprint: str) -> dict[str, Any] | None:
        return base_loader.loader_of(weights, fingerprint)

    def health(self) -> dict[str, Any]:
        running, waiting = PromptServer.instance.prompt_queue.get_current_queue_volatile()
        now = memory.memory_state()
        return {
            "gpu": _gpu_load(),
            "cpu": _cpu_load(),
            "devices": [vars(device) for device in now.devices],
            "memory": {"total": now.host_total, "free": now.host_free, "held": now.resident},
            "queue": {"running": len(running), "pending": len(waiting)},
            "versions": {
                "impasto": installation.version(),
                "comfyui": version.known(),
                "python": platform.python_version(),
                "torch": sys.modules["torch"].__version__,
            },
        }


async def _checked(job_id: str, graph: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The prompt, what goes with it and its output nodes, as core's POST /prompt has them; but that a graph is refused
    whole if any of its nodes is.
    """
    server = PromptServer.instance
    if server.prompt_queue.get_tasks_remaining() >= MOST_WAITING:
        raise Refused(f"{MOST_WAITING:,} jobs are waiting already. Ask again when some have ended.", status=429)
    # A copy: what handles and executes a prompt writes into it.
    asked = server.trigger_on_prompt({"prompt": copy.deepcopy(graph), "prompt_id": job_id})
    prompt = asked["prompt"]
    server.node_replace_manager.apply_replacements(prompt)
    valid, error, outputs, node_errors = await execution.validate_prompt(job_id, prompt, None)
    if not valid or node_errors:
        raise Refused(_refusal(error, node_errors, prompt), status=400)
    return prompt, dict(asked.get("extra_data", {})), outputs


async def _put(job_id: str, prompt: dict[str, Any], extra: dict[str, Any], outputs: list[str]) -> None:
    server = PromptServer.instance
    extra["create_time"] = int(time.time() * 1000)
    number = server.number
    server.number += 1
    server.prompt_queue.put((number, job_id, prompt, extra, outputs, {}))


def _refusal(error: Any, node_errors: Mapping[str, Any], prompt: Mapping[str, Any]) -> str:
    said = [
        f"{prompt[node].get('_meta', {}).get('title') or prompt[node]['class_type']}: "
        f"{each.get('details') or each.get('message')}"
        for node, found in node_errors.items()
        for each in found.get("errors", ())
    ]
    if not said and isinstance(error, Mapping):
        said = [f"{error.get('message', '')} {error.get('details', '')}".strip()]
    return "\n".join(dict.fromkeys(said)) or "ComfyUI does not take the graph of this request."


def state(job_id: str) -> JobState | None:
    """What the queue and the history say of a job; None where neither knows it."""
    queue = PromptServer.instance.prompt_queue
    with queue.mutex:  # so that it is not missed between the two
        running, waiting = queue.get_current_queue_volatile()
        ended = queue.get_history(prompt_id=job_id, map_function=_ended).get(job_id)
    if any(item[1] == job_id for item in running):
        return _running(next(item for item in running if item[1] == job_id))
    for item in waiting:
        if item[1] == job_id:
            return JobState("pending", ahead=len(running) + sum(other[0] < item[0] for other in waiting))
    return ended


def _running(item: tuple) -> JobState:
    job_id, prompt = item[1], item[2]
    registry = get_progress_state()
    if registry is None or registry.prompt_id != job_id:
        return JobState("running")
    at_work = [(name, each) for name, each in list(registry.nodes.items()) if each["state"].value == "running"]
    if not at_work:
        return JobState("running")
    name, each = at_work[-1]
    node = prompt.get(str(name).split(".")[0], {})
    doing = node.get("_meta", {}).get("title") or node.get("class_type", "")
    return JobState("running", doing=doing, done=int(each["value"]), total=int(each["max"]))


def _ended(entry: Any) -> JobState:
    """An entry of the history, in which a node of another pack may have shown anything at all."""
    status = entry.get("status") or {}
    outputs = entry.get("outputs")
    made = [
        each
        for shown in (outputs.values() if isinstance(outputs, dict) else ())
        for each in (shown.get(MADE, ()) if isinstance(shown, dict) else ())
        if isinstance(each, dict)
    ]
    said = {kind: data for kind, data in status.get("messages", ())}
    if "execution_interrupted" in said:
        return JobState("stopped", made=tuple(made))
    if status.get("status_str") == "error":
        error = said.get("execution_error", {}).get("exception_message", "The job failed; ComfyUI's log says how.")
        return JobState("failed", error=str(error).strip(), made=tuple(made))
    return JobState("done", made=tuple(made))


def _cpu_load() -> float:
    """Percent since the last look, of all processors."""
    import psutil

    return psutil.cpu_percent()


def _gpu_load() -> int | None:
    """Percent of the first device, where its driver tells it."""
    import torch

    try:
        return torch.cuda.utilization() if comfy.model_management.is_nvidia() else None
    except (ImportError, RuntimeError):  # without NVML for Python
        return None
