"""A module of the pack in a process of its own, which outlives the one that started it: `worker.py <module>`.

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
from pathlib import Path

PACK = Path(__file__).resolve().parent


def start(module: str) -> subprocess.Popen[bytes]:
    """Start `main` of a module ("captioners.apart"): its input and output are pipes, its errors go where ours do."""
    return subprocess.Popen(
        # A Python that leaves the user's own packages out, as ComfyUI portable's does, leaves them out there too.
        [sys.executable, *(["-s"] if sys.flags.no_user_site else []), str(PACK / "worker.py"), module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Ctrl-C in ComfyUI's terminal must reach it as the end of its input, not as a signal.
        start_new_session=True,
        # The same on Windows, and no window where ComfyUI has none.
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def end_of_input() -> threading.Event:
    """An event that is set when standard input ends, or the system asks this process to end (a service's restart)."""
    ended = threading.Event()
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), lambda *_: ended.set())

    def wait() -> None:
        # Not through sys.stdin: its lock, held by this thread, would abort the interpreter when it ends.
        while os.read(0, 1):
            pass
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    return ended


def load_pack() -> None:
    """Make the pack's folder importable as `impasto`."""
    spec = importlib.util.spec_from_file_location(
        "impasto", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["impasto"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    # Where a script lies; `files` or `nodes` must not be found there as modules of their own.
    sys.path[:] = [folder for folder in sys.path if folder != str(PACK)]
    load_pack()
    sys.exit(importlib.import_module(f"impasto.{sys.argv[1]}").main())
