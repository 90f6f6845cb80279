"""Cached latents and text embeddings: keyed by what decides them, resumed when interrupted, never encoded twice."""

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from impasto.errors import DatasetError, FeatureError, ModelError
from impasto.trainers import features
from impasto.trainers.features import Encoder, epoch_batches
from PIL import Image

SIZES = [(192, 128), (128, 192), (192, 128), (128, 128), (400, 100), (192, 130)]


def raw_latent(pixels):
    """Sixteen different multiples of the mean of each 8 x 8 pixels: (16, height/8, width/8)."""
    height, width, _ = pixels.shape
    means = pixels.mean(-1).reshape(height // 8, 8, width // 8, 8).mean((1, 3))
    return means * torch.arange(1, 17).reshape(16, 1, 1)


class CountingEncoders:
    """Stand-ins for FLUX's VAE and CLIP that remember what they were given."""

    def __init__(self, vae="vae-1", clip="clip-1"):
        self.pictures = []
        self.texts = []
        self.autoencoder = Encoder(vae, self.encode_picture)
        self.text_encoder = Encoder(clip, self.encode_text)

    def encode_picture(self, pixels):
        self.pictures.append(pixels)
        return raw_latent(pixels)

    def encode_text(self, text):
        self.texts.append(text)
        random = torch.Generator().manual_seed(len(text))
        return torch.randn(max(256, len(text)), 32, generator=random), torch.randn(24, generator=random)


@pytest.fixture
def config(tmp_path):
    return make_dataset(tmp_path / "dataset")


def make_dataset(folder, sizes=SIZES, dataset="", subset=""):
    """Pictures of `sizes` with captions, and a dataset.toml beside them; further lines for its two tables."""
    images = folder / "train"
    images.mkdir(parents=True)
    random = numpy.random.default_rng(0)
    for number, (width, height) in enumerate(sizes):
        pixels = random.integers(0, 256, (height, width, 3), dtype=numpy.uint8)
        Image.fromarray(pixels).save(images / f"picture-{number}.png")
        (images / f"picture-{number}.txt").write_text(f"caption {number}\n")
    config = folder / "dataset.toml"
    write_config(config, dataset, subset)
    return config


def write_config(config, dataset="", subset=""):
    config.write_text(
        "[[datasets]]\nresolution = 128\nenable_bucket = true\nmin_bucket_reso = 64\nmax_bucket_reso = 256\n"
        f"bucket_reso_steps = 32\n{dataset}\n[[datasets.subsets]]\n"
        f'image_dir = "train"\ncaption_extension = ".txt"\n{subset}\n'
    )


def encode(config, encoders=None, **arguments):
    encoders = encoders or CountingEncoders()
    return features.encode(config, encoders.autoencoder, encoders.text_encoder, **arguments)


def held_out_images(found):
    index = json.loads(Path(found.folder, "index.json").read_text())
    return {sample["image"] for sample in index["samples"] if sample["held_out"]}


def test_a_latent_is_shifted_and_scaled_exactly_once(config):
    encoders = CountingEncoders()
    loaded = features.load(encode(config, encoders))

    raw = [raw_latent(pixels) for pixels in encoders.pictures]
    for sample in loaded.samples:
        latent = loaded.load_latent(sample)
        back = latent / 0.3611 + 0.1159
        assert latent.dtype == torch.float32
        assert any(back.shape == one.shape and torch.allclose(back, one, atol=1e-5) for one in raw)


def test_the_encoder_sees_whole_bucketed_pictures_between_0_and_1(config):
    encoders = CountingEncoders()
    loaded = features.load(encode(config, encoders))

    seen = Counter((pixels.shape[1], pixels.shape[0]) for pixels in encoders.pictures)
    assert seen == Counter((sample.width, sample.height) for sample in loaded.samples)
    assert seen[160, 96] == 3 and seen[96, 160] == 1 and seen[128, 128] == 1  # never cut square
    assert all(
        pixels.dtype == torch.float32 and pixels.min() >= 0 and pixels.max() <= 1 for pixels in encoders.pictures
    )
    assert max(pixels.max() for pixels in encoders.pictures) > 0.9


def test_text_embeddings_come_back_as_they_were_encoded(config):
    encoders = CountingEncoders()
    loaded = features.load(encode(config, encoders))

    for text, path in [
        ("", loaded.empty_text_path),
        *((sample.caption, sample.text_path) for sample in loaded.samples),
    ]:
        for stored, fresh in zip(loaded.load_text(path), encoders.encode_text(text), strict=True):
            assert torch.equal(stored, fresh)


def test_equal_captions_are_encoded_once_and_the_empty_one_first(config):
    for caption in (config.parent / "train").glob("*.txt"):
        caption.write_text("a painting")
    encoders = CountingEncoders()
    encode(config, encoders)
    assert encoders.texts == ["", "a painting"]


def test_a_second_run_calls_no_encoder_and_gives_the_same(config):
    first = encode(config)
    index = os.stat(os.path.join(first.folder, "index.json")).st_mtime_ns
    encoders = CountingEncoders()

    assert encode(config, encoders) == first
    assert encoders.pictures == encoders.texts == []
    assert os.stat(os.path.join(first.folder, "index.json")).st_mtime_ns == index


def test_a_changed_caption_costs_one_text_and_no_picture(config):
    first = encode(config)
    (config.parent / "train" / "picture-2.txt").write_text("another caption")
    encoders = CountingEncoders()
    second = encode(config, encoders)

    assert second.key != first.key
    assert encoders.texts == ["another caption"]
    assert encoders.pictures == []


def test_a_changed_picture_costs_one_picture_and_no_text(config):
    first = encode(config)
    Image.new("RGB", (160, 128), "red").save(config.parent / "train" / "picture-2.png")
    encoders = CountingEncoders()

    assert encode(config, encoders).key != first.key
    assert len(encoders.pictures) == 1
    assert encoders.texts == []


def test_another_autoencoder_encodes_every_picture_again_and_no_text(config):
    first = encode(config)
    encoders = CountingEncoders(vae="vae-2")

    assert encode(config, encoders).key != first.key
    assert (len(encoders.pictures), len(encoders.texts)) == (len(SIZES), 0)


def test_another_text_encoder_encodes_every_text_again_and_no_picture(config):
    first = encode(config)
    encoders = CountingEncoders(clip="clip-2")

    assert encode(config, encoders).key != first.key
    assert (len(encoders.pictures), len(encoders.texts)) == (0, len(SIZES) + 1)


@pytest.mark.parametrize(
    "dataset, subset",
    [("batch_size = 2", ""), ("", "num_repeats = 2"), ("validation_split = 0.2", "")],
)
def test_what_needs_no_encoding_changes_the_key_alone(config, dataset, subset):
    first = encode(config)
    write_config(config, dataset, subset)
    encoders = CountingEncoders()

    assert encode(config, encoders).key != first.key
    assert encoders.pictures == encoders.texts == []


def test_another_resolution_or_crop_changes_the_key_and_the_latents(config):
    first = encode(config)
    text = config.read_text()
    keys = {first.key}
    for changed in (
        text.replace("resolution = 128", "resolution = 192"),
        text.replace("enable_bucket = true", "enable_bucket = false"),
    ):
        config.write_text(changed)
        encoders = CountingEncoders()
        keys.add(encode(config, encoders).key)
        assert encoders.pictures
        assert encoders.texts == []
    assert len(keys) == 3


def test_names_places_and_times_of_files_do_not_change_the_key(config, tmp_path):
    first = encode(config)
    moved = tmp_path / "elsewhere"
    shutil.copytree(config.parent, moved, ignore=shutil.ignore_patterns("features"))
    for number, path in enumerate(sorted((moved / "train").glob("picture-*.png"))):
        for suffix in (".png", ".txt"):
            path.with_suffix(suffix).rename(path.with_name(f"{9 - number}{suffix}"))
            os.utime(path.with_name(f"{9 - number}{suffix}"), (1, 1))

    second = encode(moved / "dataset.toml")
    assert second.key == first.key
    assert [s.id for s in features.load(second).samples] == [s.id for s in features.load(first).samples]


def test_a_picture_named_twice_is_one_sample_with_both_repeats(config):
    text = config.read_text()
    config.write_text(text + text[text.index("[[datasets.subsets]]") :] + "num_repeats = 4\n")
    loaded = features.load(encode(config))
    assert [sample.repeats for sample in loaded.samples] == [5] * len(SIZES)


class Cancelled(BaseException):
    """Like ComfyUI's InterruptProcessingException."""


@pytest.mark.parametrize("after", [8, 10, 14, 17])
def test_a_cancelled_run_goes_on_where_it_was(config, after):
    calls = 0

    def cancelling(done, total, text="", preview=None):
        nonlocal calls
        calls += 1
        if calls > after:
            raise Cancelled

    interrupted, resumed = CountingEncoders(), CountingEncoders()
    with pytest.raises(Cancelled):
        encode(config, interrupted, progress=cancelling)
    found = encode(config, resumed)

    assert len(interrupted.texts) + len(interrupted.pictures) == after - len(SIZES)
    assert len(interrupted.texts + resumed.texts) == len(SIZES) + 1
    assert len(interrupted.pictures + resumed.pictures) == len(SIZES)
    assert len(features.load(found).samples) == len(SIZES)


def test_what_a_killed_run_left_half_written_is_cleared_away(config):
    found = encode(config)
    root = os.path.dirname(found.folder)
    latent = features.load(found).samples[0].latent_path
    torn = latent.with_name(f".partial-0123-{latent.name}")
    latent.rename(torn)
    os.remove(os.path.join(found.folder, "index.json"))
    encoders = CountingEncoders()

    assert encode(config, encoders) == found
    assert len(encoders.pictures) == 1
    assert not [name for _, _, names in os.walk(root) for name in names if name.startswith(".partial-")]


def test_progress_tells_every_unit_and_shows_pictures(config):
    told = []
    encode(config, progress=lambda done, total, text="", preview=None: told.append((done, total, text, preview)))

    encoding = told[len(SIZES) :]
    assert [done for done, *_ in encoding] == list(range(2 * len(SIZES) + 2))
    assert {total for _, total, *_ in encoding} == {2 * len(SIZES) + 1}
    assert any(preview is not None for *_, preview in told)


def test_a_truncated_picture_is_named_and_the_others_are_kept(config):
    broken = config.parent / "train" / "picture-3.png"
    broken.write_bytes(broken.read_bytes()[:5000])
    with pytest.raises(DatasetError, match=r"picture-3\.png"):
        encode(config)

    broken.unlink()
    encoders = CountingEncoders()
    assert len(features.load(encode(config, encoders)).samples) == len(SIZES) - 1
    assert encoders.texts == []


def test_a_file_that_is_no_picture_is_named(config):
    (config.parent / "train" / "picture-3.png").write_text("not found")
    with pytest.raises(DatasetError, match=r"picture-3\.png"):
        encode(config)


def test_an_autoencoder_of_another_shape_is_refused(config):
    encoders = CountingEncoders()
    four_channels = Encoder("sdxl", lambda pixels: raw_latent(pixels)[:4])
    with pytest.raises(ModelError, match=r"shape \(4, "):
        features.encode(config, four_channels, encoders.text_encoder)


def test_values_that_are_not_finite_are_refused_and_not_kept(config):
    encoders = CountingEncoders()
    overflowing = Encoder("half", lambda pixels: raw_latent(pixels) * float("inf"))
    with pytest.raises(FeatureError, match="--fp32-vae"):
        features.encode(config, overflowing, encoders.text_encoder)
    assert not (config.parent / "features" / "latents").exists()


def test_a_full_disk_says_so_and_keeps_what_is_encoded(config, monkeypatch):
    written = []

    def filling(path, content):
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(path)
        return write_whole(path, content)

    write_whole = features.files.write_whole
    monkeypatch.setattr(features.files, "write_whole", filling)
    with pytest.raises(FeatureError, match="No space left"):
        encode(config)
    monkeypatch.undo()

    encoders = CountingEncoders()
    encode(config, encoders)
    assert len(encoders.texts) == len(SIZES) + 1 - 3


def test_the_held_out_pictures_depend_on_content_and_seed_alone(tmp_path):
    split = "validation_split = 0.3\nvalidation_seed = {}"
    keys = []
    for number, seed in enumerate((1, 1, 2)):
        config = make_dataset(tmp_path / str(number), [(128, 128)] * 10, split.format(seed))
        keys.append(held_out_images(encode(config)))

    assert [len(images) for images in keys] == [3, 3, 3]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("count, split, expected", [(4, 0.01, 1), (10, 0.01, 1), (3, 0.1, 0), (10, 0, 0), (4, 0.99, 3)])
def test_at_least_one_of_four_is_held_out_and_never_all(tmp_path, count, split, expected):
    config = make_dataset(tmp_path / "few", [(128, 128)] * count, f"validation_split = {split}")
    assert len(held_out_images(encode(config))) == expected


def test_a_picture_is_held_out_wherever_it_is_named(tmp_path):
    config = make_dataset(tmp_path / "twice", dataset="validation_split = 0.5")
    text = config.read_text()
    config.write_text(text + text.replace("resolution = 128", "resolution = 192"))
    loaded = features.load(encode(config))

    assert len(loaded.samples) > len(SIZES)
    held_out = {sample.caption for sample in loaded.samples if sample.held_out}
    trained = {sample.caption for sample in loaded.samples if not sample.held_out}
    assert held_out and trained and not held_out & trained


@pytest.mark.parametrize("what", ["latents", "texts", "index"])
def test_missing_files_are_named_with_the_remedy(config, what):
    found = encode(config)
    sample = features.load(found).samples[0]
    lost = {"latents": sample.latent_path, "texts": sample.text_path, "index": os.path.join(found.folder, "index.json")}
    os.remove(lost[what])
    with pytest.raises(FeatureError, match="queue Encode Training Data again") as refused:
        features.load(found)
    assert os.path.basename(lost[what]) in str(refused.value)

    encode(config)
    assert features.load(found).samples


def test_a_damaged_index_is_named_with_the_remedy(config):
    found = encode(config)
    index = Path(found.folder, "index.json")
    index.write_text(index.read_text()[:100])
    with pytest.raises(FeatureError, match=r"index\.json is damaged.*Delete it"):
        features.load(found)


@pytest.mark.parametrize("damage", ["torn", "other shape"])
def test_damaged_files_are_named_with_the_remedy(config, damage):
    from safetensors.torch import save_file

    loaded = features.load(encode(config))
    sample = loaded.samples[0]
    if damage == "torn":
        sample.latent_path.write_bytes(sample.latent_path.read_bytes()[:100])
    else:
        save_file({"latent": torch.zeros(16, 3, 3)}, sample.latent_path)
    with pytest.raises(FeatureError, match=sample.latent_path.name):
        loaded.load_latent(sample)


def test_the_report_counts_buckets_texts_and_space(tmp_path):
    config = make_dataset(
        tmp_path / "counted", dataset="batch_size = 2\nvalidation_split = 0.2", subset="num_repeats = 3"
    )
    report = features.report(encode(config))

    assert "6 pictures, 1 of them held out" in report
    assert "15 per epoch" in report
    assert "160 x 96: 3" in report
    assert "7 texts" in report
    assert " MB in " in report


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    config = make_dataset(tmp_path_factory.mktemp("epochs") / "dataset", SIZES * 3, subset="num_repeats = 3")
    (config.parent / "train" / "picture-0.txt").write_text("a long caption " * 30)
    found = features.load(encode(config)).samples
    return [replace(sample, repeats=number % 3 + 1) for number, sample in enumerate(found)]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_an_epoch_has_every_sample_as_often_as_it_repeats(samples, batch_size):
    batches = epoch_batches(samples, seed=1, epoch=0)
    assert Counter(sample for batch in batches for sample in batch) == Counter({s: s.repeats for s in samples})
    assert all(1 <= len(batch) <= batch_size for batch in batches)


def test_a_batch_has_one_bucket_and_one_text_length(samples):
    batches = epoch_batches(samples, seed=1, epoch=0)
    assert all(len({(s.width, s.height, s.tokens) for s in batch}) == 1 for batch in batches)
    assert len({sample.tokens for sample in samples}) == 2


def test_batches_are_as_few_as_one_shape_per_batch_allows(samples):
    batches = epoch_batches(samples, seed=1, epoch=0)
    shapes = Counter()
    for sample in samples:
        shapes[sample.width, sample.height, sample.tokens] += sample.repeats
    assert len(batches) == sum(-(-count // 4) for count in shapes.values())


def test_the_order_depends_on_seed_and_epoch_alone(samples):
    order = epoch_batches(samples, seed=1, epoch=0)
    assert order == epoch_batches(list(reversed(samples)), 2, seed=1, epoch=0)
    assert order != epoch_batches(samples, seed=1, epoch=1)
    assert order != epoch_batches(samples, seed=2, epoch=0)


def test_buckets_are_mixed_over_an_epoch(samples):
    shapes = [(batch[0].width, batch[0].height) for batch in epoch_batches(samples, seed=1, epoch=0)]
    assert sum(a != b for a, b in zip(shapes, shapes[1:], strict=False)) > len(set(shapes)) + 2
