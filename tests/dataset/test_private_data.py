"""What a picture says of a person, a place and a camera does not reach the dataset; its pixels and colours do."""

from __future__ import annotations

import hashlib
import io
import struct
from pathlib import Path

import numpy
import pytest
from impasto.captioners.editing import EditRules, edit_captions, read_overrides
from impasto.curation.exports import ExportSettings, export_dataset
from impasto.dataset.pictures import store_picture
from impasto.dataset.private_data import without_private_data
from impasto.dataset.records import Record, write_manifest
from impasto.sources.folder import load_folder
from impasto.sources.plan import Request
from impasto.sources.wikiart import load_paintings
from PIL import Image, ImageCms, PngImagePlugin

from ..small_sources import Painting, picture_bytes

SECRETS = (b"Ann Owner", b"MAKERNOTE", b"my comment", b"<x:xmpmeta", b"trailing secret", b"thumbnail")
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FORMATS = ("JPEG", "progressive", "PNG", "WEBP", "lossless WEBP")


def exif(orientation: int = 1) -> bytes:
    tags = Image.Exif()
    tags[0x0112], tags[0x013B] = orientation, "Ann Owner"
    tags.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 3.0)})
    tags.get_ifd(0x8769).update({0x927C: b"MAKERNOTE" * 9, 0xA430: "Ann Owner"})
    return tags.tobytes()


def image(seed: int = 1) -> Image.Image:
    pixels = numpy.random.default_rng(seed).integers(0, 256, (40, 64, 3), numpy.uint8)
    return Image.fromarray(pixels)


def encoded(kind: str, orientation: int | None = None, **extra: object) -> bytes:
    """A picture; with an orientation, it is full of private data."""
    buffer = io.BytesIO()
    options: dict[str, object] = {"icc_profile": ICC, **extra}
    if orientation:
        options["exif"] = exif(orientation)
    if kind in ("JPEG", "progressive"):
        options |= {"quality": 90, "progressive": kind == "progressive", "restart_marker_rows": 1}
        if orientation:
            options |= {"comment": b"my comment", "xmp": b"<x:xmpmeta/>"}
        image().save(buffer, "JPEG", **options)
    elif kind == "PNG":
        if orientation:
            options["pnginfo"] = texts = PngImagePlugin.PngInfo()
            texts.add_text("Author", "Ann Owner")
            texts.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
        image().save(buffer, "PNG", **options)
    else:
        if orientation:
            options["xmp"] = b"<x:xmpmeta/>"
        image().save(buffer, "WEBP", lossless=kind.startswith("lossless"), exact=True, **options)
    data = buffer.getvalue()
    if not orientation:
        return data
    if kind == "JPEG":  # an IPTC block of Photoshop's, another picture (MPF), and a thumbnail of JFIF's
        head, rest = data[:2], data[20:]
        assert data[2:4] == b"\xff\xe0"
        jfif = b"JFIF\0\1\1\0\0\1\0\1" + bytes([1, 3]) + b"thumbnail"
        blocks = ((0xE0, jfif), (0xED, b"Photoshop 3.0\0Ann Owner"), (0xE2, b"MPF\0Ann Owner"))
        data = head + b"".join(struct.pack(">BBH", 0xFF, m, len(c) + 2) + c for m, c in blocks) + rest
    return data + b"trailing secret"


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", [1, 6])
def test_private_data_goes_and_pixels_profile_and_orientation_stay(kind, orientation):
    data = encoded(kind, orientation)
    assert sum(secret in data for secret in SECRETS) >= 3
    stripped = without_private_data(data, orientation)

    assert not [secret for secret in SECRETS if secret in stripped]
    before, after = opened(data), opened(stripped)
    assert numpy.array_equal(numpy.asarray(before), numpy.asarray(after))
    assert after.info["icc_profile"] == ICC
    assert dict(after.getexif()) == ({0x0112: orientation} if orientation > 1 else {})
    assert not after.getexif().get_ifd(0x8825) and not after.getexif().get_ifd(0x8769)
    assert without_private_data(stripped, orientation) is stripped


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_without_private_data_stays_byte_for_byte(kind):
    data = encoded(kind)
    assert without_private_data(data, 1) is data
    plain = picture_bytes(3)
    assert without_private_data(plain, 1) is plain


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_picture_is_no_more_and_no_less_damaged(kind):
    data = encoded(kind, 6)
    for cut in range(0, len(data), 97):
        without_private_data(data[:cut], 6)
        broken = bytearray(data)
        broken[cut] ^= 0xFF
        without_private_data(bytes(broken), 6)
    assert without_private_data(b"no picture", 1) == b"no picture"


