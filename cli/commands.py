"""The commands, what each takes, and the exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from ..client import SERVER, TOKEN, Client, NotReachable, RequestRefused
from ..errors import ImpastoError
from .shown import Output

DONE, FAILED, USAGE, NOT_REACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
STATUSES = f"""exit status:
  {DONE}    done; what was followed has come to its end
  {FAILED}    failed, refused, or stopped before its end: the last line says why
  {USAGE}    the command line is wrong
  {NOT_REACHABLE}    no server answers
  {INTERRUPTED}  interrupted by Ctrl-C; a training has saved the step that it was in"""

REQUESTS = {
    "stop": "have a run on a server save and stop",
    "finish": "have a run on a server end with the step it is in, as if no more had been asked for",
    "save": "have a run on a server save a checkpoint",
    "sample": "have a run on a server draw its prompts",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; `arguments` are those of the command line. Returns the exit status."""
    asked = parser().parse_args(arguments)
    output = Output(asked.json)
    module, _, name = asked.does.rpartition(".")
    try:
        return getattr(import_module(f".{module}", __package__), name)(asked, output)
    except NotReachable as error:
        output.error(str(error))
        return NOT_REACHABLE
    except RequestRefused as error:
        output.error(str(error), error.field)
        return FAILED
    except BrokenPipeError:  # whoever reads what we say has heard enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (ImpastoError, OSError) as error:
        output.error(str(error))
        return FAILED
    except KeyboardInterrupt as error:
        output.error(f"Interrupted. {error}".strip())
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    told = argparse.ArgumentParser(add_help=False)
    told.add_argument("--json", action="store_true", help="say everything as JSON, a value a line")
    served = argparse.ArgumentParser(add_help=False, parents=[told])
    served.add_argument(
        "--server",
        type=_server,
        default=SERVER,
        metavar="URL",
        help=f"a running ComfyUI (default {SERVER}); its token is ${TOKEN}",
    )
    program = argparse.ArgumentParser(
        prog="impasto",
        description="From paintings to a FLUX.1 style LoRA: runs in their folders, and jobs on a running ComfyUI.",
        epilog=STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = program.add_subparsers(required=True, metavar="command")

    def command(name: str, does: str, said: str, parent: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=said, description=f"{said[0].upper()}{said[1:]}.", parents=[parent])
        added.set_defaults(does=does)
        return added

    _add_local(command, told)
    _add_remote(command, served)
    return program


def _server(url: str) -> Client:
    try:
        return Client(url)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _add_local(command: Callable[..., argparse.ArgumentParser], told: argparse.ArgumentParser) -> None:
    listed = command("list", "local.listed", "the runs in a folder, that which was trained last first", told)
    listed.add_argument("runs", nargs="?", help="the folder of runs (default: that of the ComfyUI here)")
    train = command("train", "local.train", "train the run in a folder; Ctrl-C saves and stops", told)
    train.add_argument("run", help="the run's folder, with its settings.toml")
    train.add_argument("--cpu", action="store_true", help="on the CPU, whatever accelerators there are")
    train.add_argument("--profile", metavar="FILE", help="a configuration of accelerate, for several GPUs")
    train.add_argument("--publish", metavar="FOLDER", help="put the LoRAs there, as in ComfyUI's output/loras")
    report = command("report", "local.report", "a page on the run in a folder: loss, samples, settings", told)
    report.add_argument("run", help="the run's folder")
    report.add_argument(
        "--to", metavar="FILE", help=".html for the page, .png for its loss alone (default <run id>.html)"
    )


def _add_remote(command: Callable[..., argparse.ArgumentParser], served: argparse.ArgumentParser) -> None:
    followed = argparse.ArgumentParser(add_help=False, parents=[served])
    followed.add_argument("--no-wait", action="store_true", help="say the job's id and leave it to the server")
    status = command("status", "remote.status", "how far a run or a job is", served)
    status.add_argument("run", help="the run's folder; or on a server the id of a run or a job, or 'latest'")
    status.add_argument("--follow", action="store_true", help="until it has ended")
    command("health", "remote.health", "whether a server is well: devices, memory, queue, versions", served)
    command("runs", "remote.runs", "the runs on a server", served)
    job = command("job", "remote.job", "post a job to a server and follow it: train, run, caption-images, …", followed)
    job.add_argument("job", help="as the route is called: download-images, caption-images, create-dataset-config, …")
    job.add_argument("fields", nargs="*", metavar="name=value", help="name=@file takes the lines of a file")
    job.add_argument("--body", metavar="FILE", help="fields as JSON")
    queue = command("queue", "remote.queue", "put a workflow into a server's queue and follow it", followed)
    queue.add_argument("workflow", help="a file, in API format or as ComfyUI's page saves it")
    queue.add_argument(
        "--set", action="append", default=[], metavar="node.input=value", help="a node by its id, its title or its type"
    )
    for name, said in REQUESTS.items():
        asked = command(name, "remote.request", said, served)
        asked.add_argument("run", help="the run's id")
        asked.set_defaults(request=name)
    cancel = command("cancel", "remote.cancel", "take a job out of a server's queue, or have it stop", served)
    cancel.add_argument("job", help="the job's id")
    go_on = command("continue", "remote.go_on", "have a run on a server go on, or train for more steps", followed)
    go_on.add_argument("run", help="the run's id, or its job's")
    go_on.add_argument("--steps", type=int, metavar="N", help="more steps, of a run that is finished")
