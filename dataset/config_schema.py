"""The keys of a dataset config of kohya-ss/sd-scripts, one row each.

The reader, the writer, the editor and the nodes go by these rows: a row more is read with its inheritance, checked,
written, refused where it has to be, and has a widget. Only what is *done* with its value is written elsewhere.

Levels, types and defaults are those of `library/config_util.py` in kohya-ss/sd-scripts 48d368f (February 2026); what no
cache can hold is from its `library/train_util.py` (is_text_encoder_output_cacheable, is_latent_cacheable), which
asserts on most of that; wildcards and dropped epochs it would freeze or pass over in silence. flip_aug is cached twice.
"""

from __future__ import annotations

import functools

from .schema_key import BUCKETS, CAPTIONS, PICTURES, SD_SCRIPTS, SUBSET, SUBSET_ALONE, Key, Widget

INTERPOLATIONS = ("lanczos", "area", "box", "bicubic", "bilinear", "nearest")
CAPTION_EXTENSION = ".txt"  # of what is written here

_CACHED_TEXTS = (
    "Captions are encoded once, before training, so they cannot grow from step to step; sd-scripts refuses it with "
    "cached text encoder outputs too. Remove this key."
)
_NO_PATH = "Paths are not taken from a graph. The pictures come from the dataset that is connected"
_DRAWN = "Needs cached_text off; Impasto's own trainer draws from a few encoded texts of each caption."
_VARIED = "Needs cached_latents off; Impasto's own trainer draws from a few encoded variants of each picture."

_bucket = functools.partial(Key, part=BUCKETS, always=True)
_subset = functools.partial(Key, level=SUBSET)
_caption = functools.partial(Key, level=SUBSET, part=CAPTIONS)
_picture = functools.partial(Key, level=SUBSET, part=PICTURES)
_first = functools.partial(Widget, optional=False)  # the node had it from the beginning
_plain = functools.partial(Widget, optional=False, advanced=False)

