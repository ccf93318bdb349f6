"""Depth encodings and the spatial gate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgefuse.contract import InputContract, bytes_from_codes
from edgefuse.errors import UserError
from edgefuse.model.choices import DEPTH_ENCODINGS, FUSION_KINDS
from edgefuse.model.classifier import ModelConfig, build_classifier, predict
from edgefuse.model.decode import InputDecoder
from edgefuse.model.encoding import NearestSurface, RelativeDepth
from edgefuse.model.spatial_gate import SpatialGate

CONTRACT = InputContract(size=48, near_m=0.2, far_m=4.0)
HAND = (slice(16, 32), slice(16, 32))


def scene_mm(hand_mm: int = 600, wall_mm: int = 2000) -> np.ndarray:
    """An object of 16 x 16 pixels in front of a wall, uint16 [48, 48]."""
    codes = np.full((48, 48), wall_mm, np.uint16)
    codes[HAND] = hand_mm
    return codes


def decoded(codes: np.ndarray) -> torch.Tensor:
    rgb = torch.zeros(1, 48, 48, 3, dtype=torch.uint8)
    return InputDecoder(CONTRACT)(rgb, torch.from_numpy(bytes_from_codes(codes[None])))[1]


def encoded(codes: np.ndarray, depth_window_m: float = 0.3) -> np.ndarray:
    depth = decoded(codes)
    return RelativeDepth(CONTRACT, depth_window_m=depth_window_m)(depth, NearestSurface(CONTRACT)(depth))[0].numpy()


def gate_of(codes: np.ndarray) -> np.ndarray:
    gate, depth = SpatialGate(RelativeDepth(CONTRACT, depth_window_m=0.3), size=48), decoded(codes)
    return gate.gate(depth, NearestSurface(CONTRACT)(depth))[0, 0].detach().numpy()


def test_nearness_is_one_at_the_nearest_surface_and_zero_beyond_the_window() -> None:
    nearness = encoded(scene_mm())[0]
    assert nearness[24, 24] == pytest.approx(0.9, abs=1e-3)  # the window starts a tenth of its length in front
    assert (nearness[:10] == 0).all()
    assert encoded(scene_mm(600, 750))[0][0, 0] == pytest.approx(1 - 0.18 / 0.3, abs=1e-3)


def test_the_distance_of_the_object_does_not_matter() -> None:
    np.testing.assert_allclose(encoded(scene_mm(500, 900)), encoded(scene_mm(1500, 1900)), atol=1e-4)


def test_a_stray_near_pixel_is_not_a_surface() -> None:
    codes = scene_mm()
    stray = codes.copy()
    stray[2, 2] = 210
    off = np.abs(encoded(stray) - encoded(codes)).max(axis=0)
    off[:6, :6] = 0
    assert off.max() < 1e-4


def test_slopes_follow_the_surface() -> None:
    ramp = (600 + 4 * np.arange(48)[None] + 0 * np.arange(48)[:, None]).astype(
        np.uint16
    )  # farther to the right, 4 mm a pixel
    _, _, slope_x, slope_y = encoded(ramp)
    assert (slope_x[4:-4, 4:-4] < -0.05).all() and np.abs(slope_y[4:-4, 4:-4]).max() < 1e-4


def test_no_measurement_is_neither_near_nor_valid() -> None:
    codes = scene_mm()
    codes[20:24, 20:24] = 0
    nearness, valid, *_ = encoded(codes)
    assert (nearness[20:24, 20:24] == 0).all() and (valid[20:24, 20:24] == 0).all()
    assert (encoded(np.zeros((48, 48), np.uint16)) == 0).all()


SPARSE_CONTRACT = InputContract(size=96, near_m=0.2, far_m=4.0)


def sparse_scene(fraction: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An object at 0.6 m, a third of the view wide, in front of a wall at 1.6 m, with this fraction of pixels valid; and its mask."""
    rng = np.random.default_rng(seed)
    is_thing = np.zeros((96, 96), bool)
    top, left = rng.integers(0, 64, 2)
    is_thing[top : top + 32, left : left + 32] = True
    codes = np.where(is_thing, 600, 1600).astype(np.uint16)
    codes[rng.random(codes.shape) >= fraction] = 0
    return codes, is_thing


