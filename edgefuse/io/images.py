"""Images that anybody may have made: read in one way for every layout, camera and command, and refused in one way.

What a file holds is what comes out: EXIF orientation is ignored (depth has none, and the two must stay aligned), no bits are cut
off, and a file of which a part is missing is refused, whatever the OpenCV version does with it. Owns decoding and encoding.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse.io.files import file_replaced

MAX_PIXELS = 100_000_000
"""100 megapixels: ten times a large camera's image. More is a damaged header, or would not fit into memory."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
"""JPEG markers without a length: TEM, RST0 to RST7, SOI."""
_SOS, _EOI = 0xDA, 0xD9
_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""JPEG's start-of-frame markers, which hold the size."""


def read_bytes(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        UserError: it cannot be read; the message has the path and the system's reason.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_rgb(path: Path, data: bytes | None = None) -> NDArray[np.uint8]:
    """A colour image: uint8 [H, W, 3] in RGB order, the pixels as they are stored. Grey becomes three equal channels, alpha goes.

    Args:
        data: the file's bytes, where they were read already.

    Raises:
        UserError: unreadable, damaged, cut short, too large, or more than 8 bits a channel.
    """
    image = read_image(path, data)
    if image.dtype != np.uint8:
        bits = 8 * image.dtype.itemsize
        raise UserError(
            f"{path}: RGB has {bits} bits a channel, 8 were expected: scale its full range to 0..255 and save it again "
            "(which range it uses, such as 10 or 12 bits, the file does not say)"
        )
    num_channels = 1 if image.ndim == 2 else image.shape[2]
    codes = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    if num_channels not in codes:
        raise UserError(f"{path}: the image has {num_channels} channels, 1, 3 or 4 were expected")
    return np.asarray(cv2.cvtColor(image, codes[num_channels]), np.uint8)


def read_depth(path: Path, data: bytes | None = None) -> NDArray[np.uint16]:
    """A depth image: uint16 [H, W] in the file's codes, 0 = no measurement.

    Raises:
        UserError: unreadable, damaged, cut short, too large, or not 16-bit with one channel.
    """
    image = read_image(path, data)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.dtype != np.uint16 or image.ndim != 2:
        num_channels = 1 if image.ndim == 2 else image.shape[2]
        kind = "floating-point" if image.dtype.kind == "f" else f"{8 * image.dtype.itemsize}-bit"
        step = (
            "; convert it: save the array as .npy in metres and use edgefuse data convert --layout npy --unit m"
            if image.dtype.kind == "f"
            else ""
        )
        raise UserError(f"{path}: depth is {kind} with {num_channels} channel(s), 16-bit with one was expected{step}")
    return np.ascontiguousarray(image)


def read_image(path: Path, data: bytes | None = None) -> NDArray[Any]:
    """The pixels of an image file as they are stored: [H, W] or [H, W, C] in OpenCV's channel order (BGR), of any dtype.

    Raises:
        UserError: unreadable, damaged, cut short, or larger than `MAX_PIXELS`.
    """
    data = read_bytes(path) if data is None else data
    problem = _problem(data)
    if problem:
        raise UserError(f"{path}: not a readable image ({problem})")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise UserError(f"{path}: not a readable image ({len(data)} bytes: {error.err or error})") from error
    if image is None:
        raise UserError(f"{path}: not a readable image ({len(data)} bytes)")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise UserError(f"{path}: {image.shape[1]}x{image.shape[0]} pixels, at most {MAX_PIXELS} were expected")
    return np.asarray(image)


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as the header of a PNG or JPEG says them, without decoding; None of other files."""
    if data.startswith(_PNG) and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    if data.startswith(_JPEG):
        for marker, start, _ in _jpeg_segments(data):
            if marker in _SIZES and start + 5 <= len(data):
                height, width = struct.unpack(">HH", data[start + 1 : start + 5])
                return width, height
    return None


def write_image(path: Path, image: NDArray[Any], *, durable: bool = True) -> None:
    """Write an image, atomically; the suffix chooses the format.

    Args:
        image: uint8 [H, W, 3] in RGB order, or uint8 or uint16 [H, W].

    Raises:
        UserError: the suffix is no image format's.
    """
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    try:
        done, encoded = cv2.imencode(path.suffix, np.ascontiguousarray(stored))
    except cv2.error:
        done = False
    if not done:
        raise UserError(f"{path} cannot be written as an image: a name that ends in .png was expected")
    with file_replaced(path, durable=durable) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _problem(data: bytes) -> str | None:
    """What is wrong with a file before it is decoded: OpenCV's versions differ in what they do with a part of an image."""
    if not data:
        return "0 bytes"
    size = image_size(data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        return f"its header says {size[0]}x{size[1]} pixels, at most {MAX_PIXELS} were expected"
    if data.startswith(_PNG):
        return _png_problem(data)
    if data.startswith(_JPEG) and not _jpeg_is_whole(data):
        return f"the JPEG is cut short after {len(data)} bytes"
    return None


def _png_problem(data: bytes) -> str | None:
    """Walk the chunks of a PNG: each whole and unchanged, by its CRC, up to the end chunk (PNG specification, section 5)."""
    view, start = memoryview(data), len(_PNG)
    while start + 12 <= len(data):
        (length,) = struct.unpack(">I", view[start : start + 4])
        end = start + 12 + length
        if end > len(data):
            break
        kind = bytes(view[start + 4 : start + 8])
        (checksum,) = struct.unpack(">I", view[end - 4 : end])
        if zlib.crc32(view[start + 4 : end - 4]) != checksum:
            return "the PNG is damaged: a checksum does not match"
        if kind == b"IEND":
            return None
        start = end
    return f"the PNG is cut short after {len(data)} bytes"


def _jpeg_segments(data: bytes) -> Any:
    """Marker, start of the payload and end of each segment up to the first scan (ITU T.81, annex B)."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF or marker in _STANDALONE:
            position += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack(">H", data[position + 2 : position + 4])
        yield marker, position + 4, position + 2 + length
        if marker == _SOS:
            return
        position += 2 + length


def _jpeg_is_whole(data: bytes) -> bool:
    """Is there an end marker behind the first scan? (An EXIF thumbnail before it has one of its own.)"""
    scan = next((end for marker, _, end in _jpeg_segments(data) if marker == _SOS), None)
    return scan is not None and data.find(bytes((0xFF, _EOI)), scan) >= 0
