"""Aspect buckets: the sizes of sd-scripts, nearest aspect, and pictures that keep their shape."""

import numpy
import pytest
from impasto.dataset.buckets import Buckets, assign, bucket_sizes, fit, read_picture, upright_size
from impasto.errors import DatasetError
from PIL import Image

AT_512 = Buckets((512, 512), enable_bucket=True)
AT_1024 = Buckets((1024, 1024), enable_bucket=True, max_bucket_reso=2048)
NO_UPSCALE = Buckets((512, 512), enable_bucket=True, bucket_no_upscale=True)


def gradient(width, height):
    """A picture whose red grows from left to right and whose green grows from top to bottom."""
    red, green = numpy.meshgrid(numpy.linspace(0, 255, width), numpy.linspace(0, 255, height))
    return Image.fromarray(numpy.stack([red, green, numpy.zeros_like(red)], axis=-1).astype(numpy.uint8))


def test_the_sizes_for_512_are_those_of_sd_scripts():
    tall = {(256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640), (448, 576)}
    assert set(bucket_sizes(AT_512)) == tall | {(height, width) for width, height in tall} | {(512, 512)}


@pytest.mark.parametrize("size", bucket_sizes(AT_1024))
def test_every_size_is_a_multiple_of_the_steps_and_stays_within_the_area(size):
    assert all(side % 64 == 0 and 256 <= side <= 2048 for side in size)
    assert size[0] * size[1] <= 1024 * 1024


def test_minimum_and_maximum_are_widened_to_multiples_of_the_steps():
    assert bucket_sizes(
        Buckets((512, 512), enable_bucket=True, min_bucket_reso=300, max_bucket_reso=1000)
    ) == bucket_sizes(Buckets((512, 512), enable_bucket=True, min_bucket_reso=256, max_bucket_reso=1024))


@pytest.mark.parametrize(
    "picture, bucket",
    [
        ((4000, 4000), (512, 512)),
        ((800, 600), (576, 448)),
        ((600, 800), (448, 576)),
        ((3000, 2000), (640, 384)),
        ((2000, 1000), (704, 320)),
        ((5000, 500), (1024, 256)),
        ((320, 768), (320, 768)),
        ((100, 100), (512, 512)),
    ],
)
def test_a_picture_goes_to_the_nearest_aspect(picture, bucket):
    assert assign(*picture, AT_512) == bucket


@pytest.mark.parametrize(
    "picture, bucket",
    [((300, 200), (256, 192)), ((700, 500), (512, 384)), ((1000, 2000), (320, 640)), ((513, 511), (512, 448))],
)
def test_without_upscaling_no_bucket_is_larger_than_its_picture(picture, bucket):
    assert assign(*picture, NO_UPSCALE) == bucket


def test_without_upscaling_a_picture_smaller_than_a_step_is_refused():
    with pytest.raises(DatasetError, match="40 x 600"):
        assign(40, 600, NO_UPSCALE)


def test_without_buckets_every_picture_gets_the_resolution():
    assert assign(3000, 500, Buckets((640, 384))) == (640, 384)


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"resolution": (500, 512)}, "500 x 512"),
        ({"resolution": (512, 512), "enable_bucket": True, "bucket_reso_steps": 8}, "bucket_reso_steps"),
        ({"resolution": (512, 512), "enable_bucket": True, "min_bucket_reso": 576}, "min_bucket_reso"),
        ({"resolution": (512, 2048), "enable_bucket": True}, "max_bucket_reso"),
        ({"resolution": (512, 512), "enable_bucket": True, "min_bucket_reso": 0}, "min_bucket_reso"),
    ],
)
def test_sizes_that_flux_cannot_take_are_refused_by_name(arguments, named):
    with pytest.raises(DatasetError, match=named):
        Buckets(**arguments)


@pytest.mark.parametrize("size", [(800, 600), (600, 900), (1200, 610), (530, 520)])
def test_almost_the_whole_painting_survives_its_bucket(size):
    bucket = assign(*size, AT_512)
    fitted = numpy.asarray(fit(gradient(*size), bucket)).astype(float)

    assert fitted.shape == (bucket[1], bucket[0], 3)
    seen_across = (fitted[:, -1, 0] - fitted[:, 0, 0]).mean() / 255
    seen_down = (fitted[-1, :, 1] - fitted[0, :, 1]).mean() / 255
    # A square crop of a 600 x 900 painting would keep 0.67 of one side.
    assert min(seen_across, seen_down) > 0.85
    assert max(seen_across, seen_down) > 0.98


def test_what_is_cut_off_is_cut_on_both_sides_alike():
    fitted = numpy.asarray(fit(gradient(1000, 512), (512, 512))).astype(int)
    assert abs(fitted[256, 0, 0] - (255 - fitted[256, -1, 0])) <= 2


def test_a_turned_photograph_is_read_upright(tmp_path):
    picture = gradient(60, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise for viewing
    picture.save(tmp_path / "turned.png", exif=exif)

    assert upright_size(tmp_path / "turned.png") == (40, 60)
    upright = read_picture(tmp_path / "turned.png")
    assert upright.size == (40, 60)
    assert numpy.array_equal(numpy.asarray(upright), numpy.rot90(numpy.asarray(picture), -1))


def test_sixteen_bit_greys_keep_their_tones(tmp_path):
    greys = numpy.linspace(0, 65535, 256).astype(numpy.uint16).reshape(16, 16)
    Image.fromarray(greys).save(tmp_path / "deep.png")

    read = numpy.asarray(read_picture(tmp_path / "deep.png")).astype(int)
    assert read.shape == (16, 16, 3)
    assert abs(read[..., 0].ravel() - numpy.arange(256)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("picture.tiff" if mode == "CMYK" else "picture.png")
    gradient(32, 32).convert(mode).save(path)
    assert read_picture(path).mode == "RGB"


def test_a_truncated_jpeg_is_named(tmp_path):
    path = tmp_path / "poppies.jpg"
    gradient(400, 300).save(path)
    path.write_bytes(path.read_bytes()[:3000])

    assert upright_size(path) == (400, 300)
    with pytest.raises(DatasetError, match="poppies.jpg"):
        read_picture(path)
