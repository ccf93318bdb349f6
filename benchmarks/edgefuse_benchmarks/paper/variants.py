"""Model variants that are compared: their names, their parts, and the rows and accuracies of the paper.

A name is `<fusion>-<backbone>`: "gated-resnet50" fuses RGB features of ResNet-50 with depth features learned from scratch,
"gated-resnet50+resnet50" with those of a second ResNet-50, and "depth-vgg19" uses only depth, as an image. "@log" after it changes the
depth encoding of the recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgefuse.contract import InputContract
from edgefuse.errors import UserError
from edgefuse.model.backbones import build_depth_backbone, build_rgb_backbone
from edgefuse.model.choices import (
    DEFM_BACKBONES,
    DEPTH_ENCODINGS,
    DEPTH_FROM_SCRATCH,
    FUSION_KINDS,
    RGB_FROM_SCRATCH,
    SINGLE_MODALITIES,
    WEIGHTS_IMAGENET,
    WEIGHTS_NONE,
    DepthEncoding,
    FusionKind,
    check_backbones,
    is_torchvision,
)
from edgefuse.training.recipe import TrainConfig, default_weights
from edgefuse.training.trainer import model_config_of

NAIVE = "naive"
PAPER_TITLES: dict[str, str] = {
    "depth-resnet50": "DepthMap-ResNet50",
    "depth-vgg19": "DepthMap-VGG19",
    "depth-scratch": "DepthMap-scratch",
    "rgb-resnet50": "RGB-ResNet50",
    "rgb-vgg19": "RGB-VGG19",
    "naive-resnet50": "NF: RGB-ResNet50+DepthMap-scratch",
    "naive-vgg19": "NF: RGB-VGG19+DepthMap-scratch",
    "gated-resnet50": "Ours: RGB-ResNet50+DepthMap-scratch",
    "gated-vgg19": "Ours: RGB-VGG19+DepthMap-scratch",
}
"""The paper's nine rows, in its order and with its names ("Ours" is the paper's gate)."""

PAPER_ROWS: tuple[str, ...] = tuple(PAPER_TITLES)

_TABLES_PERCENT: dict[int, tuple[float, ...]] = {
    1: (61.11, 28.06, 84.72, 82.92, 81.25, 87.08, 89.31, 89.86, 90.69),
    3: (2.39, 2.38, 77.07, 50.08, 98.25, 76.65, 90.56, 99.32, 99.54),
    4: (1.67, 2.38, 73.87, 29.76, 96.73, 61.23, 83.16, 98.93, 99.51),
}


@dataclass(frozen=True, kw_only=True)
class ModelVariant:
    """A variant; a backbone that the fusion does not use is None, and so is the encoding if it is that of the recipe."""

    name: str
    fusion: FusionKind
    rgb: str | None
    depth: str | None
    encoding: DepthEncoding | None = None

    @property
    def baseline(self) -> str:
        """The name of the naive fusion (concatenation) of the same backbones."""
        return f"{NAIVE}-{self.name.partition('-')[2]}"

    def pretrained_names(self) -> list[str]:
        """The backbones that it uses and that can have pretrained weights."""
        return [name for name in (self.rgb, self.depth) if name is not None and is_torchvision(name)]


def parse_variant(name: str) -> ModelVariant:
    """The variant of a name.

    Raises:
        UserError: not `<fusion>-<backbone>` or `<fusion>-<RGB backbone>+<depth backbone>`, with or without `@<encoding>`, or a part is
            unknown.
    """
    model, at, word = name.partition("@")
    fusion, _, backbones = model.partition("-")
    backbone, plus, second = backbones.partition("+")
    rgb = None if fusion == "depth" else backbone
    depth = {"depth": backbone, "rgb": None}.get(fusion, second if plus else DEPTH_FROM_SCRATCH)
    try:
        if fusion not in FUSION_KINDS or (plus and fusion in SINGLE_MODALITIES):
            raise UserError(f"fusions are {', '.join(FUSION_KINDS)}")
        encoding = next((known for known in DEPTH_ENCODINGS if known == word), None)
        if at and (encoding is None or depth is None):
            raise UserError(f"encodings are {', '.join(DEPTH_ENCODINGS)}, for variants that use depth")
        if depth in DEFM_BACKBONES:
            encoding = encoding or "log"
        check_backbones(rgb=rgb, depth=depth, encoding=encoding)
    except UserError as error:
        raise UserError(
            f"the variant {name!r} is unknown: <fusion>-<backbone> was expected, such as gated-small or depth-scratch; or, for a fusion "
            f"of both sensors, <fusion>-<backbone>+<depth backbone>, such as spatial-mobilenet_v2+mobilenet_v2; @<encoding> may follow: "
            f"{error}"
        ) from error
    kind: FusionKind = fusion
    return ModelVariant(name=name, fusion=kind, rgb=rgb, depth=depth, encoding=encoding)


def paper_accuracy(table: int) -> dict[str, float]:
    """The accuracies, 0..1, of the paper's table 1 (BU-3DFE), 3 or 4 (Washington, 10 and 5 folds), by variant."""
    return {name: round(percent / 100, 4) for name, percent in zip(PAPER_ROWS, _TABLES_PERCENT[table], strict=True)}


