"""The main job on a real ComfyUI: paint pictures, queue the first shipped graph, show it, tell what was learned."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import comfy_cli, comfyui, learned
from .environment import BASE, HOME, REPOSITORY, accelerator
from .serving import ComfyServer, Interrupted, NodeFailed, PromptRefused, Result, ServerFailed, port_is_free
from .steps import Screen

WORKFLOW = REPOSITORY / "workflows" / "01 Quickstart, train a style LoRA without a download.json"
SERVE_PORT = 8188  # ComfyUI's own, where a person looks for it
TRAINER = "ImpastoFluxLoraTrainer"


def main() -> int:
    parser = argparse.ArgumentParser(prog="quickstart.sh", description="Run Impasto's main job on a real ComfyUI.")
    parser.add_argument("--serve", action="store_true", help="leave the server running afterwards, until Ctrl-C")
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="another graph in UI format")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends everything just as Ctrl-C does
    screen = Screen()
    server = make_server(arguments.serve)
    try:
        paint(screen)
        start(server, screen)
        run(server, arguments.workflow, screen)
        if arguments.serve:
            serve(server, arguments.workflow, screen)
    except KeyboardInterrupt:
        screen.line()
        screen.line("Stopping. What is on disk stays; run the same command again to go on from there.")
        return 130
    except (ServerFailed, PromptRefused, NodeFailed, Interrupted, comfy_cli.ComfyCliFailed) as failure:
        screen.line()
        screen.line(f"{failure}\nThe server's log: {server.log}")
        return 1
    finally:
        server.stop()
    return 0


def make_server(serve: bool) -> ComfyServer:
    options = ("--disable-api-nodes",)  # ComfyUI's paid partner nodes: they need an account and the internet
    if not torch_sees_accelerator():
        options += ("--cpu",)
    port = SERVE_PORT if serve and port_is_free(SERVE_PORT) else None
    log = HOME / "log" / "server.log"
    log.write_bytes(b"")
    return ComfyServer(comfyui.find(HOME).path, BASE, log, port, options)


def torch_sees_accelerator() -> bool:
    if accelerator() is None:
        return False
    question = "import sys, torch; sys.exit(not (torch.cuda.is_available() or torch.backends.mps.is_available()))"
    return subprocess.run([sys.executable, "-c", question]).returncode == 0


def paint(screen: Screen) -> None:
    """Make the embedded paintings, unless they are there: parquet shards in the form of the real WikiArt set."""
    from ..embedded.paintings import paint_embedded_source

    began = time.monotonic()

    def report(done: int, total: int, text: str = "", preview: object = None) -> None:
        screen.alive(f"  Paintings        {time.monotonic() - began:6.1f} s  {done}/{total}")

    folder = paint_embedded_source(BASE / "datasets", "embedded-brushwork", report)
    screen.line(f"  Paintings        {time.monotonic() - began:6.1f} s  {folder}")


def start(server: ComfyServer, screen: Screen) -> None:
    began = time.monotonic()
    screen.alive("  Server …")
    server.start()
    device = "on the CPU" if "--cpu" in server.options else "with the GPU"
    screen.line(f"  Server           {time.monotonic() - began:6.1f} s  {server.url} {device}, log {server.log}")


def run(server: ComfyServer, workflow: Path, screen: Screen) -> None:
    """Queue the workflow, show each node as it runs, then say where everything is."""
    graph = json.loads(workflow.read_text(encoding="utf-8"))
    prompt = comfy_cli.to_api(HOME, workflow, server.port)
    screen.line(f"Running {workflow} ({len(prompt)} nodes)")
    began = time.monotonic()
    result = server.submit(prompt, graph, Narrator(prompt, screen)).wait()
    screen.line()
    screen.line(f"The graph took {duration(time.monotonic() - began)}; of that")
    for node, seconds in sorted(result.seconds.items(), key=lambda item: -item[1])[:8]:
        screen.line(f"  {duration(seconds):>9}  {title(prompt, node)}")
    if result.cached:
        screen.line(f"  and {len(result.cached)} nodes were unchanged since the last run of this server.")
    sum_up(server, prompt, result, screen)


class Narrator:
    """Shows the server's messages as one line per node, with its progress while it runs."""

    def __init__(self, prompt: dict[str, Any], screen: Screen) -> None:
        self._prompt, self._screen = prompt, screen
        self._node: str | None = None
        self._count = 0
        self._began = 0.0
        self._bar = self._text = ""

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "executing":
            self._finish()
            self._node, self._began, self._bar, self._text = data["node"], time.monotonic(), "", ""
            self._count += 1
        elif kind == "progress" and data.get("max", 0) > 1:
            self._bar = f"{data['value']}/{data['max']}"
        elif kind == "progress_text" and data["node"] == self._node:
            lines = (line.rstrip(".") for line in data["text"].splitlines())
            self._text = ", ".join(lines)  # a thought a line on the node, one line here
        if self._node is not None:
            self._screen.alive(self._line())

    def _line(self) -> str:
        seconds = time.monotonic() - self._began
        step = f"[{self._count}/{len(self._prompt)}]"
        return f"  {step:>7} {title(self._prompt, self._node):<34} {seconds:6.1f} s  {self._bar}  {self._text}".rstrip()

    def _finish(self) -> None:
        if self._node is not None:
            self._screen.line(self._line())


