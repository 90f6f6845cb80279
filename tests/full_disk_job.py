"""A process of its own, with mounts of its own: what a small job says on a disk that fills or becomes read-only.

`full_disk_job.py <folder> <report.json>`; the folder's `disk` is a small file system that ends with the process.
"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
runpy.run_path(str(TESTS / "conftest.py"))  # makes the repository importable as `impasto`
sys.path.insert(0, str(TESTS))

import torch  # noqa: E402
from disk_writers import fill  # noqa: E402
from impasto.files import disk_error  # noqa: E402
from small_job import SmallJob, write_inputs  # noqa: E402

SIZE = 12 << 20  # bytes of the file system
STAGES = ("", "load", "caption", "config", "encode", "begin", "checkpoint", "train")  # "": before the first


def main(folder: Path, report: Path) -> None:
    inputs = write_inputs(folder / "inputs")
    wanted = SmallJob(inputs, folder / "roomy").queue()
    disk = folder / "disk"
    disk.mkdir()
    told = {}
    for kind in ("full", "read-only"):
        for stage in STAGES:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], check=True)
            told[f"{kind} after '{stage}'"] = tried(SmallJob(inputs, disk), kind, stage, wanted)
            subprocess.run(["umount", str(disk)], check=True)
    report.write_text(json.dumps(told))


def tried(job: SmallJob, kind: str, stage: str, wanted: dict[str, torch.Tensor]) -> tuple[str, str, bool]:
    """Names of the error's class and of its parents, its text, and whether the job then came to the same."""
    kinds = text = ""
    spoilt = False

    def spoil(done: str) -> None:
        nonlocal spoilt
        if done == stage and not spoilt:
            spoilt = True
            if kind == "full":
                fill(job.disk)
            else:
                subprocess.run(["mount", "-o", "remount,ro", str(job.disk)], check=True)

    try:
        spoil("")
        job.queue(after_stage=spoil)
    except Exception as raised:
        error = disk_error(raised) or raised  # as the nodes tell it
        kinds, text = " ".join(parent.__name__ for parent in type(error).__mro__), str(error)
    subprocess.run(["mount", "-o", "remount,rw", str(job.disk)], check=True)
    (job.disk / "filler").unlink(missing_ok=True)
    found = job.queue()
    same = found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)
    return kinds, text, same


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
