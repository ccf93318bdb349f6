"""The frame gate: what its statistics respond to, how it weighs the heads, and when it opens the mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from edgefuse.contract import InputContract, bytes_from_codes
from edgefuse.errors import UserError
from edgefuse.evaluation.corruptions import Scene, by_name, corrupt
from edgefuse.model.classifier import FusionClassifier, ModelConfig, build_classifier
from edgefuse.model.frame_gate import MASK_FROM, NUM_STATISTICS, TRUSTED, ImageStatistics, masked_fraction

CONTRACT = InputContract(size=64)
CONFIG = ModelConfig(
    contract=CONTRACT,
    num_classes=3,
    fusion="spatial",
    encoding="relative",
    num_features=16,
    num_hidden=16,
    auxiliary_heads=True,
    frame_gate=True,
)
NAMES = [
    "brightness",
    "contrast",
    "saturated",
    "black",
    "fine",
    "sharpness",
    "red",
    "blue",
    "off_red",
    "off_blue",
    "measured",
    "rim",
    "noise",
    "edges",
]


def pair() -> tuple[np.ndarray, np.ndarray]:
    """A bright textured object 0.7 m away, in front of a wall."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(60, 120, (64, 64, 3)).astype(np.uint8)
    rgb[16:48, 16:48] += 60
    codes = np.full((64, 64), 1500, np.uint16)
    codes[16:48, 16:48] = 700
    return rgb, codes


def tensors(rgb: np.ndarray, codes: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rgb[None].copy()), torch.from_numpy(bytes_from_codes(codes[None]))


def statistics(model: FusionClassifier, rgb: np.ndarray, codes: np.ndarray) -> dict[str, float]:
    with torch.no_grad():
        found = ImageStatistics(CONTRACT)(*model.decode(*tensors(rgb, codes)))
    assert found.shape == (1, NUM_STATISTICS)
    return dict(zip(NAMES, found[0].tolist(), strict=True))


@pytest.fixture(scope="module")
def model() -> FusionClassifier:
    torch.manual_seed(0)
    return build_classifier(CONFIG).eval()


@pytest.mark.parametrize(
    ("corruption", "severity", "falls", "rises"),
    [
        ("dark_rgb", 7, "brightness", "black"),
        ("overexposed_rgb", 3, None, "saturated"),
        ("blur_rgb", 2, "sharpness", None),
        ("warm_light", 2500, "blue", "red"),
        ("depth_holes", 0.5, "measured", "rim"),
        ("depth_noise", 3, None, "noise"),
    ],
)
def test_statistics_respond_to_damage_of_their_sensor_only(
    model: FusionClassifier, corruption: str, severity: float, falls: str | None, rises: str | None
) -> None:
    rgb, codes = pair()
    good = statistics(model, rgb, codes)
    kind = by_name(corruption)
    bad = statistics(model, *corrupt(kind, Scene(rgb, codes, rgb, codes), severity=severity, seed=(0,)))
    if falls is not None:
        assert bad[falls] < good[falls] - 0.05
    if rises is not None:
        assert bad[rises] > good[rises] + 0.05
    other = NAMES[10:] if kind.sensor == "rgb" else NAMES[:10]
    assert all(bad[name] == good[name] for name in other)


def test_an_untrained_gate_is_constant_and_weighs_both_heads(model: FusionClassifier) -> None:
    rgb, depth = tensors(*pair())
    with torch.no_grad():
        logits, gate, _, *heads = model(rgb, depth, with_auxiliary_heads=True)
    assert gate.shape == (1, 1) and gate.item() == pytest.approx(TRUSTED)
    expected = 2 * ((1 - TRUSTED) * heads[0] + TRUSTED * heads[1])
    torch.testing.assert_close(logits, expected)


def test_depth_that_is_not_trusted_masks_nothing(model: FusionClassifier) -> None:
    assert model.spatial_gate is not None
    decoded = model.decode(*tensors(*pair()))
    nearest_m = model.nearest_surface(decoded[1])
    usual = model.spatial_gate.mask(decoded[1], nearest_m)
    assert usual[0, 0, 0, 0] > 0.9  # the wall is masked
    for G, factor in ((TRUSTED, 1.0), (1.0, 1.0), (MASK_FROM, 0.0), (0.0, 0.0)):
        torch.testing.assert_close(model.spatial_gate.mask(decoded[1], nearest_m, torch.tensor([[G]])), factor * usual)
    assert 0 < masked_fraction(torch.tensor(0.47)) < 1


def test_only_spatial_with_heads_has_a_frame_gate() -> None:
    for wrong in (
        replace(CONFIG, frame_gate=False, fusion="joint"),
        replace(CONFIG, frame_gate=False, auxiliary_heads=False),
    ):
        with pytest.raises(UserError, match="spatial with auxiliary_heads"):
            replace(wrong, frame_gate=True)
        assert build_classifier(wrong).frame_gate is None


def test_configurations_of_older_runs_have_no_frame_gate() -> None:
    stored = CONFIG.to_json()
    del stored["frame_gate"], stored["temperature_no_rgb"], stored["temperature_no_depth"]
    older = ModelConfig.from_json(stored)
    assert not older.frame_gate and build_classifier(older).sensor_temperature is None


def test_each_sensor_state_has_its_temperature() -> None:
    config = replace(CONFIG, temperature=2.0, temperature_no_rgb=4.0, temperature_no_depth=1.0)
    torch.manual_seed(0)
    plain = build_classifier(replace(CONFIG, temperature=1.0)).eval()
    scaled = build_classifier(config).eval()
    scaled.load_state_dict(plain.state_dict())
    rgb, codes = pair()
    states = {2.0: (rgb, codes), 4.0: (0 * rgb, codes), 1.0: (rgb, 0 * codes)}
    for temperature, images in states.items():
        inputs = tensors(*images)
        with torch.no_grad():
            expected = torch.softmax(plain(*inputs)[0] / temperature, dim=1)
            found = scaled.probabilities(scaled(*inputs)[0])
        torch.testing.assert_close(found, expected)
    dim = tensors(np.full_like(rgb, 2), codes)  # very dark, but not missing
    with torch.no_grad():
        torch.testing.assert_close(scaled.probabilities(scaled(*dim)[0]), torch.softmax(plain(*dim)[0] / 2, dim=1))
