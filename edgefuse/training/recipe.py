"""Recipes: functions that return all numbers of a training, in one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from edgefuse.data.augment import Augmentation
from edgefuse.errors import UserError
from edgefuse.model.backbones import WEIGHTS_IMAGENET, WEIGHTS_NONE
from edgefuse.model.names import TORCHVISION_BACKBONES, DepthBackbone, FusionKind, RgbBackbone


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All that decides how a model learns, apart from the data.

    Attributes:
        rgb_weights, depth_weights: "imagenet", "none" or a file.
        size: side of the model input in pixels.
        near_m, far_m: depth range of the contract in metres.
        learning_rate, final_learning_rate: Adam's, annealed along a cosine from the first to the last (the paper: 1e-3 to 1e-5).
        pretrained_rate_scale: pretrained backbones learn this much slower, with their BatchNorm statistics frozen.
        validation_share, test_share: share of the samples held out by group, besides `exclude`.
        exclude: glob patterns of instances held out for testing.
        num_threads: CPU threads of torch; None = its own choice, one for each core.
    """

    fusion: FusionKind = "gated"
    rgb: RgbBackbone = "small"
    depth: DepthBackbone = "scratch"
    rgb_weights: str = WEIGHTS_NONE
    depth_weights: str = WEIGHTS_NONE
    size: int = 96
    near_m: float = 0.2
    far_m: float = 2.0
    num_features: int = 128
    num_hidden: int = 128
    dropout: float = 0.2
    epochs: int = 40
    batch_size: int = 32
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    pretrained_rate_scale: float = 0.1
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
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


def default_weights(backbone: str) -> str:
    """The weights that a backbone starts from when none are named."""
    return WEIGHTS_IMAGENET if backbone in TORCHVISION_BACKBONES else WEIGHTS_NONE
