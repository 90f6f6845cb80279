"""The node that shows what a dataset consists of."""

from __future__ import annotations

import functools
import json

from comfy_api.latest import io

from ..curation.statistics import draw, sheet, statistics
from ..dataset.buckets import Buckets, assign
from ..dataset.config_reader import read
from ..dataset.config_schema import KEYS
from ..dataset.schema_key import BUCKETS
from ..drawing.charts import check as check_charts
from ..drawing.palette import theme_of
from . import results, sockets
from .captions import token_counts
from .host import execution, sampling
from .inputs import theme_input


def _buckets_as_written(resolution: int) -> Buckets:
    """Those of a config that Dataset TOML Writer writes with this resolution and its widgets as they come."""
    defaults = {key.name: key.written_default for key in KEYS if key.part == BUCKETS and key.name != "resolution"}
    given = defaults | {
        "enable_bucket": True,
        "min_bucket_reso": min(defaults["min_bucket_reso"], resolution),
        "max_bucket_reso": max(defaults["max_bucket_reso"], 2 * resolution),
    }
    return Buckets((resolution, resolution), **given)


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
                    tooltip="Training size in pixels for which the aspect buckets are counted, without dataset_config.",
                ),
                sockets.DatasetConfig.Input(
                    "dataset_config",
                    optional=True,
                    tooltip="From Dataset TOML Writer: buckets are counted as training with this config makes them.",
                ),
                theme_input(),
            ],
            outputs=[
                io.Image.Output("figure", tooltip="All charts on one picture."),
                io.Image.Output("contact_sheet", tooltip="Up to 60 pictures, evenly spaced through the dataset."),
                io.String.Output("json", tooltip="The same numbers as JSON."),
            ],
        )

    @classmethod
    def execute(cls, dataset, resolution: int, dataset_config=None, theme="light") -> io.NodeOutput:
        if dataset_config is None:
            buckets, whose = _buckets_as_written(resolution), "by Dataset TOML Writer's defaults"
        else:
            buckets, whose = read(dataset_config.path).datasets[0].buckets, "as dataset_config has them"
            width, height = buckets.resolution
            resolution = round((width * height) ** 0.5)
        bucket = functools.partial(assign, buckets=buckets)
        check_charts()  # before anything is measured
        colours = theme_of(theme)
        found = statistics(dataset, resolution, bucket, token_counts, execution.progress(), whose)
        pictures = [sampling.image_batch([picture]) for picture in (draw(found, colours), sheet(dataset, colours))]
        numbers = json.dumps(found.as_json(), indent=2, ensure_ascii=False)
        told = f"{found.pictures} pictures, {found.captions} with a caption, in {len(found.buckets)} buckets"
        return io.NodeOutput(*pictures, numbers, ui=results.said(told))


NODES = [DatasetStatistics]