def variant_config(variant: ModelVariant, base: TrainConfig, *, weights: Mapping[str, str]) -> TrainConfig:
    """The base recipe with the variant's fusion, backbones, encoding and weights.

    Args:
        weights: backbone -> "imagenet", "none" or a file, from `choose_weights`.
    """
    rgb = variant.rgb or RGB_FROM_SCRATCH
    depth = variant.depth or DEPTH_FROM_SCRATCH
    return replace(
        base,
        fusion=variant.fusion,
        rgb=rgb,
        depth=depth,
        encoding=variant.encoding or base.encoding,
        rgb_weights=weights.get(rgb, WEIGHTS_NONE) if variant.rgb else WEIGHTS_NONE,
        depth_weights=weights.get(depth, WEIGHTS_NONE) if variant.depth else WEIGHTS_NONE,
    )


def checked_variants(
    names: Iterable[str], base: TrainConfig, *, weights: Iterable[str] = ()
) -> tuple[list[ModelVariant], dict[str, str]]:
    """The variants of the names, without duplicates, and their weights (`choose_weights`). Call it before data is read.

    Raises:
        UserError: an unknown variant, an impossible input or model (near beyond far, too few pixels), or weights that are not
            available.
    """
    variants = [parse_variant(name) for name in dict.fromkeys(names)]
    contract = InputContract(size=base.size, near_m=base.near_m, far_m=base.far_m)
    for variant in variants:
        model_config_of(variant_config(variant, base, weights={}), contract, num_classes=2)
    return variants, choose_weights(variants, given=list(weights))


def choose_weights(variants: Iterable[ModelVariant], *, given: Iterable[str] = ()) -> dict[str, str]:
    """The initial weights of each torchvision backbone of the variants, DeFM's included; downloads them if necessary.

    Args:
        given: "imagenet" or "none" for all backbones, and files, each for the backbone that it fits.

    Raises:
        UserError: a file that fits none of the backbones, or weights that are not available.
    """
    names = sorted({name for variant in variants for name in variant.pretrained_names()})
    words = [value for value in given if value in (WEIGHTS_IMAGENET, WEIGHTS_NONE)]
    chosen = dict.fromkeys(names, words[-1]) if words else {}
    for value in given:
        if value in words:
            continue
        if not Path(value).is_file():
            raise UserError(
                f"the weights file {value} does not exist: imagenet, none or a state dict file was expected"
            )
        problems = {name: _problem(name, value) for name in names}
        fitting = [name for name, problem in problems.items() if problem is None]
        if not fitting:
            why = next((str(problem) for problem in problems.values()), "the variants use no torchvision backbone")
            raise UserError(f"{value} fits none of the backbones {', '.join(names) or '(none)'}: {why}")
        chosen |= dict.fromkeys(fitting, str(Path(value).absolute()))
    for name in names:
        if name not in chosen:
            chosen[name] = default_weights(name)
        if chosen[name] == WEIGHTS_IMAGENET:
            _build(name, chosen[name])
    return chosen


def _problem(name: str, path: str) -> UserError | None:
    """Why a weights file does not fit a backbone; None if it fits."""
    try:
        _build(name, path)
    except UserError as error:
        return error
    return None


def _build(name: str, weights: str) -> None:
    """Load the weights of a backbone; raises the error of weights that do not fit."""
    if name in DEFM_BACKBONES:
        build_depth_backbone(name, weights=weights, num_channels=3)
    else:
        build_rgb_backbone(name, weights=weights)
