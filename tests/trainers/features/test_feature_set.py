"""What one batch is trained on: drawn from the features by the run's own generator, as sd-scripts draws it."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from impasto.trainers import objective
from impasto.trainers.batches import BatchLoader, TrainingData
from impasto.trainers.features import batch_sizes, index
from impasto.trainers.features import encoding as features
from impasto.trainers.features.encoding import Encoder
from impasto.trainers.features.feature_set import Example, epoch_batches
from impasto.trainers.flux.fingerprint import fingerprint as flux_fingerprint
from impasto.trainers.recipe import FluxLoraRecipe
from impasto.trainers.run import create
from impasto.trainers.run import folder as runs
from impasto.trainers.settings import Settings

from ..conftest import encode_image, encode_text
from ..small_datasets import add_pictures, encode, make_dataset, write_config

SQUARES = [(128, 128)] * 4
LONG = "a very long caption " * 15  # 300 characters, which are 300 tokens to the stand-in


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def load_batch(loaded, batch, random=None, **changes):
    arguments = {"epoch": 0, "caption_dropout": 0.0, "prior_loss_weight": 1.0} | changes
    return loaded.load_batch(batch, random or seeded(), **arguments)


def loaded_from(tmp_path, captions=(), sizes=SQUARES, dataset="", subset="", **arguments):
    config = make_dataset(tmp_path / "dataset", sizes, dataset, subset)
    for number, caption in enumerate(captions):
        (config.parent / "train" / f"picture-{number}.txt").write_text(caption)
    return index.load(encode(config, **arguments))


def caption_drawn(loaded, example, drawn, place=0):
    """Which text's embedding is in a batch; "" for the empty caption."""
    texts = {text.caption: text.path for text in example.all_texts} | {"": loaded.empty_text_path}
    (caption,) = {
        caption
        for caption, path in texts.items()
        if (t5 := loaded.load_text(path)[0]).shape == drawn.t5[place].shape and torch.equal(t5, drawn.t5[place])
    }
    return caption


@pytest.mark.parametrize("seed", range(8))
def test_for_a_plain_dataset_one_number_is_drawn_and_decides_for_the_whole_batch(tmp_path, seed):
    loaded = loaded_from(tmp_path)
    batch = loaded.examples[:3]
    used, expected = seeded(seed), seeded(seed)
    drawn = load_batch(loaded, batch, used, caption_dropout=0.5)

    drops = bool(torch.rand((), generator=expected) < 0.5)
    assert torch.equal(used.get_state(), expected.get_state())
    assert drawn.dropped == (drops,) * 3
    for place, example in enumerate(batch):
        t5, pooled = loaded.load_text(loaded.empty_text_path if drops else example.text_path)
        assert torch.equal(drawn.t5[place], t5) and torch.equal(drawn.pooled[place], pooled)
        assert torch.equal(drawn.latents[place], loaded.load_latent(example))
    assert drawn.mask is None and drawn.weights is None


def test_the_same_arguments_give_the_same_draw(tmp_path):
    loaded = loaded_from(
        tmp_path,
        ["a, b, c, d"] * 4,
        subset="flip_aug = true\nshuffle_caption = true\ncaption_dropout_rate = 0.5\nalpha_mask = true",
    )
    first, again, other = (load_batch(loaded, loaded.examples, seeded(seed)) for seed in (3, 3, 4))
    assert first.dropped == again.dropped
    for name in ("latents", "t5", "pooled", "mask"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.latents, other.latents)


def test_half_of_the_pictures_are_mirrored_each_on_its_own(tmp_path):
    loaded = loaded_from(tmp_path, subset="flip_aug = true")
    mirrored = Counter()
    for seed in range(100):
        drawn = load_batch(loaded, loaded.examples, seeded(seed))
        flags = tuple(
            torch.equal(latent, loaded.load_latent(example, flipped=True))
            for latent, example in zip(drawn.latents, loaded.examples, strict=True)
        )
        mirrored.update(place for place, flag in enumerate(flags) if flag)
        mirrored.update([flags])
    assert all(30 < mirrored[place] < 70 for place in range(4))
    assert len([flags for flags in mirrored if isinstance(flags, tuple)]) > 8


