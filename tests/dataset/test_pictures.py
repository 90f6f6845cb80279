"""Opening pictures: everyone who looks at one sees the same, whatever its file is like, and damage is named."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from impasto.captioners.captioner import Picture
from impasto.captioners.editing import _thumbnail
from impasto.captioners.florence import read_picture as florence_picture
from impasto.captioners.pictures import jpeg_bytes
from impasto.curation.measures import measure
from impasto.curation.quality import Filtered, Thresholds
from impasto.curation.statistics import sheet
from impasto.curation.style_similarity import _square
from impasto.dataset import config_reader
from impasto.dataset.buckets import read_alpha, read_picture, upright_size
from impasto.dataset.config_writer import TomlSettings, write_dataset_toml
from impasto.dataset.normalise import normalised
from impasto.dataset.pictures import PictureRefused, StoredPicture, opened, read_header, seen, store_picture, thumbnail
from impasto.dataset.records import Dataset, Record, Refusal, write_manifest
from impasto.drawing.contact_sheet import CELL
from impasto.errors import DatasetError
from impasto.sources.wikiart import _preview
from PIL import Image, ImageCms, ImageFile, PngImagePlugin

from ..small_sources import picture_bytes

SIZE = (128, 96)  # pixels
Colours = tuple[tuple[int, int, int], ...]  # of the upper left, upper right, lower left, lower right quarter
QUARTERS: Colours = ((200, 40, 40), (40, 160, 60), (50, 60, 200), (220, 200, 60))
GREYS = (90, 140, 30, 220)
WHITE = (255, 255, 255)
Turn = Image.Transpose
# Exif orientation -> how the upright picture comes to lie in the file
LIES = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_90,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_270,
}
# Exif of orientation 6 with damage beside it: none of them can be written again by Pillow.
DAMAGED_EXIF = {
    "value beyond the end": "49492a00080000000200120103000100000006000000bb830b0002000000260000000000"
    "00004dd91671c2df5b31",
    "text for a number": "49492a0008000000020012010300010000000600000011020200010000000000000000000000",
    "two numbers for bytes": "49492a00080000000200120103000100000006000000bc02030002000000ffffffff00000000",
    "text for bytes": "49492a00080000000200120103000100000006000000bc020200010000000000000000000000",
    "directory before the beginning": "49492a000800000004001201030001000000060000005201020001000000ff00"
    "00002588060002000000acb300007c920d00000000000000000000000000",
    "broken entry before it": "4d4d002a000000080002010e0002000000ff7fffffff0112000300000001000600000000",
    "cut off behind it": "4d4d002a0000000800ff0112000300000001000600",
}


def quarters(colours: Colours = QUARTERS) -> Image.Image:
    picture = Image.new("RGB", SIZE)
    for number, colour in enumerate(colours):
        corner = (number % 2 * 64, number // 2 * 48)
        picture.paste(colour, (*corner, corner[0] + 64, corner[1] + 48))
    return picture


def greys(values: tuple[int, ...] = GREYS) -> Image.Image:
    return quarters(tuple((value,) * 3 for value in values)).convert("L")


def alpha(values: tuple[int, ...] = (128, 255, 255, 0)) -> Image.Image:
    return greys(values)


def on_white(colours: Colours) -> Colours:
    """What `alpha` leaves of them."""
    return (tuple((value + 255) // 2 for value in colours[0]), *colours[1:3], WHITE)


def grey(values: tuple[int, ...]) -> Colours:
    return tuple((value,) * 3 for value in values)


def deep_greys() -> Image.Image:
    return Image.fromarray(numpy.asarray(greys()).astype(numpy.uint16) * 257)


def encoded(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    if format in ("JPEG", "MPO"):
        options = {"quality": 95, "subsampling": 0} | options
    picture.save(buffer, format, **({"lossless": True} if format == "WEBP" else {}) | options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_chunks(data: bytes, *chunks: bytes, behind: bool = False) -> bytes:
    """A PNG with more chunks, before its pixels or behind them."""
    place = data.index(b"IEND") - 4 if behind else data.index(b"IDAT") - 4
    return data[:place] + b"".join(chunks) + data[place:]


def turned(orientation: int, format: str, exif: bytes | Image.Exif | None = None) -> bytes:
    if exif is None:
        exif = Image.Exif()
        exif[0x0112] = orientation
    return encoded(quarters().transpose(LIES[orientation]), format, exif=exif)


def turned_behind_its_pixels(orientation: int) -> bytes:
    exif = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return with_chunks(encoded(quarters().transpose(LIES[orientation])), chunk(b"eXIf", exif), behind=True)


def sixteen_bits_of_colour() -> bytes:
    pixels = numpy.asarray(quarters()).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", *SIZE, 16, 2, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def rgba() -> Image.Image:
    picture = quarters().convert("RGBA")
    picture.putalpha(alpha())
    return picture


def palette_with_alpha() -> tuple[Image.Image, bytes]:
    """Four colours and how opaque each is."""
    picture = Image.new("P", SIZE)
    picture.putpalette([value for colour in QUARTERS for value in colour])
    for number in range(4):
        corner = (number % 2 * 64, number // 2 * 48)
        picture.paste(number, (*corner, corner[0] + 64, corner[1] + 48))
    return picture, bytes((128, 255, 255, 0))


def another_profile() -> bytes:
    """sRGB under another name, with the primaries of red and blue exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = profile.replace(b"\0s\0R\0G\0B", b"\0o\0u\0r\0s").replace(b"rXYZ", b"....", 1)
    return other.replace(b"bXYZ", b"rXYZ", 1).replace(b"....", b"bXYZ", 1)


