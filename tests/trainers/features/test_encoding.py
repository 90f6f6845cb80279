"""Cached latents and text embeddings: keyed by what decides them, resumed when interrupted, never encoded twice."""

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from impasto.dataset.config_writer import TomlSettings, write_dataset_toml
from impasto.dataset.pictures import store_picture
from impasto.dataset.records import Record, write_manifest
from impasto.errors import DatasetError, DiskError, FeatureError, ModelError
from impasto.trainers.features import encoding as features
from impasto.trainers.features import index as features_index
from impasto.trainers.features.encoding import Encoder
from impasto.trainers.features.feature_set import epoch_batches
from PIL import Image
from safetensors.torch import load_file, save_file

from ...leftovers import of_a_killed_process
from ..small_datasets import SIZES, CountingEncoders, add_pictures, encode, make_dataset, raw_latent, write_config

SMALL_TOML = TomlSettings(resolution=128, min_bucket_reso=64)


@pytest.fixture
def config(tmp_path):
    return make_dataset(tmp_path / "dataset")


def held_out_images(found):
    index = json.loads(Path(found.folder, "index.json").read_text())
    return {example["image"] for example in index["samples"] if example["held_out"]}


def test_a_latent_is_shifted_and_scaled_exactly_once(config):
    encoders = CountingEncoders()
    loaded = features_index.load(encode(config, encoders))

    raw = [raw_latent(pixels) for pixels in encoders.pictures]
    for example in loaded.examples:
        latent = loaded.load_latent(example)
        back = latent / 0.3611 + 0.1159
        assert latent.dtype == torch.float32
        assert any(back.shape == one.shape and torch.allclose(back, one, atol=1e-5) for one in raw)


def test_the_encoder_sees_whole_bucketed_pictures_between_0_and_1(config):
    encoders = CountingEncoders()
    loaded = features_index.load(encode(config, encoders))

    seen = Counter((pixels.shape[1], pixels.shape[0]) for pixels in encoders.pictures)
    assert seen == Counter((example.width, example.height) for example in loaded.examples)
    assert seen[160, 96] == 3 and seen[96, 160] == 1 and seen[128, 128] == 1  # never cut square
    assert all(
        pixels.dtype == torch.float32 and pixels.min() >= 0 and pixels.max() <= 1 for pixels in encoders.pictures
    )
    assert max(pixels.max() for pixels in encoders.pictures) > 0.9


def test_text_embeddings_come_back_as_they_were_encoded(config):
    encoders = CountingEncoders()
    loaded = features_index.load(encode(config, encoders))

    for text, path in [
        ("", loaded.empty_text_path),
        *((example.caption, example.text_path) for example in loaded.examples),
    ]:
        for stored, fresh in zip(loaded.load_text(path), encoders.encode_text(text), strict=True):
            assert torch.equal(stored, fresh)


def test_texts_are_kept_in_the_type_that_the_encoder_gave_and_lose_nothing(config):
    encoders = CountingEncoders(dtype=torch.bfloat16)
    loaded = features_index.load(encode(config, encoders))
    path = loaded.examples[0].text_path
    t5, pooled = encoders.encode_text(loaded.examples[0].caption)

    assert path.stat().st_size < 1.1 * 2 * (t5.numel() + pooled.numel())
    assert all(
        torch.equal(stored, fresh.float()) for stored, fresh in zip(loaded.load_text(path), (t5, pooled), strict=True)
    )


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
    assert [s.id for s in features_index.load(second).examples] == [s.id for s in features_index.load(first).examples]


def test_a_picture_named_twice_is_one_sample_with_both_repeats(config):
    text = config.read_text()
    config.write_text(text + text + "num_repeats = 4\n")
    loaded = features_index.load(encode(config))
    assert [example.repeats for example in loaded.examples] == [5] * len(SIZES)


