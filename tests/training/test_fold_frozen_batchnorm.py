from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgefuse.contract import InputContract
from edgefuse.model.backbones import Backbone, build_rgb_backbone
from edgefuse.model.choices import COMMON_BACKBONES
from edgefuse.model.classifier import ModelConfig, build_classifier
from edgefuse.training.fold_frozen_batchnorm import fold_frozen_batchnorm, for_prediction
from edgefuse.training.loop import prepare, set_training


def with_random_statistics(backbone: Backbone) -> Backbone:
    """Initial statistics are 0 and 1, which would hide errors of folding."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5)
    return backbone


@pytest.mark.parametrize(
    "name", [*COMMON_BACKBONES, "efficientnet_b0", "mnasnet0_5", "regnet_x_400mf", "shufflenet_v2_x0_5"]
)
def test_outputs_and_input_gradients_are_equal_and_every_batchnorm_is_folded(name: str) -> None:
    torch.manual_seed(0)
    backbone = with_random_statistics(build_rgb_backbone(name)).eval().requires_grad_(False).double()
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)

    def answer() -> tuple[torch.Tensor, torch.Tensor]:
        features = backbone(image)
        return features, torch.autograd.grad(features.square().mean(), image)[0]

    before, gradient_before = answer()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    with fold_frozen_batchnorm(backbone):
        during, gradient_during = answer()
        marker = torch.randn(1, 1, 1, 1)
        assert all(norm(marker) is marker for norm in norms)
    torch.testing.assert_close(during, before)
    torch.testing.assert_close(gradient_during, gradient_before)
    torch.testing.assert_close(answer()[0], before, rtol=0, atol=0)
    assert not any("forward" in vars(module) for module in backbone.modules())


def test_trained_layers_are_not_folded_and_names_are_unchanged(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    from torchvision.models import mobilenet_v2

    torch.save(mobilenet_v2().state_dict(), weights)
    config = ModelConfig(contract=InputContract(size=32), num_classes=2, rgb="mobilenet_v2", depth="scratch")
    model = build_classifier(config, rgb_weights=str(weights))
    names = list(model.state_dict())
    prepare(model, device=torch.device("cpu"), frozen_fraction=0.7)
    set_training(model)
    assert model.rgb_features is not None
    stages = model.rgb_features.backbone.stages
    with fold_frozen_batchnorm(model):
        folds = [
            "forward" in vars(layer) for stage in stages for layer in stage.modules() if isinstance(layer, nn.Conv2d)
        ]
        num_frozen = sum(isinstance(layer, nn.Conv2d) for stage in stages[:13] for layer in stage.modules())
        assert folds == [True] * num_frozen + [False] * (len(folds) - num_frozen)
        assert list(model.state_dict()) == names
        twin = build_classifier(replace(config, fusion="gated"))
        twin.load_state_dict(copy.deepcopy(model.state_dict()))
    learns = [m for m in model.depth_features.modules() if isinstance(m, nn.BatchNorm2d)]  # type: ignore[union-attr]
    assert learns and all(norm.training for norm in learns)


def test_an_error_inside_restores_the_model() -> None:
    backbone = build_rgb_backbone("mobilenet_v2").eval().requires_grad_(False)
    with pytest.raises(RuntimeError), fold_frozen_batchnorm(backbone):
        raise RuntimeError
    assert not any("forward" in vars(module) for module in backbone.modules())


def test_a_context_inside_another_leaves_the_layers_folded() -> None:
    backbone = with_random_statistics(build_rgb_backbone("small")).eval()
    image = torch.randn(1, 3, 32, 32)
    before = backbone(image).detach()
    with for_prediction(backbone):
        with for_prediction(backbone):
            torch.testing.assert_close(backbone(image), before)
        assert any("forward" in vars(module) for module in backbone.modules())
        torch.testing.assert_close(backbone(image), before)
    assert not any("forward" in vars(module) for module in backbone.modules())