def sum_up(server: ComfyServer, prompt: dict[str, Any], result: Result, screen: Screen) -> None:
    """Print the files that were made, the time of the setup's steps and the peak memory."""
    screen.line("What was made:")
    for lora in loras(server.base, prompt):
        screen.line(f"  LoRA: {lora}")
    for node in result.outputs:
        for file in server.output_files(result, node):
            if file.is_relative_to(server.base / "output"):  # previews go when the server does
                screen.line(f"  {title(prompt, node)}: {file}")
    tell_what_was_learned(server.base, prompt, screen)
    setup = HOME / "log" / "setup.json"
    steps = json.loads(setup.read_text()) if setup.is_file() else {}
    screen.line("Setup: " + ", ".join(f"{name} {duration(seconds)}" for name, seconds in steps.items()))
    trainer = latest_run(server.base)
    memory = f"server {size(server.peak_memory())}, trainer {size(trainer.get('peak_memory'))}"
    if on_device := trainer.get("peak_device_memory"):
        memory += f" and {size(on_device)} on the GPU"
    screen.line(f"Peak memory: {memory}")


def tell_what_was_learned(base: Path, prompt: dict[str, Any], screen: Screen) -> None:
    """Judge samples drawn with each LoRA that was taught to the tiny FLUX that draws; of other graphs, say nothing."""
    trigger = learned.trigger_word(prompt)
    for lora in loras(base, prompt) if trigger is not None else ():
        screen.alive("  Drawing scenes that were not trained on, before and after …")
        screen.line(f"What {lora.stem} learned: {learned.what_was_learned(lora, trigger, comfyui.find(HOME).path)}.")


def loras(base: Path, prompt: dict[str, Any]) -> list[Path]:
    """The finished LoRA file of each trainer in the prompt."""
    names = [node["inputs"].get("name") for node in prompt.values() if node["class_type"] == TRAINER]
    files = [base / "output" / "loras" / name / f"{name}.safetensors" for name in names if isinstance(name, str)]
    return [file for file in files if file.is_file()]


def latest_run(base: Path) -> dict[str, Any]:
    """What the latest training run says of itself in its status file; nothing if there is none."""
    statuses = (base / "output" / "impasto" / "runs").glob("*/status.json")
    latest = max(statuses, key=lambda path: path.stat().st_mtime, default=None)
    return json.loads(latest.read_text()) if latest else {}


def serve(server: ComfyServer, workflow: Path, screen: Screen) -> None:
    """Keep the server until it ends or Ctrl-C, with the workflow among those that the browser lists."""
    listed = BASE / "user" / "default" / "workflows" / f"impasto-{workflow.name}"
    listed.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(workflow, listed)
    screen.line()
    screen.line(f"ComfyUI is running at {server.url}")
    screen.line(f"Open {listed.stem} from its Workflows panel. Ctrl-C here stops the server.")
    server.process.wait()
    raise ServerFailed(f"ComfyUI ended.\n{server.log_tail()}")


def title(prompt: dict[str, Any], node: str | None) -> str:
    """What the graph calls a node."""
    entry = prompt.get(str(node).split(".")[0], {})  # a node expanded at run time bears its parent's id before the dot
    return entry.get("_meta", {}).get("title") or entry.get("class_type") or f"node {node}"


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def size(memory: int | None) -> str:
    return "not known" if memory is None else f"{memory / 1e9:.2f} GB"


if __name__ == "__main__":
    sys.exit(main())
