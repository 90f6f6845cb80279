"""Pictures in every state in which they are met, made into ones that trainers read the same."""

from __future__ import annotations

import io

import numpy
import pytest
from impasto.dataset.normalise import normalised
from impasto.dataset.pictures import PictureRefused
from PIL import Image, ImageCms

from ..small_sources import picture_bytes


def encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def halves(left: object, right: object, mode: str = "RGB") -> Image.Image:
    picture = Image.new(mode, (80, 40), left)
    picture.paste(right, (40, 0, 80, 40))
    return picture


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_picture_with_nothing_to_change_stays_byte_for_byte(format):
    data = picture_bytes(1, format=format)
    assert normalised(data) == (data, ())


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_other_formats_become_jpeg_or_png(format):
    data = encoded(halves("red", "blue"), format)
    for kind in ("JPEG", "PNG"):
        made, changes = normalised(data, kind)
        assert opened(made).format == kind and opened(made).mode == "RGB"
        assert changes == (f"was {format}",)
        assert opened(made).getpixel((10, 20)) == pytest.approx((255, 0, 0), abs=4)


def test_a_turned_photograph_is_stood_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    made, _ = normalised(encoded(halves("red", "blue"), "JPEG", exif=exif, quality=95))
    assert opened(made).size == (40, 80)
    assert opened(made).getpixel((20, 10)) == pytest.approx((255, 0, 0), abs=6)
    assert opened(made).getexif().get(0x0112) is None


def test_another_colour_space_is_brought_to_srgb_and_a_damaged_profile_told():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # sRGB under another name, with the primaries of red and blue exchanged
    other = profile.replace(b"\0s\0R\0G\0B", b"\0o\0u\0r\0s").replace(b"rXYZ", b"....", 1)
    other = other.replace(b"bXYZ", b"rXYZ", 1).replace(b"....", b"bXYZ", 1)
    made, changes = normalised(encoded(halves("red", "blue"), "PNG", icc_profile=other))
    assert changes == ("brought to sRGB",)
    assert opened(made).getpixel((10, 20)) == pytest.approx((0, 0, 255), abs=6)
    assert "icc_profile" not in opened(made).info
    data = encoded(halves("red", "blue"), "JPEG", icc_profile=profile)
    assert normalised(data) == (data, ())
    _, changes = normalised(encoded(halves("red", "blue"), "PNG", icc_profile=b"no profile"))
    assert changes == ("its colour profile could not be used and was left out",)


def test_what_is_transparent_is_laid_on_white():
    made, changes = normalised(encoded(halves((255, 0, 0, 255), (0, 0, 255, 0), "RGBA"), "PNG"), "PNG")
    assert opened(made).getpixel((60, 20)) == (255, 255, 255)
    assert opened(made).getpixel((10, 20)) == (255, 0, 0)
    assert changes == ("laid on white",)
    opaque = encoded(halves((255, 0, 0, 255), (0, 0, 255, 255), "RGBA"), "PNG")
    assert normalised(opaque) == (opaque, ())


def test_cmyk_and_sixteen_bits_become_ordinary_pictures():
    made, changes = normalised(encoded(halves((0, 255, 255, 0), (255, 255, 0, 0), "CMYK"), "JPEG", quality=95))
    assert opened(made).mode == "RGB" and changes == ("brought from CMYK to RGB",)
    assert opened(made).getpixel((10, 20)) == pytest.approx((255, 0, 0), abs=6)
    deep = numpy.tile(numpy.linspace(0, 65535, 80).astype(numpy.uint16), (40, 1))
    for format in ("PNG", "TIFF"):
        made, changes = normalised(encoded(Image.fromarray(deep), format))
        assert "brought to 8 bits" in changes
        assert opened(made).getpixel((40, 20)) == pytest.approx((129, 129, 129), abs=3)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "empty"),
        (b"<html>no picture</html>", "unreadable"),
        (picture_bytes(1)[:3000], "unreadable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n(x) run\n", "unreadable"),
        (encoded(Image.new("1", (20_000, 9_000)), "PNG"), "too_large"),
        (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "too_large"),
        (encoded(Image.new("1", (66_000, 10)), "BMP"), "too_large"),
        (encoded(Image.new("F", (10, 10), 0.5), "TIFF"), "format"),
    ],
)
def test_what_is_no_picture_or_a_bomb_is_refused(data, rule):
    with pytest.raises(PictureRefused) as refusal:
        normalised(data)
    assert refusal.value.rule == rule


def test_a_long_scroll_is_a_picture():
    made, _ = normalised(encoded(Image.new("RGB", (50_000, 40), "red"), "BMP"))
    assert opened(made).size == (50_000, 40)