VARIED = "random_crop = true\ncustom_attributes = {impasto = {picture_variants = 4, random_scale = 1.4}}"


def variant_drawn(loaded, example, latent):
    return next(number for number in range(4) if torch.equal(latent, loaded.load_latent(example, variant=number)))


def test_each_variant_of_a_picture_comes_as_often_as_the_picture_as_it_is(tmp_path):
    loaded = loaded_from(tmp_path, sizes=[(192, 128)] * 4, subset=VARIED)
    assert [len(example.all_pictures) for example in loaded.examples] == [4] * 4
    seen = Counter()
    for seed in range(100):
        drawn = load_batch(loaded, loaded.examples, seeded(seed))
        both = zip(loaded.examples, drawn.latents, strict=True)
        seen.update(numbers := [(place, variant_drawn(loaded, *pair)) for place, pair in enumerate(both)])
        seen.update([tuple(number for _, number in numbers)])
    assert all(12 < seen[place, number] < 40 for place in range(4) for number in range(4))
    assert sum(1 for key in seen if len(key) == 4) > 50  # each on its own


def test_a_variant_is_drawn_after_all_else_and_takes_nothing_from_it(tmp_path):
    subset = "flip_aug = true\nshuffle_caption = true\ncaption_dropout_rate = 0.5\n"
    varied = loaded_from(tmp_path, ["a, b, c, d"] * 4, [(192, 128)] * 4, subset=subset + VARIED)
    plain = replace(varied, examples=tuple(replace(example, variants=()) for example in varied.examples))
    for seed in range(5):
        one, other = (load_batch(loaded, loaded.examples, seeded(seed)) for loaded in (varied, plain))
        assert one.dropped == other.dropped and torch.equal(one.t5, other.t5)
        assert torch.equal(load_batch(varied, varied.examples, seeded(seed)).latents, one.latents)
    used, expected = seeded(), seeded()
    load_batch(plain, plain.examples, used)
    torch.rand((), generator=expected), torch.rand(3, 4, generator=expected)
    assert torch.equal(used.get_state(), expected.get_state())


def test_batches_from_any_step_on_are_those_of_a_run_that_was_not_interrupted(tmp_path):
    loaded = loaded_from(tmp_path, sizes=[(192, 128)] * 4, subset=f"flip_aug = true\n{VARIED}")
    loader = BatchLoader(TrainingData(loaded, loaded.examples, ()), Settings(seed=3))
    whole = list(itertools.islice(loader.from_step(0), 10))
    for step in (1, 4, 7):
        for one, other in zip(whole[step:], loader.from_step(step), strict=False):
            assert torch.equal(one.latents, other.latents) and torch.equal(one.noise, other.noise)


def test_a_subset_has_its_own_dropout_and_the_others_the_runs(tmp_path):
    loaded = loaded_from(tmp_path, subset="caption_dropout_rate = 0.3")
    own, other = loaded.examples[0], replace(loaded.examples[1], caption_dropout_rate=None)
    counts = Counter()
    for seed in range(300):
        dropped = load_batch(loaded, (own, other), seeded(seed), caption_dropout=0.8).dropped
        counts.update(place for place in (0, 1) if dropped[place])
    assert 60 < counts[0] < 120
    assert 210 < counts[1] < 270


def test_a_rate_of_zero_in_the_config_keeps_every_caption_whatever_the_run_drops(tmp_path):
    loaded = loaded_from(tmp_path, subset="caption_dropout_rate = 0")
    assert not any(
        any(load_batch(loaded, loaded.examples, seeded(seed), caption_dropout=1.0).dropped) for seed in range(20)
    )


def test_every_nth_epoch_has_only_empty_captions_counted_from_one(tmp_path):
    loaded = loaded_from(tmp_path, subset="caption_dropout_every_n_epochs = 3")
    dropped = [all(load_batch(loaded, loaded.examples, epoch=epoch).dropped) for epoch in range(7)]
    assert dropped == [False, False, True, False, False, True, False]


