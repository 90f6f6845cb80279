"""Nodes that make, filter and write datasets."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..curation.duplicates import GREATEST_DISTANCE
from ..curation.labels import ANY
from ..curation.plan import AUTO, CHEAP, EVEN, Request
from ..curation.quality import DEFAULT_MIN_BYTES_PER_PIXEL, Thresholds, filter_quality
from ..curation.toml import INTERPOLATIONS, TARGETS, TomlSettings, write_dataset_toml
from ..curation.wikiart import load_paintings, source_fingerprint
from ..embedded.paintings import EMBEDDED_SOURCE, paint_embedded_source
from ..errors import ImpastoError
from ..wikiart_labels import GENRES, STYLES
from . import host, sockets

CATEGORY = "Impasto/Dataset"
MOST_SPARE = 2000  # percent
TRAINERS_OWN = "trainer's own"


class ImpastoWikiArtLoader(io.ComfyNode):
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
            inputs=[
                io.String.Input(
                    "source",
                    default="embedded-wikiart",
                    tooltip="A Hugging Face dataset, owner/name or owner/name@revision (huggan/wikiart); a folder "
                    "in ComfyUI's datasets folder with parquet files or the ArtGAN archive in it; or wikiart.org "
                    "(slow: the site allows 400 requests an hour).",
                ),
                io.Combo.Input(
                    "style",
                    options=[ANY, *STYLES],
                    default=ANY,
                    tooltip="Style label to take, or any. Over the API any label of the source is accepted.",
                ),
                io.Combo.Input(
                    "genre",
                    options=[ANY, *GENRES],
                    default=ANY,
                    tooltip="Genre label to take, or any. Over the API any label of the source is accepted.",
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
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFF_FFFF_FFFF_FFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Another seed, another choice. The same seed and source give the same pictures.",
                ),
                io.String.Input(
                    "name",
                    default="paintings",
                    tooltip="Name of the dataset: a folder of this name appears under ComfyUI's datasets folder.",
                ),
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
                io.Int.Input(
                    "max_per_artist",
                    default=0,
                    min=0,
                    max=100_000,
                    optional=True,
                    tooltip="At most this many paintings of one artist; 0 for any number. Unknown artists are not "
                    "counted.",
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
            ],
            outputs=[
                sockets.Dataset.Output("dataset", tooltip="The dataset, without captions unless the source has some."),
                io.String.Output("report", tooltip="How many paintings were available, asked for and taken."),
            ],
        )

    @classmethod
    def validate_inputs(cls, style: str, genre: str) -> bool | str:
        """Accept labels that are not in the lists: another source has its own. `execute` looks for them there."""
        return all(isinstance(label, str) for label in (style, genre)) or "style and genre are labels, or 'any'"

    @classmethod
    def fingerprint_inputs(cls, source: str, **others: object) -> str:
        """Choose again when the source's files have changed."""
        try:
            return source_fingerprint(host.datasets_root(), source)
        except ImpastoError:  # `execute` will say what is wrong
            return ""

    @classmethod
    def execute(cls, plan_only: bool = False, **asked) -> io.NodeOutput:
        if asked["source"].strip() == EMBEDDED_SOURCE:
            paint_embedded_source(host.datasets_root(), host.progress())
        loaded = load_paintings(host.datasets_root(), Request(**asked), host.progress(), plan_only=plan_only)
        return io.NodeOutput(loaded.dataset or host.blocked(), loaded.report)


