"""What the nodes that work for long have in common, their log, and the node that shows it."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path

from comfy_api.latest import io

from .. import job_log
from ..errors import SettingsError
from . import sockets
from .host import execution, memory
from .inputs import anew


def logged(name: str, folder: str | Path | None = None) -> AbstractContextManager[job_log.LoggedJob]:
    """A job of this process, with the memory that it holds; see `job_log.logged`."""
    return job_log.logged(name, folder, memory.held)


class JobLog(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoJobLog",
            display_name="Job Log",
            category="Impasto/Dataset",
            description="What was done to a dataset or a run, and what it took: each stage of loading, filtering, "
            "captioning, encoding, training and grids, with its seconds, pictures a second and memory.",
            search_aliases=["log", "timing", "throughput", "peak memory", "profile", "how long", "statistics"],
            is_output_node=True,
            inputs=[
                sockets.Dataset.Input(
                    "dataset", optional=True, tooltip="Whose loading, filtering and captioning are told."
                ),
                sockets.DatasetConfig.Input(
                    "dataset_config", optional=True, tooltip="Of which the encoding is told, and its dataset's jobs."
                ),
                sockets.Run.Input("run", optional=True, tooltip="Whose training and grids are told."),
                io.Int.Input("newest", default=20, min=1, max=1000, tooltip="So many jobs, the newest first."),
            ],
            outputs=[
                io.String.Output("report", tooltip="Each job with its stages, as text."),
                io.String.Output("json", tooltip="The same jobs as JSON, in seconds, items a second and bytes."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **values):
        return anew()  # jobs may have run since

    @classmethod
    def execute(cls, newest: int = 20, dataset=None, dataset_config=None, run=None) -> io.NodeOutput:
        folders = [
            *([dataset.folder] if dataset is not None else []),
            *([Path(dataset_config.path).parent] if dataset_config is not None else []),
            *([run.folder] if run is not None else []),
        ]
        if not folders:
            raise SettingsError("Job Log has nothing to look at. Connect a dataset, a dataset config or a run.")
        jobs = job_log.read_jobs(folders)[:newest]
        told = job_log.report(jobs)
        execution.progress()(1, 1, told)
        return io.NodeOutput(told, json.dumps(jobs, indent=1), ui={"text": (told,)})


NODES = [JobLog]
