"""Names of fusions, encodings and backbones. Does not import torch, so that --help is fast."""

from __future__ import annotations

from typing import Literal, get_args

from edgefuse.errors import UserError

FusionKind = Literal["gated", "naive", "rgb", "depth", "joint", "spatial"]
DepthEncoding = Literal["absolute", "relative", "log"]

FUSION_KINDS: tuple[FusionKind, ...] = get_args(FusionKind)
SINGLE_MODALITIES: tuple[FusionKind, ...] = ("rgb", "depth")
DEPTH_ENCODINGS: tuple[DepthEncoding, ...] = get_args(DepthEncoding)
COMMON_BACKBONES = ("resnet18", "resnet50", "vgg19", "mobilenet_v2", "mobilenet_v3_small")
"""The torchvision networks that messages list; `edgefuse.model.backbones` accepts more."""
DEFM_PREFIX = "defm_"
DEFM_BACKBONES = ("defm_resnet18", "defm_resnet34", "defm_resnet50")
"""Depth backbones in the form of DeFM (arXiv 2601.18923): torchvision networks with GroupNorm, on the encoding "log"."""
RGB_FROM_SCRATCH = "small"
DEPTH_FROM_SCRATCH = "scratch"
WEIGHTS_IMAGENET = "imagenet"
WEIGHTS_NONE = "none"


def is_torchvision(backbone: str) -> bool:
    """Whether it is a torchvision network, of DeFM's form too, and not one of the two small ones of edgefuse."""
    return backbone not in (RGB_FROM_SCRATCH, DEPTH_FROM_SCRATCH)


def check_backbones(*, rgb: str | None = None, depth: str | None = None, encoding: DepthEncoding | None = None) -> None:
    """Refuse unknown backbones. PyTorch is imported only for names outside of `COMMON_BACKBONES`.

    Raises:
        UserError: neither a backbone of edgefuse for that modality nor a torchvision network with a spatial feature map; or one of
            `DEFM_BACKBONES` with another encoding than "log".
    """
    if depth in DEFM_BACKBONES and encoding not in (None, "log"):
        raise UserError(
            f"the depth backbone {depth} has the encoding {encoding!r}: DeFM's networks expect --encoding log; for {encoding!r} use "
            f"--depth {depth.removeprefix(DEFM_PREFIX)}"
        )
    for field, name, known in (
        ("rgb", rgb, (RGB_FROM_SCRATCH, *COMMON_BACKBONES)),
        ("depth", depth, (DEPTH_FROM_SCRATCH, *COMMON_BACKBONES, *DEFM_BACKBONES)),
    ):
        if name is None or name in known:
            continue
        from edgefuse.model.backbones import num_feature_channels

        try:
            num_feature_channels(name)
        except UserError as error:
            raise UserError(
                f"{field} is {name!r}: one of {', '.join(known)}, or any torchvision classification network "
                f"with a spatial feature map, such as efficientnet_b0, was expected; {error}"
            ) from error


def model_in_words(*, fusion: str, rgb: str, depth: str) -> str:
    """A model as text, for titles of plots, such as "gated fusion of resnet18 (RGB) and scratch (depth)"."""
    alone = {"rgb": f"RGB only ({rgb})", "depth": f"depth only ({depth})"}
    return alone.get(fusion, f"{fusion} fusion of {rgb} (RGB) and {depth} (depth)")