def test_a_plain_dataset_has_the_key_and_the_order_that_runs_were_made_with(tmp_path):
    """Measured before subsets could ask for more; a run that is resumed relies on both."""
    images = tmp_path / "train"
    images.mkdir()
    for number in range(6):
        size = [(192, 128), (128, 192), (128, 128)][number % 3]
        Image.new("RGB", size, (40 * number, 255 - 40 * number, 9)).save(images / f"{number}.bmp")
        (images / f"{number}.txt").write_text(f"caption {number}\n")
    split = "batch_size = 2\nvalidation_split = 0.2\nvalidation_seed = 3"
    write_config(tmp_path / "dataset.toml", split, "num_repeats = 2")
    found = encode(tmp_path / "dataset.toml", CountingEncoders("vae", "clip"))

    assert found.key == "d2e8a20f49568f9f"
    trained = [example for example in features_index.load(found).examples if not example.held_out]
    order = [[example.id[:4] for example in batch] for batch in epoch_batches(trained, seed=7, epoch=1)]
    assert order == [["9491", "bd29"], ["91da", "91da"], ["b117", "b117"], ["bd29", "9491"], ["0163", "0163"]]


@pytest.mark.parametrize("variants", [1, 16])
def test_the_number_of_variants_is_nothing_to_captions_that_do_not_vary(config, variants):
    encoders = CountingEncoders()
    assert encode(config, encoders, caption_variants=variants) == encode(config)
    assert len(encoders.texts) == len(SIZES) + 1


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
    assert len(features_index.load(found).examples) == len(SIZES)


def test_what_a_killed_run_left_half_written_is_cleared_away(config):
    found = encode(config)
    root = os.path.dirname(found.folder)
    latent = features_index.load(found).examples[0].latent_path
    torn = of_a_killed_process(latent)
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
    assert len(features_index.load(encode(config, encoders)).examples) == len(SIZES) - 1
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

    def filling(path):
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(path)

    monkeypatch.setattr(features.files, "_flush", filling)
    with pytest.raises(DiskError, match=r"texts/\w+\.safetensors \(.*\) could not be written: the disk is full"):
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
    loaded = features_index.load(encode(config))

    assert len(loaded.examples) > len(SIZES)
    held_out = {example.caption for example in loaded.examples if example.held_out}
    trained = {example.caption for example in loaded.examples if not example.held_out}
    assert held_out and trained and not held_out & trained


def examples_of(config, **arguments):
    return features_index.load(encode(config, **arguments)).examples


def test_flip_aug_encodes_every_trained_picture_mirrored_too(tmp_path):
    config = make_dataset(tmp_path / "flipped", dataset="validation_split = 0.2", subset="flip_aug = true")
    encoders = CountingEncoders()
    loaded = features_index.load(encode(config, encoders))

    assert len(encoders.pictures) == 2 * len(SIZES) - 1
    for example in loaded.examples:
        if example.held_out:
            assert example.flipped_path is None
        else:
            # The stand-in encodes each place for itself, so that it commutes with mirroring.
            mirrored = loaded.load_latent(example).flip(-1)
            torch.testing.assert_close(loaded.load_latent(example, flipped=True), mirrored)


def test_taking_flip_aug_away_again_encodes_nothing(config):
    plain = encode(config)
    write_config(config, subset="flip_aug = true")
    assert encode(config).key != plain.key
    write_config(config)
    encoders = CountingEncoders()
    assert encode(config, encoders) == plain
    assert encoders.pictures == encoders.texts == []


VARIED = (
    "random_crop = true\ncolor_aug = true\ncustom_attributes = {impasto = {picture_variants = 3, random_scale = 1.3}}"
)


def test_variants_are_encoded_once_beside_the_picture_as_it_is_and_never_of_what_is_held_out(tmp_path, caplog):
    config = make_dataset(tmp_path / "varied", dataset="validation_split = 0.2", subset="flip_aug = true")
    plain = encode(config)
    write_config(config, "validation_split = 0.2", f"flip_aug = true\n{VARIED}")
    encoders, told = CountingEncoders(), []
    with caplog.at_level("INFO", "impasto.trainers.features.encoding"):
        varied = encode(config, encoders, progress=lambda done, total, text="", preview=None: told.append((done, text)))
    loaded = features_index.load(varied)

    assert varied.key != plain.key and len(encoders.pictures) == 2 * 2 * (len(SIZES) - 1)
    cost = "To encode: 20 latents of 5 pictures, 20 of them variants, which take 0.3 MB"
    first = next(text for _, text in told if "ncod" in text and "Comparing" not in text)
    assert first == cost and cost in caplog.text
    for example in loaded.examples:
        assert len(example.variants) == (0 if example.held_out else 2)
        for number in range(1, len(example.all_pictures)):
            latent = loaded.load_latent(example, variant=number)
            assert latent.shape == loaded.load_latent(example).shape
            assert not torch.equal(latent, loaded.load_latent(example))
            torch.testing.assert_close(loaded.load_latent(example, flipped=True, variant=number), latent.flip(-1))
    assert "5 pictures in several variants, 3 at most" in features_index.report(varied)

    again = CountingEncoders()
    assert encode(config, again) == varied and again.pictures == []
    write_config(config, "validation_split = 0.2", "flip_aug = true")
    assert encode(config, again) == plain and again.pictures == []