def exchanged(colours: Colours) -> Colours:
    return tuple(colour[::-1] for colour in colours)


LONG_TEXT = chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"node " * 300_000))
LONG_INTERNATIONAL_TEXT = chunk(b"iTXt", b"workflow\0\1\0en\0\0" + zlib.compress(b"node " * 300_000))
LONG_PROFILE = chunk(b"iCCP", b"profile\0\0" + zlib.compress(another_profile() + bytes(2 << 20)))


def stored_kinds() -> dict[str, tuple[bytes, Colours]]:
    """Files of the formats that datasets hold, and what is to be seen in them."""
    palette, opacities = palette_with_alpha()
    masked_grey = Image.merge("LA", (greys(), alpha()))
    keyed = {"transparency": QUARTERS[3]}
    profile = another_profile()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kinds = {
        "RGB": (encoded(quarters()), QUARTERS),
        "JPEG": (encoded(quarters(), "JPEG"), QUARTERS),
        "MPO": (encoded(quarters(), "MPO", save_all=True, append_images=[greys().convert("RGB")]), QUARTERS),
        "WebP": (encoded(quarters(), "WEBP"), QUARTERS),
        "P": (encoded(palette), QUARTERS),
        "1": (encoded(greys((0, 255, 255, 0)).convert("1")), grey((0, 255, 255, 0))),
        "L": (encoded(greys()), grey(GREYS)),
        "L JPEG": (encoded(greys(), "JPEG"), grey(GREYS)),
        "CMYK": (encoded(quarters().convert("CMYK"), "JPEG"), QUARTERS),
        "grey of 16 bits": (encoded(deep_greys()), grey(GREYS)),
        "colour of 16 bits": (sixteen_bits_of_colour(), QUARTERS),
        "RGBA": (encoded(rgba()), on_white(QUARTERS)),
        "RGBA WebP": (encoded(rgba(), "WEBP", exact=True), on_white(QUARTERS)),
        "LA": (encoded(masked_grey), on_white(grey(GREYS))),
        "P with alpha": (encoded(palette, transparency=opacities), on_white(QUARTERS)),
        "RGB with a transparent colour": (encoded(quarters(), **keyed), (*QUARTERS[:3], WHITE)),
        "L with a transparent grey": (encoded(greys(), transparency=220), (*grey(GREYS)[:3], WHITE)),
        "16 bits with a transparent grey": (
            encoded(deep_greys(), transparency=220 * 257),
            (*grey(GREYS)[:3], WHITE),
        ),
        "sRGB profile": (encoded(quarters(), "JPEG", icc_profile=srgb), QUARTERS),
        "another profile": (encoded(quarters(), icc_profile=profile), exchanged(QUARTERS)),
        "another profile JPEG": (encoded(quarters(), "JPEG", icc_profile=profile), exchanged(QUARTERS)),
        "another profile RGBA": (encoded(rgba(), icc_profile=profile), on_white(exchanged(QUARTERS))),
        "another profile P with alpha": (
            encoded(palette, transparency=opacities, icc_profile=profile),
            on_white(exchanged(QUARTERS)),
        ),
        "damaged profile": (encoded(quarters(), icc_profile=b"no profile"), QUARTERS),
        "long text": (with_chunks(encoded(quarters()), LONG_TEXT), QUARTERS),
        "long text behind the pixels": (with_chunks(encoded(quarters()), LONG_TEXT, behind=True), QUARTERS),
        "long international text": (with_chunks(encoded(quarters()), LONG_INTERNATIONAL_TEXT), QUARTERS),
        "long profile": (with_chunks(encoded(quarters()), LONG_PROFILE), exchanged(QUARTERS)),
        "turned behind its pixels": (turned_behind_its_pixels(6), QUARTERS),
    }
    turns = {f"turned {n} {format}": (turned(n, format), QUARTERS) for n in LIES for format in ("JPEG", "PNG", "WEBP")}
    damaged = {
        f"damaged Exif, {name}": (turned(6, "JPEG", b"Exif\0\0" + bytes.fromhex(exif)), QUARTERS)
        for name, exif in DAMAGED_EXIF.items()
    }
    return kinds | turns | damaged


