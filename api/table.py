"""The routes there are, one row each."""

from __future__ import annotations

from .routing import PREFIX, Route

ROUTES = (
    Route("GET", f"{PREFIX}/runs", "runs.listed", "The training runs, that which was trained last first."),
    Route("GET", f"{PREFIX}/runs/{{run_id}}", "runs.described", "How far a run is, and what it has made."),
    Route("GET", f"{PREFIX}/runs/{{run_id}}/metrics", "runs.metrics", "Loss and learning rate of its steps."),
    Route("GET", f"{PREFIX}/runs/{{run_id}}/log", "runs.log", "The last lines of its log."),
    Route("GET", f"{PREFIX}/runs/{{run_id}}/files/{{file:.+}}", "runs.file", "A file that it has made."),
    Route("GET", f"{PREFIX}/datasets", "datasets.listed", "The datasets, that which was changed last first."),
    Route("GET", f"{PREFIX}/datasets/{{name}}", "datasets.described", "Its pictures and captions, a page at a time."),
    Route("GET", f"{PREFIX}/datasets/{{name}}/thumbnails/{{picture}}", "datasets.small_picture", "A small copy."),
)
