"""`--roi nearest`: finds the nearest separate object, and nothing if there is none."""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgefuse.framing import Roi
from edgefuse.synth.rendered_set import LABELS, stream
from edgefuse_runtime.regions.nearest import nearest_objects

Y, X = np.mgrid[:480, :640]
MAX_CPU_MS = 15.0


def _found(depth: NDArray[np.uint16], *, unit_m: float = 0.001) -> Roi | None:
    found = nearest_objects(depth, depth_unit_m=unit_m)
    return found[0].roi if found else None


def _seen(depth_m: NDArray[np.float64], *, seed: int = 0, noise: float = 0.004) -> NDArray[np.uint16]:
    """A scene as a stereo camera sees it: noise proportional to the squared distance, correlated over some pixels, and holes."""
    rng = np.random.default_rng(seed)
    field = cv2.GaussianBlur(rng.normal(0, 1, depth_m.shape), (0, 0), 3)
    codes = np.rint(1000 * (depth_m + field / field.std() * noise * depth_m**2)).clip(0, 65535)
    codes[rng.random(depth_m.shape) < 0.02] = 0
    return codes.astype(np.uint16)


def _flat(distance_m: float) -> NDArray[np.float64]:
    return np.full((480, 640), distance_m)


def _tilted(far_m: float, near_m: float, *, sideways: float = 0.0) -> NDArray[np.float64]:
    """A plane, `far_m` away at the upper edge and `near_m` at the lower: 1/z is linear over the image."""
    return 1 / (1 / far_m + (1 / near_m - 1 / far_m) * ((1 - sideways) * Y / 479 + sideways * X / 639))


def _floor_and_wall() -> NDArray[np.float64]:
    return np.minimum(_flat(2.5), 1 / (1 / 2.5 + (1 / 0.7 - 1 / 2.5) * np.maximum(Y - 200, 0) / 279))


def _with_holes(depth: NDArray[np.uint16], *, seed: int) -> NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    for _ in range(6):
        row, column, radius = rng.integers(0, 480), rng.integers(0, 640), rng.integers(20, 90)
        depth[(Y - row) ** 2 + (X - column) ** 2 < radius**2] = 0
    return depth


def _half_measured(seed: int) -> NDArray[np.uint16]:
    depth = _seen(_flat(0.9), seed=seed)
    depth[np.random.default_rng(seed).random(depth.shape) < 0.5] = 0
    return depth


def _noise(seed: int, lowest: int, highest: int) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(lowest, highest, (480, 640)).astype(np.uint16)


EMPTY: dict[str, Callable[[int], NDArray[np.uint16]]] = {
    "a belt": lambda seed: _seen(_flat(0.8), seed=seed),
    "a near belt": lambda seed: _seen(_flat(0.4), seed=seed),
    "a wall": lambda seed: _seen(_flat(2.0), seed=seed),
    "a belt with holes": lambda seed: _with_holes(_seen(_flat(1.0), seed=seed), seed=seed),
    "half of a belt's pixels": _half_measured,
    "a wall beside the stereo camera's blind band": lambda seed: _seen(np.where(X < 60, 0, _flat(1.5)), seed=seed),
    "a table": lambda seed: _seen(_tilted(2.0, 0.6), seed=seed),
    "a steep table": lambda seed: _seen(_tilted(5.0, 0.4), seed=seed),
    "a table that tilts sideways": lambda seed: _seen(_tilted(1.0, 0.4, sideways=0.3), seed=seed),
    "a table with holes": lambda seed: _with_holes(_seen(_tilted(2.0, 0.6), seed=seed), seed=seed),
    "floor and wall": lambda seed: _seen(_floor_and_wall(), seed=seed),
    "the edge of a table": lambda seed: _seen(np.where(Y > 380, 0.8, 1.5), seed=seed),
    "a bowl": lambda seed: _seen(0.9 + 5e-7 * ((X - 320) ** 2 + (Y - 240) ** 2), seed=seed),
    "a floor of noise": lambda seed: (
        (500 + Y * 20 + np.random.default_rng(seed).normal(0, 200, Y.shape)).clip(1, 65535).astype(np.uint16)
    ),
    "noise": lambda seed: _noise(seed, 0, 65536),
    "near noise": lambda seed: _noise(seed, 300, 4000),
    "nothing measured": lambda seed: np.zeros((480, 640), np.uint16),
}


@pytest.mark.parametrize("scene", EMPTY)
def test_nothing_is_found_without_a_separate_object(scene: str) -> None:
    for seed in range(4):
        depth = EMPTY[scene](seed)
        times_ms = []
        for _ in range(3):
            begun_s = time.process_time()
            assert _found(depth) is None
            times_ms.append(1e3 * (time.process_time() - begun_s))
        assert min(times_ms) < MAX_CPU_MS


