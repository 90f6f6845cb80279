"""Keys and files of encoded training data: another key encodes a whole dataset again, and is another run."""

from __future__ import annotations

import json
import shutil

from . import current
from .conftest import PICTURES, encode_picture, encode_text

NAMES = ("0.png", "1.png", "2.png", "3.png", "4.png", "photograph.jpg", "transparent.png")
BUCKETS = (
    "[[datasets]]\nresolution = 96\nbatch_size = 2\nenable_bucket = true\nmin_bucket_reso = 64\nmax_bucket_reso = 128\n"
    "bucket_reso_steps = 32\n"
)
SUBSET = '[[datasets.subsets]]\nimage_dir = "train"\ncaption_extension = ".txt"\n'
CONFIGS = {
    "plain": BUCKETS + SUBSET,
    "one size": "[[datasets]]\nresolution = [64, 96]\n" + SUBSET,
    "without enlarging": BUCKETS + "bucket_no_upscale = true\n" + SUBSET,
    "held out": BUCKETS + "validation_split = 0.3\nvalidation_seed = 7\n" + SUBSET,
    "repeated with a prefix": BUCKETS + SUBSET + 'num_repeats = 5\ncaption_prefix = "mntgrdn style,"\n',
    "mirrored": BUCKETS + SUBSET + "flip_aug = true\n",
    "masked": BUCKETS + SUBSET + "alpha_mask = true\n",
    "varied": BUCKETS
    + SUBSET
    + "random_crop = true\ncolor_aug = true\nflip_aug = true\nalpha_mask = true\n"
    + "custom_attributes = {impasto = {picture_variants = 3, random_scale = 1.2}}\n",
    "captions dropped": BUCKETS + SUBSET + "caption_dropout_rate = 0.0\ncaption_dropout_every_n_epochs = 3\n",
    "shuffled": BUCKETS + SUBSET + "shuffle_caption = true\nkeep_tokens = 1\n",
    "parts dropped": BUCKETS + SUBSET + "caption_tag_dropout_rate = 0.4\n",
    "wildcards": BUCKETS + SUBSET + "enable_wildcard = true\n",
    "regularised": BUCKETS
    + SUBSET
    + '[[datasets.subsets]]\nimage_dir = "ordinary"\nis_reg = true\nclass_tokens = "art"',
    "of a metadata file": BUCKETS + '[[datasets.subsets]]\nimage_dir = "train"\nmetadata_file = "captions.json"\n',
    "two sizes": BUCKETS + SUBSET + "[[datasets]]\nresolution = 64\nbatch_size = 1\n" + SUBSET,
    "everything": BUCKETS
    + "validation_split = 0.3\n"
    + SUBSET
    + "num_repeats = 2\nflip_aug = true\nalpha_mask = true\nshuffle_caption = true\ncaption_dropout_rate = 0.1\n",
}


def make_pictures(folder):
    for name in NAMES:
        place = folder / ("ordinary" if name == "4.png" else "train")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PICTURES / name, place / name)
        if name != "4.png":
            (place / name).with_suffix(".txt").write_text(f"picture {name[0]}, {{oil|ink}}, été, by a lake\n", "utf-8")
    captions = {name: {"caption": f"listed {name[0]}"} for name in NAMES if name != "4.png"}
    (folder / "captions.json").write_text(json.dumps(captions))


def encoded(config, text, **arguments):
    config.write_text(text, encoding="utf-8")
    return current.encode(config, encode_picture, encode_text, **arguments)


def test_feature_keys(golden, tmp_path):
    make_pictures(tmp_path)
    config = tmp_path / "dataset.toml"
    keys = {case: encoded(config, text)[1] for case, text in CONFIGS.items()}
    keys["other encoders"] = encoded(config, CONFIGS["plain"], identities=("another", "others"))[1]
    keys["two texts a caption"] = encoded(config, CONFIGS["shuffled"], caption_variants=2)[1]
    golden("feature_keys", keys)


def test_an_index_and_its_files(golden, tmp_path):
    make_pictures(tmp_path)
    config = tmp_path / "dataset.toml"
    asked = [("a harbour at dawn", 7), ("été", 2**64 - 1)]
    folder, key, prompts = encoded(config, CONFIGS["everything"], caption_variants=3, prompts=asked)
    golden("feature_index", json.loads((folder / "index.json").read_text(encoding="utf-8")))
    files = sorted(path.relative_to(folder.parent).as_posix() for path in folder.parent.rglob("*") if path.is_file())
    listed = json.loads((folder / prompts).read_text(encoding="utf-8"))
    found = {"key": key, "files": files, "prompts": prompts, "listed": listed, "tensors": kinds(folder)}
    golden("feature_files", found)


def kinds(folder) -> dict:
    """Names, types and dimensions of the tensors in one file of each kind."""
    from safetensors.torch import load_file

    first = {kind: sorted((folder.parent / kind).iterdir())[0] for kind in ("latents", "masks", "texts")}
    return {
        kind: {name: f"{tensor.dtype}, {tensor.dim()} dimensions" for name, tensor in load_file(path).items()}
        for kind, path in first.items()
    }