@pytest.mark.parametrize("off", ["random_crop = false", VARIED.replace("= 3", "= 1"), "custom_attributes = {a = 1}"])
def test_without_variants_the_key_is_the_one_that_it_was(config, off):
    plain = encode(config)
    write_config(config, subset=off)
    assert encode(config) == plain


def test_a_mask_is_cut_as_its_picture_is(tmp_path):
    config = make_dataset(tmp_path / "masked", [(192, 128)] * 2)
    for number in range(2):  # the mask lies where the picture is light
        light = Image.new("L", (192, 128), 0)
        light.paste(255, (40 + 20 * number, 0, 120, 64))
        picture = Image.merge("RGBA", [light] * 4)
        picture.save(config.parent / "train" / f"picture-{number}.png")
    crop = "random_crop = true\ncustom_attributes = {impasto = {random_scale = 1.5}}"
    write_config(config, subset=f"alpha_mask = true\n{crop}")
    loaded = features_index.load(encode(config))
    for example in loaded.examples:
        assert len(example.variants) == 3
        for number in range(4):
            latent, mask = loaded.load_latent(example, variant=number), loaded.load_mask(example, variant=number)
            assert 0 < mask.mean() < 1
            torch.testing.assert_close(latent[:1] / 0.3611 + 0.1159, mask, atol=1e-4, rtol=0)
        assert not torch.equal(loaded.load_mask(example), loaded.load_mask(example, variant=1))


def test_a_mask_is_the_alpha_channel_at_the_size_of_the_latent(tmp_path):
    config = make_dataset(tmp_path / "masked", [(128, 128), (128, 128)], subset="alpha_mask = true")
    alpha = Image.new("L", (128, 128), 255)
    alpha.paste(0, (0, 0, 64, 128))
    alpha.paste(51, (64, 0, 72, 8))
    picture = Image.open(config.parent / "train" / "picture-0.png")
    picture.putalpha(alpha)
    picture.save(config.parent / "train" / "picture-0.png")
    loaded = features_index.load(encode(config))
    masks = {example.caption: loaded.load_mask(example) for example in loaded.examples}

    assert masks["caption 0"].shape == (1, 16, 16)
    assert masks["caption 0"][:, :, :8].max() == 0
    assert masks["caption 0"][0, 0, 8] == pytest.approx(0.2)
    assert masks["caption 0"][:, 1:, 8:].min() == 1
    assert masks["caption 1"].min() == 1  # without an alpha channel


def test_the_alpha_channel_changes_the_loss_and_not_the_picture(tmp_path):
    opaque = make_dataset(tmp_path / "opaque", [(128, 128)])
    masked = make_dataset(tmp_path / "masked", [(128, 128)], subset="alpha_mask = true")
    picture = Image.open(masked.parent / "train" / "picture-0.png")
    picture.putalpha(Image.new("L", (128, 128), 0))
    picture.save(masked.parent / "train" / "picture-0.png")

    latents = [
        (found := features_index.load(encode(config))).load_latent(found.examples[0]) for config in (opaque, masked)
    ]
    assert torch.equal(*latents)


REGULARISATION = '[[datasets.subsets]]\nimage_dir = "others"\ncaption_extension = ".txt"\nis_reg = true\n'


@pytest.mark.parametrize("regular, repeats, expected", [(2, 1, [9, 9]), (3, 5, [6, 6, 6]), (9, 4, [4, 4, 4, 4, 4])])
def test_regularisation_pictures_come_as_often_as_the_others(tmp_path, regular, repeats, expected):
    """sd-scripts: taken with their repeats until there are enough; too few come once more each in turn."""
    config = make_dataset(
        tmp_path / "regular", subset="num_repeats = 3\n" + REGULARISATION + f"num_repeats = {repeats}"
    )
    add_pictures(tmp_path / "regular" / "others", [(128, 128)] * regular, seed=1)
    examples = examples_of(config)

    assert sum(example.repeats for example in examples if not example.is_reg) == 18
    assert [example.repeats for example in examples if example.is_reg] == expected


