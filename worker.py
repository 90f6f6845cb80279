"""A module in a process of its own, which outlives the one that started it: `worker.py <module> <arguments>`.

Whoever reaches ComfyUI's port may write files under `output`, `input` and `temp`. So no process of ours runs there, or
looks there for modules and configuration: this is the one place where they are started.

It loads the pack from the folder it lies in, so that nothing needs to be installed for it, and calls the module's
`main`. The end of its standard input is the request to finish what is under way and stop: it comes when the parent
closes the pipe, and also when the parent dies. A polite signal is the same request.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

PACK = Path(__file__).resolve().parent
# What torchrun, accelerate, SLURM's and MPI's launchers tell the processes of *their* group. A ComfyUI that was started
# by one passes it on, and the child would wait for ranks that never come; our own launcher sets what its children need.
OF_A_LAUNCHER = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "NODE_RANK"}
OF_A_LAUNCHER_FROM = ("ACCELERATE_", "FSDP_", "DEEPSPEED_", "MASTER_", "TORCHELASTIC_", "OMPI_", "PMI_", "MV2_")


def start(
    module: str,
    *arguments: str,
    folder: Path = PACK,
    output: int | IO[bytes] = subprocess.PIPE,
    errors: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `main` of a module ("accelerate.commands.launch"); its input is a pipe.

    Args:
        arguments: its `sys.argv` behind the module's name.
        folder: its working directory, made if it is not there; no request may write there.
        output: where its standard output goes; a pipe if not given.
        errors: where its standard error goes; where ours does if not given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(PACK / "worker.py"), module, *arguments],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=errors,
        cwd=folder,
        env=environment(),
        # Ctrl-C in ComfyUI's terminal must reach it as the end of its input, not as a signal.
        start_new_session=True,
        # The same on Windows, and no window where ComfyUI has none.
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def environment() -> dict[str, str]:
    """The variables of such a process and of those that it starts: as ours, but modules come from whole paths only,
    and a launcher's that started us stay behind."""
    passed_on = {name: value for name, value in os.environ.items() if not _is_of_a_launcher(name)}
    # An empty or a relative one would be the folder that a process happens to run in.
    whole = [path for path in passed_on.pop("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(path)]
    if whole:
        passed_on["PYTHONPATH"] = os.pathsep.join(whole)
    # Python 3.11 on: neither the working directory (-c, -m) nor a script's folder is on the module path. Before, the
    # working directory is `start`'s, and the scripts leave their folder out themselves.
    passed_on["PYTHONSAFEPATH"] = "1"
    # A Python that leaves the user's own packages out, as ComfyUI portable's does, leaves them out there too.
    return passed_on | ({"PYTHONNOUSERSITE": "1"} if sys.flags.no_user_site else {})


def _is_of_a_launcher(name: str) -> bool:
    return name.upper() in OF_A_LAUNCHER or name.upper().startswith(OF_A_LAUNCHER_FROM)


def end_of_input(heard: Callable[[bytes], object] = lambda letter: None) -> threading.Event:
    """An event that is set when standard input ends, or the system asks this process to end (a service's restart).

    Args:
        heard: called with each byte that is read before that, in a thread of its own.
    """
    ended = threading.Event()
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), lambda *_: ended.set())

    def wait() -> None:
        # Not through sys.stdin: its lock, held by this thread, would abort the interpreter when it ends.
        while letter := os.read(0, 1):
            heard(letter)
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    return ended


def load_pack() -> None:
    """Make the pack's folder importable as `impasto`."""
    spec = importlib.util.spec_from_file_location(
        "impasto", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    if spec is None or spec.loader is None:  # of a file that ends in .py there is always one
        raise ImportError(f"{PACK} cannot be loaded as a package.")
    package = importlib.util.module_from_spec(spec)
    sys.modules["impasto"] = package
    spec.loader.exec_module(package)


def leave_out(folder: Path) -> None:
    """Have no module found in a script's folder: `files` or `nodes` must not be modules of their own."""
    sys.path[:] = [path for path in sys.path if path != str(folder)]


if __name__ == "__main__":
    leave_out(PACK)
    load_pack()
    del sys.argv[0]
    sys.exit(importlib.import_module(sys.argv[0]).main())
