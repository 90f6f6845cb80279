"""The node that takes up a dataset that is there already."""

from __future__ import annotations

from comfy_api.latest import io

from ..dataset.stored import stored_dataset, stored_names
from ..errors import ImpastoError
from . import results, sockets
from .host import folders
from .inputs import anew, over_links, refused


class DatasetByName(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoDatasetByName",
            display_name="Dataset by Name",
            category="Impasto/Dataset",
            description=(
                "Takes up a dataset that was made before, as it was left by the node that wrote it last: loaded, "
                "filtered or captioned. Nothing is fetched or changed."
            ),
            search_aliases=["existing dataset", "load dataset", "dataset loader", "reopen dataset"],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=stored_names(folders.datasets_roots()),
                    tooltip="A dataset in ComfyUI's datasets folder.",
                ),
                io.String.Input(
                    "revision",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="An earlier state of it: the name of a file in its folder manifests. Empty for the newest.",
                ),
            ],
            outputs=[
                sockets.Dataset.Output("dataset", tooltip="The dataset, with the captions that it has."),
                io.String.Output("report", tooltip="How many pictures it has, and how many of them have a caption."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None, revision: str | None = "") -> bool | str:
        """Accept datasets made after the list was; the revision belongs to the dataset."""
        if not isinstance(revision, str | None):
            return "revision takes a text."
        return refused(("name", name, lambda given: stored_dataset(folders.datasets_roots(), given, revision or "")))

    @classmethod
    def fingerprint_inputs(cls, name: str | None = None, revision: str | None = "", **others: object) -> str | float:
        """Take it up again when another node has written a revision of it."""
        if over_links(name, revision):
            return anew()
        try:
            return stored_dataset(folders.datasets_roots(), name, revision.strip()).revision
        except (ImpastoError, OSError) as error:
            return str(error)  # execute says it in full

    @classmethod
    def execute(cls, name: str, revision: str = "") -> io.NodeOutput:
        dataset = stored_dataset(folders.datasets_roots(), name, revision.strip())
        records = dataset.records()
        captioned = sum(bool(record.text) for record in records)
        report = f"{len(records)} pictures, {captioned} with a caption\nrevision {dataset.revision}"
        return io.NodeOutput(dataset, report, ui=results.said(f"{dataset.name}: {report}"))


NODES = [DatasetByName]
