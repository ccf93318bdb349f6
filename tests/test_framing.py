from __future__ import annotations

import hashlib
import math
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse import framing
from edgefuse.contract import codes_from_bytes
from edgefuse.errors import UserError
from edgefuse.framing import SPEC, Roi, centre_square, codes_of_one_mm, fit


def image(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return rgb, rng.integers(0, 5000, (height, width)).astype(np.uint16)


def test_the_same_size_is_the_identity() -> None:
    rgb, depth = image(48, 48)
    framed = fit(rgb, depth, size=48)
    np.testing.assert_array_equal(framed.rgb, rgb)
    np.testing.assert_array_equal(codes_from_bytes(framed.depth), depth)


@given(
    x=st.integers(-30, 50), y=st.integers(-30, 40), w=st.integers(1, 80), h=st.integers(1, 80), size=st.integers(16, 40)
)
def test_depth_is_never_interpolated(x: int, y: int, w: int, h: int, size: int) -> None:
    rgb, depth = image(44, 56)
    side = max(w, h)
    left, top = x + (w - side) // 2, y + (h - side) // 2
    if left >= 56 or top >= 44 or left + side <= 0 or top + side <= 0:
        with pytest.raises(UserError, match="does not overlap"):
            fit(rgb, depth, size=size, roi=Roi(x, y, w, h))
        return
    framed = fit(rgb, depth, size=size, roi=Roi(x, y, w, h))
    assert framed.rgb.shape == (size, size, 3) and framed.depth.shape == (size, size, 2)
    assert framed.rgb.flags.c_contiguous and framed.depth.flags.c_contiguous
    assert set(np.unique(codes_from_bytes(framed.depth))) <= {0, *np.unique(depth)}


@given(
    roi=st.builds(Roi, *[st.integers(-200, 400) | st.integers() for _ in range(4)]),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
)
def test_any_region_has_the_right_shape_or_one_error_in_bounded_memory(roi: Roi, height: int, width: int) -> None:
    rgb, depth = image(height, width)
    limit = 40 * (framing.MAX_REGION * max(height, width)) ** 2 + 1_000_000
    tracemalloc.start()
    try:
        framed = fit(rgb, depth, size=24, roi=roi)
        assert framed.rgb.shape == (24, 24, 3) and framed.depth.shape == (24, 24, 2)
        assert max(roi.w, roi.h) <= framing.MAX_REGION * max(height, width)
    except UserError as error:
        assert "region" in str(error)
    finally:
        assert tracemalloc.get_traced_memory()[1] < limit
        tracemalloc.stop()


def test_a_region_as_large_as_allowed_is_framed_and_a_larger_one_is_not() -> None:
    rgb, depth = image(30, 40)
    assert fit(rgb, depth, size=16, roi=Roi(-60, -60, 160, 10)).rgb.any()
    with pytest.raises(UserError, match=r"region -60,-60,161,10 .* more than 4 times as large as the 40x30 image"):
        fit(rgb, depth, size=16, roi=Roi(-60, -60, 161, 10))


def test_kinds_of_regions_are_compatible_or_not() -> None:
    assert framing.regions_agree("nearest", "nearest") and framing.regions_agree("nearest", None)
    assert framing.regions_agree("file", "10,20,30,40") and framing.regions_agree("nearest", "file")
    assert not framing.regions_agree("nearest", "whole") and not framing.regions_agree("whole", "file")
    assert not framing.regions_agree("0,0,9,9", "center")


def test_colour_and_depth_stay_aligned() -> None:
    rgb, depth = np.zeros((480, 640, 3), np.uint8), np.full((480, 640), 2000, np.uint16)
    cv2.circle(rgb, (350, 220), 60, (255, 255, 255), -1)
    depth[rgb[..., 0] > 0] = 700
    framed = fit(rgb, depth, size=96, roi=Roi(250, 120, 200, 200))
    bright = framed.rgb[..., 0] > 127
    near = codes_from_bytes(framed.depth) == 700
    assert (bright ^ near).mean() < 0.01


def test_a_region_over_the_edge_is_filled_with_zeros() -> None:
    rgb, depth = np.full((60, 60, 3), 200, np.uint8), np.full((60, 60), 900, np.uint16)
    framed = fit(rgb, depth, size=40, roi=Roi(-20, 0, 40, 40))
    codes = codes_from_bytes(framed.depth)
    assert (codes[:, :20] == 0).all() and (codes[:, 20:] == 900).all()
    assert (framed.rgb[:, :20] == 0).all() and (framed.rgb[:, 20:] == 200).all()


def test_a_wide_region_is_extended_to_a_square_around_it() -> None:
    rgb, depth = image(100, 100)
    wide, square = fit(rgb, depth, size=32, roi=Roi(20, 40, 60, 20)), fit(rgb, depth, size=32, roi=Roi(20, 20, 60, 60))
    np.testing.assert_array_equal(wide.rgb, square.rgb)


def test_units_are_converted_to_one_mm() -> None:
    codes = np.array([[0, 1, 4, 5, 12345, 65535]], np.uint16)
    np.testing.assert_array_equal(codes_of_one_mm(codes, depth_unit_m=0.0001), [[0, 1, 1, 1, 1234, 6554]])  # D405
    np.testing.assert_array_equal(codes_of_one_mm(codes, depth_unit_m=0.00025), [[0, 1, 1, 1, 3086, 16384]])  # L515
    np.testing.assert_array_equal(codes_of_one_mm(codes, depth_unit_m=0.01), [[0, 10, 40, 50, 65535, 65535]])
    assert codes_of_one_mm(codes, depth_unit_m=0.001) is codes


@pytest.mark.parametrize(
    "roi", [Roi(100, 100, 300, 300), Roi(80, 0, 480, 480), Roi(500, 300, 300, 300), Roi(96, 16, 448, 448)]
)
def test_framing_into_given_memory_allocates_no_image(roi: Roi) -> None:
    rgb, depth = image(480, 640)
    buffers = framing.Buffers(224)
    fit(rgb, depth, size=224, roi=roi, out=buffers)
    peaks = []
    for out in (buffers, None):
        tracemalloc.start()
        try:
            fit(rgb, depth, size=224, roi=roi, out=out)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[0] < 8192 and peaks[1] >= buffers.rgb.nbytes + buffers.codes.nbytes


def test_centre_square_is_inside_and_largest() -> None:
    assert centre_square(480, 640) == Roi(80, 0, 480, 480)


@pytest.mark.parametrize(
    ("rgb", "depth", "options", "word"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint16), {}, "RGB is"),
        (None, np.zeros((4, 4), np.uint16), {}, "RGB is NoneType"),
        (np.zeros((4, 4, 3), np.uint8), [[1]], {}, "depth is list"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), {}, "depth is uint8"),
        (np.zeros((4, 6, 3), np.uint8), np.zeros((4, 4), np.uint16), {}, "RGB is 6x4 and depth 4x4"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16), {"depth_unit_m": 0.0}, "unit is 0"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16), {"roi": Roi(0, 0, 0, 0)}, "does not overlap"),
    ],
)
def test_bad_images_are_refused(rgb: np.ndarray, depth: np.ndarray, options: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match=word):
        fit(rgb, depth, size=32, **options)  # type: ignore[arg-type]


