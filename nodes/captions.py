"""Nodes that caption datasets."""

from __future__ import annotations

from comfy_api.latest import io

from ..captioners.metadata import Wording, caption_from_labels
from . import host, sockets


class ImpastoMetadataCaptioner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoMetadataCaptioner",
            display_name="Metadata Captioner",
            category="Impasto/Captions",
            description=(
                "Captions each picture from its own labels, by what it shows: '<trigger word>, a landscape'. "
                "The style is not named, so that the trigger word learns it. Needs no model and no network."
            ),
            search_aliases=["caption", "trigger word", "labels", "genre", "tags", "captioner"],
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="The dataset to caption. It stays as it is."),
                io.String.Input(
                    "trigger_word",
                    default="",
                    placeholder="a rare word, for example mntgrdn",
                    tooltip="Put in front of every caption; say it in a prompt to call the style. Empty for none.",
                ),
                io.Boolean.Input(
                    "name_artist",
                    default=False,
                    optional=True,
                    tooltip="Also name the artist where known. The name then learns part of the style.",
                ),
            ],
            outputs=[
                sockets.Dataset.Output("dataset", tooltip="The dataset with a caption for every picture."),
                io.String.Output(
                    "report", tooltip="How many captions were written, how many differ, and some of them."
                ),
            ],
        )

    @classmethod
    def execute(cls, dataset, trigger_word: str, name_artist: bool = False) -> io.NodeOutput:
        captioned, report = caption_from_labels(dataset, Wording(trigger_word, name_artist), host.progress())
        return io.NodeOutput(captioned, report)


NODES = [ImpastoMetadataCaptioner]
