"""Recipes: functions that return all numbers of a training, in one frozen value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from edgefuse.data.augment import Augmentation
from edgefuse.errors import UserError
from edgefuse.model.backbones import WEIGHTS_IMAGENET, WEIGHTS_NONE
from edgefuse.model.names import TORCHVISION_BACKBONES, DepthBackbone, DepthEncoding, FusionKind, RgbBackbone


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All that decides how a model learns, apart from the data.

    Attributes:
        rgb_weights, depth_weights: "imagenet", "none" or a file.
        encoding, reach_m: what the depth side sees; see `edgefuse.model.classifier.ModelConfig`.
        size: side of the model input in pixels.
        near_m, far_m: depth range of the contract in metres.
        learning_rate, final_learning_rate: Adam's, annealed along a cosine from the first to the last (the paper: 1e-3 to 1e-5).
        warm_up: over this share of the steps the learning rate rises from nothing; without it the first steps of Adam can kill every
            feature of a pretrained backbone, and the training never leaves chance.
        pretrained_rate_scale: pretrained backbones learn this much slower, with their BatchNorm statistics frozen.
        vote_weight: weight of the loss of each modality's own answer beside that of the fused one; 0 = no such answers, as the paper.
        frozen_share: this share of a pretrained backbone's stages, from the input on, keeps its weights.
        validation_share, test_share: share of the samples held out by group, besides `exclude`.
        exclude: glob patterns of instances held out for testing.
        num_threads: CPU threads of torch; None = its own choice, one for each core.
    """

    fusion: FusionKind = "spatial"
    rgb: RgbBackbone = "small"
    depth: DepthBackbone = "scratch"
    rgb_weights: str = WEIGHTS_NONE
    depth_weights: str = WEIGHTS_NONE
    encoding: DepthEncoding = "relative"
    reach_m: float = 0.3
    size: int = 128
    near_m: float = 0.2
    far_m: float = 2.0
    num_features: int = 128
    num_hidden: int = 128
    dropout: float = 0.2
    feature_dropout: float = 0.2
    epochs: int = 40
    batch_size: int = 32
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warm_up: float = 0.1
    pretrained_rate_scale: float = 0.3
    frozen_share: float = 0.7
    weight_decay: float = 0.0
    label_smoothing: float = 0.1
    vote_weight: float = 1.0
    validation_share: float = 0.15
    test_share: float = 0.0
    exclude: tuple[str, ...] = ()
    seed: int = 0
    num_threads: int | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise UserError(f"epochs and batch size are {self.epochs} and {self.batch_size}: 1 or more were expected")
        if not 0 < self.final_learning_rate <= self.learning_rate:
            raise UserError(
                f"learning rates are {self.learning_rate} to {self.final_learning_rate}: 0 < final <= first was expected"
            )

    def to_json(self) -> dict[str, Any]:
        """The configuration as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_json`; fields that an older version did not write keep their defaults."""
        known = {f.name: value[f.name] for f in fields(cls) if f.name in value}
        known["exclude"] = tuple(known.get("exclude", ()))
        known["augmentation"] = Augmentation(**known.get("augmentation", {}))
        return cls(**known)


def small_rgbd() -> TrainConfig:
    """From scratch on any machine: what `edgefuse train` does when nothing else is asked for."""
    return TrainConfig()


def demo_rgbd() -> TrainConfig:
    """Small enough that a CPU trains four models within the demo's minutes.

    One thread: layers this small gain nothing from a second one (7 s against 8 s on two idle cores) and lose much when the
    cores are busy (20 s against 7 s).
    """
    return TrainConfig(size=64, epochs=24, far_m=1.6, test_share=0.25, validation_share=0.1, num_threads=1)


def with_values(config: TrainConfig, values: Iterable[str]) -> TrainConfig:
    """The recipe with some of its numbers replaced.

    Args:
        values: "name=value", such as "reach_m=0.2" or "augmentation.grey=0"; any field of `TrainConfig` that holds one
            number, switch or word, and any of `Augmentation`.

    Raises:
        UserError: not of that form, an unknown name, or a value of another kind than the field's.
    """
    for text in values:
        name, equals, value = text.partition("=")
        part = config.augmentation if name.startswith("augmentation.") else config
        field_name = name.removeprefix("augmentation.")
        known = {f.name for f in fields(part) if isinstance(getattr(part, f.name), int | float | str)}
        if not equals or field_name not in known:
            prefix = "augmentation." if part is config.augmentation else ""
            names = ", ".join(sorted(prefix + known_name for known_name in known))
            raise UserError(f"--set {text}: NAME=VALUE was expected, with one of {names}")
        changed: dict[str, Any] = {field_name: _value_like(getattr(part, field_name), value, text=text)}
        if part is config:
            config = replace(config, **changed)
        else:
            config = replace(config, augmentation=replace(config.augmentation, **changed))
    return config


def _value_like(example: bool | float | str, value: str, *, text: str) -> bool | float | str:
    """`value` as what `example` is: a switch, a whole number, a number or a word."""
    if isinstance(example, str):
        return value
    words = {"true": True, "false": False}
    try:
        return words[value.lower()] if isinstance(example, bool) else type(example)(value)
    except (KeyError, ValueError) as error:
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(example)]
        raise UserError(f"--set {text}: {kind} was expected") from error


def default_weights(backbone: str) -> str:
    """The weights that a backbone starts from when none are named."""
    return WEIGHTS_IMAGENET if backbone in TORCHVISION_BACKBONES else WEIGHTS_NONE


def default_depth(rgb: RgbBackbone) -> DepthBackbone:
    """The depth backbone that goes with an RGB backbone: the same, on depth drawn as a picture; "scratch" beside "small"."""
    return "scratch" if rgb == "small" else rgb
