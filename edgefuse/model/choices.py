"""The names that a user chooses models by. Free of torch, so that the command line can list them at once."""

from __future__ import annotations

from typing import Literal, get_args

from edgefuse.errors import UserError

FusionKind = Literal["gated", "naive", "rgb", "depth", "joint", "spatial"]
DepthEncoding = Literal["absolute", "relative"]

FUSION_KINDS: tuple[FusionKind, ...] = get_args(FusionKind)
SINGLE_MODALITIES: tuple[FusionKind, ...] = ("rgb", "depth")
DEPTH_ENCODINGS: tuple[DepthEncoding, ...] = get_args(DepthEncoding)
COMMON_BACKBONES = ("resnet18", "resnet50", "vgg19", "mobilenet_v2", "mobilenet_v3_small")
"""Of torchvision's networks, those that are named in messages; see `edgefuse.model.backbones` for all that work."""
RGB_FROM_SCRATCH = "small"
DEPTH_FROM_SCRATCH = "scratch"
WEIGHTS_IMAGENET = "imagenet"
WEIGHTS_NONE = "none"


def is_torchvision(backbone: str) -> bool:
    """Is it a torchvision network, with ImageNet weights to be had, and not one of the two small ones of edgefuse?"""
    return backbone not in (RGB_FROM_SCRATCH, DEPTH_FROM_SCRATCH)


def check_backbones(*, rgb: str | None = None, depth: str | None = None) -> None:
    """Refuse names that no backbone has. PyTorch is imported only for names outside of `COMMON_BACKBONES`.

    Raises:
        UserError: neither edgefuse's own for that modality nor a torchvision network with a spatial feature map.
    """
    for field, name, own in (("rgb", rgb, RGB_FROM_SCRATCH), ("depth", depth, DEPTH_FROM_SCRATCH)):
        if name is None or name in (own, *COMMON_BACKBONES):
            continue
        from edgefuse.model.backbones import num_feature_channels

        try:
            num_feature_channels(name)
        except UserError as error:
            raise UserError(
                f"{field} is {name!r}: one of {', '.join((own, *COMMON_BACKBONES))}, or any torchvision classification network "
                f"with a spatial feature map, such as efficientnet_b0, was expected; {error}"
            ) from error


def model_in_words(*, fusion: str, rgb: str, depth: str) -> str:
    """A model for the heading of a plot, such as "gated fusion of resnet18 (RGB) and scratch (depth)"."""
    alone = {"rgb": f"RGB only ({rgb})", "depth": f"depth only ({depth})"}
    return alone.get(fusion, f"{fusion} fusion of {rgb} (RGB) and {depth} (depth)")
