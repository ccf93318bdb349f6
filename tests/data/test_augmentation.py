from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgefuse.contract import codes_from_bytes
from edgefuse.data.augmentation import (
    Augmentation,
    augment,
    jitter_colour,
    move,
    punch_holes,
    scale_depth,
    shift_depth,
)
from edgefuse.data.mirrored_labels import labels_with_sides
from edgefuse.framing import fit

OFF = Augmentation(
    rotation_deg=0,
    zoom=0,
    shift=0,
    flip=False,
    background=0,
    turn_deg=0,
    style=0,
    brightness=0,
    contrast=0,
    gamma=0,
    saturation=0,
    white_balance=0,
    grey=0,
    blur=0,
    depth_scale=0,
    holes=0,
    misalignment=0,
    rgb_dropout=0,
    depth_dropout=0,
)


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    depth = rng.integers(300, 3000, (64, 64)).astype(np.uint16)
    depth[:5] = 0
    return rgb, depth


def run(pair: tuple[np.ndarray, np.ndarray], seed: int = 0, **parts: float) -> tuple[np.ndarray, np.ndarray]:
    framed = augment(
        *pair, size=64, depth_unit_m=0.001, augmentation=replace(OFF, **parts), rng=np.random.default_rng(seed)
    )
    return framed.rgb, codes_from_bytes(framed.depth)


def test_everything_off_is_what_live_sees(pair: tuple[np.ndarray, np.ndarray]) -> None:
    rgb, codes = run(pair)
    framed = fit(*pair, size=64)
    np.testing.assert_array_equal(rgb, framed.rgb)
    np.testing.assert_array_equal(codes, codes_from_bytes(framed.depth))


def test_the_same_seed_gives_the_same_sample(pair: tuple[np.ndarray, np.ndarray]) -> None:
    whole = vars(Augmentation(rgb_dropout=0.0))
    np.testing.assert_array_equal(run(pair, 5, **whole)[0], run(pair, 5, **whole)[0])
    assert (run(pair, 5, **whole)[0] != run(pair, 6, **whole)[0]).any()


def test_flip_mirrors_both_images_or_none(pair: tuple[np.ndarray, np.ndarray]) -> None:
    mirrored = 0
    for seed in range(20):
        rgb, codes = run(pair, seed, flip=True)
        is_mirrored = bool((rgb == pair[0][:, ::-1]).all() and (codes == pair[1][:, ::-1]).all())
        mirrored += is_mirrored
        assert is_mirrored or ((rgb == pair[0]).all() and (codes == pair[1]).all())
    assert 4 <= mirrored <= 16


def test_dropout_removes_one_sensor_at_a_time_at_its_rate(pair: tuple[np.ndarray, np.ndarray]) -> None:
    missing = np.array(
        [[not image.any() for image in run(pair, s, rgb_dropout=0.3, depth_dropout=0.2)] for s in range(400)]
    )
    assert abs(missing[:, 0].mean() - 0.3) < 0.07 and abs(missing[:, 1].mean() - 0.2) < 0.06
    assert not missing.all(axis=1).any()


def test_depth_scaling_keeps_holes_and_ratios() -> None:
    codes = np.array([0, 1, 1000, 65000], np.uint16)
    np.testing.assert_array_equal(scale_depth(codes, factor=1.1), [0, 1, 1100, 65535])
    np.testing.assert_array_equal(scale_depth(codes, factor=0.01), [0, 1, 10, 650])


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_holes_cover_the_requested_fraction(fraction: float) -> None:
    codes = np.full((96, 96), 1000, np.uint16)
    punched = punch_holes(codes, fraction=fraction, rng=np.random.default_rng(0))
    assert abs((punched == 0).mean() - fraction) < 0.01
    assert set(np.unique(punched)) <= {0, 1000}


def test_colour_jitter_leaves_depth_alone_and_saturation_zero_point(pair: tuple[np.ndarray, np.ndarray]) -> None:
    rgb, codes = run(pair, 2, brightness=0.4, contrast=0.4, gamma=0.4, saturation=0.4)
    assert (rgb != pair[0]).any()
    np.testing.assert_array_equal(codes, pair[1])
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    varied = jitter_colour(grey, augmentation=Augmentation(white_balance=0), rng=np.random.default_rng(3))
    assert np.ptp(varied.astype(int), axis=2).max() <= 1  # grey has no saturation to change
    assert (np.diff(varied[0, :, 0].astype(int)) >= 0).all()  # and the order of brightness is kept


def test_sided_labels_are_not_mirrored() -> None:
    assert not labels_with_sides(("cup", "ball"))
    assert labels_with_sides(("turn_Left", "turn_right"))


def test_white_balance_colours_grey_and_grey_removes_colour() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    varied = jitter_colour(grey, augmentation=replace(OFF, white_balance=0.2), rng=np.random.default_rng(3))
    spread = np.ptp(varied[0, 0].astype(int))
    assert 0 < spread <= 40 and (varied == varied[0, 0]).all()
    colourful = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    varied = jitter_colour(colourful, augmentation=replace(OFF, grey=1.0), rng=np.random.default_rng(3))
    assert np.ptp(varied.astype(int), axis=2).max() == 0


def test_moving_keeps_rgb_and_depth_together_and_invents_no_depth() -> None:
    depth = np.full((64, 64), 900, np.uint16)
    depth[10:20, 40:50] = 400
    rgb = np.repeat((depth == 400)[..., None] * np.uint8(255), 3, axis=2)
    turned_rgb, turned = move(rgb, depth, angle_deg=90)
    assert set(np.unique(turned)) == {400, 900}
    assert ((turned_rgb[..., 0] > 127) == (turned == 400)).mean() > 0.99
    assert (turned == 400)[14:24, 10:20].all()  # counter-clockwise: from right of the top to left of the top
    _, shifted = move(rgb, depth, shift_xy=(5, 0))
    assert (shifted == 400)[10:20, 45:55].all()
    _, halved = move(rgb, depth, scale=0.5)
    assert abs(int((halved == 400).sum()) - 25) <= 11


def test_depth_is_shifted_against_rgb_and_nothing_is_invented() -> None:
    codes = np.arange(1, 26, dtype=np.uint16).reshape(5, 5)
    moved = shift_depth(codes, 2, -1)
    np.testing.assert_array_equal(moved[:4, 2:], codes[1:, :3])
    assert (moved[4] == 0).all() and (moved[:, :2] == 0).all()
    np.testing.assert_array_equal(shift_depth(codes, 0, 0), codes)


def test_misalignment_and_blur_change_one_image_only(pair: tuple[np.ndarray, np.ndarray]) -> None:
    rgb, codes = run(pair)
    moved_rgb, moved_codes = run(pair, misalignment=0.2)
    np.testing.assert_array_equal(moved_rgb, rgb)
    assert (moved_codes != codes).any()
    sharp_fraction = []
    for seed in range(20):
        blurred_rgb, same_codes = run(pair, seed, blur=0.05)
        np.testing.assert_array_equal(same_codes, codes)
        sharp_fraction.append(float(np.abs(np.diff(blurred_rgb.astype(int), axis=1)).mean()))
    assert min(sharp_fraction) < 0.3 * max(sharp_fraction)