def test_regularisation_pictures_are_never_held_out(tmp_path):
    config = make_dataset(tmp_path / "split", dataset="validation_split = 0.5", subset=REGULARISATION)
    add_pictures(tmp_path / "split" / "others", [(128, 128)] * 6, seed=1)
    examples = examples_of(config)

    assert sum(example.held_out for example in examples) == 3
    assert not any(example.held_out and example.is_reg for example in examples)
    assert sum(example.repeats for example in examples if example.is_reg) == 3


def test_a_caption_that_varies_is_encoded_as_often_as_asked_for_and_the_held_out_once(tmp_path):
    config = make_dataset(tmp_path / "varied", dataset="validation_split = 0.2", subset="shuffle_caption = true")
    for caption in (config.parent / "train").glob("*.txt"):
        caption.write_text(f"{caption.stem}, boat, river, sky, trees, clouds")
    examples = examples_of(config, caption_variants=3)

    for example in examples:
        assert len({text.path for text in example.all_texts}) == (1 if example.held_out else 3)
        assert example.all_texts[0].path == example.text_path
    keys = {encode(config, caption_variants=number).key for number in (3, 3, 2)}
    assert len(keys) == 2


def test_training_data_of_an_earlier_version_that_warmed_its_captions_up_is_refused_by_name(tmp_path):
    config = make_dataset(tmp_path / "warm", subset="shuffle_caption = true")
    for caption in (config.parent / "train").glob("*.txt"):
        caption.write_text("boat, river, sky, trees, clouds")
    encoded = encode(config)
    index = Path(encoded.folder) / features_index.INDEX
    written = json.loads(index.read_text(encoding="utf-8"))
    written["samples"][0]["token_warmup_step"] = 100
    index.write_text(json.dumps(written))
    with pytest.raises(FeatureError, match="token_warmup_step 100.*no longer trained. Remove that key"):
        features_index.load(encoded)


def test_every_picture_has_variants_of_its_own(tmp_path):
    config = make_dataset(tmp_path / "wild", [(128, 128)] * 8, subset="enable_wildcard = true")
    for caption in (config.parent / "train").glob("*.txt"):
        caption.write_text("{a|b|c|d|e|f|g|h|i|j}")
    found = {text.caption for example in examples_of(config, caption_variants=2) for text in example.all_texts}
    assert len(found) > 4


def test_datasets_of_several_resolutions_and_batch_sizes_make_one_run(tmp_path):
    config = make_dataset(tmp_path / "small", SIZES[:4], dataset="batch_size = 3")
    config.write_text(config.read_text() + config.read_text().replace("128", "192").replace("batch_size = 3", ""))
    examples = examples_of(config)

    sides = {(example.batch_size, example.width * example.height > 128 * 128) for example in examples}
    assert (len(examples), sides) == (8, {(3, False), (1, True)})
    for batch in epoch_batches(examples, seed=0, epoch=0):
        assert len({(example.width, example.height, example.batch_size) for example in batch}) == 1
        assert len(batch) <= batch[0].batch_size


PROMPTS = [("a harbour at dawn", 7), ("caption 1", 2**64 - 1)]


def test_prompts_are_encoded_and_listed_and_no_part_of_the_key(config):
    plain = encode(config)
    encoders = CountingEncoders()
    prompted = encode(config, encoders, prompts=PROMPTS)
    assert (prompted.folder, prompted.key) == (plain.folder, plain.key)
    assert encoders.texts == ["a harbour at dawn"]  # the other is a caption too

    loaded = features_index.load(prompted)
    assert [(text, seed) for text, seed, _ in loaded.prompts] == PROMPTS
    for text, _, path in loaded.prompts:
        assert torch.equal(loaded.load_text(path)[0], encoders.encode_text(text)[0])
    assert encode(config) == plain and features_index.load(plain).prompts == ()
    assert features_index.load(prompted).prompts == loaded.prompts  # which encoding without them has not touched


