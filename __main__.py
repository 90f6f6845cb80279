"""`python -m impasto <command>`, where pip has installed the pack; `python <folder of the pack> <command>` elsewhere.

Nothing needs to be installed for the latter: `worker` loads the pack from whatever folder it lies in.
"""

import sys
from importlib import import_module

if __package__:
    program = import_module(".cli.commands", __package__)
else:
    worker = import_module("worker")
    del sys.path[0]  # this folder: `files` or `nodes` must not be modules of their own
    worker.load_pack()
    program = import_module("impasto.cli.commands")

if __name__ == "__main__":
    sys.exit(program.main())
