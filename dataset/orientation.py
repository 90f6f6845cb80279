"""Which way up a picture is to be shown: what its camera noted, read past damage, and the turn that follows from it."""

from __future__ import annotations

from PIL import Image

ORIENTATION = 0x0112  # Exif
EXCHANGED = (5, 6, 7, 8)  # width and height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BYTE_ORDER = {b"II": "little", b"MM": "big"}
_SIZES = {1: 1, 3: 2, 4: 4}  # TIFF's type of a whole number -> bytes


def orientation(picture: Image.Image) -> int:
    """From 1, upright, to 8, as Exif counts (CIPA DC-008, 4.6.5); 1 where nothing legible is said.

    Told from what was read with the header, so that it is the same before and after decoding.
    """
    if picture.format == "TIFF":  # Pillow itself turns it, size and pixels
        return 1
    found = _in_exif(picture.info.get("exif") or b"")  # pillow-heif has None there
    if found is None:
        try:
            # Exif in a PNG's text, and XMP; PngImageFile.getexif would decode the whole picture to look behind it
            found = Image.Image.getexif(picture).get(ORIENTATION, 1)
        except Exception:  # Pillow raises whatever it meets in damaged Exif
            return 1
    return found if found in _TURNS else 1


def upright(picture: Image.Image) -> Image.Image:
    """The picture turned as it is to be seen; itself where it is upright. What its `info` says is not looked after."""
    turn = _TURNS.get(orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """(width, height) in pixels of the picture as it is to be seen, without decoding it."""
    width, height = picture.size
    return (height, width) if orientation(picture) in EXCHANGED else (width, height)


def _in_exif(exif: bytes) -> int | None:
    """The orientation in the first directory (TIFF 6.0, section 2), whatever the other entries point to."""
    data = exif.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0")
    order = _BYTE_ORDER.get(data[:2])
    if order is None:
        return None

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], order)

    first = number(4, 4) + 2
    end = min(first + 12 * number(first - 2, 2), len(data) - 9)  # of the last entry at least two bytes of its value
    for entry in range(first, end, 12):
        if number(entry, 2) == ORIENTATION and (size := _SIZES.get(number(entry + 2, 2))):
            return number(entry + 8, size)
    return None
