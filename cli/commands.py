"""The commands, what each takes, and the exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from ..client import SERVER, TOKEN, NotReachable, RequestRefused
from ..errors import ImpastoError
from .shown import Output

DONE, FAILED, USAGE, NOT_REACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
STATUSES = f"""exit status:
  {DONE}    done; with --follow and --wait, what was followed has finished
  {FAILED}    failed, refused, or stopped before its end: the last line says why
  {USAGE}    the command line is wrong
  {NOT_REACHABLE}    no server answers
  {INTERRUPTED}  interrupted by Ctrl-C; a training has saved the step that it was in"""


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
    except KeyboardInterrupt:
        output.error("Interrupted.")
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    told = argparse.ArgumentParser(add_help=False)
    told.add_argument("--json", action="store_true", help="say everything as JSON, a value a line")
    served = argparse.ArgumentParser(add_help=False, parents=[told])
    served.add_argument(
        "--server", default=SERVER, metavar="URL", help=f"a running ComfyUI (default {SERVER}); its token is ${TOKEN}"
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
    return program


def _add_local(command, told: argparse.ArgumentParser) -> None:
    listed = command("list", "local.listed", "the runs in a folder, that which was trained last first", told)
    listed.add_argument("runs", nargs="?", help="the folder of runs (default: that of the ComfyUI here)")
    status = command("status", "local.status", "how far the run in a folder is", told)
    status.add_argument("run", help="the run's folder")
    status.add_argument("--follow", action="store_true", help="until no trainer is at work on it any more")
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