def sparse_nearness(codes: np.ndarray, revision: int = 2) -> np.ndarray:
    rgb = torch.zeros(1, 96, 96, 3, dtype=torch.uint8)
    depth = InputDecoder(SPARSE_CONTRACT)(rgb, torch.from_numpy(bytes_from_codes(codes[None])))[1]
    nearest_m = NearestSurface(SPARSE_CONTRACT, revision=revision)(depth)
    return RelativeDepth(SPARSE_CONTRACT, depth_window_m=0.3).nearness(depth, nearest_m)[0][0, 0].numpy()


@pytest.mark.parametrize("fraction", [1.0, 0.6, 0.3, 0.1, 0.02])
def test_the_nearest_surface_is_the_object_even_in_sparse_depth(fraction: float) -> None:
    for seed in range(10):
        codes, is_thing = sparse_scene(fraction, seed=seed)
        nearness = sparse_nearness(codes)
        assert (nearness[is_thing & (codes > 0)] > 0.85).all() and (is_thing & (codes > 0)).any()
        assert (nearness[~is_thing] == 0).all(), "the wall, a metre behind, and what was not measured"


@pytest.mark.parametrize("revision", [1, 2])
@pytest.mark.parametrize(("hand_mm", "nearest_m"), [(600, 0.6), (1234, 1.234), (100, 0.2), (9000, 2.0), (0, 2.0)])
def test_the_distance_of_the_nearest_surface_is_in_metres_within_the_range(
    hand_mm: int, nearest_m: float, revision: int
) -> None:
    depth = decoded(scene_mm(hand_mm))
    assert NearestSurface(CONTRACT, revision=revision)(depth).numpy() == pytest.approx(nearest_m, abs=1e-5)


def test_the_distance_is_0_without_a_measurement_and_per_pair() -> None:
    depth = torch.cat([decoded(np.zeros((48, 48), np.uint16)), decoded(scene_mm(700))])
    found = NearestSurface(CONTRACT)(depth)
    assert found.shape == (2, 1) and found[0].item() == 0.0 and found[1].item() == pytest.approx(0.7, abs=1e-5)


@pytest.mark.parametrize("fusion", FUSION_KINDS)
@pytest.mark.parametrize("encoding", DEPTH_ENCODINGS)
def test_every_fusion_and_encoding_returns_the_distance(fusion: str, encoding: str) -> None:
    config = ModelConfig(contract=CONTRACT, num_classes=3, fusion=fusion, encoding=encoding, num_features=8)  # type: ignore[arg-type]
    depth = torch.from_numpy(bytes_from_codes(scene_mm(800)[None]))
    found = predict(build_classifier(config).eval(), torch.zeros(1, 48, 48, 3, dtype=torch.uint8), depth)
    assert found[2].shape == (1, 1) and found[2].item() == pytest.approx(0.8, abs=1e-5)


def test_what_lies_outside_all_blocks_is_nearest_if_nothing_else_is_measured() -> None:
    """224 pixels are twelve blocks of 18 and 8 more."""
    contract = InputContract(size=224)
    codes = np.zeros((1, 224, 224), np.uint16)
    codes[0, 220, 220] = 1500
    depth = InputDecoder(contract)(
        torch.zeros(1, 224, 224, 3, dtype=torch.uint8), torch.from_numpy(bytes_from_codes(codes))
    )[1]
    nearest_m = NearestSurface(contract)(depth)
    nearness, _ = RelativeDepth(contract, depth_window_m=0.3).nearness(depth, nearest_m)
    assert nearest_m.item() == 0.0 and nearness[0, 0, 220, 220] == 1


def test_without_measurements_nothing_is_near() -> None:
    nearness = sparse_nearness(np.zeros((96, 96), np.uint16))
    assert (nearness == 0).all()
    one = np.zeros((96, 96), np.uint16)
    one[40, 40] = 900
    assert sparse_nearness(one)[40, 40] == pytest.approx(0.9, abs=1e-3) and np.count_nonzero(sparse_nearness(one)) == 1


def test_a_stray_near_pixel_is_not_a_surface_in_sparse_depth_either() -> None:
    codes, _ = sparse_scene(0.3, seed=3)
    stray = codes.copy()
    stray[5, 5] = 210
    off = np.abs(sparse_nearness(stray) - sparse_nearness(codes))
    off[5, 5] = 0
    assert off.max() < 1e-4