def test_a_config_written_by_hand_is_read_and_reported_subset_by_subset(tmp_path):
    (tmp_path / "dataset.toml").write_text(
        """
# my Monets
[general]
enable_bucket = true          # keep their shape
caption_extension = '.txt'
flip_aug = true
min_bucket_reso = 64

[[datasets]]
resolution = [128, 128]
bucket_reso_steps = 32
batch_size = 2

  [[datasets.subsets]]
  image_dir = 'paintings/gardens'
  num_repeats = 2
  shuffle_caption = true

  [[datasets.subsets]]
  image_dir = './paintings/water'
  flip_aug = false
  alpha_mask = true
  caption_dropout_rate = 0.1

  [[datasets.subsets]]
  image_dir = 'paintings/others'
  is_reg = true
"""
    )
    for number, name in enumerate(("gardens", "water", "others")):
        add_pictures(tmp_path / "paintings" / name, seed=number, mode="RGBA" if name == "water" else "RGB")
    for caption in (tmp_path / "paintings" / "gardens").glob("*.txt"):
        caption.write_text("pond, bridge, willow, mist, dawn, boat, sky")
    report = features_index.report(encode(tmp_path / "dataset.toml", prompts=PROMPTS))

    for line in (
        "subset gardens at 128 x 128: 6 pictures, num_repeats 2, shuffle_caption, flip_aug",
        "subset water at 128 x 128: 6 pictures, num_repeats 1, caption_dropout_rate 0.1, alpha_mask",
        "subset others at 128 x 128: 6 pictures, num_repeats 1, flip_aug, is_reg",
        "12 pictures encoded mirrored too",
        "6 pictures with several texts, 4 at most",
        "6 regularisation pictures",
        "6 pictures with a mask",
        "2 prompts for samples",
        "36 per epoch with repeats, batch size 2",
    ):
        assert line in report


def test_a_folder_that_was_renamed_encodes_nothing_and_is_reported_by_its_new_name(config):
    first = encode(config)
    (config.parent / "train").rename(config.parent / "gardens")
    config.write_text(config.read_text().replace('"train"', '"gardens"'))
    encoders = CountingEncoders()

    assert encode(config, encoders) == first
    assert encoders.pictures == encoders.texts == []
    assert "subset gardens at 128 x 128: 6 pictures" in features_index.report(first)


@pytest.mark.parametrize("what", ["latents", "texts", "index"])
def test_missing_files_are_named_with_the_remedy(config, what):
    found = encode(config)
    example = features_index.load(found).examples[0]
    lost = {
        "latents": example.latent_path,
        "texts": example.text_path,
        "index": os.path.join(found.folder, "index.json"),
    }
    os.remove(lost[what])
    with pytest.raises(FeatureError, match="queue Encode Training Data again") as refused:
        features_index.load(found)
    assert os.path.basename(lost[what]) in str(refused.value)

    encode(config)
    assert features_index.load(found).examples


def test_a_damaged_index_is_named_with_the_remedy(config):
    found = encode(config)
    index = Path(found.folder, "index.json")
    index.write_text(index.read_text()[:100])
    with pytest.raises(FeatureError, match=r"index\.json is damaged.*Delete it"):
        features_index.load(found)


@pytest.mark.parametrize("damage", ["torn", "other shape"])
def test_damaged_files_are_named_with_the_remedy(config, damage):
    from safetensors.torch import save_file

    loaded = features_index.load(encode(config))
    example = loaded.examples[0]
    if damage == "torn":
        example.latent_path.write_bytes(example.latent_path.read_bytes()[:100])
    else:
        save_file({"latent": torch.zeros(16, 3, 3)}, example.latent_path)
    with pytest.raises(FeatureError, match=example.latent_path.name):
        loaded.load_latent(example)


def test_the_report_counts_buckets_texts_and_space(tmp_path):
    config = make_dataset(
        tmp_path / "counted", dataset="batch_size = 2\nvalidation_split = 0.2", subset="num_repeats = 3"
    )
    report = features_index.report(encode(config))

    assert "6 pictures, 1 of them held out" in report
    assert "15 per epoch" in report
    assert "160 x 96: 3" in report
    assert "7 texts" in report
    assert " MB in " in report


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    config = make_dataset(tmp_path_factory.mktemp("epochs") / "dataset", SIZES * 3, subset="num_repeats = 3")
    (config.parent / "train" / "picture-0.txt").write_text("a long caption " * 30)
    found = features_index.load(encode(config)).examples
    return [replace(example, repeats=number % 3 + 1, batch_size=4) for number, example in enumerate(found)]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_an_epoch_has_every_example_as_often_as_it_repeats(examples, batch_size):
    examples = [replace(example, batch_size=batch_size) for example in examples]
    batches = epoch_batches(examples, seed=1, epoch=0)
    assert Counter(example for batch in batches for example in batch) == Counter({s: s.repeats for s in examples})
    assert all(1 <= len(batch) <= batch_size for batch in batches)


