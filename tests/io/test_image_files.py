"""Every accepted format is complete or refused, in every OpenCV version, and no image of a pair is rotated alone."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.errors import UserError
from edgefuse.io.image_files import inspect_image
from edgefuse.io.images import has_mark, has_orientation, image_size, read_depth, read_image, read_rgb, write_image

RGB = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
DEPTH = np.random.default_rng(0).integers(0, 65535, (24, 32), np.uint16)
EXIF = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
"""Orientation 6."""


def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, image, options)[1].tobytes()


def tiff(image: np.ndarray, *, orientation: int) -> bytes:
    """A TIFF with one uncompressed strip after its directory (TIFF 6.0, section 8), so that a truncated file still has its tags."""
    height, width = image.shape
    tags = {
        256: width,
        257: height,
        258: 16,
        259: 1,
        262: 1,
        273: 8 + 2 + 12 * 10 + 4,
        274: orientation,
        277: 1,
        278: height,
        279: image.nbytes,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + image.astype("<u2").tobytes()


@pytest.mark.parametrize(
    "data",
    [
        encoded(".jpg", RGB, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        encoded(".bmp", RGB),
        encoded(".bmp", RGB[..., 0]),
        encoded(".tif", RGB),
        encoded(".tif", DEPTH),
        encoded(".tif", DEPTH, cv2.IMWRITE_TIFF_COMPRESSION, 1),
        tiff(DEPTH, orientation=1),
        encoded(".webp", RGB),
        encoded(".webp", RGB, cv2.IMWRITE_WEBP_QUALITY, 80),
    ],
    ids=lambda data: f"{data[:2].hex()} {len(data)}",
)
def test_any_truncation_is_noticed_and_trailing_bytes_are_ignored(data: bytes) -> None:
    path = Path("x")
    assert image_size(data) == (32, 24) and read_image(path, data).shape[:2] == (24, 32)
    assert np.array_equal(read_image(path, data + b"\0 trailing"), read_image(path, data))
    for end in {*range(0, len(data) - 4, max(1, len(data) // 50)), len(data) - 4}:
        with pytest.raises(UserError, match="not a readable image"):
            read_image(path, data[:end])
        assert inspect_image(data[:end]).problem is not None  # independent of the decoder


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"II*\0", b"MM\0*", b"BM", b"RIFF\0\0\0\0WEBP", b"\xff\xd8\xff\xe1", b"P5\n9 9\n255\n"]),
)
def test_any_bytes_are_checked_without_an_exception(data: bytes, start: bytes) -> None:
    found = inspect_image(start + data)
    assert found.problem is None or "\n" not in found.problem
    assert found.orientation >= 1 or found.is_tiff


@pytest.mark.parametrize("image", [b"P5\n2 2\n255\nabcd", b"GIF89a" + bytes(40), b"v/1\1" + bytes(40), b""])
def test_other_formats_are_refused_by_name(image: bytes) -> None:
    with pytest.raises(UserError, match="PNG, JPEG, TIFF, BMP or WebP was expected"):
        read_rgb(Path("x.png"), image)


def test_a_size_too_large_for_memory_is_refused_in_every_format() -> None:
    for data, place, size in (
        (encoded(".bmp", RGB), 18, struct.pack("<ii", 60000, 60000)),
        (encoded(".tif", DEPTH), None, b""),
        (encoded(".jpg", RGB), encoded(".jpg", RGB).index(b"\xff\xc0") + 5, struct.pack(">HH", 60000, 60000)),
    ):
        changed = tiff(np.broadcast_to(np.uint16(1), (24, 32)), orientation=1) if place is None else data
        if place is None:
            changed = changed.replace(
                struct.pack("<HHII", 256, 4, 1, 32), struct.pack("<HHII", 256, 4, 1, 60000 * 60000 // 24)
            )
        else:
            changed = data[:place] + size + data[place + len(size) :]
        with pytest.raises(UserError, match="pixels, at most 100000000 were expected"):
            read_image(Path("x"), changed)


def test_a_tiff_with_an_orientation_or_several_images_is_refused(tmp_path: Path) -> None:
    """OpenCV always applies the orientation of a TIFF."""
    assert np.array_equal(read_depth(tmp_path / "x.tif", tiff(DEPTH, orientation=1)), DEPTH)
    turned = tiff(DEPTH, orientation=3)
    assert np.array_equal(cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_UNCHANGED), DEPTH[::-1, ::-1])
    with pytest.raises(UserError, match="orientation 3"):
        read_depth(tmp_path / "x.tif", turned)
    cv2.imwritemulti(str(tmp_path / "x.tif"), [DEPTH, DEPTH])
    with pytest.raises(UserError, match="several images"):
        read_depth(tmp_path / "x.tif")


def test_an_orientation_is_found_in_every_format_that_has_one() -> None:
    jpeg, webp = encoded(".jpg", RGB), encoded(".webp", RGB)
    in_jpeg = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(EXIF) + 8) + b"Exif\0\0" + EXIF + jpeg[2:]
    chunk = b"EXIF" + struct.pack("<I", len(EXIF)) + EXIF
    in_webp = webp[:4] + struct.pack("<I", len(webp) - 8 + len(chunk)) + webp[8:] + chunk
    assert (
        has_orientation(in_jpeg)
        and has_orientation(in_webp)
        and not has_orientation(jpeg)
        and not has_orientation(webp)
    )
    assert np.array_equal(read_rgb(Path("x"), in_jpeg), read_rgb(Path("x"), jpeg))


def test_an_image_that_does_not_fit_into_memory_is_not_reported_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_image(path, np.zeros((9000, 9000, 3), np.uint8))
    code = (
        "import resource, sys; from pathlib import Path; from edgefuse.io.images import read_rgb; "
        "pages = int(Path('/proc/self/statm').read_text().split()[0]); limit = pages * resource.getpagesize() + (100 << 20); "
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); read_rgb(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "MemoryError" in done.stderr and "9000x9000 pixels do not fit" in done.stderr, done.stderr


def test_a_mark_is_recognised_and_changes_no_pixel(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", RGB, mark="edgefuse test")
    assert has_mark(tmp_path / "x.png", "edgefuse test") and not has_mark(tmp_path / "x.png", "edgefuse other")
    assert np.array_equal(read_rgb(tmp_path / "x.png"), RGB) and not has_mark(tmp_path / "absent.png", "x")