def test_the_revision_changes_with_the_output() -> None:
    """Depth is exact on every platform. If this digest changes, `SPEC["revision"]` must change too."""
    ramp = (np.arange(97 * 131, dtype=np.uint32) * 2654435761 % 65536).astype(np.uint16).reshape(97, 131)
    rgb = np.repeat((ramp[..., None] >> 8).astype(np.uint8), 3, axis=2)
    digest = hashlib.sha256()
    for size, roi, unit_m in ((32, None, 0.001), (64, Roi(-9, 5, 60, 40), 0.0001), (160, Roi(3, 3, 50, 50), 0.001)):
        digest.update(fit(rgb, ramp, size=size, roi=roi, depth_unit_m=unit_m).depth.tobytes())
    assert (SPEC["revision"], digest.hexdigest()[:16]) == (1, "655420dfdf03b8a4")


def test_rgb_shrinks_by_area_and_grows_linearly() -> None:
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[::2] = 255  # point sampling would make these lines all black or all white
    assert abs(int(fit(rgb, np.ones((64, 64), np.uint16), size=16).rgb.mean()) - 127) <= 1
    step = np.zeros((16, 16, 3), np.uint8)
    step[:, 8:] = 240
    grown = fit(step, np.ones((16, 16), np.uint16), size=64).rgb[0, :, 0]
    np.testing.assert_array_equal(grown[28:36], [0, 0, 30, 90, 150, 210, 240, 240])


