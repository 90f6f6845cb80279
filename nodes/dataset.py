"""Nodes that make a dataset of paintings, and filter it."""

from __future__ import annotations

import functools

from comfy_api.latest import io

from ..curation.duplicates import GREATEST_DISTANCE
from ..curation.keeping import read_keep
from ..curation.quality import DEFAULT_MIN_BYTES_PER_PIXEL, WIDGETS, Thresholds, filter_quality
from ..curation.watched import set_aside
from ..dataset import watch_list
from ..dataset.labels import ANY
from ..dataset.wikiart_labels import GENRES, STYLES
from ..drawing.charts import no_charts
from ..drawing.palette import theme_of
from ..embedded.paintings import EMBEDDED_SOURCES, paint_embedded_source
from ..errors import ImpastoError
from ..job_log import stage
from ..sources.import_pictures import dataset_folder
from ..sources.opening import source_fingerprint
from ..sources.parquet import parse_columns
from ..sources.plan import AUTO, CHEAP, EVEN, Request, more_spare
from ..sources.quotas import parse_quotas
from ..sources.wikiart import load_paintings
from . import sockets
from .host import encoders, execution, folders, sampling
from .inputs import (
    anew,
    field_input,
    keep_input,
    keep_metadata_input,
    max_per_artist_input,
    over_links,
    refused,
    seed_input,
    theme_input,
    watched_input,
)
from .jobs import logged

CATEGORY = "Impasto/Dataset"
MOST_SPARE = 2000  # percent
MOST_TOP_UPS = 1000  # several Dataset Compositions may ask the same loader
# Of the quality filter: optional, so that a graph sent over the API without them gets the defaults.
_optional = functools.partial(field_input, Thresholds(), optional=True)
_share = functools.partial(_optional, io.Float, min=0.0, max=1.0, step=0.01)
_switch = functools.partial(_optional, io.Boolean)


class WikiArtLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoWikiArtLoader",
            display_name="WikiArt Loader",
            category=CATEGORY,
            description=(
                "Chooses paintings by style, genre and artist from a Hugging Face repository, a local folder or "
                "WikiArt.org, and stores them as a dataset. The choice is seeded and spread over artists; only the "
                "chosen are fetched."
            ),
            search_aliases=["wikiart", "paintings", "load dataset", "parquet", "huggan/wikiart", "hugging face", "art"],
            inputs=[*_source_inputs(), *_choice_inputs()],
            outputs=[
                sockets.Dataset.Output("dataset", tooltip="The dataset, without captions unless the source has some."),
                io.String.Output("report", tooltip="How many paintings were available, asked for and taken."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls, style: str | None = None, genre: str | None = None, quotas: str | None = None, columns: str | None = None
    ) -> bool | str:
        """Accept labels that are not in the lists: another source has its own. `execute` looks for them there.

        None comes over a link.
        """
        return refused(
            ("style", style, str),
            ("genre", genre, str),
            ("quotas", quotas, parse_quotas),
            ("columns", columns, parse_columns),
        )

    @classmethod
    def fingerprint_inputs(cls, source: str | None = None, **others: object) -> str | float:
        """Choose again when the source's files have changed."""
        if over_links(source):
            return anew()
        try:
            return source_fingerprint(folders.datasets_roots(), source)
        except ImpastoError:  # `execute` will say what is wrong
            return ""

    @classmethod
    def execute(cls, plan_only: bool = False, spare: int = 0, top_ups: int = 0, **asked) -> io.NodeOutput:
        for _ in range(top_ups):
            spare = min(more_spare(spare), MOST_SPARE)
        request, roots = Request(spare=spare, **asked), folders.datasets_roots()
        with logged("WikiArt Loader", None if plan_only else dataset_folder(roots, request.name)):
            if (source := request.source.strip()) in EMBEDDED_SOURCES:
                with stage("paint the embedded source"):
                    paint_embedded_source(roots, source, execution.progress())
            loaded = load_paintings(roots, request, execution.progress(), plan_only)
        return io.NodeOutput(loaded.dataset or execution.blocked(), loaded.report)


def _source_inputs() -> list[io.Input]:
    """What is taken, and what it is called."""
    over_api = "Over the API any label of the source is accepted."
    return [
        io.String.Input(
            "source",
            default="embedded-wikiart",
            tooltip="A Hugging Face dataset, owner/name or owner/name@revision (huggan/wikiart); a folder "
            "in ComfyUI's datasets folder with parquet files or the ArtGAN archive in it; or wikiart.org "
            "(slow: the site allows 400 requests an hour).",
        ),
        io.Combo.Input(
            "style", options=[ANY, *STYLES], default=ANY, tooltip=f"Style label to take, or any. {over_api}"
        ),
        io.Combo.Input(
            "genre", options=[ANY, *GENRES], default=ANY, tooltip=f"Genre label to take, or any. {over_api}"
        ),
        io.String.Input(
            "artist",
            default=ANY,
            tooltip="Artist to take, or any: 'claude-monet' and 'Claude Monet' are the same.",
        ),
        io.Int.Input(
            "count",
            default=100,
            min=1,
            max=100_000,
            tooltip="How many paintings to take. Where fewer match, all are taken and the report says so.",
        ),
        seed_input("Another seed, another choice. The same seed and source give the same pictures."),
        io.String.Input(
            "name",
            default="paintings",
            tooltip="Name of the dataset: a folder of this name appears under ComfyUI's datasets folder.",
        ),
    ]


def _choice_inputs() -> list[io.Input]:
    """How the choice is spread, and where from; optional, so that a graph sent over the API can leave them out."""
    return [
        io.Boolean.Input(
            "plan_only",
            default=False,
            optional=True,
            tooltip="Report what is available and what fetching it would take, fetch nothing, and run no node "
            "that needs the dataset.",
        ),
        io.String.Input(
            "quotas",
            multiline=True,
            default="",
            optional=True,
            tooltip="One 'landscape: 300' per line, or 'artist=Claude Monet: 40'; then count is not used.",
        ),
        max_per_artist_input(
            "At most this many paintings of one artist; 0 for any number. Unknown artists are not counted.",
            optional=True,
        ),
        io.Int.Input(
            "spare",
            default=0,
            min=0,
            max=MOST_SPARE,
            optional=True,
            advanced=True,
            tooltip="Percent more than asked for, so that enough survive a filter. Dataset Composition takes "
            "what was asked for.",
        ),
        io.Combo.Input(
            "prefer",
            options=[AUTO, EVEN, CHEAP],
            default=AUTO,
            optional=True,
            advanced=True,
            tooltip="From Hugging Face: as many of each artist, or as little to fetch as quotas and "
            "max_per_artist allow; automatic is the latter where max_per_artist is set. plan_only tells both.",
        ),
        io.String.Input(
            "columns",
            multiline=True,
            default="",
            optional=True,
            advanced=True,
            tooltip="What the source calls its columns, where they are not found: lines like 'genre: subject', "
            "for image, artist, genre, style, title, date, text or rights.",
        ),
        keep_metadata_input(),
        io.Int.Input(
            "top_ups",
            default=0,
            min=0,
            max=MOST_TOP_UPS,
            optional=True,
            advanced=True,
            tooltip="How often Dataset Composition has asked for more, which it counts here by itself: each time spare "
            "is doubled, and 50 percent more.",
        ),
    ]


class QualityFilter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoQualityFilter",
            display_name="Quality Filter",
            category=CATEGORY,
            description=(
                "Refuses pictures that are too small, too narrow, too heavily compressed, blurred, empty, damaged or "
                "there twice; with a CLIP vision model it also finds what is unlike the rest. Every refusal is "
                "recorded with what was measured; measurements are kept, so that other thresholds take no time."
            ),
            search_aliases=[
                "filter dataset",
                "remove bad images",
                "blur",
                "near duplicates",
                "sepia",
                "crop borders",
                "outliers",
            ],
            inputs=_called(
                sockets.Dataset.Input("dataset", tooltip="The dataset to filter. It stays as it is."),
                io.Int.Input(
                    "min_side", default=512, min=0, max=16384, tooltip="Least length of the shorter side, in pixels."
                ),
                io.Float.Input(
                    "max_aspect",
                    default=2.0,
                    min=1.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Greatest ratio of the longer side to the shorter.",
                ),
                io.Float.Input(
                    "min_bytes_per_pixel",
                    default=DEFAULT_MIN_BYTES_PER_PIXEL,
                    min=0.0,
                    max=3.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Least bytes per pixel of the original file; less shows compression blocks. 0 for any.",
                ),
                *_photograph_inputs(),
                *_subject_inputs(),
                *_style_inputs(),
                theme_input(advanced=True),
                watched_input("They are set aside with that reason, until they are off the list."),
                keep_input(),
            ),
            outputs=[
                sockets.Dataset.Output("dataset", tooltip="The pictures that passed."),
                io.Image.Output(
                    "rejected", tooltip="Contact sheet of the refused pictures with the reason under each."
                ),
                io.String.Output("report", tooltip="How many were kept, and why each of the others was refused."),
                io.Image.Output(
                    "histograms", tooltip="A histogram of each measure with its threshold, to see where to put it."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, keep: str | None = None) -> bool | str:
        return refused(("keep", keep, read_keep))

    @classmethod
    def execute(cls, dataset, clip_vision=None, theme="light", watched="", keep="", **thresholds) -> io.NodeOutput:
        dataset, aside = set_aside(dataset, watch_list.read(watched))
        encoder = encoders.picture_encoder(clip_vision) if clip_vision else None
        colours = theme_of(theme)
        with logged("Quality Filter", dataset.folder):
            filtered = filter_quality(dataset, Thresholds(**thresholds), execution.progress(), encoder, read_keep(keep))
            with stage("draw sheet and histograms"):
                drawn = filtered.sheet(colours), filtered.histograms(colours)
                pictures = [sampling.image_batch([picture]) for picture in drawn]
        told = f"{aside} pictures on the list of watched ones were set aside before." if aside else ""
        report = "\n".join(filter(None, [filtered.report, told, no_charts()]))
        measured = {"impasto_filtered": [{"name": dataset.name, "revision": dataset.revision}]}  # web/filter_bench.js
        return io.NodeOutput(filtered.dataset, pictures[0], report, pictures[1], ui=measured)


def _called(*inputs: io.Input) -> list[io.Input]:
    """The inputs, each called as under its histogram."""
    for given in inputs:
        given.display_name = WIDGETS.get(given.id)
    return list(inputs)


def _photograph_inputs() -> list[io.Input]:
    """How well the picture was taken and kept."""
    return [
        _optional(
            io.Int,
            "min_jpeg_quality",
            "Least JPEG quality, told from the quantisation tables. 0 for any; other formats always pass.",
            min=0,
            max=100,
            advanced=True,
        ),
        _optional(
            io.Float,
            "min_sharpness",
            "Least fine detail for the picture's contrast, so that fog is not blur: blurred 0.05, crisp 0.3.",
            min=0.0,
            max=2.0,
            step=0.01,
        ),
        _share(
            "min_highlight",
            "The brightest hundredth must reach this: refuses black pictures, not dark ones.",
            advanced=True,
        ),
        _share(
            "max_shadow",
            "The darkest hundredth must be under this: refuses blank pictures, not pale ones.",
            advanced=True,
        ),
        _optional(
            io.Float,
            "min_entropy",
            "Least bits of information in the tones. A painting has 6 to 7.5, an empty sheet under 1.",
            min=0.0,
            max=8.0,
            step=0.1,
            advanced=True,
        ),
        _optional(
            io.Float,
            "min_colour",
            "Least colour that brightness alone does not foretell: 2 refuses greyscale and sepia. 0 for any.",
            min=0.0,
            max=50.0,
            step=0.5,
            advanced=True,
        ),
    ]


def _subject_inputs() -> list[io.Input]:
    """What the picture is of, and how much of it."""
    return [
        _share(
            "max_border",
            "Greatest share of the area that may be border (even colour with a straight edge).",
            advanced=True,
        ),
        _optional(
            io.Int,
            "duplicate_distance",
            "Pictures whose perceptual hashes differ in this many of 64 bits or fewer are the same; the largest stays. "
            "-1 keeps duplicates.",
            min=-1,
            max=GREATEST_DISTANCE,
        ),
        _switch("refuse_sketches", "Refuse pictures of the genre sketch_and_study.", advanced=True),
        _switch("refuse_unknown_genre", "Refuse pictures whose genre is unknown.", advanced=True),
        _switch("crop_borders", "Store a copy without its border in place of each bordered picture.", advanced=True),
    ]


def _style_inputs() -> list[io.Input]:
    return [
        io.ClipVision.Input(
            "clip_vision",
            optional=True,
            tooltip="From Load CLIP Vision: scores each picture by its likeness to the whole set and reports those "
            "that stand out.",
        ),
        _optional(
            io.Float,
            "min_style",
            "With clip_vision: least likeness (cosine) to the set's centroid. -1 refuses none, only reports.",
            min=-1.0,
            max=1.0,
            step=0.01,
            advanced=True,
        ),
    ]


NODES = [WikiArtLoader, QualityFilter]