class ImpastoQualityFilter(io.ComfyNode):
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
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="The dataset to filter. It stays as it is."),
                io.Int.Input(
                    "min_side", default=512, min=0, max=16384, tooltip="Least length of the shorter side, in pixels."
                ),
                io.Float.Input(
                    "max_aspect",
                    default=2.0,
                    min=1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Greatest ratio of the longer side to the shorter.",
                ),
                io.Float.Input(
                    "min_bytes_per_pixel",
                    default=DEFAULT_MIN_BYTES_PER_PIXEL,
                    min=0.0,
                    max=3.0,
                    step=0.01,
                    tooltip="Least bytes per pixel of the original file; less shows compression blocks. 0 for any.",
                ),
                *_quality_inputs(),
            ],
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
    def execute(cls, dataset, clip_vision=None, **thresholds) -> io.NodeOutput:
        encoder = host.picture_encoder(clip_vision) if clip_vision else None
        filtered = filter_quality(dataset, Thresholds(**thresholds), host.progress(), encoder)
        pictures = [host.image_batch([picture]) for picture in (filtered.sheet(), filtered.histograms())]
        return io.NodeOutput(filtered.dataset, pictures[0], filtered.report, pictures[1])


def _quality_inputs() -> list[io.Input]:
    """Optional, so that a graph sent over the API without them gets the defaults."""
    defaults = Thresholds()

    def share(name: str, tooltip: str) -> io.Input:
        value = getattr(defaults, name)
        return io.Float.Input(name, optional=True, default=value, min=0.0, max=1.0, step=0.01, tooltip=tooltip)

    def switch(name: str, tooltip: str) -> io.Input:
        return io.Boolean.Input(name, optional=True, default=getattr(defaults, name), tooltip=tooltip)

    return [
        io.Int.Input(
            "min_jpeg_quality",
            optional=True,
            default=defaults.min_jpeg_quality,
            min=0,
            max=100,
            tooltip="Least JPEG quality, told from the quantisation tables. 0 for any; other formats always pass.",
        ),
        io.Float.Input(
            "min_sharpness",
            optional=True,
            default=defaults.min_sharpness,
            min=0.0,
            max=2.0,
            step=0.01,
            tooltip="Least fine detail for the picture's contrast, so that fog is not blur: blurred 0.05, crisp 0.3.",
        ),
        share("min_highlight", "The brightest hundredth must reach this: refuses black pictures, not dark ones."),
        share("max_shadow", "The darkest hundredth must be under this: refuses blank pictures, not pale ones."),
        io.Float.Input(
            "min_entropy",
            optional=True,
            default=defaults.min_entropy,
            min=0.0,
            max=8.0,
            step=0.1,
            tooltip="Least bits of information in the tones. A painting has 6 to 7.5, an empty sheet under 1.",
        ),
        io.Float.Input(
            "min_colour",
            optional=True,
            default=defaults.min_colour,
            min=0.0,
            max=50.0,
            step=0.5,
            tooltip="Least colour that brightness alone does not foretell: 2 refuses greyscale and sepia. 0 for any.",
        ),
        share("max_border", "Greatest share of the area that may be border (even colour with a straight edge)."),
        io.Int.Input(
            "duplicate_distance",
            optional=True,
            default=defaults.duplicate_distance,
            min=-1,
            max=GREATEST_DISTANCE,
            tooltip="Pictures whose perceptual hashes differ in this many of 64 bits or fewer are the same; the "
            "largest stays. -1 keeps duplicates.",
        ),
        switch("refuse_sketches", "Refuse pictures of the genre sketch_and_study."),
        switch("refuse_unknown_genre", "Refuse pictures whose genre is unknown."),
        switch("crop_borders", "Store a copy without its border in place of each bordered picture."),
        io.ClipVision.Input(
            "clip_vision",
            optional=True,
            tooltip="From Load CLIP Vision: scores each picture by its likeness to the whole set and reports those "
            "that stand out.",
        ),
        io.Float.Input(
            "min_style",
            optional=True,
            default=defaults.min_style,
            min=-1.0,
            max=1.0,
            step=0.01,
            tooltip="With clip_vision: least likeness (cosine) to the set's centroid. -1 refuses none, only reports.",
        ),
    ]


