"""The node that shows what a dataset consists of."""

from __future__ import annotations

import functools
import json

from comfy_api.latest import io

from ..curation.statistics import draw, sheet, statistics
from ..dataset.buckets import Buckets, assign
from ..drawing.charts import check as check_charts
from . import sockets
from .captions import token_counts
from .host import execution, sampling

BUCKET_STEP = 64  # pixels; the defaults of Dataset TOML Writer
SHORTEST_BUCKET = 256
LONGEST_BUCKET = 1024


class DatasetStatistics(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoDatasetStatistics",
            display_name="Dataset Statistics",
            category="Impasto/Dataset",
            description=(
                "Shows what a dataset consists of: genres, styles, artists, sizes, aspect buckets, caption lengths in "
                "tokens and colourfulness as one figure, a contact sheet of its pictures, and the numbers as JSON."
            ),
            search_aliases=["dataset report", "chart", "histogram", "contact sheet", "caption length", "buckets"],
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="The dataset to look at. It stays as it is."),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=64,
                    max=4096,
                    step=64,
                    tooltip="Training size in pixels for which the aspect buckets are counted.",
                ),
            ],
            outputs=[
                io.Image.Output("figure", tooltip="All charts on one picture."),
                io.Image.Output("contact_sheet", tooltip="Up to 60 pictures, evenly spaced through the dataset."),
                io.String.Output("json", tooltip="The same numbers as JSON."),
            ],
        )

    @classmethod
    def execute(cls, dataset, resolution: int) -> io.NodeOutput:
        buckets = Buckets(
            (resolution, resolution),
            enable_bucket=True,
            bucket_reso_steps=BUCKET_STEP,
            min_bucket_reso=min(SHORTEST_BUCKET, resolution),
            max_bucket_reso=max(LONGEST_BUCKET, 2 * resolution),
        )
        bucket = functools.partial(assign, buckets=buckets)
        check_charts()  # before anything is measured
        found = statistics(dataset, resolution, bucket, token_counts, execution.progress())
        pictures = [sampling.image_batch([picture]) for picture in (draw(found), sheet(dataset))]
        return io.NodeOutput(*pictures, json.dumps(found.as_json(), indent=2, ensure_ascii=False))


NODES = [DatasetStatistics]
