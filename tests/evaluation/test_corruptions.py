from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from edgefuse.errors import UserError
from edgefuse.evaluation.corruptions import CORRUPTIONS, Corruption, Scene, by_name, corrupt, depth_noise_m, light_gains

SIDE = 96
NAMES = [c.name for c in CORRUPTIONS]


def make_scene(seed: int = 0) -> Scene:
    """A bright square in front of a wall, with texture in RGB; the stale pair is another such scene."""

    def pair(number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((seed, number))
        rgb = rng.integers(60, 140, (SIDE, SIDE, 3), dtype=np.uint8)
        codes = np.full((SIDE, SIDE), 1500, np.uint16)
        top, left = rng.integers(10, 30, 2)
        rgb[top : top + 40, left : left + 40] += 80
        codes[top : top + 40, left : left + 40] = 600
        codes[rng.random(codes.shape) < 0.02] = 0
        return rgb, codes

    return Scene(*pair(0), *pair(1))


SCENE = make_scene()


def failed(corruption: Corruption, severity: float, *, scene: Scene = SCENE, seed: int = 5) -> np.ndarray:
    rgb, codes = corrupt(corruption, scene, severity=severity, seed=(seed,))
    return rgb if corruption.sensor == "rgb" else codes


def light(rgb: np.ndarray) -> np.ndarray:
    return (rgb / 255.0) ** 2.2


def missing(codes: np.ndarray) -> float:
    return float((codes == 0).mean())


@pytest.mark.parametrize("name", NAMES)
def test_the_healthy_sensor_and_the_scene_are_unchanged(name: str) -> None:
    corruption, before = by_name(name), make_scene()
    for severity in corruption.severities:
        rgb, codes = corrupt(corruption, SCENE, severity=severity, seed=(1,))
        assert rgb.dtype == np.uint8 and codes.dtype == np.uint16 and rgb.shape[:2] == codes.shape == (SIDE, SIDE)
        healthy, original = (codes, SCENE.codes) if corruption.sensor == "rgb" else (rgb, SCENE.rgb)
        np.testing.assert_array_equal(healthy, original)
        assert not np.array_equal(
            failed(corruption, severity), SCENE.rgb if corruption.sensor == "rgb" else SCENE.codes
        )
    for now, then in zip(SCENE, before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("name", NAMES)
def test_the_result_depends_on_the_seed(name: str) -> None:
    corruption = by_name(name)
    severity = corruption.severities[0]
    np.testing.assert_array_equal(failed(corruption, severity, seed=3), failed(corruption, severity, seed=3))
    differs = not np.array_equal(failed(corruption, severity, seed=3), failed(corruption, severity, seed=4))
    assert differs == (name in {"dark_rgb", "depth_holes", "depth_noise"})


@pytest.mark.parametrize("name", [c.name for c in CORRUPTIONS if len(c.severities) > 1 and c.stale == "no"])
def test_higher_severity_changes_more(name: str) -> None:
    corruption = by_name(name)
    truth = (SCENE.rgb if corruption.sensor == "rgb" else SCENE.codes).astype(float)
    errors = [np.abs(failed(corruption, severity) - truth).mean() for severity in corruption.severities]
    assert errors[0] > 0 and all(np.diff(errors) > 0), errors


def test_missing_sensors_give_no_signal() -> None:
    assert not failed(by_name("no_rgb"), 1).any() and not failed(by_name("no_depth"), 1).any()


def test_each_stop_halves_the_light_and_keeps_the_noise() -> None:
    dark = by_name("dark_rgb")
    assert dark.severities == (1, 2, 3, 4, 5, 6, 7, 8)
    flat = SCENE._replace(rgb=np.full((SIDE, SIDE, 3), 200, np.uint8))
    rgbd = [failed(dark, severity, scene=flat) for severity in dark.severities]
    for severity, image in zip(dark.severities[:4], rgbd, strict=False):
        expected = light(np.array(200)) * 2.0**-severity
        assert light(image).mean() == pytest.approx(expected, rel=0.06)
    spread = [image.std() / image.mean() for image in rgbd]
    assert all(np.diff(spread) > 0) and spread[-1] > 0.4 > spread[0]


def test_overexposure_doubles_the_light_until_it_is_white() -> None:
    bright = by_name("overexposed_rgb")
    dim = SCENE.rgb < 100
    assert light(failed(bright, 1)[dim]).mean() == pytest.approx(2 * light(SCENE.rgb[dim]).mean(), rel=0.02)
    white = [(failed(bright, severity) == 255).mean() for severity in bright.severities]
    assert all(np.diff(white) > 0) and white[-1] > 0.5


def test_blur_removes_detail_and_keeps_brightness() -> None:
    blur = by_name("blur_rgb")
    for severity in blur.severities:
        assert failed(blur, severity).mean() == pytest.approx(SCENE.rgb.mean(), rel=0.02)
    point = np.zeros((SIDE, SIDE, 3), np.uint8)
    point[48, 48] = 255
    rows = np.arange(SIDE) - 48
    for severity in (1, 2):
        weight = failed(blur, severity, scene=SCENE._replace(rgb=point))[..., 0].sum(axis=1).astype(float)
        assert np.sqrt((weight * rows**2).sum() / weight.sum()) == pytest.approx(severity, rel=0.15)


def test_warm_light_is_red_and_cold_light_is_blue() -> None:
    np.testing.assert_allclose(light_gains(6500), 1)
    for name, order in (("warm_light", 1), ("cold_light", -1)):
        for severity in by_name(name).severities:
            red, green, blue = failed(by_name(name), severity).reshape(-1, 3).astype(float).mean(axis=0) * order
            assert red > green > blue
    # Planck's law, by hand: at 2856 K (the CIE's illuminant A) red over blue is 5.3 times that at 6500 K.
    red, _, blue = light_gains(2856)
    assert red / blue == pytest.approx(np.exp(0.014388 * (1 / 450e-9 - 1 / 600e-9) * (1 / 2856 - 1 / 6500)), rel=0.04)


def test_holes_cover_their_fraction_and_grow() -> None:
    holes = by_name("depth_holes")
    found = [failed(holes, severity) for severity in holes.severities]
    for severity, codes in zip(holes.severities, found, strict=True):
        assert missing(codes) == pytest.approx(severity, abs=0.02)
    for milder, severer in pairwise(found):
        assert (severer[milder == 0] == 0).all()
    kept = found[0] > 0
    np.testing.assert_array_equal(found[0][kept], SCENE.codes[kept])


def test_edge_holes_are_at_edges_only() -> None:
    edges = by_name("depth_edge_holes")
    codes = np.full((SIDE, SIDE), 1500, np.uint16)
    codes[:, 48:] = 600
    step = SCENE._replace(codes=codes)
    for severity in edges.severities:
        gone = (failed(edges, severity, scene=step) == 0).all(axis=0)
        # The two columns at the edge are at distance 0; a severity of r removes those closer than r.
        np.testing.assert_array_equal(np.flatnonzero(gone), np.arange(48 - severity, 48 + severity))
    flat = SCENE._replace(codes=np.full((SIDE, SIDE), 1500, np.uint16))
    assert missing(failed(edges, 8, scene=flat)) == 0


def test_noise_is_that_of_the_camera_at_the_distance() -> None:
    noise = by_name("depth_noise")
    flat = SCENE._replace(codes=np.full((SIDE, SIDE), 1500, np.uint16))
    for distance_m in noise.severities:
        sigma_mm = failed(noise, distance_m, scene=flat).astype(float).std()
        assert sigma_mm == pytest.approx(1000 * distance_m**2 * 0.08 / (385 * 0.05), rel=0.1)
    assert depth_noise_m(4) == pytest.approx(16 * depth_noise_m(1))
    near = SCENE._replace(codes=np.where(SCENE.codes > 0, np.uint16(20), np.uint16(0)))
    np.testing.assert_array_equal(failed(noise, 4, scene=near) > 0, near.codes > 0)


def test_depth_shifts_by_whole_pixels() -> None:
    shift = by_name("depth_shift")
    assert (shift.severities[0], shift.severities[-1]) == (1, 16)
    for severity in shift.severities:
        codes = failed(shift, severity)
        np.testing.assert_array_equal(codes[:, severity:], SCENE.codes[:, :-severity])
        assert not codes[:, :severity].any()


def test_a_stopped_stream_shows_the_stale_pair() -> None:
    for name in ("frozen_rgb", "foreign_rgb"):
        np.testing.assert_array_equal(failed(by_name(name), 1), SCENE.stale_rgb)
    for name in ("frozen_depth", "foreign_depth"):
        np.testing.assert_array_equal(failed(by_name(name), 1), SCENE.stale_codes)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="depth_holes"):
        by_name("rain")
