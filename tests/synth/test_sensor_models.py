"""The sensor models have the errors that a D4xx camera has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgefuse.synth.sensor_models import BASELINE_M, Degradation, depth_codes, rgb_codes

CLEAN = Degradation(exposure=1.0, warmth=0.0, depth_missing=False, blob_fraction=0.0, speckle_fraction=0.0)
FOCAL_PX = 615.0


def plane_codes(distance_m: float, *, degradation: Degradation = CLEAN, seed: int = 0) -> np.ndarray:
    depth_m = np.full((200, 200), distance_m, np.float32)
    return depth_codes(depth_m, focal_px=FOCAL_PX, degradation=degradation, rng=np.random.default_rng(seed))


def test_depth_is_unbiased_and_its_noise_grows_with_the_square_of_the_distance() -> None:
    spread_mm = {}
    for distance_m in (0.5, 1.0, 2.0):
        codes = plane_codes(distance_m)
        assert codes.dtype == np.uint16
        assert (codes > 0).all()
        assert codes.mean() == pytest.approx(1000 * distance_m, rel=0.005)
        spread_mm[distance_m] = codes.std()
    assert 2 < spread_mm[1.0] < 8  # the order of magnitude of a D435
    assert 3.3 < spread_mm[1.0] / spread_mm[0.5] < 4.7
    assert 3.3 < spread_mm[2.0] / spread_mm[1.0] < 4.7


def test_depth_comes_in_steps_that_grow_with_the_distance() -> None:
    def step_mm(distance_m: float) -> float:
        return float(np.median(np.diff(np.unique(plane_codes(distance_m)))))

    assert step_mm(0.5) <= 2
    assert step_mm(3.0) > 3 * step_mm(1.0)


def test_neighbours_share_their_error() -> None:
    error = plane_codes(1.0).astype(float) - 1000
    near = np.mean(error[:, 1:] * error[:, :-1]) / error.var()
    far = np.mean(error[:, 20:] * error[:, :-20]) / error.var()
    assert near > 0.5
    assert abs(far) < 0.1


def test_an_object_in_front_casts_a_depth_shadow_to_its_left() -> None:
    depth_m = np.full((100, 300), 1.0, np.float32)
    depth_m[30:70, 150:200] = 0.5
    hole = depth_codes(depth_m, focal_px=FOCAL_PX, degradation=CLEAN, rng=np.random.default_rng(0)) == 0
    width_px = FOCAL_PX * BASELINE_M * (1 / 0.5 - 1 / 1.0)
    assert hole[35:65, :150].sum(axis=1).mean() == pytest.approx(width_px, abs=3)
    assert not hole[35:65, 153:197].any()
    assert hole[35:65, 203:].sum() == 0
    assert hole[29:31, 153:197].mean() > 0.3  # ragged upper edge
    assert not hole[:25].any()


@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_blobs_cover_about_their_fraction(fraction: float) -> None:
    holes = [plane_codes(1.0, degradation=replace(CLEAN, blob_fraction=fraction), seed=i) == 0 for i in range(20)]
    assert np.mean(holes) == pytest.approx(fraction, abs=0.05)


def test_a_missing_frame_has_no_measurement_and_too_near_is_none() -> None:
    assert not plane_codes(1.0, degradation=replace(CLEAN, depth_missing=True)).any()
    assert not plane_codes(0.1).any()
    speckled = plane_codes(1.0, degradation=replace(CLEAN, speckle_fraction=0.02))
    assert 0.01 < (speckled == 0).mean() < 0.03


def test_less_light_is_darker_and_noisier() -> None:
    radiance = np.full((100, 100, 3), 0.4, np.float32)
    means, noise = [], []
    for exposure in (1.0, 0.1, 0.01, 0.001):
        codes = rgb_codes(radiance, degradation=replace(CLEAN, exposure=exposure), rng=np.random.default_rng(0))
        means.append(codes.mean())
        noise.append(codes.std() / codes.mean())
    assert means == sorted(means, reverse=True)
    assert noise == sorted(noise)
    assert means[0] > 150
    assert means[-1] < 12


def test_warm_light_is_redder() -> None:
    radiance = np.full((20, 20, 3), 0.4, np.float32)
    red, _, blue = rgb_codes(radiance, degradation=replace(CLEAN, warmth=0.1), rng=np.random.default_rng(0)).mean(
        axis=(0, 1)
    )
    assert red > blue + 5
