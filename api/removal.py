"""Removing a run at a person's word. What was published of it, its LoRAs in ComfyUI's list, stays."""

from __future__ import annotations

import logging
import shutil

from ..files import writing
from .models import Remove
from .routing import Call, Refused, Reply
from .runs import run_of

logger = logging.getLogger(__name__)

REMOVED = ".removed-"  # begins the name of a folder that is no run any more


def remove(call: Call) -> Reply:
    """Delete the folder of a run, whose own id the path and the body name.

    Raises:
        Refused: it is not confirmed, a trainer is at work on it, or its folder is a link to another place.
        DiskError: it cannot be moved out of the way; nothing of it is lost.
    """
    from filelock import FileLock, Timeout

    run = run_of(call)
    body: Remove = call.body
    if body.confirm != run.id or call.path["run_id"] != run.id:
        raise Refused(f"To delete the run '{run.id}', name it and send its id as 'confirm'.", "confirm")
    if run.path.is_symlink():
        raise Refused(f"{run.path} is a link to another folder: remove it by hand.", "run_id", 409)
    try:
        with FileLock(run.path / "run.lock", timeout=0):
            pass  # not held on: Windows renames no folder with an open file in it
    except Timeout as error:
        raise Refused(f"The run '{run.id}' is being trained. Stop it, then delete it.", "run_id", 409) from error
    gone = run.path.with_name(REMOVED + run.id)
    with writing(run.path):
        shutil.rmtree(gone, ignore_errors=True)  # what an earlier attempt left
        run.path.rename(gone)  # so that nothing ever finds half a run
    shutil.rmtree(gone, onerror=lambda _, path, error: logger.warning("%s is left: %s", path, error[1]))
    return Reply({"deleted": run.id})
