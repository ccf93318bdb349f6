"""Checks of an image file before it is decoded: whether it is complete, its size, its EXIF orientation.

Decoders differ by version in how they treat truncated files, so the containers are checked here. Owns the containers of PNG, JPEG,
TIFF, BMP and WebP; other formats are refused. Sources: PNG specification (section 5, eXIf), ITU T.81 (annex B), TIFF 6.0, EXIF 2.3,
Microsoft's BITMAPINFOHEADER, RFC 9649.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

FORMATS = "PNG, JPEG, TIFF, BMP or WebP"


class ImageFile(NamedTuple):
    """The header data of an image file.

    Attributes:
        problem: why it cannot be decoded; None if no problem was found.
        size: width and height; None if no header has them.
        orientation: EXIF orientation, 1 to 8; 1 (upright) if the file has none.
        is_tiff: OpenCV applies the orientation of TIFF files, and of no others.
    """

    problem: str | None
    size: tuple[int, int] | None = None
    orientation: int = 1
    is_tiff: bool = False


_STANDALONE = {0x01, *range(0xD0, 0xD9)}
"""JPEG markers without a length: TEM, RST0 to RST7, SOI."""
_SOS, _APP1 = 0xDA, 0xE1
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""JPEG start-of-frame markers, whose segments have the size."""
_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_TYPE_CODES = {1: "B", 3: "H", 4: "I"}
_WIDTH, _HEIGHT, _STRIPS, _STRIP_BYTES, _ORIENTATION, _TILES, _TILE_BYTES = 256, 257, 273, 279, 274, 324, 325


def inspect_image(data: bytes) -> ImageFile:
    """Check a file's bytes without decoding. Any damage is reported as a `problem`, never as an exception."""
    begin = data[:4] + data[8:12] if data.startswith(b"RIFF") else data
    for start, look_at in _LOOKS.items():
        if begin.startswith(start):
            try:
                return look_at(data)
            except (struct.error, LookupError, OverflowError):
                return ImageFile(f"it is truncated or damaged, {len(data)} bytes")
    begins = f" and begins with {data[:8]!r}" if data else ""
    return ImageFile(f"{FORMATS} was expected; it has {len(data)} bytes{begins}")


def _read_png(data: bytes) -> ImageFile:
    """Walk the chunks up to the end chunk. Each must be complete and match its CRC."""
    size_px = struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" else None
    orientation = 1
    view, start = memoryview(data), 8
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            break
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(view[start + 4 : end - 4]) != checksum:
            return ImageFile("the PNG is damaged: a checksum does not match", size_px)
        if kind == b"eXIf":
            orientation = _orientation(data[start + 8 : end - 4])
        if kind == b"IEND":
            return ImageFile(None, size_px, orientation)
        start = end
    return ImageFile(f"the PNG is truncated after {len(data)} bytes", size_px)


def _read_jpeg(data: bytes) -> ImageFile:
    """Walk the segments up to the first scan. The end marker must follow it; an EXIF thumbnail before it has its own."""
    size_px, orientation, position = None, 1, 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, position + 1)
        if marker == 0xFF or marker in _STANDALONE:
            position += 1 if marker == 0xFF else 2
            continue
        start, position = position + 4, position + 2 + length
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, start + 1)
            size_px = (width, height)
        elif marker == _APP1 and data[start : start + 6] == b"Exif\0\0":
            orientation = _orientation(data[start:position])
        elif marker == _SOS and data.find(b"\xff\xd9", position) >= 0:
            return ImageFile(None, size_px, orientation)
        elif marker == _SOS:
            break
    return ImageFile(f"the JPEG is truncated after {len(data)} bytes", size_px, orientation)


