from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgefuse.contract import InputContract, bytes_from_codes, decode_depth, decode_rgb
from edgefuse.errors import UserError
from edgefuse.model.backbones import build_depth_backbone, build_rgb_backbone
from edgefuse.model.choices import COMMON_BACKBONES, FUSION_KINDS
from edgefuse.model.classifier import ModelConfig, build_classifier, predict
from edgefuse.model.decode import InputDecoder

CONTRACT = InputContract(size=32)


def batch(n: int = 2, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 65536, (n, side, side)).astype(np.uint16)
    codes[:, :3] = [[[0], [65535], [200]]]
    rgb = rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return torch.from_numpy(rgb), torch.from_numpy(bytes_from_codes(codes))


def test_the_graph_decodes_as_the_contract_does() -> None:
    rgb, depth = batch()
    got_rgb, got_depth = InputDecoder(CONTRACT)(rgb, depth)
    np.testing.assert_allclose(got_rgb.numpy(), decode_rgb(rgb.numpy()), atol=1e-5)
    np.testing.assert_allclose(got_depth.numpy(), decode_depth(depth.numpy(), CONTRACT), atol=1e-6)


@pytest.mark.parametrize("fusion", FUSION_KINDS)
def test_every_fusion_gives_probabilities_and_a_gate(fusion: str) -> None:
    model = build_classifier(ModelConfig(contract=CONTRACT, num_classes=4, fusion=fusion, num_features=16)).eval()  # type: ignore[arg-type]
    probabilities, gate, nearest_m = predict(model, *batch(3))
    assert probabilities.shape == (3, 4) and gate.shape == (3, 16) and nearest_m.shape == (3, 1)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))


def test_a_single_modality_ignores_the_other_and_has_no_weights_for_it() -> None:
    rgb, depth = batch()
    for fusion, other in (("rgb", (rgb, depth * 0)), ("depth", (rgb * 0, depth))):
        model = build_classifier(ModelConfig(contract=CONTRACT, num_classes=4, fusion=fusion)).eval()  # type: ignore[arg-type]
        assert torch.equal(predict(model, rgb, depth)[0], predict(model, *other)[0])
        assert (model.rgb_features is None) == (fusion == "depth")
        assert (model.depth_features is None) == (fusion == "rgb")


OTHER_BACKBONES = (
    *("convnext_tiny", "densenet121", "efficientnet_b0", "mnasnet0_5", "regnet_x_400mf", "shufflenet_v2_x0_5"),
    *("squeezenet1_1", "vgg11_bn"),
)
"""One of each other family."""


@pytest.mark.parametrize("name", ["small", *COMMON_BACKBONES])
def test_rgb_backbones_report_their_width(name: str) -> None:
    backbone = build_rgb_backbone(name).eval()
    features = backbone(torch.randn(1, 3, 64, 64))
    assert features.ndim == 4 and features.shape[:2] == (1, backbone.num_channels) and not backbone.pretrained


@pytest.mark.parametrize("name", ["scratch", *COMMON_BACKBONES, "efficientnet_b0"])
def test_depth_backbones_accept_range_and_validity(name: str) -> None:
    backbone = build_depth_backbone(name).eval()
    features = backbone(torch.rand(1, 2, 64, 64))
    assert features.ndim == 4 and features.shape[:2] == (1, backbone.num_channels)


@pytest.mark.parametrize("name", OTHER_BACKBONES)
def test_a_backbone_is_the_complete_network_before_pooling(name: str, tmp_path: Path) -> None:
    from torchvision.models import get_model

    torch.manual_seed(0)
    network = get_model(name).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    backbone = build_rgb_backbone(name, weights=str(tmp_path / "w.pth")).eval()
    image = torch.randn(1, 3, 32, 32)
    features = backbone(image)
    head = network.classifier if hasattr(network, "classifier") else network.fc
    pooled = features if name.startswith(("squeezenet", "convnext")) else features.mean((2, 3))
    if name.startswith("vgg"):
        pooled = network.avgpool(features).flatten(1)
    expected = network(image)
    torch.testing.assert_close(head(pooled).reshape(expected.shape), expected)
    assert features.shape[1] == backbone.num_channels and len(backbone.stages) >= 5 and backbone.pretrained


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "inception_v3", "maxvit_t", "swin_t", "vit_b_32", "resnet19"])
def test_a_network_without_a_feature_map_is_refused_with_those_that_have_one(name: str) -> None:
    with pytest.raises(UserError, match=f"depth is '{name}': one of scratch, resnet18, .*efficientnet_b0.*; .*{name}"):
        ModelConfig(contract=CONTRACT, num_classes=3, depth=name)


def test_weights_come_from_a_file_with_any_head(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(1)
    state = mobilenet_v3_small(num_classes=7).state_dict()  # another head than torchvision's: it is not used
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        backbone = build_rgb_backbone("mobilenet_v3_small", weights=str(tmp_path / name))
        assert backbone.pretrained
        assert torch.equal(backbone.features[0][0].weight, state["features.0.0.weight"])  # type: ignore[index, union-attr]


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.save(resnet18().state_dict(), tmp_path / "r18.pth")
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="does not fit mobilenet_v2"):
        build_rgb_backbone("mobilenet_v2", weights=str(tmp_path / "r18.pth"))
    with pytest.raises(UserError, match="not a readable state dict"):
        build_rgb_backbone("resnet18", weights=str(tmp_path / "bad.pth"))
    with pytest.raises(UserError, match="does not exist"):
        build_rgb_backbone("resnet18", weights=str(tmp_path / "absent.pth"))


def test_the_small_backbone_has_no_pretrained_weights() -> None:
    with pytest.raises(UserError, match="'small' has no pretrained weights"):
        build_rgb_backbone("small", weights="imagenet")


def test_a_failed_download_names_the_file_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no server listens there
    with pytest.raises(UserError, match=r"--rgb-weights FILE.*--rgb-weights none"):
        build_rgb_backbone("resnet18", weights="imagenet")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"rgb": "vgg19", "contract": InputContract(size=16)}, "vgg19 cannot process 16 x 16 pixels"),
        ({"fusion": "sum"}, "fusion is 'sum'"),
        ({"num_classes": 1}, "1 class"),
        ({"num_features": -1}, "num_features is -1: a whole number with 1 <= num_features"),
        ({"num_hidden": 2.5}, "num_hidden is 2.5: a whole number"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"encoding_revision": 3}, "encoding_revision is 3"),
        ({"rgb": "alexnet"}, "rgb is 'alexnet': one of small, resnet18"),
    ],
)
def test_impossible_models_are_refused(values: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match=word):
        build_classifier(ModelConfig(**{"contract": CONTRACT, "num_classes": 3, **values}))  # type: ignore[arg-type]


def test_the_configuration_survives_json() -> None:
    config = ModelConfig(contract=CONTRACT, num_classes=3, fusion="joint", rgb="resnet18", num_features=64)
    assert ModelConfig.from_json(config.to_json()) == config