def test_what_is_stored_and_exported_has_no_private_data_and_knows_its_source(tmp_path):
    pictures = tmp_path / "input" / "photos"
    pictures.mkdir(parents=True)
    files = {f"{n}.{kind[-4:].lower()}": encoded(kind, 1) for n, kind in enumerate(("JPEG", "PNG", "WEBP"))}
    for name, data in files.items():
        (pictures / name).write_bytes(data)
    dataset, _ = load_folder(tmp_path / "datasets", tmp_path / "input", "photos", "mine", "JPEG")
    dataset = dataset.with_texts({record.sha256: "a boat" for record in dataset.records()})
    export_dataset(dataset, "Hugging Face imagefolder", ExportSettings())
    export_dataset(dataset, "ai-toolkit", ExportSettings())

    written = [path for path in Path(dataset.folder).rglob("*") if path.suffix in (".jpg", ".png", ".webp")]
    assert len(written) == 9
    assert not [(path, s) for path in written for s in SECRETS if s in path.read_bytes()]
    hashes = [hashlib.sha256(data).hexdigest() for data in files.values()]
    assert [record.source_sha256 for record in dataset.records()] == hashes


def test_a_switch_keeps_the_source_as_it_is(tmp_path, make_source, datasets_root):
    data = encoded("JPEG", 1)
    make_source([Painting(data), Painting(picture_bytes(2))])
    kept = load_paintings(datasets_root, Request("museum", "kept", keep_metadata=True)).dataset.records()
    assert {record.sha256 for record in kept} >= {hashlib.sha256(data).hexdigest()}
    stripped = load_paintings(datasets_root, Request("museum", "stripped")).dataset
    assert hashlib.sha256(data).hexdigest() in {record.source_sha256 for record in stripped.records()}
    assert not [s for s in SECRETS for r in stripped.records() if s in stripped.image_path(r).read_bytes()]


def test_a_manifest_of_pictures_without_private_data_says_what_it_said(tmp_path):
    stored = store_picture(tmp_path, picture_bytes(1))
    dataset = write_manifest(tmp_path, [Record(stored.file_name, stored.sha256, 96, 64, stored.size, "a boat")])
    assert stored.source_sha256 == "" and "source_sha256" not in dataset.manifest.read_text()


def test_edits_made_before_the_private_data_was_taken_out_are_kept(tmp_path):
    data = encoded("JPEG", 1)
    for keep in (True, False):
        stored = store_picture(tmp_path, data, keep_metadata=keep)
        record = Record(
            stored.file_name, stored.sha256, 64, 40, stored.size, "a boat", source_sha256=stored.source_sha256
        )
        dataset = write_manifest(tmp_path, [record])
        overrides = read_overrides(f"{stored.sha256}: my own words") if keep else {}
        edited, _, _ = edit_captions(dataset, EditRules(), overrides)
        assert [record.text for record in edited.records()] == ["my own words"]
    edited, _, _ = edit_captions(dataset, EditRules(), read_overrides(f"{stored.sha256}:"))
    edited, _, _ = edit_captions(dataset, EditRules(), {})
    assert [record.text for record in edited.records()] == ["a boat"]