# In the order in which they are written.
KEYS = (
    Key(
        "resolution",
        int,
        part=BUCKETS,
        or_pair=True,
        least=1,
        writers=512,
        always=True,
        widget=_plain("Training size in pixels: no bucket has more pixels than a square of this side.", (64, 4096, 16)),
    ),
    Key(
        "batch_size",
        int,
        1,
        least=1,
        always=True,
        widget=_plain("Pictures per step; all of one batch share a bucket.", (1, 256, 1)),
    ),
    _bucket(
        "enable_bucket",
        bool,
        False,
        writers=True,
        widget=_plain("Sort pictures into buckets by their aspect. Without it every picture is cropped square."),
    ),
    _bucket(
        "min_bucket_reso",
        int,
        256,
        least=1,
        widget=_first(
            "Shortest side of a bucket, pixels: a multiple of bucket_reso_steps, at most resolution.", (32, 4096, 32)
        ),
    ),
    _bucket(
        "max_bucket_reso",
        int,
        1024,
        least=1,
        widget=_first(
            "Longest side of a bucket, pixels: a multiple of bucket_reso_steps, at least resolution.", (64, 8192, 32)
        ),
    ),
    _bucket(
        "bucket_reso_steps",
        int,
        64,
        least=1,
        widget=_first("Bucket sides are multiples of this many pixels. FLUX needs a multiple of 32.", (32, 512, 32)),
    ),
    _bucket(
        "bucket_no_upscale",
        bool,
        False,
        widget=_first("Never enlarge a picture to fill its bucket; shortest and longest side are ignored then."),
    ),
    Key(
        "validation_split",  # 0 is not written, because sd-scripts refuses it
        float,
        0.0,
        least=0,
        most=1,
        known_to=(SD_SCRIPTS,),
        widget=_plain(
            "Share of the pictures held out from training to measure the loss on. 0 holds out none.",
            (0, 0.9, 0.001),
            default=0.1,
        ),
    ),
    Key(
        "validation_seed",
        int,
        0,
        known_to=(SD_SCRIPTS,),
        only_with="validation_split",
        widget=_first("Which pictures are held out.", (0, 0x7FFF_FFFF, 1)),
    ),
    Key(
        "network_multiplier",  # sd-scripts takes no whole number for it
        float,
        1.0,
        refused="Remove it and set the strength where the LoRA is applied.",
        line=True,
    ),
    Key(
        "skip_image_resolution",
        int,
        0,
        or_pair=True,
        known_to=(SD_SCRIPTS,),
        refused="Remove it and filter the pictures with Quality Filter.",
        not_in_graph="sd-scripts of February 2026 would refuse it. Remove the line, and filter with Quality Filter.",
    ),
    _subset(
        "resize_interpolation",
        str,
        "lanczos",
        choices=INTERPOLATIONS,
        known_to=(SD_SCRIPTS,),
        refused="Pictures are resized with Lanczos; remove this key.",
        writers="",  # leaves it to the trainer
        in_dataset=True,
        widget=Widget("How pictures are resized. Impasto's own trainer always uses lanczos and refuses others."),
    ),
    Key("image_dir", str, None, SUBSET_ALONE, path=True, not_in_graph=f"{_NO_PATH}."),
    _subset(
        "num_repeats",
        int,
        1,
        least=1,
        always=True,
        widget=_plain("How often each picture is shown in one epoch.", (1, 10_000, 1)),
    ),
    _subset(
        "caption_extension",  # with or without its dot
        str,
        ".caption",
        caption_files=True,
        writers=CAPTION_EXTENSION,
        always=True,
        not_in_graph="It is always .txt, as the captions are written. Remove the line.",
    ),
    _subset(
        "caption_prefix",
        str,
        "",
        widget=Widget("Put before every caption, with a space between: a trigger word, for example."),
    ),
    _subset("caption_suffix", str, "", widget=Widget("Put after every caption, with a space between.")),
    _caption(
        "caption_separator",
        str,
        ",",
        widget=Widget("Between the parts of a caption that are shuffled or dropped."),
    ),
    _caption(
        "keep_tokens",
        int,
        0,
        least=0,
        widget=Widget("So many first parts of a caption are neither shuffled nor dropped.", (0, 255, 1)),
    ),
    _caption(
        "keep_tokens_separator",
        str,
        "",
        widget=Widget("What stands before this in a caption is kept; in place of keep_tokens."),
    ),
    _caption(
        "secondary_separator",
        str,
        "",
        widget=Widget(f"Parts joined by this are shuffled or dropped together. {_DRAWN}"),
    ),
    _subset(
        "token_warmup_min",  # does nothing where there is no warm-up
        int,
        1,
        least=1,
        idle=True,
        widget=Widget("So many parts of a caption are trained at first.", (1, 1000, 1)),
    ),
    _subset(
        "caption_dropout_rate",
        float,
        None,
        least=0,
        most=1,
        frozen_by="cached_text",
        told="caption_dropout_rate {}",
        writers=0.0,
        widget=Widget(
            "Share of pictures trained with an empty caption. Needs cached_text off; 0 leaves it to caption_dropout in "
            "Training Settings."
        ),
    ),
    _subset(
        "caption_dropout_every_n_epochs",
        int,
        0,
        least=0,
        frozen_by="cached_text",
        told="empty captions every {} epochs",
        widget=Widget("Every so many epochs without captions, 0 for never. Needs cached_text off.", (0, 10_000, 1)),
    ),
    _caption(
        "caption_tag_dropout_rate",
        float,
        0.0,
        least=0,
        most=1,
        frozen_by="cached_text",
        told="caption_tag_dropout_rate {}",
        widget=Widget(f"Share of a caption's parts that is left out each time. {_DRAWN}"),
    ),
    _caption(
        "shuffle_caption",
        bool,
        False,
        frozen_by="cached_text",
        told="shuffle_caption",
        widget=Widget(f"Shuffle the parts of a caption each time. {_DRAWN}"),
    ),
    _subset(
        "token_warmup_step",
        float,
        0.0,
        least=0,
        frozen_by="cached_text",
        refused=_CACHED_TEXTS,
        widget=Widget(
            "Whole captions from this step on; under 1 a share of all. Needs cached_text off; Impasto's own trainer "
            "encodes captions once and refuses it.",
            (0, 1_000_000, 0.01),
        ),
    ),
    _caption(
        "enable_wildcard",
        bool,
        False,
        frozen_by="cached_text",
        told="enable_wildcard",
        widget=Widget(f"Choose one of {{a|b}} in captions each time. {_DRAWN}"),
    ),
    _subset(
        "flip_aug",
        bool,
        False,
        same_in_a_batch=True,
        told="flip_aug",
        widget=Widget("Mirror pictures half of the time; signatures and faces are mirrored too."),
    ),
    _picture(
        "color_aug",
        bool,
        False,
        frozen_by="cached_latents",
        told="color_aug",
        widget=Widget(f"Vary the colours a little each time, which a style LoRA should not learn. {_VARIED}"),
    ),
    _picture(
        "random_crop",
        bool,
        False,
        frozen_by="cached_latents",
        same_in_a_batch=True,
        told="random_crop",
        widget=Widget(f"Crop at random instead of at the centre. {_VARIED}"),
    ),
    _subset(
        "face_crop_aug_range",
        list,
        None,
        refused="Faces are not looked for here. Remove this key; random_crop and random_scale crop anywhere.",
        not_in_graph="sd-scripts reads where a face is from the picture's file name, and the files written here are "
        "not named so. Remove the line.",
    ),
    Key(
        "is_reg",
        bool,
        False,
        SUBSET_ALONE,
        caption_files=True,
        told="is_reg",
        not_in_graph="Connect those pictures as regularisation, which writes it into a subset of their own.",
    ),
    _subset("class_tokens", str, "", caption_files=True, line=True),  # the caption of pictures without one
    _subset("cache_info", bool, None, caption_files=True, idle=True, line=True),
    Key("alpha_mask", bool, False, SUBSET_ALONE, same_in_a_batch=True, told="alpha_mask", line=True),
    _subset("custom_attributes", dict, None, idle=True, line=True),  # for extensions of sd-scripts
    Key(
        "metadata_file",
        str,
        None,
        SUBSET_ALONE,
        path=True,
        not_in_graph=f"{_NO_PATH}, with their captions. For a file of your own use Dataset TOML Loader.",
    ),
    Key(
        "conditioning_data_dir",
        str,
        None,
        SUBSET_ALONE,
        path=True,
        refused="Put each mask into the alpha channel of its picture and set alpha_mask = true; for ControlNet there "
        "is no trainer.",
        not_in_graph=f"{_NO_PATH}. For masks use alpha_mask = true.",
    ),
)
BY_NAME = {key.name: key for key in KEYS}

# Options of our own trainer. They stand in a table of custom_attributes, which sd-scripts hands on without reading it.
OWN_TABLE = "impasto"
OWN_KEYS = (
    _picture("picture_variants", int, 4, least=1),
    _picture("random_scale", float, 1.0, least=1, told="random_scale {}"),
)


def acted_on(*levels: str, part: str = "") -> list[Key]:
    """The keys of some levels that make a difference to our own trainer, of one part."""
    return [key for key in KEYS if key.level in levels and key.part == part and not (key.refused or key.idle)]
