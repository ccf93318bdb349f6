"""The logarithmic encoding of depth, against values computed by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from edgefuse.contract import InputContract, bytes_from_codes
from edgefuse.errors import UserError
from edgefuse.model.choices import DEPTH_ENCODINGS
from edgefuse.model.classifier import FusionClassifier, ModelConfig, build_classifier, predict
from edgefuse.model.decode import InputDecoder
from edgefuse.model.encoding import LogDepth, NearestSurface
from edgefuse.training.recipe import mobilenet_rgbd, recipe_with_options, with_values

SIZE = 16
MEAN = np.array([0.248880, 0.495620, 0.492858])
STD = np.array([0.139357, 0.271314, 0.297177])


def normalised(codes: np.ndarray, *, far_m: float = 30.0) -> np.ndarray:
    """The encoding of depth images, [N, 3, 16, 16]."""
    contract = InputContract(size=SIZE, near_m=0.2, far_m=far_m)
    rgb = torch.zeros(len(codes), SIZE, SIZE, 3, dtype=torch.uint8)
    depth = InputDecoder(contract)(rgb, torch.from_numpy(bytes_from_codes(codes)))[1]
    return LogDepth(contract)(depth, NearestSurface(contract)(depth)).numpy()


def channels(codes: np.ndarray, *, far_m: float = 30.0) -> np.ndarray:
    """The channels of one depth image before the normalisation, [3, 16, 16]."""
    return normalised(codes[None], far_m=far_m)[0] * STD[:, None, None] + MEAN[:, None, None]


def image(background_mm: int, **pixels_mm: int) -> np.ndarray:
    """A depth image with some pixels, named by row and column, such as r3c4=600."""
    codes = np.full((SIZE, SIZE), background_mm, np.uint16)
    for place, depth_mm in pixels_mm.items():
        row, column = map(int, place[1:].split("c"))
        codes[row, column] = depth_mm
    return codes


def test_channels_of_a_complete_image() -> None:
    """ln 1.6 = 0.470004, ln 3 = 1.098612, ln 21 = 3.044522, ln 101 = 4.615121, ln 10 = 2.302585."""
    found = channels(image(2000, r3c4=600, r9c15=20000))
    np.testing.assert_allclose(found[:, 3, 4], [0.101840, 0.204120, 0.0], atol=2e-6)
    np.testing.assert_allclose(found[:, 0, 0], [0.238046, 0.477121, 0.244166], atol=2e-6)
    np.testing.assert_allclose(found[:, 9, 15], [0.659685, 1.0, 1.0], atol=2e-6)  # beyond the near range of 9 m


def test_a_missing_pixel_is_at_0_m() -> None:
    found = channels(image(2000, r3c4=600, r0c0=0))
    np.testing.assert_allclose(found[:, 0, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(found[:, 3, 4], [0.101840, 0.204120, 0.427816], atol=2e-6)  # ln 1.6 / ln 3
    np.testing.assert_allclose(found[:, 1, 1], [0.238046, 0.477121, 1.0], atol=2e-6)


def test_the_output_is_normalised() -> None:
    np.testing.assert_allclose(normalised(image(0)[None])[0, :, 5, 5], [-1.785917, -1.826739, -1.658466], atol=2e-6)


@pytest.mark.parametrize("depth_mm", [0, 1, 200, 1234, 65535])
def test_an_image_of_equal_depth_has_no_own_scale(depth_mm: int) -> None:
    np.testing.assert_allclose(channels(image(depth_mm))[2], 0.0, atol=1e-6)


def test_a_millimetre_is_enough_for_an_own_scale() -> None:
    found = channels(image(29000, r2c2=29001))[2]
    assert found[2, 2] == pytest.approx(1, abs=0.02) and found[0, 0] == pytest.approx(0, abs=0.02)


def test_one_measurement_is_at_the_end_of_the_own_scale() -> None:
    found = channels(image(0, r7c7=900))
    np.testing.assert_allclose(found[:, 7, 7], [0.139077, 0.278754, 1.0], atol=2e-6)  # ln 1.9 = 0.641854
    found[:, 7, 7] = 0
    np.testing.assert_allclose(found, 0.0, atol=1e-6)


def test_extremes_are_found_everywhere_and_per_image() -> None:
    corners = list(product((0, 7, SIZE - 1), repeat=2))
    images = np.stack([image(1000, **{f"r{row}c{column}": 3000 - 100 * row}) for row, column in corners])
    together = normalised(images)
    for n, (row, column) in enumerate(corners):
        own_scale = together[n, 2] * STD[2] + MEAN[2]
        assert own_scale[row, column] == pytest.approx(1, abs=1e-5)
        assert np.abs(np.delete(own_scale.ravel(), SIZE * row + column)).max() < 1e-5
        np.testing.assert_array_equal(together[n], normalised(images[n : n + 1])[0])


def model(encoding: str, **changes: object) -> FusionClassifier:
    torch.manual_seed(0)
    values = {
        "contract": InputContract(size=48, far_m=4.0),
        "num_classes": 3,
        "fusion": "spatial",
        "encoding": encoding,
    }
    return build_classifier(ModelConfig(**{**values, **changes})).eval()  # type: ignore[arg-type]


def test_the_spatial_gate_masks_the_same_pixels_with_every_encoding() -> None:
    codes = np.full((1, 48, 48), 2000, np.uint16)
    codes[:, 16:32, 16:32] = 600
    rgb, depth = torch.zeros(1, 48, 48, 3, dtype=torch.uint8), torch.from_numpy(bytes_from_codes(codes))
    masks = []
    for encoding in DEPTH_ENCODINGS:
        built = model(encoding, num_features=8)
        decoded = built.decode(rgb, depth)[1]
        assert built.spatial_gate is not None
        masks.append(built.spatial_gate.mask(decoded, built.nearest_surface(decoded)).detach())
        assert masks[-1][0, 0, 24, 24] < 0.05 and masks[-1][0, 0, 0, 0] > 0.95
        torch.testing.assert_close(masks[-1], masks[0], atol=0, rtol=0)
    assert len(masks) == 3


@pytest.mark.parametrize("depth", ["scratch", "mobilenet_v2", "defm_resnet18"])
def test_every_kind_of_depth_backbone_has_finite_answers_without_depth(depth: str) -> None:
    built = model("log", depth=depth, num_features=8)
    rgb = torch.zeros(1, 48, 48, 3, dtype=torch.uint8)
    missing, saturated = (torch.full((1, 48, 48, 2), byte, dtype=torch.uint8) for byte in (0, 255))
    answers = [predict(built, rgb, codes) for codes in (missing, saturated)]
    assert all(tensor.isfinite().all() for answer in answers for tensor in answer)
    assert not torch.equal(answers[0][0], answers[1][0])


def test_a_defm_backbone_needs_the_logarithmic_encoding() -> None:
    for encoding in ("relative", "absolute"):
        with pytest.raises(UserError, match=rf"has the encoding '{encoding}': .*--encoding log; .*--depth resnet18"):
            model(encoding, depth="defm_resnet18")
        with pytest.raises(UserError, match=r"--set encoding=.*--encoding log"):
            with_values(
                mobilenet_rgbd(depth="defm_resnet18", depth_weights="none", encoding="log"), [f"encoding={encoding}"]
            )


def test_the_depth_option_of_a_defm_backbone_chooses_its_encoding_and_asks_for_its_weights() -> None:
    config = recipe_with_options("mobilenet_rgbd", depth="defm_resnet18", depth_weights="w.pth")
    assert (config.encoding, config.depth_weights, config.rgb_weights) == ("log", "w.pth", "imagenet")
    assert recipe_with_options(depth="defm_resnet18", depth_weights="none").encoding == "log"
    with pytest.raises(UserError, match="the encoding 'relative'"):
        recipe_with_options(depth="defm_resnet18", depth_weights="none", encoding="relative")
    with pytest.raises(UserError, match=r"defm_resnet18 has no default weights: .*--depth-weights FILE"):
        recipe_with_options(depth="defm_resnet18")
    with pytest.raises(UserError, match="no default weights"):
        mobilenet_rgbd(depth="defm_resnet18", encoding="log")
