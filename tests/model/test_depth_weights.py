"""State dicts for depth backbones: torchvision's form and that of DeFM, and those of other encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from edgefuse.errors import UserError
from edgefuse.model.backbones import build_depth_backbone, build_rgb_backbone
from edgefuse.model.choices import DEFM_BACKBONES

State = dict[str, Tensor]


def with_groupnorm(module: nn.Module) -> nn.Module:
    """Replaces every BatchNorm2d by a GroupNorm of 32 groups, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(32, child.num_features))
        else:
            with_groupnorm(child)
    return module


def defm(name: str = "resnet18") -> tuple[nn.Module, State]:
    """A network and its state dict in DeFM's form: a feature extractor of torchvision's called `backbone`, and layers behind it."""
    torch.manual_seed(0)
    network = create_feature_extractor(with_groupnorm(models.get_model(name)), {"layer2": "c3", "layer4": "c5"})
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    state = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    return network.eval(), {
        **state,
        "fpn.proj.0.weight": torch.zeros(128, 128, 1, 1),
        "norm_cls.weight": torch.ones(512),
    }


def write(state: object, path: Path) -> str:
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)  # type: ignore[arg-type]
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("name", DEFM_BACKBONES)
def test_a_network_of_defm_keeps_its_outputs(name: str, tmp_path: Path) -> None:
    network, state = defm(name.removeprefix("defm_"))
    backbone = build_depth_backbone(name, weights=write(state, tmp_path / "w.pth"), num_channels=3).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(image)["c5"]
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(backbone(image), expected)
    assert backbone.pretrained and backbone.num_channels == expected.shape[1] and len(backbone.stages) == 8


@pytest.mark.parametrize(
    "form", ["model.pth", "state_dict.pth", "plain.pth", "plain.safetensors", "no_prefix.safetensors"]
)
def test_files_of_defm_are_read_in_every_form(form: str, tmp_path: Path) -> None:
    _, state = defm()
    stored = {"model": {"model": state}, "state_dict": {"state_dict": state}, "plain": state}.get(Path(form).stem)
    if stored is None:  # of the ResNet alone
        stored = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    backbone = build_depth_backbone("defm_resnet18", weights=write(stored, tmp_path / form), num_channels=3)
    assert torch.equal(backbone.stages[0].weight, state["backbone.conv1.weight"])  # type: ignore[arg-type]


@pytest.mark.parametrize(("num_channels", "first"), [(2, 1), (4, 1), (3, 0)])
def test_a_torchvision_network_takes_a_file_with_every_encoding(num_channels: int, first: int, tmp_path: Path) -> None:
    network = models.resnet18(num_classes=5).eval()
    path = write(network.state_dict(), tmp_path / "w.pth")
    backbone = build_depth_backbone("resnet18", weights=path, num_channels=num_channels).eval()
    assert len(list(backbone.features.children())) == (2 if first else 8)  # depth as an image comes first
    assert torch.equal(backbone.stages[0].weight, network.conv1.weight)  # type: ignore[arg-type]


def refused(name: str, state: object, path: Path) -> str:
    with pytest.raises(UserError, match=r"w\.pth does not fit") as caught:
        build_depth_backbone(name, weights=write(state, path / "w.pth"), num_channels=3)
    return str(caught.value)


def test_a_state_dict_of_another_encoder_is_refused_with_what_it_is_and_what_to_do(tmp_path: Path) -> None:
    _, state = defm()
    for name in ("resnet18", "mobilenet_v2", "defm_resnet34"):
        text = refused(name, state, tmp_path)
        assert f"does not fit {name}: " in text and "it is one of DeFM's resnet18" in text
        assert text.endswith("or use --depth defm_resnet18")
    text = refused("defm_resnet18", models.mobilenet_v2().state_dict(), tmp_path)
    assert "first bn1.bias; it is one of torchvision's mobilenet_v2" in text
    assert text.endswith("give a state dict of DeFM's resnet18, or use --depth mobilenet_v2")
    text = refused("defm_resnet18", {"cls_token": torch.zeros(1, 1, 384), "norm.bias": torch.zeros(384)}, tmp_path)
    assert "it has 2 tensors, from cls_token [1, 1, 384] to norm.bias [384]: give a state dict of DeFM's" in text
    assert "it has 0 tensors: give" in refused("defm_resnet18", {}, tmp_path)


def test_batchnorm_weights_do_not_become_those_of_groupnorm(tmp_path: Path) -> None:
    """Their tensors have the same names and shapes."""
    text = refused("defm_resnet18", models.resnet18().state_dict(), tmp_path)
    assert "it has BatchNorm layers, GroupNorm was expected" in text and text.endswith("or use --depth resnet18")


@pytest.mark.parametrize("name", ["resnet18", "defm_resnet18"])
def test_another_number_of_input_channels_is_named(name: str, tmp_path: Path) -> None:
    prefix, state = ("backbone.", defm()[1]) if name == "defm_resnet18" else ("", models.resnet18().state_dict())
    state[f"{prefix}conv1.weight"] = state[f"{prefix}conv1.weight"][:, :1].clone()
    text = refused(name, state, tmp_path)
    assert "its first convolution, conv1.weight, has 1 input channel(s), 3 were expected" in text


def test_defm_is_for_depth_and_has_no_imagenet_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rgb is 'defm_resnet18': one of small, resnet18"):
        build_rgb_backbone("defm_resnet18")
    with pytest.raises(UserError, match=r"resnet18.*it has 62 tensors, from backbone.conv1.weight \[64, 3, 7, 7\]"):
        build_rgb_backbone("resnet18", weights=write(defm()[1], tmp_path / "w.pth"))
    with pytest.raises(
        UserError, match=r"no ImageNet weights: give a state dict of DeFM's resnet18 with --depth-weights FILE"
    ):
        build_depth_backbone("defm_resnet18", weights="imagenet", num_channels=3)
