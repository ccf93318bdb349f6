"""Read and write images from any source, with the same result and the same errors in every layout, camera and command.

Pixels are returned as they are stored: EXIF orientation is ignored (depth has none, and the two must stay aligned), no bits are
dropped, and a truncated file is refused, whatever the OpenCV version does with it. Owns decoding and encoding.
"""

from __future__ import annotations

import stat
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError, is_out_of_memory
from edgefuse.io.files import file_replaced
from edgefuse.io.image_files import inspect_image

MAX_PIXELS = 100_000_000
"""100 megapixels: ten times a large camera's image. A larger size means a damaged header or does not fit into memory."""
MAX_FILE_BYTES = 1 << 30
"""More than `MAX_PIXELS` need in any format."""
_HEADER_BYTES = 4096

# The errors below report problems, so OpenCV's log is silenced. OpenCV 5 and 4 have the function in different places.
(cv2.utils.logging.setLogLevel if hasattr(cv2.utils, "logging") else getattr(cv2, "setLogLevel"))(0)  # noqa: B009


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        UserError: unreadable, not a regular file (a pipe or device may never end), or larger than `MAX_FILE_BYTES`.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_FILE_BYTES:
            found = f"{state.st_size} bytes" if stat.S_ISREG(state.st_mode) else "not a regular file"
            raise UserError(f"{path}: cannot be read ({found}; a file of at most {MAX_FILE_BYTES} bytes was expected)")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_rgb(path: Path, data: bytes | None = None) -> NDArray[np.uint8]:
    """Read a colour image: uint8 [H, W, 3] in RGB order, pixels as stored. Grey becomes three equal channels, alpha is dropped.

    Args:
        data: the file's bytes, if already read.

    Raises:
        UserError: unreadable, damaged, truncated, too large, or more than 8 bits per channel.
    """
    image = read_image(path, data)
    if image.dtype != np.uint8:
        bits = 8 * image.dtype.itemsize
        raise UserError(
            f"{path}: RGB has {bits} bits per channel, 8 were expected: scale its full range to 0..255 and save it again "
            "(the file does not record the range that it uses, such as 10 or 12 bits)"
        )
    num_channels = 1 if image.ndim == 2 else image.shape[2]
    codes = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    if num_channels not in codes:
        raise UserError(f"{path}: the image has {num_channels} channels, 1, 3 or 4 were expected")
    return np.asarray(cv2.cvtColor(image, codes[num_channels]), np.uint8)


def read_depth(path: Path, data: bytes | None = None) -> NDArray[np.uint16]:
    """Read a depth image: uint16 [H, W] in the file's codes, 0 = no measurement.

    Raises:
        UserError: unreadable, damaged, truncated, too large, or not 16-bit with one channel.
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
    """The pixels of an image file as stored: [H, W] or [H, W, C] in OpenCV's channel order (BGR), of any dtype.

    Raises:
        UserError: unreadable, of another format, damaged, truncated, or larger than `MAX_PIXELS`.
        MemoryError: it does not fit into memory.
    """
    data = read_bytes(path) if data is None else data
    found = inspect_image(data)
    if found.size is not None and found.size[0] * found.size[1] > MAX_PIXELS:
        raise UserError(
            f"{path}: not a readable image ({found.size[0]}x{found.size[1]} pixels, at most {MAX_PIXELS} were expected)"
        )
    if found.problem is not None:
        raise UserError(f"{path}: not a readable image ({found.problem})")
    if found.is_tiff and found.orientation != 1:
        raise UserError(
            f"{path}: the TIFF has the orientation {found.orientation}, which would rotate it but not its partner: save it upright"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if is_out_of_memory(error):
            width, height = found.size or (0, 0)
            raise MemoryError(f"{path}: {width}x{height} pixels do not fit") from error
        raise UserError(f"{path}: not a readable image ({len(data)} bytes: {error.err or error})") from error
    if image is None:
        raise UserError(f"{path}: not a readable image ({len(data)} bytes)")
    return np.asarray(image)


def has_orientation(data: bytes) -> bool:
    """Whether the file has an EXIF orientation, which photo viewers apply and this reader ignores."""
    return inspect_image(data).orientation != 1


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the header, without decoding; None if the header does not have them."""
    return inspect_image(data[:_HEADER_BYTES]).size or inspect_image(data).size


def write_image(path: Path, image: NDArray[Any], *, durable: bool = True, mark: str | None = None) -> None:
    """Write an image atomically. The suffix chooses the format.

    Args:
        image: uint8 [H, W, 3] in RGB order, or uint8 or uint16 [H, W].
        mark: for a PNG: an ASCII word that `has_mark` recognises. It is stored as the PNG's "Software" text.

    Raises:
        UserError: not a suffix of an image format.
    """
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    try:
        done, encoded = cv2.imencode(path.suffix, np.ascontiguousarray(stored))
    except cv2.error:
        done = False
    if not done:
        raise UserError(f"{path} cannot be written as an image: a name that ends in .png was expected")
    with file_replaced(path, durable=durable) as temporary:
        temporary.write_bytes(_marked(encoded.tobytes(), mark) if mark else encoded.tobytes())


def jpeg_bytes(image: NDArray[np.uint8], *, quality: int = 80) -> bytes:
    """An image as a JPEG file in memory: uint8 [H, W, 3] in RGB order."""
    done, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [int(cv2.IMWRITE_JPEG_QUALITY), quality]
    )
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be encoded")
    return bytes(encoded.tobytes())


_AFTER_HEADER = 33
"""Length of a PNG's signature and its first chunk, IHDR."""


def _marked(png: bytes, mark: str) -> bytes:
    text = b"tEXtSoftware\0" + mark.encode("ascii")
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return png[:_AFTER_HEADER] + chunk + png[_AFTER_HEADER:]


def has_mark(path: Path, mark: str) -> bool:
    """Whether the file is a PNG that `write_image` wrote with this mark. False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return b"tEXtSoftware\0" + mark.encode("ascii") in file.read(_AFTER_HEADER + 100)
    except OSError:
        return False
