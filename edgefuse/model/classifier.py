"""The complete model: bytes in, logits and gate out. Only `build_classifier` assembles it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgefuse.contract import DEPTH_UNIT_M, MAX_DEPTH_CODE, OUTPUTS, InputContract
from edgefuse.errors import UserError
from edgefuse.io.json_files import with_new_names
from edgefuse.limits import check_limits, limited, one_of
from edgefuse.model.backbones import MIN_TORCHVISION_SIZE, Backbone, build_depth_backbone, build_rgb_backbone
from edgefuse.model.choices import (
    DEPTH_ENCODINGS,
    DEPTH_FROM_SCRATCH,
    FUSION_KINDS,
    RGB_FROM_SCRATCH,
    WEIGHTS_NONE,
    DepthEncoding,
    FusionKind,
    check_backbones,
    is_torchvision,
)
from edgefuse.model.decode import InputDecoder
from edgefuse.model.encoding import REVISION, AbsoluteDepth, LogDepth, NearestSurface, RelativeDepth
from edgefuse.model.frame_gate import FrameGate
from edgefuse.model.fusion import FusionCore
from edgefuse.model.sensor_temperature import SensorTemperature
from edgefuse.model.spatial_gate import SpatialGate

OLD_NAMES = {"votes": "auxiliary_heads", "reach_m": "depth_window_m"}
"""Fields of runs from before 2026-11-25, and their present names."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of the model.

    Attributes:
        contract: meaning of the inputs.
        num_classes: C.
        fusion: one of `FUSION_KINDS`.
        rgb, depth: names of the backbones.
        encoding: input of the depth backbone: "relative" to the nearest surface, "absolute" range, or "log", the channels of DeFM.
        depth_window_m: depth range behind the nearest surface that the relative encoding and the spatial gate use, in metres.
        encoding_revision: version of the estimate of the nearest surface; a run keeps the one that it was trained with.
        num_features: d, width of both projected feature vectors.
        num_hidden: width of the first fully connected layer.
        dropout: fraction of hidden units dropped in training.
        feature_dropout: fraction of a backbone's pooled features dropped in training.
        auxiliary_heads: each modality also has a classifier of its own, and `spatial` predicts with their gated sum; see
            `edgefuse.model.fusion.AuxiliaryHeads`.
        frame_gate: the gate of `spatial` comes from statistics of both images (`edgefuse.model.frame_gate`) and not from the features; it
            needs auxiliary heads.
        temperature: the logits are divided by it before the softmax; fitted after training (`edgefuse.evaluation.calibration`).
        temperature_no_rgb, temperature_no_depth: the same while that sensor is missing; None = `temperature`, as in older runs.
    """

    contract: InputContract
    num_classes: int
    fusion: FusionKind = field(default="gated", metadata=one_of(FUSION_KINDS))
    rgb: str = RGB_FROM_SCRATCH
    depth: str = DEPTH_FROM_SCRATCH
    # These defaults are those of runs from before the field existed.
    encoding: DepthEncoding = field(default="absolute", metadata=one_of(DEPTH_ENCODINGS))
    depth_window_m: float = limited(0.3, 0, MAX_DEPTH_CODE * DEPTH_UNIT_M, above=True)
    encoding_revision: int = limited(REVISION, 1, REVISION, whole=True)
    num_features: int = limited(128, 1, 65536, whole=True)
    num_hidden: int = limited(128, 1, 65536, whole=True)
    dropout: float = limited(0.2, 0, 1, below=True)
    feature_dropout: float = limited(0.0, 0, 1, below=True)
    auxiliary_heads: bool = False  # as in runs from before the field existed
    frame_gate: bool = False
    temperature: float = limited(1.0, 0, above=True)
    temperature_no_rgb: float | None = limited(None, 0, above=True, optional=True)
    temperature_no_depth: float | None = limited(None, 0, above=True, optional=True)

    def __post_init__(self) -> None:
        check_limits(self)
        check_backbones(rgb=self.rgb, depth=self.depth, encoding=self.encoding)
        used = [*([self.rgb] if self.fusion != "depth" else []), *([self.depth] if self.fusion != "rgb" else [])]
        deep = [name for name in used if is_torchvision(name)]
        if deep and self.contract.size < MIN_TORCHVISION_SIZE:
            raise UserError(
                f"{deep[0]} cannot process {self.contract.size} x {self.contract.size} pixels: --size {MIN_TORCHVISION_SIZE} or more was expected"
            )
        if self.frame_gate and (self.fusion != "spatial" or not self.auxiliary_heads):
            raise UserError("frame_gate is true: fusion = spatial with auxiliary_heads was expected")
        if self.num_classes < 2:
            raise UserError(f"the model has {self.num_classes} class(es): at least two were expected")

    def to_json(self) -> dict[str, Any]:
        """The configuration as a JSON object."""
        return {**asdict(self), "contract": self.contract.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ModelConfig:
        """The inverse of `to_json`; fields that an older version did not write keep their defaults."""
        value = with_new_names(value, OLD_NAMES)
        known = {field.name: value[field.name] for field in fields(cls) if field.name in value}
        contract = replace(InputContract.from_json(value["contract"]), outputs=OUTPUTS)
        return cls(**{"encoding_revision": 1, **known, "contract": contract})


class FeatureExtractor(nn.Module):
    """A backbone, averaged over the image and projected to d features: [N, c, S, S] -> [N, d]."""

    def __init__(self, backbone: Backbone, *, num_features: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = dropout
        self.project = nn.Sequential(nn.Linear(backbone.num_channels, num_features), nn.ReLU())

    def forward(self, image_NCHW: Tensor) -> Tensor:
        pooled = self.backbone(image_NCHW).mean((2, 3))
        # A function, not a module: between modules, each tensor keeps its precision in an FP16 model.
        return self.project(functional.dropout(pooled, self.dropout, self.training))  # type: ignore[no-any-return]


class FusionClassifier(nn.Module):
    """RGB-D classifier. A modality that the fusion does not use has no backbone and no cost."""

    fp32_modules = (
        "nearest_surface",
        "encode",
        "spatial_gate",
        "frame_gate",
        "core.weighted_sum",
        "sensor_temperature",
    )
    """Modules that run in FP32 in files of any precision, in addition to the decoder."""

    def __init__(
        self,
        *,
        decode: InputDecoder,
        nearest_surface: NearestSurface,
        encode: AbsoluteDepth | RelativeDepth | LogDepth,
        spatial_gate: SpatialGate | None,
        rgb_features: FeatureExtractor | None,
        depth_features: FeatureExtractor | None,
        core: FusionCore,
        frame_gate: FrameGate | None = None,
        sensor_temperature: SensorTemperature | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        assert rgb_features is not None or depth_features is not None
        self.decode = decode
        self.nearest_surface = nearest_surface
        self.encode = encode
        self.spatial_gate = spatial_gate
        self.rgb_features = rgb_features
        self.depth_features = depth_features
        self.core = core
        self.frame_gate = frame_gate
        self.sensor_temperature = sensor_temperature
        self.temperature = temperature

    def forward(
        self, rgb_NHWC: Tensor, depth_NHW2: Tensor, *, with_auxiliary_heads: bool = False
    ) -> tuple[Tensor, ...]:
        """Classify one batch.

        Args:
            rgb_NHWC: uint8 [N, S, S, 3], as defined by the contract.
            depth_NHW2: uint8 [N, S, S, 2], as defined by the contract.
            with_auxiliary_heads: for training: also return the logits of each auxiliary head, if the model has them.

        Returns:
            logits [N, C], gate in [0, 1] ([N, d], or [N, 1] with a frame gate), and distance of the nearest surface [N, 1] in metres,
            0 = no measurement.
        """
        rgb, depth = self.decode(rgb_NHWC, depth_NHW2)
        frame_gate = None if self.frame_gate is None else self.frame_gate(rgb, depth)
        F_A, F_B, nearest_m = self.features(rgb, depth, frame_gate)
        logits, gate = self.fused(F_A, F_B, rgb, depth, frame_gate)
        if with_auxiliary_heads and self.core.auxiliary_heads is not None:
            return logits, gate, nearest_m, *self.core.auxiliary_heads.alone(F_A, F_B)
        return logits, gate, nearest_m

    def probabilities(self, logits: Tensor) -> Tensor:
        """softmax(logits / temperature) in FP32, [N, C]: the output of `predict` and of the exported graph."""
        return torch.softmax(logits.float() / self.temperature, dim=1)

    def features(self, rgb: Tensor, depth: Tensor, frame_gate: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Decoded images -> F_A and F_B, [N, d] each, and the distance of the nearest surface, [N, 1].

        A modality without a backbone gets the features of the other, which its fusion ignores.
        """
        nearest_m = self.nearest_surface(depth)
        F_B = None if self.depth_features is None else self.features_of_depth(depth, nearest_m)
        if self.rgb_features is None:
            assert F_B is not None
            return F_B, F_B, nearest_m
        F_A = self.features_of_rgb(rgb, depth, nearest_m, frame_gate)
        return F_A, (F_A if F_B is None else F_B), nearest_m

    def features_of_depth(self, depth: Tensor, nearest_m: Tensor) -> Tensor:
        """F_B, for a model of depth."""
        assert self.depth_features is not None
        return self.depth_features(self.encode(depth, nearest_m))  # type: ignore[no-any-return]

    def features_of_rgb(self, rgb: Tensor, depth: Tensor, nearest_m: Tensor, frame_gate: Tensor | None) -> Tensor:
        """F_A, for a model of RGB."""
        assert self.rgb_features is not None
        seen = rgb if self.spatial_gate is None else self.spatial_gate(rgb, depth, nearest_m, frame_gate)
        return self.rgb_features(seen)  # type: ignore[no-any-return]

    def fused(
        self, F_A: Tensor, F_B: Tensor, rgb: Tensor, depth: Tensor, frame_gate: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Features and decoded images -> logits [N, C] and gate, as of `forward`."""
        logits, gate = self.core(F_A, F_B, frame_gate)
        if self.sensor_temperature is not None:
            logits = self.sensor_temperature(logits, rgb, depth)
        return logits, gate


def build_classifier(
    config: ModelConfig, *, rgb_weights: str = WEIGHTS_NONE, depth_weights: str = WEIGHTS_NONE
) -> FusionClassifier:
    """Assemble a model.

    Args:
        config: its architecture.
        rgb_weights, depth_weights: "imagenet", "none" or a file; see `backbones.build_rgb_backbone`.

    Raises:
        UserError: unknown names, or weights that cannot be loaded or do not fit.
    """
    relative = RelativeDepth(config.contract, depth_window_m=config.depth_window_m)
    encode: AbsoluteDepth | RelativeDepth | LogDepth = relative
    if config.encoding != "relative":
        encode = LogDepth(config.contract) if config.encoding == "log" else AbsoluteDepth()
    spatial_gate = SpatialGate(relative, size=config.contract.size) if config.fusion == "spatial" else None
    rgb_features = depth_features = None
    if config.fusion != "depth":
        rgb = build_rgb_backbone(config.rgb, weights=rgb_weights)
        rgb_features = FeatureExtractor(rgb, num_features=config.num_features, dropout=config.feature_dropout)
    if config.fusion != "rgb":
        depth = build_depth_backbone(config.depth, weights=depth_weights, num_channels=encode.num_channels)
        depth_features = FeatureExtractor(depth, num_features=config.num_features, dropout=config.feature_dropout)
    core = FusionCore(
        kind=config.fusion,
        num_features=config.num_features,
        num_hidden=config.num_hidden,
        num_classes=config.num_classes,
        dropout=config.dropout,
        auxiliary_heads=config.auxiliary_heads,
        frame_gate=config.frame_gate,
    )
    return FusionClassifier(
        decode=InputDecoder(config.contract),
        nearest_surface=NearestSurface(config.contract, revision=config.encoding_revision),
        encode=encode,
        spatial_gate=spatial_gate,
        rgb_features=rgb_features,
        depth_features=depth_features,
        core=core,
        frame_gate=FrameGate(config.contract) if config.frame_gate else None,
        sensor_temperature=_sensor_temperature(config),
        temperature=config.temperature,
    )


def _sensor_temperature(config: ModelConfig) -> SensorTemperature | None:
    """None if all states have the same temperature."""
    no_rgb, no_depth = (
        config.temperature if value is None else value
        for value in (config.temperature_no_rgb, config.temperature_no_depth)
    )
    if no_rgb == no_depth == config.temperature:
        return None
    return SensorTemperature(both=config.temperature, no_rgb=no_rgb, no_depth=no_depth)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def not_finite(module: nn.Module) -> list[str]:
    """Names of the weights and statistics that contain NaN or infinity."""
    return [name for name, tensor in module.state_dict().items() if not bool(torch.isfinite(tensor).all())]


@torch.inference_mode()
def predict(model: FusionClassifier, rgb_NHWC: Tensor, depth_NHW2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities float32 [N, C], gate [N, d] and `nearest_m` [N, 1] of one batch; the model must be in eval mode."""
    logits, gate, nearest_m = model(rgb_NHWC, depth_NHW2)
    return model.probabilities(logits), gate.float(), nearest_m
