"""The keys of a dataset config of kohya-ss/sd-scripts, one row each.

The reader, the writer, the editor and the nodes go by these rows: a row more is read with its inheritance, checked,
written, refused where it has to be, and has a widget. Only what is *done* with its value is written elsewhere.

Levels, types and defaults are those of `library/config_util.py` in kohya-ss/sd-scripts 48d368f (February 2026); what no
cache can hold is from its `library/train_util.py` (is_text_encoder_output_cacheable, is_latent_cacheable), which
asserts on most of that; wildcards and dropped epochs it would freeze or pass over in silence. flip_aug is cached twice.
"""

from __future__ import annotations

from .schema_key import BUCKETS, CAPTIONS, SD_SCRIPTS, SUBSET, SUBSET_ALONE, Key, Widget

INTERPOLATIONS = ("lanczos", "area", "box", "bicubic", "bilinear", "nearest")
CAPTION_EXTENSION = ".txt"  # of what is written here

_CACHED_LATENTS = (
    "Pictures are encoded once, before training, so they cannot change from step to step; sd-scripts refuses it with "
    "cache_latents too. Remove this key."
)
_CACHED_TEXTS = (
    "Captions are encoded once, before training, so they cannot grow from step to step; sd-scripts refuses it with "
    "cached text encoder outputs too. Remove this key."
)
_NO_PATH = "Paths are not taken from a graph. The pictures come from the dataset that is connected"
_DRAWN = "Needs cached_text off; Impasto's own trainer draws from a few encoded texts of each caption."
_FOR_OTHERS = "Impasto's own trainer encodes pictures once and refuses it; for sd-scripts."

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
        widget=Widget(
            "Training size in pixels: no bucket has more pixels than a square of this side.",
            **{"least": 64, "most": 4096, "step": 16, "optional": False, "advanced": False},
        ),
    ),
    Key(
        "batch_size",
        int,
        1,
        least=1,
        always=True,
        widget=Widget("Pictures per step; all of one batch share a bucket.", most=256, optional=False, advanced=False),
    ),
    Key(
        "enable_bucket",
        bool,
        False,
        part=BUCKETS,
        writers=True,
        always=True,
        widget=Widget(
            "Sort pictures into buckets by their aspect. Without it every picture is cropped square.",
            optional=False,
            advanced=False,
        ),
    ),
    Key(
        "min_bucket_reso",
        int,
        256,
        part=BUCKETS,
        least=1,
        always=True,
        widget=Widget(
            "Shortest side of a bucket, pixels: a multiple of bucket_reso_steps, at most resolution.",
            **{"least": 32, "most": 4096, "step": 32, "optional": False},
        ),
    ),
    Key(
        "max_bucket_reso",
        int,
        1024,
        part=BUCKETS,
        least=1,
        always=True,
        widget=Widget(
            "Longest side of a bucket, pixels: a multiple of bucket_reso_steps, at least resolution.",
            **{"least": 64, "most": 8192, "step": 32, "optional": False},
        ),
    ),
    Key(
        "bucket_reso_steps",
        int,
        64,
        part=BUCKETS,
        least=1,
        always=True,
        widget=Widget(
            "Bucket sides are multiples of this many pixels. FLUX needs a multiple of 32.",
            **{"least": 32, "most": 512, "step": 32, "optional": False},
        ),
    ),
    Key(
        "bucket_no_upscale",
        bool,
        False,
        part=BUCKETS,
        always=True,
        widget=Widget(
            "Never enlarge a picture to fill its bucket; shortest and longest side are ignored then.", optional=False
        ),
    ),
    Key(
        "validation_split",  # 0 is not written, because sd-scripts refuses it
        float,
        0.0,
        least=0,
        most=1,
        known_to=(SD_SCRIPTS,),
        widget=Widget(
            "Share of the pictures held out from training to measure the loss on. 0 holds out none.",
            **{"most": 0.9, "step": 0.001, "default": 0.1, "optional": False, "advanced": False},
        ),
    ),
    Key(
        "validation_seed",
        int,
        0,
        known_to=(SD_SCRIPTS,),
        only_with="validation_split",
        widget=Widget("Which pictures are held out.", least=0, most=0x7FFF_FFFF, optional=False),
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
    Key(
        "resize_interpolation",
        str,
        "lanczos",
        SUBSET,
        choices=INTERPOLATIONS,
        known_to=(SD_SCRIPTS,),
        refused="Pictures are resized with Lanczos; remove this key.",
        writers="",  # leaves it to the trainer
        in_dataset=True,
        widget=Widget("How pictures are resized. Impasto's own trainer always uses lanczos and refuses others."),
    ),
    Key("image_dir", str, None, SUBSET_ALONE, path=True, not_in_graph=f"{_NO_PATH}."),
    Key(
        "num_repeats",
        int,
        1,
        SUBSET,
        least=1,
        always=True,
        widget=Widget("How often each picture is shown in one epoch.", most=10_000, optional=False, advanced=False),
    ),
    Key(
        "caption_extension",  # with or without its dot
        str,
        ".caption",
        SUBSET,
        caption_files=True,
        writers=CAPTION_EXTENSION,
        always=True,
        not_in_graph="It is always .txt, as the captions are written. Remove the line.",
    ),
    Key(
        "caption_prefix",
        str,
        "",
        SUBSET,
        widget=Widget("Put before every caption, with a space between: a trigger word, for example."),
    ),
    Key("caption_suffix", str, "", SUBSET, widget=Widget("Put after every caption, with a space between.")),
    Key(
        "caption_separator",
        str,
        ",",
        SUBSET,
        CAPTIONS,
        widget=Widget("Between the parts of a caption that are shuffled or dropped."),
    ),
    Key(
        "keep_tokens",
        int,
        0,
        SUBSET,
        CAPTIONS,
        least=0,
        widget=Widget("So many first parts of a caption are neither shuffled nor dropped.", most=255),
    ),
    Key(
        "keep_tokens_separator",
        str,
        "",
        SUBSET,
        CAPTIONS,
        widget=Widget("What stands before this in a caption is kept; in place of keep_tokens."),
    ),
    Key(
        "secondary_separator",
        str,
        "",
        SUBSET,
        CAPTIONS,
        widget=Widget(f"Parts joined by this are shuffled or dropped together. {_DRAWN}"),
    ),
    Key(
        "token_warmup_min",  # does nothing where there is no warm-up
        int,
        1,
        SUBSET,
        least=1,
        idle=True,
        widget=Widget("So many parts of a caption are trained at first.", most=1000),
    ),
    Key(
        "caption_dropout_rate",
        float,
        None,
        SUBSET,
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
    Key(
        "caption_dropout_every_n_epochs",
        int,
        0,
        SUBSET,
        least=0,
        frozen_by="cached_text",
        told="empty captions every {} epochs",
        widget=Widget("Every so many epochs without captions, 0 for never. Needs cached_text off.", most=10_000),
    ),
    Key(
        "caption_tag_dropout_rate",
        float,
        0.0,
        SUBSET,
        CAPTIONS,
        least=0,
        most=1,
        frozen_by="cached_text",
        told="caption_tag_dropout_rate {}",
        widget=Widget(f"Share of a caption's parts that is left out each time. {_DRAWN}"),
    ),
    Key(
        "shuffle_caption",
        bool,
        False,
        SUBSET,
        CAPTIONS,
        frozen_by="cached_text",
        told="shuffle_caption",
        widget=Widget(f"Shuffle the parts of a caption each time. {_DRAWN}"),
    ),
    Key(
        "token_warmup_step",
        float,
        0.0,
        SUBSET,
        least=0,
        frozen_by="cached_text",
        refused=_CACHED_TEXTS,
        widget=Widget(
            "Whole captions from this step on; under 1 a share of all. Needs cached_text off; Impasto's own trainer "
            "encodes captions once and refuses it.",
            most=1_000_000.0,
        ),
    ),
    Key(
        "enable_wildcard",
        bool,
        False,
        SUBSET,
        CAPTIONS,
        frozen_by="cached_text",
        told="enable_wildcard",
        widget=Widget(f"Choose one of {{a|b}} in captions each time. {_DRAWN}"),
    ),
    Key(
        "flip_aug",
        bool,
        False,
        SUBSET,
        same_in_a_batch=True,
        told="flip_aug",
        widget=Widget("Mirror pictures half of the time; signatures and faces are mirrored too."),
    ),
    Key(
        "color_aug",
        bool,
        False,
        SUBSET,
        frozen_by="cached_latents",
        refused=_CACHED_LATENTS,
        widget=Widget(f"Vary the colours a little each time, which a style LoRA should not learn. {_FOR_OTHERS}"),
    ),
    Key(
        "random_crop",
        bool,
        False,
        SUBSET,
        frozen_by="cached_latents",
        same_in_a_batch=True,
        refused=_CACHED_LATENTS,
        widget=Widget(f"Crop at random instead of at the centre. {_FOR_OTHERS}"),
    ),
    Key(
        "face_crop_aug_range",
        list,
        None,
        SUBSET,
        refused=_CACHED_LATENTS,
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
    Key("class_tokens", str, "", SUBSET, caption_files=True, line=True),  # the caption of pictures without one
    Key("cache_info", bool, None, SUBSET, caption_files=True, idle=True, line=True),
    Key("alpha_mask", bool, False, SUBSET_ALONE, same_in_a_batch=True, told="alpha_mask", line=True),
    Key("custom_attributes", dict, None, SUBSET, idle=True, line=True),  # for extensions of sd-scripts
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


def acted_on(*levels: str, part: str = "") -> list[Key]:
    """The keys of some levels that make a difference to our own trainer, of one part."""
    return [key for key in KEYS if key.level in levels and key.part == part and not (key.refused or key.idle)]
