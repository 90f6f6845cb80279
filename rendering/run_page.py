"""A run on one page of HTML, to be sent to somebody: how far it is, its loss, what it drew on the way, its settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..dataset.pictures import PictureRefused, thumbnail
from ..drawing.page import escaped, image, table, whole
from ..trainers.run.folder import Job, Run
from .loss_plot import loss_plot

if TYPE_CHECKING:
    from PIL import Image

PICTURES = (".png", ".jpg", ".webp")
SHOWN_SIDE = 384  # pixels of what was drawn at a step
MOST_SHOWN = 100  # steps; of more the last


def loss_of(run: Run) -> Image.Image:
    """The run's loss with all that is marked on it.

    Raises:
        TrainingError: no step has been measured yet.
    """
    return loss_plot(run.metrics(), run.name, run.id, [*run.checkpoints()], [*run.samples()])


def run_page(run: Run) -> str:
    """The page, which needs nothing beside it and loads nothing.

    Raises:
        TrainingError: as `loss_of`; or the folder is no run's.
    """
    job, status = Job.read(run), run.status()
    told: dict[str, Any] = {
        "run": run.id,
        "state": status.get("state", "new"),
        "step": f"{max(run.checkpoints(), default=0)} saved, of {job.settings.steps}",
        "best step": run.best_step(),
        "base model": job.weights,
        "continues": job.continued_from,
        "warning": status.get("warning"),
        "error": status.get("error"),
    }
    parts = [table({name: value for name, value in told.items() if value}), image(loss_of(run), "The loss by step")]
    drawn = list(_drawn(run))
    if drawn:
        parts.append("<h2>Drawn on the way</h2>" + "".join(drawn))
    parts.append("<h2>Settings</h2>" + table(job.settings.to_dict()))
    return whole(run.name, parts)


def _drawn(run: Run) -> Iterator[str]:
    """The pictures beside the samples, by step; one that is damaged is left out of the page with a word."""
    for step, sample in [*run.samples().items()][-MOST_SHOWN:]:
        for file in sorted(file for file in sample.parent.iterdir() if file.suffix in PICTURES):
            words = f"step {step}"
            try:
                shown = image(thumbnail(file, SHOWN_SIDE), words)
            except PictureRefused as error:
                shown, words = "", f"{words}: {error}"
            yield f"<figure>{shown}<figcaption>{escaped(words)}</figcaption></figure>"