def _read_tiff(data: bytes) -> ImageFile:
    """The first image of a TIFF: its strips or tiles must lie inside the file."""
    tags, end = _tiff_tags(data)
    (further,) = struct.unpack_from(_TIFF_ORDERS[data[:4]] + "I", data, end)
    if further:
        return ImageFile("the TIFF contains several images, one was expected", is_tiff=True)
    size_px = (tags[_WIDTH][0], tags[_HEIGHT][0])
    orientation = (tags.get(_ORIENTATION) or [1])[0]
    starts = tags.get(_STRIPS) or tags.get(_TILES) or ()
    lengths = tags.get(_STRIP_BYTES) or tags.get(_TILE_BYTES) or ()
    is_complete = bool(starts) and max(map(sum, zip(starts, lengths, strict=False)), default=0) <= len(data)
    problem = None if is_complete else f"the TIFF is truncated after {len(data)} bytes"
    return ImageFile(problem, size_px, orientation, is_tiff=True)


def _tiff_tags(data: bytes) -> tuple[dict[int, tuple[int, ...]], int]:
    """Integer tags of the first directory of a TIFF, and the end of the directory. EXIF has the same format."""
    order = _TIFF_ORDERS[data[:4]]
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, directory)
    end = directory + 2 + 12 * count
    tags = {}
    for entry in range(directory + 2, end, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
        if kind in _TYPE_CODES:
            values = struct.Struct(f"{order}{number}{_TYPE_CODES[kind]}")
            (place,) = (entry + 8,) if values.size <= 4 else struct.unpack_from(order + "I", data, entry + 8)
            tags[tag] = values.unpack_from(data, place)
    return tags, end


def _orientation(exif: bytes) -> int:
    """EXIF orientation; 1 if the block has none or is invalid."""
    try:
        found = (_tiff_tags(exif.removeprefix(b"Exif\0\0"))[0].get(_ORIENTATION) or [1])[0]
    except (struct.error, KeyError):
        return 1
    return found if 1 <= found <= 8 else 1


def _read_bmp(data: bytes) -> ImageFile:
    start, header, width, height = struct.unpack_from("<IIii", data, 10)
    if header < 40:  # OS/2 format, with 16-bit sizes
        width, height = struct.unpack_from("<HH", data, 18)
        return ImageFile(None, (width, abs(height)))
    (bits, compression) = struct.unpack_from("<HI", data, 28)
    size_px = (width, abs(height))
    num_bytes = (width * bits + 31) // 32 * 4 * abs(height)
    is_packed = compression in (1, 2)
    if width <= 0 or (not is_packed and start + num_bytes > len(data)):
        return ImageFile(f"the BMP is truncated after {len(data)} bytes", size_px)
    return ImageFile(None, size_px)


def _read_webp(data: bytes) -> ImageFile:
    (length,) = struct.unpack_from("<I", data, 4)
    size_px, orientation, start = None, 1, 12
    while start + 8 <= len(data):
        kind = data[start : start + 4]
        (chunk,) = struct.unpack_from("<I", data, start + 4)
        body = start + 8
        if kind == b"VP8X":
            size_px = (
                1 + int.from_bytes(data[body + 4 : body + 7], "little"),
                1 + int.from_bytes(data[body + 7 : body + 10], "little"),
            )
        elif kind == b"VP8 " and size_px is None:
            width, height = struct.unpack_from("<HH", data, body + 6)
            size_px = (width & 0x3FFF, height & 0x3FFF)
        elif kind == b"VP8L" and size_px is None:
            (packed,) = struct.unpack_from("<I", data, body + 1)
            size_px = (1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF))
        elif kind == b"EXIF":
            orientation = _orientation(data[body : body + chunk])
        start = body + chunk + chunk % 2
    problem = None if 8 + length <= len(data) else f"the WebP is truncated after {len(data)} bytes"
    return ImageFile(problem, size_px, orientation)


_LOOKS: dict[bytes, Callable[[bytes], ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": _read_png,
    b"\xff\xd8": _read_jpeg,
    b"II*\0": _read_tiff,
    b"MM\0*": _read_tiff,
    b"BM": _read_bmp,
    b"RIFFWEBP": _read_webp,
}