class ImpastoDatasetTOMLWriter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoDatasetTOMLWriter",
            display_name="Dataset TOML Writer",
            category=CATEGORY,
            description=(
                "Puts pictures and captions side by side, and writes the dataset config that kohya sd-scripts and "
                "trainers built on it read. What they would refuse later is refused here."
            ),
            search_aliases=["kohya", "sd-scripts", "dataset config", "toml", "buckets", "training data"],
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="A dataset in which every picture has a caption."),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=64,
                    max=4096,
                    step=16,
                    tooltip="Training size in pixels: no bucket has more pixels than a square of this side.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=256,
                    tooltip="Pictures per step; all of one batch share a bucket.",
                ),
                io.Int.Input(
                    "num_repeats", default=1, min=1, max=10_000, tooltip="How often each picture is shown in one epoch."
                ),
                io.Boolean.Input(
                    "enable_bucket",
                    default=True,
                    tooltip="Sort pictures into buckets by their aspect. Without it every picture is cropped square.",
                ),
                io.Int.Input(
                    "min_bucket_reso",
                    default=256,
                    min=32,
                    max=4096,
                    step=32,
                    advanced=True,
                    tooltip="Shortest side of a bucket, pixels: a multiple of bucket_reso_steps, at most resolution.",
                ),
                io.Int.Input(
                    "max_bucket_reso",
                    default=1024,
                    min=64,
                    max=8192,
                    step=32,
                    advanced=True,
                    tooltip="Longest side of a bucket, pixels: a multiple of bucket_reso_steps, at least resolution.",
                ),
                io.Int.Input(
                    "bucket_reso_steps",
                    default=64,
                    min=32,
                    max=512,
                    step=32,
                    advanced=True,
                    tooltip="Bucket sides are multiples of this many pixels. FLUX needs a multiple of 32.",
                ),
                io.Boolean.Input(
                    "bucket_no_upscale",
                    default=False,
                    advanced=True,
                    tooltip="Never enlarge a picture to fill its bucket; shortest and longest side are ignored then.",
                ),
                io.Float.Input(
                    "validation_split",
                    default=0.1,
                    min=0.0,
                    max=0.9,
                    step=0.01,
                    tooltip="Share of the pictures held out from training to measure the loss on. 0 holds out none.",
                ),
                io.Int.Input(
                    "validation_seed",
                    default=0,
                    min=0,
                    max=0x7FFF_FFFF,
                    control_after_generate=False,
                    advanced=True,
                    tooltip="Which pictures are held out.",
                ),
                *_trainer_and_caption_inputs(),
            ],
            outputs=[
                sockets.DatasetConfig.Output("dataset_config", tooltip="The dataset config, for Encode Training Data."),
                io.String.Output("toml", tooltip="The text of the dataset config."),
            ],
        )

    @classmethod
    def execute(cls, dataset, regularisation=None, **settings) -> io.NodeOutput:
        if settings.get("resize_interpolation") == TRAINERS_OWN:
            settings["resize_interpolation"] = ""
        config = write_dataset_toml(dataset, TomlSettings(**settings), host.progress(), regularisation)
        return io.NodeOutput(config, Path(config.path).read_text(encoding="utf-8"))