def test_a_batch_has_one_bucket_and_one_text_length(examples):
    batches = epoch_batches(examples, seed=1, epoch=0)
    assert all(len({(s.width, s.height, s.tokens) for s in batch}) == 1 for batch in batches)
    assert len({example.tokens for example in examples}) == 2


def test_batches_are_as_few_as_one_shape_per_batch_allows(examples):
    batches = epoch_batches(examples, seed=1, epoch=0)
    shapes = Counter()
    for example in examples:
        shapes[example.width, example.height, example.tokens] += example.repeats
    assert len(batches) == sum(-(-count // 4) for count in shapes.values())


def test_the_order_depends_on_seed_and_epoch_alone(examples):
    order = epoch_batches(examples, seed=1, epoch=0)
    assert order == epoch_batches(list(reversed(examples)), seed=1, epoch=0)
    assert order != epoch_batches(examples, seed=1, epoch=1)
    assert order != epoch_batches(examples, seed=2, epoch=0)


def test_buckets_are_mixed_over_an_epoch(examples):
    single = [replace(example, batch_size=1) for example in examples]
    shapes = [(batch[0].width, batch[0].height) for batch in epoch_batches(single, seed=1, epoch=0)]
    assert sum(a != b for a, b in zip(shapes, shapes[1:], strict=False)) > len(set(shapes)) + 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1}', b"\xff", b'{"version": 1, "samples": [3]}'])
def test_a_damaged_index_is_named_and_written_anew_without_encoding_anything(config, content):
    found = encode(config)
    file = Path(found.folder) / "index.json"
    whole = file.read_bytes()
    file.write_bytes(content)
    with pytest.raises(FeatureError, match="damaged.*queue Encode Training Data again"):
        features_index.load(found)
    encoders = CountingEncoders()
    assert encode(config, encoders) == found and file.read_bytes() == whole
    assert not encoders.pictures and not encoders.texts


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 4  # of a number
    path.write_bytes(content)


def test_a_flipped_bit_in_a_latent_or_a_text_is_not_trained_on_and_is_encoded_again(config, caplog):
    found = encode(config)
    loaded = features_index.load(found)
    example = loaded.examples[0]
    whole = {path: path.read_bytes() for path in (example.latent_path, example.text_path)}
    for path in whole:
        flip(path)
    with pytest.raises(FeatureError, match="has other content than was written.*queue Encode Training Data again"):
        loaded.load_latent(example)
    with pytest.raises(FeatureError, match="has other content than was written"):
        loaded.load_text(example.text_path)
    encoders = CountingEncoders()
    assert encode(config, encoders) == found
    assert (len(encoders.pictures), len(encoders.texts)) == (1, 1)
    assert {path: path.read_bytes() for path in whole} == whole
    assert caplog.text.count("has other content than was written. It is encoded again") == 2


def test_files_of_the_first_version_which_have_no_sum_are_read_and_not_encoded_again(config):
    found = encode(config)
    loaded = features_index.load(found)
    for path in Path(found.folder).parent.glob("*/*.safetensors"):
        save_file(load_file(path), path)
    encoders = CountingEncoders()
    assert encode(config, encoders) == found and not encoders.pictures and not encoders.texts
    example = loaded.examples[0]
    assert loaded.load_latent(example).isfinite().all()


def test_a_flipped_bit_in_a_stored_picture_is_found_before_it_is_trained_on(tmp_path):
    dataset, record = stored_dataset(tmp_path)
    config = Path(write_dataset_toml(dataset, SMALL_TOML).path)
    encode(config)
    flip(dataset.image_path(record))
    with pytest.raises(DatasetError, match=r"images/\w{64}\.png is damaged: it has other content.*stores it anew"):
        encode(config)
    shutil.rmtree(config.parent / "train")
    with pytest.raises(DatasetError, match=r"is damaged: it has other content than was stored\. Delete it"):
        write_dataset_toml(dataset, SMALL_TOML)


def stored_dataset(folder):
    """A dataset of one picture, as the loaders store it."""
    add_pictures(folder / "incoming", [(128, 128)])
    stored = store_picture(folder / "garden", (folder / "incoming" / "picture-0.png").read_bytes())
    record = Record(text="a garden", **vars(stored))
    return write_manifest(folder / "garden", [record]), record
