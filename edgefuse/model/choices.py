"""The names that a user chooses models by. Free of torch, so that the command line can list them at once."""

from __future__ import annotations

from typing import Literal, get_args

FusionKind = Literal["gated", "naive", "rgb", "depth", "joint", "spatial"]
DepthEncoding = Literal["absolute", "relative"]
TorchvisionBackbone = Literal["resnet18", "resnet50", "vgg19", "mobilenet_v2", "mobilenet_v3_small"]
RgbBackbone = Literal["small", "resnet18", "resnet50", "vgg19", "mobilenet_v2", "mobilenet_v3_small"]
DepthBackbone = Literal["scratch", "resnet18", "resnet50", "vgg19", "mobilenet_v2", "mobilenet_v3_small"]

FUSION_KINDS: tuple[FusionKind, ...] = get_args(FusionKind)
SINGLE_MODALITIES: tuple[FusionKind, ...] = ("rgb", "depth")
DEPTH_ENCODINGS: tuple[DepthEncoding, ...] = get_args(DepthEncoding)
TORCHVISION_BACKBONES: tuple[str, ...] = get_args(TorchvisionBackbone)
RGB_BACKBONES: tuple[str, ...] = get_args(RgbBackbone)
DEPTH_BACKBONES: tuple[str, ...] = get_args(DepthBackbone)


def model_in_words(*, fusion: str, rgb: str, depth: str) -> str:
    """A model for the heading of a plot, such as "gated fusion of resnet18 (RGB) and scratch (depth)"."""
    alone = {"rgb": f"RGB only ({rgb})", "depth": f"depth only ({depth})"}
    return alone.get(fusion, f"{fusion} fusion of {rgb} (RGB) and {depth} (depth)")