def test_dense_depth_is_encoded_as_in_older_runs() -> None:
    """Older runs keep their estimate, which differs if the best block lacks measurements."""
    dense, _ = sparse_scene(1.0, seed=1)
    dense[30:50, 30:60] = 0  # a hole, as in camera images
    np.testing.assert_allclose(sparse_nearness(dense, revision=1), sparse_nearness(dense), atol=1e-6)
    sparse, is_thing = sparse_scene(0.1, seed=1)
    assert (sparse_nearness(sparse, revision=1)[~is_thing & (sparse > 0)] == 1).all()


def test_an_older_run_keeps_its_estimate_and_a_new_one_has_the_current_one() -> None:
    config = ModelConfig(contract=CONTRACT, num_classes=3, fusion="spatial", encoding="relative")
    written = config.to_json()
    assert ModelConfig.from_json(written) == config and config.encoding_revision == 2
    del written["encoding_revision"]
    old = build_classifier(ModelConfig.from_json(written))
    assert old.nearest_surface.revision == 1


def test_the_gate_starts_as_the_near_layer_with_dilated_edges() -> None:
    gate = gate_of(scene_mm())
    assert gate[HAND].max() < 0.05 and gate[:8].min() > 0.95
    assert gate[15, 24] < 0.5  # one pixel outside of the measured edge


def test_without_depth_nothing_is_masked() -> None:
    assert gate_of(np.zeros((48, 48), np.uint16)).max() < 0.05


def test_with_few_measurements_only_measured_background_is_masked() -> None:
    codes = scene_mm()
    codes[:, :24] = 0
    assert gate_of(codes)[:8, :16].min() > 0.95  # half of the depth map is valid: a hole counts as background
    codes[:, :44] = 0
    gate = gate_of(codes)
    assert gate[:, :40].max() < 0.05, "a twelfth is there: nothing says that the rest is background"
    assert gate[:8, 46:].min() < gate_of(scene_mm())[:8, 46:].min() + 1e-3


@pytest.mark.parametrize("size", [16, 40, 96, 224])
def test_every_size_of_the_contract_works(size: int) -> None:
    contract = InputContract(size=size)
    model = build_classifier(
        ModelConfig(contract=contract, num_classes=3, fusion="spatial", encoding="relative", num_features=8)
    ).eval()
    rgb = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    probabilities, gate, _ = predict(model, rgb, torch.full((1, size, size, 2), 3, dtype=torch.uint8))
    assert probabilities.isfinite().all() and gate.shape == (1, 8)


def test_the_gate_learns() -> None:
    model = build_classifier(
        ModelConfig(contract=CONTRACT, num_classes=3, fusion="spatial", encoding="relative", num_features=8)
    )
    rgb = torch.randint(0, 256, (4, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    depth = torch.from_numpy(np.stack([bytes_from_codes(scene_mm())] * 4))
    model(rgb, depth)[0].square().sum().backward()
    assert model.spatial_gate is not None
    assert model.spatial_gate.W.weight.grad is not None and model.spatial_gate.W.weight.grad.abs().sum() > 0


def test_background_colour_does_not_reach_a_spatial_model() -> None:
    model = build_classifier(
        ModelConfig(contract=CONTRACT, num_classes=3, fusion="spatial", encoding="relative", num_features=8)
    ).eval()
    rgb = torch.full((2, 48, 48, 3), 128, dtype=torch.uint8)
    rgb[1, :8] = 255
    depth = torch.from_numpy(np.stack([bytes_from_codes(scene_mm())] * 2))
    decoded_rgb, decoded_depth = model.decode(rgb, depth)
    assert model.spatial_gate is not None
    looked = model.spatial_gate(decoded_rgb, decoded_depth, model.nearest_surface(decoded_depth))
    plain_change = (decoded_rgb[1] - decoded_rgb[0]).abs().max()
    assert (looked[1] - looked[0]).abs().max() < 0.03 * plain_change


def test_unknown_encoding_and_bad_window_are_refused() -> None:
    with pytest.raises(UserError, match="absolute, relative"):
        ModelConfig(contract=CONTRACT, num_classes=3, encoding="hha")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="depth_window_m is 0.0: a number with 0 < depth_window_m"):
        ModelConfig(contract=CONTRACT, num_classes=3, depth_window_m=0.0)
