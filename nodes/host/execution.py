"""The graph that is being executed: progress, Cancel, blocked outputs, nodes run again, what was saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.cli_args
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.text_encoders.flux
import comfy.utils
import comfy.weight_adapter
from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder, is_link
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...errors import writable

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...progress import Progress

UNSAVED = "00000000-0000-0000-0000-000000000000"  # what the page calls a graph that never was in a file
PREVIEW_SIZE = 512  # pixels of the longer side of a live preview


def raise_if_cancelled() -> None:
    """Raise ComfyUI's `InterruptProcessingException` (a BaseException) if Cancel was pressed, and clear the flag."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def progress(pictures: bool = True) -> Progress:
    """A `Progress` that fills the executing node's bar, text and preview, and raises when Cancel was pressed.

    To be made inside `execute`: the node it belongs to is taken from ComfyUI's executing context.

    Args:
        pictures: False for a node that shows its own on the page; ComfyUI would draw each a second time.
    """
    context = get_executing_context()
    node_id = context.node_id if context else None
    bar = comfy.utils.ProgressBar(1, node_id=node_id)
    shown = ""

    def report(done: int, total: int, text: str = "", preview: Image | None = None) -> None:
        nonlocal shown
        raise_if_cancelled()
        text = writable(text)
        bar.update_absolute(done, max(total, 1), ("JPEG", preview, PREVIEW_SIZE) if preview and pictures else None)
        if text and text != shown and node_id is not None:
            shown = text
            server = PromptServer.instance
            server.send_progress_text(text, node_id, server.client_id)

    return report


def cancelled() -> BaseException:
    """What Cancel raises, for work that was stopped in another way: ComfyUI ends the prompt and shows no error."""
    return comfy.model_management.InterruptProcessingException()


def tell_of_run(run_id: str, about: Mapping[str, str]) -> None:
    """Tell the pages which run a node is about to train, or gives back.

    Args:
        about: as `place` gave it. A page knows its graph by `workflow`; without one, the page that queued it is told.
    """
    if server := getattr(PromptServer, "instance", None):  # there is none where a node is called by a script
        server.send_sync("impasto.run", {"run": run_id, **about}, None if about.get("workflow") else server.client_id)


def place(hidden: Any) -> dict[str, str]:
    """Where the executing node is: its id as `node`, the id of its `prompt`, and of its `workflow` where it has one.

    Args:
        hidden: a node's, with `extra_pnginfo`; None where it is called without ComfyUI's executor.
    """
    context = get_executing_context()
    sent = (getattr(hidden, "extra_pnginfo", None) or {}).get("workflow")
    workflow = sent.get("id") if isinstance(sent, dict) else None
    known = isinstance(workflow, str) and workflow != UNSAVED
    node, prompt = (context.node_id, context.prompt_id) if context else ("", "")
    return {"node": node, "prompt": prompt, "workflow": workflow if known else ""}


def blocked() -> ExecutionBlocker:
    """An output that keeps every node connected to it from running, without an error."""
    return ExecutionBlocker(None)


@dataclass(frozen=True)
class Expansion:
    """Nodes to run in place of one that has already run, the last of them with its outputs."""

    graph: dict[str, Any]
    node_id: str

    def outputs(self, number: int) -> list[list[Any]]:
        return [[self.node_id, index] for index in range(number)]


def run_again(
    dynprompt,
    node_id: str,
    own: dict[str, Any],
    source: str,
    change: Callable[[dict[str, Any]], dict[str, Any]],
) -> Expansion | None:
    """The nodes from `source` on that lead to this one, and this one, to be run a second time with other inputs.

    Args:
        dynprompt: the graph, from the hidden input of that name.
        node_id: the node that asks.
        own: those of its inputs that are different the second time.
        source: class name of the nodes where the second run begins; what only leads to these is not run again.
        change: the same for such a node, given its inputs as the graph has them: any may be a link.

    Returns:
        None where no such node leads to this one.
    """
    builder = GraphBuilder()
    copies: dict[str, Any] = {}

    def copied(original: str):
        if original not in copies:
            node = dynprompt.get_node(original)
            inputs = dict(node["inputs"])
            if node["class_type"] == source:
                inputs |= change(inputs)
            else:
                links = {name: value for name, value in inputs.items() if is_link(value)}
                again = {name: (copied(value[0]), value[1]) for name, value in links.items()}
                inputs |= {name: copy.out(index) for name, (copy, index) in again.items() if copy is not None}
                if all(copy is None for copy, _ in again.values()):
                    copies[original] = None
                    return None
            copies[original] = copy = builder.node(node["class_type"], original)
            copy.inputs |= inputs | (own if original == node_id else {})  # an input of another pack may be called "id"
            copy.set_override_display_id(dynprompt.get_display_node_id(original))
        return copies[original]

    last = copied(node_id)
    return last and Expansion(builder.finalize(), last.id)


def drop_outputs_afterwards() -> None:
    """Have ComfyUI forget all cached outputs once the running prompt has ended, as its POST /free does."""
    queue = PromptServer.instance.prompt_queue
    queue.set_flag("free_memory", True)
    if not queue.get_flags(reset=False).get("unload_models"):
        queue.set_flag("unload_models", False)  # else free_memory unloads the models as well


def graph_texts(hidden: Any) -> dict[str, str]:
    """The graph as core's Save Image writes it into a PNG, "prompt" and "workflow"; nothing with --disable-metadata.

    Args:
        hidden: a node's, with `prompt` and `extra_pnginfo`; None where it is called without ComfyUI's executor.
    """
    if hidden is None or comfy.cli_args.args.disable_metadata:
        return {}
    texts = {"prompt": json.dumps(hidden.prompt)} if hidden.prompt else {}
    return texts | {name: json.dumps(value) for name, value in (hidden.extra_pnginfo or {}).items()}


def prompt_id() -> str:
    """ComfyUI's id of the prompt that is being executed; empty outside of one."""
    context = get_executing_context()
    return context.prompt_id if context else ""


def saved_files(prompt: str) -> list[str]:
    """Files that an ended prompt saved to the output folder, as far as this server remembers it."""
    # Read in place: ComfyUI's own copy of an entry fails where another pack's output cannot be copied.
    history = PromptServer.instance.prompt_queue.get_history(prompt_id=prompt, map_function=files_shown)
    return history.get(prompt, [])


def files_shown(entry: Any) -> list[str]:
    """The files of the output folder in an entry of the history, in which a node of another pack may have shown
    anything at all.
    """
    outputs = entry.get("outputs") if isinstance(entry, dict) else None
    found = []
    for node in outputs.values() if isinstance(outputs, dict) else ():
        for items in node.values() if isinstance(node, dict) else ():
            for item in items if isinstance(items, list | tuple) else ():
                if isinstance(item, dict) and item.get("type") == "output":
                    names = item.get("subfolder"), item.get("filename")
                    if isinstance(names[1], str) and names[1]:
                        found.append("/".join(name for name in names if isinstance(name, str) and name))
    return found
