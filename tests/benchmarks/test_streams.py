"""The two sides of a gated model, on the CPU: together they are the model. Times need a GPU."""

from __future__ import annotations

import pytest
import torch

from edgefuse.contract import InputContract
from edgefuse.model.choices import FusionKind
from edgefuse.model.classifier import FusionClassifier, ModelConfig, build_classifier
from edgefuse_benchmarks.suites.streams import TwoSides


def model(fusion: FusionKind) -> FusionClassifier:
    torch.manual_seed(0)
    config = ModelConfig(contract=InputContract(size=32), num_classes=5, fusion=fusion, num_features=24, num_hidden=12)
    return build_classifier(config).eval()


@torch.no_grad()
def test_both_sides_give_the_logits_and_gate_of_the_model() -> None:
    whole = model("gated")
    assert whole.core.head is not None
    for parameter in whole.parameters():
        parameter.mul_(1.5)  # so that the logits differ by more than rounding
    rgb, depth = (torch.randint(0, 256, (2, 32, 32, channels), dtype=torch.uint8) for channels in (3, 2))
    logits, gate, _ = whole(rgb, depth)
    found_logits, found_gate = TwoSides(whole)(rgb, depth)
    assert float((logits[0] - logits[1]).abs().max()) > 1e-3
    torch.testing.assert_close(found_logits, logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found_gate, gate, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_the_depth_side_does_not_see_the_image() -> None:
    sides = TwoSides(model("gated"))
    depth = torch.randint(0, 256, (1, 32, 32, 2), dtype=torch.uint8)
    gate, half = sides.depth_side(depth)
    black, noise = (
        sides(rgb, depth)
        for rgb in (
            torch.zeros(1, 32, 32, 3, dtype=torch.uint8),
            torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8),
        )
    )
    assert torch.equal(black[1], gate) and torch.equal(noise[1], gate)
    assert half.shape == (1, 12)
    assert not torch.equal(black[0], noise[0])


@pytest.mark.parametrize("fusion", ["joint", "naive", "spatial"])
def test_other_fusions_are_refused(fusion: FusionKind) -> None:
    with pytest.raises(ValueError, match="depends on depth alone"):
        TwoSides(model(fusion))
