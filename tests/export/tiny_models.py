"""Untrained models with few layers of every family of backbones, and their files in every precision, without the comparisons of an
export.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from export_runs import CONTRACT, LABELS, new_model, samples, tensors
from torch import nn
from torchvision.models import mobilenetv2, mobilenetv3, resnet, vgg

from edgefuse.bundle import MODEL_NAMES, model_metadata
from edgefuse.model.backbones import DEFM_NUM_GROUPS, Backbone, DepthAsImage, GroupNorm
from edgefuse.model.classifier import FeatureExtractor
from edgefuse_export.onnx.calibration_data import Frames
from edgefuse_export.onnx.fp16 import fp16_from_model
from edgefuse_export.onnx.int8 import int8_from_onnx, measured_ranges
from edgefuse_export.onnx.torch_to_onnx import onnx_from_model, save_model

FAMILIES = ("small", "resnet", "vgg", "mobilenet_v2", "mobilenet_v3")
"""edgefuse's own backbones ("small" for RGB, "scratch" for depth), and the families of `COMMON_BACKBONES`."""
DEFM_FAMILY = "defm_resnet"
"""That of `DEFM_BACKBONES`, for depth with the encoding "log"."""


@dataclass(frozen=True, kw_only=True)
class TinyFiles:
    """The files of one model.

    Attributes:
        paths: precision -> file.
        fp32_modules: as the manifest lists them for the FP16 and INT8 files.
    """

    paths: dict[str, Path]
    fp32_modules: tuple[str, ...]


def write_files(
    folder: Path, *, fusion: str, rgb: str, depth: str, encoding: str, keep_fp32: Sequence[str] = ()
) -> TinyFiles:
    """Write the files of a new model in every precision.

    Args:
        rgb, depth: of `FAMILIES`, or several, one after the other: "resnet+vgg"; depth also `DEFM_FAMILY`.
    """
    model = new_model(fusion, encoding=encoding, num_features=16, num_hidden=16)
    for extractor, family in ((model.rgb_features, rgb), (model.depth_features, depth)):
        if extractor is not None and family != "small":
            _replace(extractor, family, is_depth=extractor is model.depth_features, is_image=encoding == "log")
    paths = {precision: folder / name for precision, name in MODEL_NAMES.items()}
    onnx_from_model(model.eval(), paths["fp32"], contract=CONTRACT, labels=LABELS)
    rgb_NHWC, depth_NHW2 = tensors(1)
    fp16 = fp16_from_model(model, rgb_NHWC=rgb_NHWC, depth_NHW2=depth_NHW2, keep_fp32=keep_fp32)
    modules = fp16.fp32_modules
    onnx_from_model(fp16.model, paths["fp16"], contract=CONTRACT, labels=LABELS, fp32_modules=modules)
    rgb_frames, depth_frames = samples(1)
    ranges = measured_ranges(paths["fp32"], frames=Frames(rgb=rgb_frames, depth=depth_frames))
    metadata = model_metadata(labels=LABELS, contract=CONTRACT, precision="int8", temperature=1.0)
    save_model(int8_from_onnx(paths["fp32"], ranges=ranges, fp32_modules=modules), paths["int8"], metadata=metadata)
    return TinyFiles(paths=paths, fp32_modules=modules)


def _features(family: str) -> nn.Sequential:
    """torchvision's first layers, and one block of each kind that the family has."""
    if "+" in family:
        parts: list[nn.Module] = []
        for name in family.split("+"):
            features = _features(name)
            parts += [features, nn.Conv2d(_num_channels(features), 3, 1)]
        return nn.Sequential(*parts[:-1])
    if family in ("resnet", DEFM_FAMILY):
        norm = None if family == "resnet" else partial(GroupNorm, DEFM_NUM_GROUPS)
        basic, bottleneck = (
            list(resnet.ResNet(kind, [1, 1, 1, 1], norm_layer=norm).children())
            for kind in (resnet.BasicBlock, resnet.Bottleneck)
        )
        return nn.Sequential(*basic[:5], *bottleneck[4:5])
    if family == "vgg":
        return vgg.make_layers([8, "M", 8])
    if family == "mobilenet_v2":
        settings = [[1, 16, 1, 2], [6, 16, 1, 1]]
        return nn.Sequential(*list(mobilenetv2.MobileNetV2(inverted_residual_setting=settings).features)[:3])
    blocks = [
        mobilenetv3.InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
        mobilenetv3.InvertedResidualConfig(16, 5, 24, 24, False, "HS", 1, 1, 1.0),
    ]
    return nn.Sequential(*list(mobilenetv3.MobileNetV3(blocks, 8).features)[:3])


def _num_channels(features: nn.Module) -> int:
    return int(features.eval()(torch.zeros(1, 3, 32, 32)).shape[1])


def _replace(extractor: FeatureExtractor, family: str, *, is_depth: bool, is_image: bool) -> None:
    features = _features(family)
    num_channels = _num_channels(features)
    if is_depth and not is_image:
        features = nn.Sequential(DepthAsImage(), features)
    extractor.backbone = Backbone(features, num_channels=num_channels)
    project = extractor.project[0]
    assert isinstance(project, nn.Linear)
    extractor.project[0] = nn.Linear(num_channels, project.out_features)