def test_reused_buffers_give_the_same_result_and_are_the_result() -> None:
    rng = np.random.default_rng(8)
    buffers = {size: framing.Buffers(size) for size in (32, 96)}
    for number in range(300):
        size, factor = (32, 96)[number % 2], 1 + number % 5
        height, width = ((96, 128), (101, 127), (60, 160))[number % 3]
        rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        depth = rng.integers(0, 65536, (height, width), dtype=np.uint16)
        side = factor * size if number % 4 else int(rng.integers(1, 150))
        # Some of these squares are partly outside of the image, on whole blocks of pixels or not.
        x, y = (int(value) * (factor if number % 7 else 1) for value in rng.integers(-1, 8, 2))
        arguments = {"size": size, "roi": Roi(x, y, side, side), "depth_unit_m": (0.001, 0.0001)[number % 2]}
        fresh = fit(rgb, depth, **arguments)
        reused = fit(rgb, depth, **arguments, out=buffers[size])
        np.testing.assert_array_equal(fresh.rgb, reused.rgb)
        np.testing.assert_array_equal(fresh.depth, reused.depth)
        assert np.shares_memory(reused.rgb, buffers[size].rgb)


def test_a_square_on_whole_blocks_is_fitted_like_its_copy() -> None:
    """640x480 pixels become 128x128 without a copy of the padded square; the copy is what the digest of `SPEC` describes."""
    rng = np.random.default_rng(9)
    rgb = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    depth = rng.integers(0, 65536, (480, 640), dtype=np.uint16)
    square = Roi(0, -80, 640, 640)
    padded = framing.crop(rgb, square), framing.crop(depth, square)
    assert padded[0][:80].max() == 0 and np.array_equal(padded[1][80:560], depth)
    for factor in (2, 4, 5, 10):
        direct = fit(rgb, depth, size=640 // factor)
        copied = fit(*padded, size=640 // factor)
        np.testing.assert_array_equal(direct.rgb, copied.rgb)
        np.testing.assert_array_equal(direct.depth, copied.depth)


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 7])
def test_blocks_are_averaged_to_the_nearest_level(factor: int) -> None:
    """Blocks with every possible sum, between blocks of noise."""
    area = factor**2
    sums = np.arange(255 * area + 1)
    across = math.ceil(math.sqrt(2 * len(sums)))
    rng = np.random.default_rng(factor)
    blocks = rng.integers(0, 256, (across**2, area))
    chosen = blocks[: 2 * len(sums) : 2]
    chosen[:] = sums[:, None] // area
    chosen += np.arange(area) < (sums % area)[:, None]
    image = blocks.reshape(across, across, factor, factor).transpose(0, 2, 1, 3).reshape(across * factor, -1)
    rgb = np.repeat(image.astype(np.uint8)[..., None], 3, axis=2)
    buffers = framing.Buffers(across)
    framing._fit_square(rgb, np.zeros(rgb.shape[:2], np.uint16), factor, buffers)
    exact = blocks.sum(1).reshape(across, across) / area
    assert np.abs(buffers.rgb - exact[..., None]).max() <= 0.5
    if factor % 2:
        assert np.array_equal(buffers.rgb[..., 0], np.rint(exact))
