"""Variants of pictures: cut-outs that stay in the picture, in the bucket's shape, and colours changed a little."""

from __future__ import annotations

import numpy
import pytest
from impasto.dataset import buckets
from impasto.dataset.picture_variants import MOST_VARIANTS, PictureRules, PictureVariant, shown, variants
from impasto.errors import DatasetError
from PIL import Image

EVERYTHING = PictureRules(random_crop=True, color_aug=True, random_scale=1.3, picture_variants=8)
SIZES = [(192, 128), (128, 192), (333, 77), (65, 64), (5000, 3001), (128, 128)]
BUCKETS = [(128, 128), (160, 96), (96, 160)]


@pytest.mark.parametrize("rules", [PictureRules(), PictureRules(random_scale=1.5, picture_variants=1)])
def test_off_there_are_none(rules):
    assert not rules.vary and variants((192, 128), (128, 128), rules, "a") == ()
    assert variants((192, 128), (128, 128), PictureRules(picture_variants=8), "a") == ()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_cut_out_stays_in_the_picture_and_has_the_buckets_shape(size, bucket):
    rules = PictureRules(random_crop=True, random_scale=2.0, picture_variants=MOST_VARIANTS)
    for variant in variants(size, bucket, rules, "seed"):
        left, top, right, bottom = variant.box
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        width, height = right - left, bottom - top
        assert abs(width / height - bucket[0] / bucket[1]) < 0.03 * max(1 / width, 1 / height) * bucket[0] / bucket[1]
        whole = min(size[0], size[1] * bucket[0] / bucket[1])
        assert whole / width + 1e-3 >= 1 and whole / width <= 2 + 1e-3


def test_they_are_drawn_by_the_picture_alone_and_more_are_those_and_others():
    few = variants((192, 128), (128, 128), EVERYTHING, "a")
    assert few == variants((192, 128), (128, 128), EVERYTHING, "a") and len(few) == 7
    assert few != variants((192, 128), (128, 128), EVERYTHING, "b")
    more = PictureRules(random_crop=True, color_aug=True, random_scale=1.3, picture_variants=12)
    assert variants((192, 128), (128, 128), more, "a")[:7] == few


def test_a_crop_of_what_has_nothing_to_cut_off_is_no_variant():
    rules = PictureRules(random_crop=True, picture_variants=8)
    assert variants((256, 256), (128, 128), rules, "a") == ()
    assert len(variants((256, 200), (128, 128), rules, "a")) == 7


def test_without_random_crop_the_enlarged_picture_is_cut_at_its_centre():
    for variant in variants((192, 128), (128, 128), PictureRules(random_scale=1.4), "a"):
        left, top, right, bottom = variant.box
        assert left + right == pytest.approx(192, abs=0.03) and top + bottom == pytest.approx(128, abs=0.03)


def test_crops_lie_all_over_the_picture_and_either_colour_change_comes():
    rules = PictureRules(random_crop=True, color_aug=True, picture_variants=MOST_VARIANTS)
    drawn = [variant for seed in "abcdef" for variant in variants((400, 100), (100, 100), rules, seed)]
    lefts = [variant.box[0] for variant in drawn]
    assert min(lefts) < 20 and max(lefts) > 280 and 120 < sum(lefts) / len(lefts) < 180
    hues, gammas = {variant.hue for variant in drawn}, {variant.gamma for variant in drawn}
    assert min(hues) < -5 and max(hues) > 5 and min(hues) >= -11 and max(hues) <= 11
    assert 0.95 <= min(gammas) < 0.97 and 1.03 < max(gammas) <= 1.05
    assert all(not variant.hue or variant.gamma == 1 for variant in drawn)


def test_the_picture_is_shown_where_the_box_lies():
    across, down = numpy.meshgrid(numpy.arange(192), numpy.arange(128))
    picture = Image.fromarray(numpy.stack([across, down, across * 0], -1).astype(numpy.uint8))
    cut = numpy.asarray(shown(picture, PictureVariant((40.0, 16.0, 104.0, 80.0)), (64, 64)), int)
    assert abs(cut[:, :, 0] - (numpy.arange(64) + 40)[None]).max() <= 1
    assert abs(cut[:, :, 1] - (numpy.arange(64) + 16)[:, None]).max() <= 1
    plain = shown(picture, PictureVariant((32.0, 0.0, 160.0, 128.0)), (64, 64))
    assert numpy.array_equal(plain, buckets.fit(picture, (64, 64)))


def test_colours_change_a_little_and_a_mask_not_at_all():
    picture, box = Image.new("RGB", (64, 64), (200, 100, 50)), (0.0, 0.0, 64.0, 64.0)
    colours = {
        change: shown(picture, PictureVariant(box, *change), (64, 64)).getpixel((5, 5))
        for change in ((0, 1.0), (11, 1.0), (-11, 1.0), (0, 0.95), (0, 1.05))
    }
    assert colours[0, 1.0] == (200, 100, 50) and len(set(colours.values())) == 5
    assert all(
        abs(new - old) <= 45 for colour in colours.values() for new, old in zip(colour, (200, 100, 50), strict=True)
    )
    assert sum(colours[0, 0.95]) > 350 > sum(colours[0, 1.05])
    mask = Image.new("L", (64, 64), 77)
    assert shown(mask, PictureVariant(box, 11, 0.95), (64, 64)).getextrema() == (77, 77)


@pytest.mark.parametrize(
    "wrong", [{"picture_variants": 0}, {"picture_variants": 33}, {"random_scale": 0.9}, {"random_scale": 3.0}]
)
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(DatasetError, match=next(iter(wrong))):
        PictureRules(**wrong)