def test_longer_texts_are_dropped_together_because_the_empty_one_is_shorter(tmp_path):
    loaded = loaded_from(tmp_path, [LONG] * 4, subset="caption_dropout_rate = 0.5")
    outcomes = Counter(load_batch(loaded, loaded.examples, seeded(seed)).dropped for seed in range(100))
    assert outcomes.keys() == {(True,) * 4, (False,) * 4}
    assert 30 < outcomes[(True,) * 4] < 70


def test_subsets_that_drop_whole_epochs_share_no_batch_with_others(tmp_path):
    loaded = loaded_from(tmp_path, dataset="batch_size = 4")
    examples = [
        replace(example, caption_dropout_every_n_epochs=2 * (place % 2))
        for place, example in enumerate(loaded.examples)
    ]
    batches = epoch_batches(examples, seed=0, epoch=0)
    assert len(batches) == 2
    assert all(len({example.caption_dropout_every_n_epochs for example in batch}) == 1 for batch in batches)


def test_every_variant_of_a_caption_comes_up_about_as_often(tmp_path):
    loaded = loaded_from(tmp_path, ["one\ntwo\nthree"], SQUARES[:1], subset="enable_wildcard = true")
    (example,) = loaded.examples
    seen = Counter(caption_drawn(loaded, example, load_batch(loaded, [example], seeded(seed))) for seed in range(150))
    assert seen.keys() == {"one", "two", "three"}
    assert min(seen.values()) > 30


def test_variants_of_two_lengths_all_come_up_and_each_batch_has_one_length(tmp_path):
    captions = [f"short {name}\n{LONG} {name}\nbrief {name}" for name in "abcd"]
    loaded = loaded_from(tmp_path, captions, dataset="batch_size = 4", subset="enable_wildcard = true")
    (batch,) = epoch_batches(loaded.examples, seed=0, epoch=0)
    seen = [Counter() for _ in batch]
    for seed in range(100):
        drawn = load_batch(loaded, batch, seeded(seed), caption_dropout=0.1)
        if not any(drawn.dropped):
            for place, example in enumerate(batch):
                seen[place][caption_drawn(loaded, example, drawn, place)] += 1
    assert all(len(counts) == 3 and min(counts.values()) > 10 for counts in seen)


def test_samples_whose_texts_have_other_lengths_share_no_batch(tmp_path):
    captions = ["short\nbrief", f"short\n{LONG}", "a\nb", LONG]
    loaded = loaded_from(tmp_path, captions, dataset="batch_size = 4", subset="enable_wildcard = true")
    assert sorted(len(batch) for batch in epoch_batches(loaded.examples, seed=0, epoch=0)) == [1, 1, 2]


def test_regularisation_pictures_have_a_weight_of_their_own(tmp_path):
    regular = '[[datasets.subsets]]\nimage_dir = "others"\ncaption_extension = ".txt"\nis_reg = true\n'
    add_pictures(tmp_path / "dataset" / "others", SQUARES, seed=1)
    loaded = loaded_from(tmp_path, subset=regular)
    drawn = load_batch(loaded, loaded.examples, prior_loss_weight=0.5)

    assert drawn.weights.tolist() == [0.5 if example.is_reg else 1.0 for example in loaded.examples]
    assert drawn.weights.dtype == torch.float32
    trained = [example for example in loaded.examples if not example.is_reg]
    assert load_batch(loaded, trained, prior_loss_weight=0.5).weights is None


def test_a_mask_is_mirrored_with_its_picture_and_pictures_without_one_count_whole(tmp_path):
    add_pictures(tmp_path / "dataset" / "train", SQUARES, mode="RGBA")
    write_config(tmp_path / "dataset" / "dataset.toml", subset="flip_aug = true\nalpha_mask = true")
    loaded = index.load(encode(tmp_path / "dataset" / "dataset.toml"))
    batch = (*loaded.examples[:2], replace(loaded.examples[2], mask_path=None))
    seen = set()
    for seed in range(20):
        drawn = load_batch(loaded, batch, seeded(seed))
        assert drawn.mask.shape == (3, 1, 16, 16) and drawn.mask.dtype == torch.float32
        assert drawn.mask[2].min() == 1
        for place, example in enumerate(batch[:2]):
            flipped = torch.equal(drawn.latents[place], loaded.load_latent(example, flipped=True))
            mask = loaded.load_mask(example)
            assert torch.equal(drawn.mask[place], mask.flip(-1) if flipped else mask)
            assert not torch.equal(mask, mask.flip(-1))
            seen.add(flipped)
    assert seen == {True, False}