@pytest.mark.parametrize("height_m", [0.03, 0.1])
@pytest.mark.parametrize("side", [40, 60, 90, 140, 200, 300])
def test_objects_of_any_size_on_a_belt_are_found(side: int, height_m: float) -> None:
    rng = np.random.default_rng(side)
    for distance_m in (0.6, 0.8):
        column, row = rng.integers(side // 2, 640 - side // 2), rng.integers(side // 2, 480 - side // 2)
        box, disc = np.maximum(abs(X - column), abs(Y - row)) < side / 2, np.hypot(X - column, Y - row) < side / 2
        for part in (box, disc):
            roi = _found(_seen(np.where(part, distance_m - height_m, distance_m), seed=side))
            assert roi is not None
            assert (
                _iou(roi, Roi(*(int(v) for v in (column - 0.6 * side, row - 0.6 * side, 1.2 * side, 1.2 * side)))) > 0.5
            )


def test_an_object_without_background_is_found() -> None:
    roi = _found(_seen(np.where(np.hypot(X - 300, Y - 200) < 60, 0.7, 0.0)))
    assert roi is not None
    assert _iou(roi, Roi(228, 128, 144, 144)) > 0.7


def _iou(a: Roi, b: Roi) -> float:
    width = max(0, min(a.x + a.w, b.x + b.w) - max(a.x, b.x))
    height = max(0, min(a.y + a.h, b.y + b.h) - max(a.y, b.y))
    return width * height / (a.w * a.h + b.w * b.h - width * height)


def _table(*, noise_m: float = 0.002) -> NDArray[np.uint16]:
    """A table top from 0.6 m at the lower edge to 2 m: 1/z is linear over the image. In codes of 1 mm, with noise."""
    rows = np.linspace(1 / 2.0, 1 / 0.6, 480)[:, np.newaxis] * np.ones((1, 640))
    depth_m = 1 / rows + np.random.default_rng(3).normal(0, noise_m, (480, 640))
    return np.rint(depth_m * 1000).astype(np.uint16)


def _speckle(depth: NDArray[np.uint16], *, flying: float = 0.01) -> NDArray[np.uint16]:
    """Holes, and a fraction of flying pixels close to the camera, as from a stereo camera."""
    rng = np.random.default_rng(4)
    depth = depth.copy()
    depth[rng.random(depth.shape) < 0.03] = 0
    depth[rng.random(depth.shape) < flying] = 150
    return depth


@pytest.mark.parametrize("flying", [0.01, 0.3])
@pytest.mark.parametrize("unit_m", [0.001, 0.00025])
def test_nearest_finds_the_object_in_front_of_a_wall(unit_m: float, flying: float) -> None:
    depth = np.full((480, 640), 1800, np.uint16)
    depth[100:220, 400:500] = 600
    depth[300:420, 100:220] = 1100  # another one, farther away
    scaled = (_speckle(depth, flying=flying) * (0.001 / unit_m)).astype(np.uint16)
    roi = _found(scaled, unit_m=unit_m)
    assert roi is not None
    assert roi.w == roi.h
    assert _iou(roi, Roi(390, 88, 144, 144)) > 0.7


def test_nearest_finds_the_object_on_a_table() -> None:
    """The table's edge is nearer than the object on it, and its surface extends to the object's depth."""
    depth = _table()
    depth[200:320, 280:360] = 770  # the table is 0.78 m away there
    roi = _found(_speckle(depth))
    assert roi is not None
    assert _iou(roi, Roi(248, 188, 144, 144)) > 0.6


def test_nearest_stays_inside_the_image() -> None:
    depth = np.full((480, 640), 2000, np.uint16)
    depth[380:, 560:] = 700
    roi = _found(depth)
    assert roi is not None
    x, y, w, h = roi
    assert x + w <= 640 and y + h <= 480 and w == h >= 100


@pytest.mark.parametrize("kind", ["nothing measured", "speckle", "a thin bar"])
def test_nearest_finds_nothing_without_an_object(kind: str) -> None:
    depth = np.zeros((480, 640), np.uint16)
    if kind == "speckle":
        depth[np.random.default_rng(5).random(depth.shape) < 0.01] = 500
    if kind == "a thin bar":
        depth[470:480] = 500
    assert _found(depth) is None


def test_the_nearest_objects_come_in_order_with_their_distance() -> None:
    """Four boxes on a belt; two of them at the same distance, side by side."""
    boxes = {(60, 80): 0.55, (250, 80): 0.7, (430, 80): 0.7, (250, 320): 0.62}
    depth_m = _flat(0.8)
    for (x, y), distance_m in boxes.items():
        depth_m[y : y + 100, x : x + 100] = distance_m
    depth = _seen(depth_m)
    for most in (1, 2, 3, 4, 6):
        found = nearest_objects(depth, depth_unit_m=0.001, most=most)
        expected = sorted(boxes.values())[:most]
        assert [one.distance_m for one in found] == pytest.approx(expected, abs=0.02)
        for one in found:
            assert max(_iou(one.roi, Roi(x - 10, y - 10, 120, 120)) for x, y in boxes) > 0.7
    overlaps = [_iou(a.roi, b.roi) for a in found for b in found if a is not b]
    assert max(overlaps) < 0.1


def test_a_hand_and_its_arm_are_one_object() -> None:
    """The arm goes back by 30 cm from the hand, more than an object is deep."""
    depth_m = _flat(1.4)
    along = np.clip((X - 200) / 300, 0, 1)
    arm = (abs(Y - 240) < 45) & (X >= 200)
    depth_m[arm] = (0.6 + 0.35 * along)[arm]
    hand = np.hypot(X - 190, Y - 240) < 60
    depth_m[hand] = 0.6
    found = nearest_objects(_seen(depth_m), depth_unit_m=0.001, most=3)
    assert len(found) == 1 and found[0].distance_m == pytest.approx(0.6, abs=0.02)


def test_nearest_finds_rendered_objects() -> None:
    """In the built-in scenes, compared with the true region of objects on the table."""
    overlaps = []
    for rendered in stream(seed=3, num_frames=len(LABELS), frames_per_object=1):
        if not rendered.label.endswith("_photo"):
            roi = _found(rendered.depth)
            assert roi is not None
            overlaps.append(_iou(roi, Roi(*rendered.roi_xywh)))
    assert len(overlaps) == 3
    assert float(np.median(overlaps)) > 0.5