def dataset_of(folder: Path, data: bytes) -> tuple[Dataset, Record]:
    stored = store_picture(folder, data, keep_metadata=True)  # as datasets of earlier versions hold them
    record = Record(stored.file_name, stored.sha256, stored.width, stored.height, stored.size, "four fields")
    return write_manifest(folder, [record]), record


def only_cell(drawn: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The one picture of a contact sheet with a heading of one line."""
    left, bottom = 16 + (CELL - size[0]) // 2, 16 + 19 + 16 + CELL
    return drawn.crop((left, bottom - size[1], left + size[0], bottom))


def filter_sheet(dataset: Dataset, record: Record) -> Image.Image:
    refused = ((record, Refusal("", "min_side", "small")),)
    return Filtered(dataset, refused, "", {}, Thresholds()).sheet()


def page_thumbnail(path: Path, record: Record, folder: Path) -> Image.Image:
    folder.mkdir()
    return Image.open(folder / _thumbnail(path, record.sha256, folder))


def training_picture(dataset: Dataset) -> Image.Image:
    [picture] = config_reader.pictures(config_reader.read(write_dataset_toml(dataset, TomlSettings()).path))
    assert upright_size(picture.path) == SIZE
    return read_picture(picture.path)


def readings(dataset: Dataset, record: Record, folder: Path) -> dict[str, Callable[[], Image.Image]]:
    """Everyone who looks at a stored picture."""
    path = dataset.image_path(record)
    stored = StoredPicture(record.file_name, record.sha256, record.width, record.height, record.size)
    return {
        "opener": lambda: seen(path),
        "opener of bytes": lambda: seen(path.read_bytes()),
        "captioner by service": lambda: Image.open(io.BytesIO(jpeg_bytes(Picture(record.sha256, path, *SIZE)))),
        "Florence": lambda: florence_picture(path, (64, 64)),
        "style": lambda: _square(path, 64),
        "contact sheet of the statistics": lambda: only_cell(sheet(dataset), SIZE),
        "contact sheet of the filter": lambda: only_cell(filter_sheet(dataset, record), SIZE),
        "caption editor": lambda: page_thumbnail(path, record, folder / "temp"),
        "loader's preview": lambda: _preview(path.parent.parent, stored),
        "loader": lambda: Image.open(io.BytesIO(normalised(path.read_bytes(), "PNG")[0])).convert("RGB"),
        "training": lambda: training_picture(dataset),
    }


def colours_of(picture: Image.Image) -> Colours:
    width, height = picture.size
    centres = ((width // 4, height // 4), (3 * width // 4, height // 4))
    centres += tuple((x, height - 1 - y) for x, y in centres)
    return tuple(picture.convert("RGB").getpixel(centre) for centre in centres)


def close(colours: Colours, expected: Colours) -> bool:
    return numpy.abs(numpy.array(colours) - numpy.array(expected)).max() <= 7


KINDS = stored_kinds()


@pytest.mark.parametrize("kind", KINDS)
def test_everyone_sees_the_same_picture(tmp_path, kind):
    data, expected = KINDS[kind]
    dataset, record = dataset_of(tmp_path / "four", data)
    wrong = {}
    for reader, read in readings(dataset, record, tmp_path).items():
        picture = read()
        if not close(colours_of(picture), expected):
            wrong[reader] = colours_of(picture)
        if reader not in ("Florence", "style"):  # which take squares
            assert picture.size == SIZE, reader
    assert not wrong, expected
    assert alike(measure(dataset.image_path(record)), measure(plain(tmp_path, expected)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_without_its_private_data_is_seen_as_before(tmp_path, kind):
    data, expected = KINDS[kind]
    stored = store_picture(tmp_path, data)
    assert close(colours_of(seen(tmp_path / stored.file_name)), expected)
    assert seen(tmp_path / stored.file_name).size == SIZE


def plain(folder: Path, colours: Colours) -> Path:
    path = folder / "plain.png"
    quarters(colours).save(path)
    return path


def alike(one: object, other: object) -> bool:
    """Whether two pictures measure alike, but for the noise of a JPEG."""
    assert one.size == other.size
    return all(
        abs(getattr(one, name) - getattr(other, name)) <= tolerance
        for name, tolerance in {"highlight": 0.03, "shadow": 0.03, "colourfulness": 4, "colour": 4}.items()
    )


def test_what_only_loaders_and_configs_bring_is_seen_alike():
    lab = ImageCms.profileToProfile(
        quarters(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    kinds = {
        "LAB": encoded(lab, "TIFF"),
        "GIF": encoded(quarters().quantize(4), "GIF"),
        "BMP": encoded(quarters(), "BMP"),
        "turned TIFF": turned(6, "TIFF"),
        "32 bits": encoded(deep_greys().convert("I"), "TIFF"),
        "CMYK": encoded(quarters().convert("CMYK"), "TIFF"),
        "JPEG 2000": encoded(quarters(), "JPEG2000"),
    }
    for kind, data in kinds.items():
        expected = grey(GREYS) if kind == "32 bits" else QUARTERS
        for picture in (seen(data), Image.open(io.BytesIO(normalised(data, "PNG")[0]))):
            assert close(colours_of(picture), expected), (kind, colours_of(picture))
            assert picture.size == SIZE, kind


def test_training_sees_what_an_alpha_channel_hides_and_weighs_by_it(tmp_path):
    """As sd-scripts does: a transparent part may be meant as a mask."""
    (tmp_path / "masked.png").write_bytes(KINDS["RGBA"][0])
    assert close(colours_of(read_picture(tmp_path / "masked.png")), QUARTERS)
    assert close(colours_of(read_alpha(tmp_path / "masked.png")), grey((128, 255, 255, 0)))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_what_was_seen_upright_is_turned_by_nobody_again(format):
    data = normalised(turned(6, format), "PNG" if format == "PNG" else "JPEG")[0]
    assert normalised(data)[0] is data and close(colours_of(seen(data)), QUARTERS)
    assert Image.open(io.BytesIO(data)).size == SIZE


TORN = {format: picture_bytes(3, 200, 160, format) for format in ("JPEG", "PNG", "WEBP")}


def every_reader(path: Path) -> dict[str, Callable[[], object]]:
    return {
        "opener": lambda: seen(path),
        "thumbnail": lambda: thumbnail(path, 20),
        "captioner by service": lambda: jpeg_bytes(Picture("0" * 64, path, 1, 1)),
        "Florence": lambda: florence_picture(path, (64, 64)),
        "style": lambda: _square(path, 64),
        "measures": lambda: measure(path),
        "training": lambda: read_picture(path),
        "mask": lambda: read_alpha(path),
    }


@pytest.mark.parametrize("format", TORN)
def test_a_picture_cut_short_is_found_and_named_by_everyone_whatever_other_packs_set(tmp_path, monkeypatch, format):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = tmp_path / "poppies.img"
    path.write_bytes(TORN[format][: len(TORN[format]) * 2 // 3])
    for reader, read in every_reader(path).items():
        with pytest.raises((PictureRefused, DatasetError), match="poppies.img"):
            pytest.fail(f"{reader} took it: {read()}")
        assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    with pytest.raises(PictureRefused, match="no readable picture"):
        normalised(path.read_bytes())


def test_a_switch_of_another_pack_is_put_back_when_the_last_of_several_threads_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data, first_in, second_out = picture_bytes(1), threading.Event(), threading.Event()
    found = []

    def first() -> None:
        with opened(data):
            first_in.set()
            second_out.wait(10)
            found.append(ImageFile.LOAD_TRUNCATED_IMAGES)

    thread = threading.Thread(target=first)
    thread.start()
    first_in.wait(10)
    with opened(data):
        found.append(ImageFile.LOAD_TRUNCATED_IMAGES)
    second_out.set()
    thread.join()
    assert found == [False, False]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_the_limits_of_other_packs_on_texts_are_neither_used_nor_changed(monkeypatch):
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 1 << 30)
    data = with_chunks(encoded(quarters()), LONG_TEXT)
    with opened(data) as picture:
        assert "workflow" not in picture.info
    assert PngImagePlugin.MAX_TEXT_CHUNK == 1 << 30


def test_a_picture_with_long_texts_is_written_anew_for_trainers_and_loaders_and_one_with_short_ones_is_not():
    data = with_chunks(encoded(quarters()), LONG_TEXT, chunk(b"tEXt", b"artist\0Monet"))
    written, changes = normalised(data, "PNG")
    assert changes == ("its texts or profile of over 1 MiB were left out",)
    assert len(written) < 5_000 and Image.open(io.BytesIO(written)).size == SIZE
    data = with_chunks(encoded(quarters()), chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"node " * 1000)))
    assert normalised(data, "PNG") == (data, ())


def test_an_enormous_picture_is_refused_by_its_header_even_where_pillows_limit_is_off(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1_000))), chunk(b"IEND", b""))
    path = tmp_path / "enormous.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    for read in (*every_reader(path).values(), lambda: upright_size(path), lambda: read_header(path.read_bytes())):
        with pytest.raises((PictureRefused, DatasetError), match="60000 x 60000 is more than"):
            read()


def test_an_icon_that_holds_a_picture_larger_than_it_says_is_no_picture():
    inside = encoded(quarters())
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inside), 22) + inside
    assert Image.open(io.BytesIO(icon)).format == "ICO"
    with pytest.raises(PictureRefused, match="no readable picture"):
        seen(icon)


@pytest.mark.parametrize("data", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"no picture", b""])
def test_what_is_no_picture_is_named_and_starts_no_program(tmp_path, data):
    path = tmp_path / "poppies.png"
    path.write_bytes(data)
    for read in every_reader(path).values():
        with pytest.raises((PictureRefused, DatasetError), match="poppies.png"):
            read()


def test_whatever_a_plug_in_raises_is_told_of_the_file_but_no_lack_of_memory(tmp_path):
    path = tmp_path / "poppies.png"
    path.write_bytes(encoded(quarters()))
    for error in (ZeroDivisionError("by zero"), struct.error("short"), RecursionError()):
        with pytest.raises(PictureRefused, match="poppies.png"), opened(path):
            raise error
    with pytest.raises(MemoryError), opened(path):
        raise MemoryError