def _trainer_and_caption_inputs() -> list[io.Input]:
    """What came to the node later, optional so that saved graphs and old API calls stay as they are."""
    defaults = TomlSettings()
    drawn = "Needs cached_text off; Impasto's own trainer draws from a few encoded texts of each caption."
    refused = "Impasto's own trainer encodes pictures once and refuses it; for sd-scripts."

    def switch(name: str, tooltip: str) -> io.Input:
        default = getattr(defaults, name)
        return io.Boolean.Input(name, optional=True, advanced=True, default=default, tooltip=tooltip)

    def text(name: str, tooltip: str) -> io.Input:
        default = getattr(defaults, name)
        return io.String.Input(name, optional=True, advanced=True, default=default, tooltip=tooltip)

    def count(name: str, most: int, tooltip: str, least: int = 0, step: int = 1) -> io.Input:
        limits = {"default": getattr(defaults, name), "min": least, "max": most, "step": step}
        return io.Int.Input(name, optional=True, advanced=True, tooltip=tooltip, **limits)

    def number(name: str, most: float, tooltip: str) -> io.Input:
        limits = {"default": getattr(defaults, name), "min": 0.0, "max": most, "step": 0.01}
        return io.Float.Input(name, optional=True, advanced=True, tooltip=tooltip, **limits)

    return [
        io.Combo.Input(
            "target",
            optional=True,
            advanced=True,
            options=list(TARGETS),
            default=defaults.target,
            tooltip="Who reads the file: today's sd-scripts (and Impasto), or the older one that FluxTrainer carries, "
            "which knows no validation keys and no resize_interpolation.",
        ),
        switch("cached_text", "Training will use cached text encoder outputs, as is usual: captions cannot change."),
        switch("cached_latents", "Training will use cached latents, as is usual: pictures can only be mirrored."),
        count(
            "resolution_height", 4096, "Height in pixels if not square; resolution is the width. 0: square.", step=16
        ),
        io.Combo.Input(
            "resize_interpolation",
            optional=True,
            advanced=True,
            options=[TRAINERS_OWN, *INTERPOLATIONS],
            default=TRAINERS_OWN,
            tooltip="How pictures are resized. Impasto's own trainer always uses lanczos and refuses others.",
        ),
        text("caption_prefix", "Put before every caption, with a space between: a trigger word, for example."),
        text("caption_suffix", "Put after every caption, with a space between."),
        text("caption_separator", "Between the parts of a caption that are shuffled or dropped."),
        switch("shuffle_caption", f"Shuffle the parts of a caption each time. {drawn}"),
        count("keep_tokens", 255, "So many first parts of a caption are neither shuffled nor dropped."),
        text("keep_tokens_separator", "What stands before this in a caption is kept; in place of keep_tokens."),
        text("secondary_separator", f"Parts joined by this are shuffled or dropped together. {drawn}"),
        switch("enable_wildcard", f"Choose one of {{a|b}} in captions each time. {drawn}"),
        number(
            "caption_dropout_rate",
            1.0,
            "Share of pictures trained with an empty caption. Needs cached_text off; 0 leaves it to caption_dropout in "
            "Training Settings.",
        ),
        count(
            "caption_dropout_every_n_epochs",
            10_000,
            "Every so many epochs without captions, 0 for never. Needs cached_text off.",
        ),
        number("caption_tag_dropout_rate", 1.0, f"Share of a caption's parts that is left out each time. {drawn}"),
        count("token_warmup_min", 1000, "So many parts of a caption are trained at first.", least=1),
        number("token_warmup_step", 1_000_000.0, f"Whole captions from this step on; under 1 a share of all. {drawn}"),
        switch("flip_aug", "Mirror pictures half of the time; signatures and faces are mirrored too."),
        switch("color_aug", f"Vary the colours a little each time, which a style LoRA should not learn. {refused}"),
        switch("random_crop", f"Crop at random instead of at the centre. {refused}"),
        sockets.Dataset.Input(
            "regularisation",
            optional=True,
            tooltip="Captioned pictures of what the base model paints without the LoRA, to keep that (prior "
            "preservation): a subset of their own with is_reg.",
        ),
        count("regularisation_repeats", 10_000, "num_repeats of the regularisation pictures.", least=1),
        io.String.Input(
            "more_keys",
            optional=True,
            advanced=True,
            multiline=True,
            default=defaults.more_keys,
            tooltip='Other keys of sd-scripts, one TOML line each: class_tokens = "a painting", cache_info = true, '
            "alpha_mask = true, custom_attributes, network_multiplier.",
        ),
    ]


NODES = [ImpastoWikiArtLoader, ImpastoQualityFilter, ImpastoDatasetTOMLWriter]