def test_the_recipe_weighs_masks_and_regularisation_pictures(tmp_path, tiny_weights):
    folder = tmp_path / "dataset"
    add_pictures(folder / "train", SQUARES, mode="RGBA")
    add_pictures(folder / "others", SQUARES, seed=1)
    regular = '[[datasets.subsets]]\nimage_dir = "others"\ncaption_extension = ".txt"\nis_reg = true\n'
    write_config(folder / "dataset.toml", "batch_size = 8", f"alpha_mask = true\nflip_aug = true\n{regular}")
    found = features.encode(folder / "dataset.toml", Encoder("vae", encode_image), Encoder("clip", encode_text))
    settings = Settings(steps=2, rank=4, alpha=4.0, caption_dropout=0.0, prior_loss_weight=0.25)
    job = runs.Job("tiny", settings, found.folder, found.key, str(tiny_weights), flux_fingerprint(tiny_weights))
    recipe = FluxLoraRecipe(create.create_run(tmp_path / "runs", job), True, lambda: False)
    recipe.setup()
    (examples,) = recipe.loader.epoch(0)
    batch = recipe.loader.load(0, examples)
    with torch.no_grad():
        loss = recipe.learner.loss(batch)
        noisy = objective.noisy_latents(batch.latents, batch.noise, batch.sigma)
        velocity = recipe.learner.model(noisy, batch.sigma, batch.t5, batch.pooled)
    recipe.cleanup()

    errors = (velocity - (batch.noise - batch.latents)) ** 2
    of_each = [
        (error * (1.0 if example.is_reg else mask)).mean() * (0.25 if example.is_reg else 1.0)
        for error, mask, example in zip(errors, batch.mask, examples, strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(of_each).mean())
    assert sum(example.is_reg for example in examples) == 4
    assert loss < 0.6 * errors.mean()


def captioned(*lengths, width=64):
    """An example for each caption of so many T5 tokens, for batches of 4."""
    return [
        Example(str(number), "", Path("latent"), Path("text"), width, 64, tokens, 1, False, batch_size=4)
        for number, tokens in enumerate(lengths)
    ]


def test_batches_are_told_as_they_are_drawn():
    assert batch_sizes.told(captioned(*[256] * 10), 256) == "3 batches per epoch, by pictures in them: 2 of 4, 1 of 2"


def test_captions_of_unequal_length_that_make_batches_small_are_told_with_their_lengths():
    examples = captioned(256, 256, 256, 290, 301, 317, 340, 555)
    drawn = epoch_batches(examples, seed=5, epoch=3)
    told = batch_sizes.told(examples, 256)
    assert sorted(map(len, drawn), reverse=True) == [3, 1, 1, 1, 1, 1]
    assert "6 batches per epoch, by pictures in them: 1 of 3, 5 of 1." in told
    assert "With captions of one length there would be 2: captions of over 256 T5 tokens" in told
    assert "there are 6 lengths up to 555" in told
    assert "1 of 8 captions are longer than the 512 T5 tokens" in told and "the longest has 555" in told


def test_pictures_of_unequal_size_are_not_blamed_on_captions():
    examples = [*captioned(256, width=64), *captioned(256, width=128), *captioned(512, width=192)]
    assert batch_sizes.told(examples, 256) == "3 batches per epoch, by pictures in them: 3 of 1"


def test_the_encoder_s_report_tells_how_many_batches_there_are(tmp_path):
    config = make_dataset(tmp_path / "dataset", SQUARES, "batch_size = 4")
    for number in range(2):
        (config.parent / "train" / f"picture-{number}.txt").write_text(LONG + "." * number)
    found = encode(config)
    told = "3 batches per epoch, by pictures in them: 1 of 2, 2 of 1. With captions of one length there would be 1"
    assert told in index.report(found)
