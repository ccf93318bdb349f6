"""The near layer of a pair: other backgrounds, other directions, other colours."""

from __future__ import annotations

import numpy as np
import pytest

from edgefuse.contract import bytes_from_codes, codes_from_bytes
from edgefuse.data.augmentation import Augmentation, augment
from edgefuse.data.foreground import (
    GAP_MM,
    Layers,
    Pair,
    layers_of,
    replace_background,
    restyle,
    turn_near_layer,
    without_near_layer,
)
from edgefuse.framing import Framed

SIZE, NEAR_MM, FAR_MM, WINDOW_M = 96, 600, 1500, 0.3
OBJECT = (slice(24, 72), slice(30, 66))


def scene(seed: int = 0, *, object_at: tuple[slice, slice] = OBJECT) -> Pair:
    """A textured board in front of a textured wall."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(20, 120, (SIZE, SIZE, 3), dtype=np.uint8)
    codes = np.full((SIZE, SIZE), FAR_MM, np.uint16)
    rgb[object_at] += 120
    codes[object_at] = NEAR_MM
    return Pair(rgb, codes)


def layers(pair: Pair) -> Layers:
    found = layers_of(pair.codes, depth_window_m=WINDOW_M)
    assert found is not None
    return found


def test_the_near_layer_is_the_object() -> None:
    found = layers(scene())
    expected = np.zeros((SIZE, SIZE), bool)
    expected[OBJECT] = True
    np.testing.assert_array_equal(found.near, expected)
    np.testing.assert_array_equal(found.far, ~expected)
    assert found.end_mm == pytest.approx(NEAR_MM + 1000 * WINDOW_M)


@pytest.mark.parametrize("depth", ["nothing measured", "a wall", "an object and nothing behind it"])
def test_depth_that_cannot_separate_object_and_background_gives_no_layers(depth: str) -> None:
    codes = scene().codes
    if depth == "nothing measured":
        codes[:] = 0
    elif depth == "a wall":
        codes[:] = FAR_MM
    else:
        codes[codes == FAR_MM] = 0
    assert layers_of(codes, depth_window_m=WINDOW_M) is None


def test_a_replaced_background_is_that_of_the_other_pair_without_its_object() -> None:
    pair, other = scene(), scene(1, object_at=(slice(0, 30), slice(50, 90)))
    other.codes[other.codes == FAR_MM] = 700  # nearer than the end of the near layer
    other.codes[:30, 50:90] = 350
    rng = np.random.default_rng(0)  # its first number is above `GENERATED`
    changed = replace_background(pair, layers(pair), other, rng)
    inside = np.zeros((SIZE, SIZE), bool)
    inside[28:68, 34:62] = True
    np.testing.assert_array_equal(changed.rgb[inside], pair.rgb[inside])
    np.testing.assert_array_equal(changed.codes[inside], pair.codes[inside])
    outside = np.ones((SIZE, SIZE), bool)
    outside[16:80, 22:74] = outside[:40, 40:] = False
    np.testing.assert_array_equal(changed.rgb[outside], other.rgb[outside])
    assert changed.codes[outside].min() >= NEAR_MM + 1000 * WINDOW_M + GAP_MM
    assert changed.rgb[:12, 60:80].max() < 130, "the other pair's object is still there"


@pytest.mark.parametrize("other", [None, "inseparable"])
def test_without_another_background_one_is_generated(other: str | None) -> None:
    pair, wall = scene(), Pair(scene(1).rgb, np.full((SIZE, SIZE), FAR_MM, np.uint16))
    changed = replace_background(pair, layers(pair), wall if other else None, np.random.default_rng(0))
    assert (changed.rgb[:8] != wall.rgb[:8]).mean() > 0.9
    assert (changed.rgb[:8] != pair.rgb[:8]).mean() > 0.9
    np.testing.assert_array_equal(changed.codes[OBJECT], pair.codes[OBJECT])


def test_pixels_beside_the_object_without_a_measurement_keep_none() -> None:
    pair = scene()
    pair.codes[24:72, 66:69] = 0
    changed = replace_background(pair, layers(pair), scene(1), np.random.default_rng(0))
    assert not changed.codes[26:70, 66:69].any()


@pytest.mark.parametrize("angle", [20.0, -20.0])
def test_a_turned_board_is_narrower_and_slanted_as_geometry_says(angle: float) -> None:
    pair, focal = scene(), 4.0
    turned = turn_near_layer(pair, layers(pair), angles_deg=(angle, 0.0), focal_length=focal)
    row = turned.codes[48]
    columns = np.flatnonzero((row > 0) & (row < NEAR_MM + 300))
    width_before = OBJECT[1].stop - OBJECT[1].start
    half_m = width_before / 2 * NEAR_MM / (focal * SIZE)
    sine, cosine = np.sin(np.deg2rad(abs(angle))), np.cos(np.deg2rad(angle))
    ends = [focal * SIZE * half_m * cosine / (NEAR_MM + side * half_m * sine) for side in (-1, 1)]
    assert len(columns) == pytest.approx(sum(ends), abs=4)
    slope = float(np.polyfit(columns, row[columns].astype(float), 1)[0]) * len(columns)
    assert slope == pytest.approx(-np.sign(angle) * 2 * half_m * sine, rel=0.2)
    np.testing.assert_array_equal(turned.rgb[:12], pair.rgb[:12])


def test_an_angle_of_0_moves_nothing() -> None:
    pair = scene()
    turned = turn_near_layer(pair, layers(pair), angles_deg=(0.0, 0.0), focal_length=3.0)
    inside = (slice(28, 68), slice(34, 62))
    np.testing.assert_array_equal(turned.rgb[inside], pair.rgb[inside])
    np.testing.assert_allclose(turned.codes[inside].astype(int), NEAR_MM, atol=1)


def test_turning_and_replacing_leave_their_arguments_unchanged() -> None:
    pair, other = scene(), scene(1)
    turn_near_layer(pair, layers(pair), angles_deg=(10.0, -10.0), focal_length=3.0)
    replace_background(pair, layers(pair), other, np.random.default_rng(0))
    for one, seed in ((pair, 0), (other, 1)):
        np.testing.assert_array_equal(one.rgb, scene(seed).rgb)
        np.testing.assert_array_equal(one.codes, scene(seed).codes)


def test_without_the_near_layer_only_background_is_left() -> None:
    pair = scene()
    behind = without_near_layer(pair, layers(pair))
    assert (behind.codes == FAR_MM).all()
    assert behind.rgb[OBJECT].max() < 130


def test_colours_move_towards_those_of_the_other_image() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(100, 160, (32, 32, 3), dtype=np.uint8)
    other = (rng.integers(0, 60, (32, 32, 3)) + np.array([20, 60, 120])).astype(np.uint8)
    np.testing.assert_allclose(restyle(rgb, other, amount=1.0).mean((0, 1)), other.mean((0, 1)), atol=1)
    halfway = (rgb.mean((0, 1)) + other.mean((0, 1))) / 2
    np.testing.assert_allclose(restyle(rgb, other, amount=0.5).mean((0, 1)), halfway, atol=1)
    np.testing.assert_array_equal(restyle(rgb, other, amount=0.0), rgb)


@pytest.mark.parametrize("size", [96, 224])
def test_the_fill_has_the_colour_of_its_surroundings_however_large_the_object(size: int) -> None:
    grey = Pair(np.full((size, size, 3), 120, np.uint8), np.full((size, size), FAR_MM, np.uint16))
    border = size // 12
    grey.codes[border:-border, border:-border] = NEAR_MM
    found = layers(grey)
    assert found.near.mean() > 0.6
    np.testing.assert_allclose(without_near_layer(grey, found).rgb, 120, atol=1)


def test_the_fill_of_scattered_objects_without_surroundings_is_the_mean_colour_behind_them() -> None:
    grey = Pair(np.full((SIZE, SIZE, 3), 120, np.uint8), np.full((SIZE, SIZE), FAR_MM, np.uint16))
    grey.codes[::2, ::2] = NEAR_MM
    grey.codes[OBJECT] = NEAR_MM
    np.testing.assert_allclose(without_near_layer(grey, layers(grey)).rgb, 120, atol=1)


@pytest.mark.parametrize("angle", [0.0, 10.0])
def test_a_thin_part_far_from_the_rest_of_the_object_turns_with_it(angle: float) -> None:
    """A median filter removes two columns, and the rest is too far away to continue its distance by a blur."""
    pair = scene(object_at=(slice(24, 72), slice(50, 80)))
    thin = (slice(24, 72), slice(6, 8))
    pair.codes[thin], pair.rgb[thin] = NEAR_MM, (255, 0, 0)
    turned = turn_near_layer(pair, layers(pair), angles_deg=(angle, 0.0), focal_length=4.0)
    is_red = (turned.rgb[..., 0] > 200) & (turned.rgb[..., 1:] < 60).all(2)
    assert is_red[:, :40].sum() > 48


@pytest.mark.parametrize("missing", ["own", "other"])
def test_missing_rgb_stays_missing_and_is_no_background(missing: str) -> None:
    own, other = scene(), scene(1)
    other.codes[other.codes == FAR_MM] = 1800
    (own if missing == "own" else other).rgb[:] = 0
    off = {name: 0.0 for name, value in vars(Augmentation()).items() if isinstance(value, float)}
    framed = augment(
        *own,
        size=SIZE,
        depth_unit_m=0.001,
        augmentation=Augmentation(**{**off, "background": 1.0, "style": 1.0}, flip=False),
        rng=np.random.default_rng(0),
        other=lambda: Framed(other.rgb, bytes_from_codes(other.codes)),
    )
    if missing == "own":
        assert not framed.rgb.any()
        assert (codes_from_bytes(framed.depth)[:8] != own.codes[:8]).all(), "depth has no other background"
    else:
        assert framed.rgb[:8].mean() > 10, "the background is black"
        np.testing.assert_array_equal(framed.rgb[30:60, 40:60], own.rgb[30:60, 40:60])
