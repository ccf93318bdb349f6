"""Backbones: from a decoded image to a feature map. Owns their construction, widths and pretrained weights.

RGB    float [N, 3, S, S]  ->  float [N, c, h, w]
depth  float [N, e, S, S]  ->  float [N, c, h, w]     (encoded by `edgefuse.model.encoding`)
"""

from __future__ import annotations

import itertools
import logging
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgefuse.contract import IMAGENET_MEAN, IMAGENET_STD
from edgefuse.errors import UserError, is_out_of_memory, require
from edgefuse.model.choices import (
    DEPTH_FROM_SCRATCH,
    RGB_FROM_SCRATCH,
    WEIGHTS_IMAGENET,
    WEIGHTS_NONE,
    check_backbones,
)

MIN_TORCHVISION_SIZE = 32
"""Smallest input side in pixels: a downsampling by 32 leaves one pixel."""

HEADS = ("avgpool", "classifier", "fc")
"""Names of the modules of torchvision networks that follow the feature map."""

_log = logging.getLogger(__name__)


class Backbone(nn.Module):
    """A feature extractor; `num_channels` is the width c of its feature map.

    Attributes:
        pretrained: whether it has pretrained weights, and so needs a smaller learning rate and frozen statistics.
    """

    def __init__(self, features: nn.Module, *, num_channels: int, pretrained: bool = False) -> None:
        super().__init__()
        self.features = features
        self.num_channels = num_channels
        self.pretrained = pretrained

    def forward(self, image_NCHW: Tensor) -> Tensor:
        return self.features(image_NCHW)  # type: ignore[no-any-return]

    @property
    def stages(self) -> list[nn.Module]:
        """The layers and blocks in the order of execution, without `DepthAsImage`."""
        parts = list(self.features.children())
        return list(parts[1].children()) if isinstance(parts[0], DepthAsImage) else parts


class DepthAsImage(nn.Module):
    """Convert depth to an RGB image for a backbone that expects one.

    Two channels: range as grey, as in the comparison of the paper. Four: nearness as red, slopes as green and blue.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, depth_NeHW: Tensor) -> Tensor:
        if depth_NeHW.shape[1] == 2:
            image = depth_NeHW[:, :1].expand(-1, 3, -1, -1)
        else:
            image = torch.cat([depth_NeHW[:, :1], torch.clamp(depth_NeHW[:, 2:] / 2 + 0.5, 0, 1)], dim=1)
        return (image - self.mean) / self.std


def build_rgb_backbone(name: str, *, weights: str = WEIGHTS_NONE) -> Backbone:
    """An RGB backbone.

    Args:
        name: "small", or a torchvision classification network with a spatial feature map, such as "resnet18".
        weights: "imagenet" (torchvision downloads them), "none", or a state dict file of the torchvision model.

    Raises:
        UserError: unknown name, weights that cannot be downloaded or do not fit.
    """
    check_backbones(rgb=name)
    if name == RGB_FROM_SCRATCH:
        if weights != WEIGHTS_NONE:
            raise UserError(f"the backbone 'small' has no pretrained weights, got {weights}: leave out --rgb-weights")
        return Backbone(_small_cnn(stem=_conv(3, 16, stride=2), widths=(16, 32, 64, 128)), num_channels=128)
    return _torchvision_backbone(name, weights=weights, option="--rgb-weights")


def build_depth_backbone(name: str, *, weights: str = WEIGHTS_NONE, num_channels: int = 2) -> Backbone:
    """A depth backbone: "scratch", or a torchvision one on depth as an image.

    Args:
        name: "scratch", or a torchvision network as in `build_rgb_backbone`.
        weights: as in `build_rgb_backbone`.
        num_channels: e, number of channels of the depth encoding.

    Raises:
        UserError: unknown name, weights that cannot be downloaded or do not fit.
    """
    check_backbones(depth=name)
    if name == DEPTH_FROM_SCRATCH:
        if weights != WEIGHTS_NONE:
            raise UserError(
                f"the backbone 'scratch' has no pretrained weights, got {weights}: leave out --depth-weights"
            )
        stem = nn.Sequential(nn.Conv2d(num_channels, 32, 4, stride=4, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        return Backbone(_small_cnn(stem=stem, widths=(32, 64, 128)), num_channels=128)
    backbone = _torchvision_backbone(name, weights=weights, option="--depth-weights")
    backbone.features = nn.Sequential(DepthAsImage(), backbone.features)
    return backbone


def _conv(num_in: int, num_out: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU()
    )


def _small_cnn(*, stem: nn.Module, widths: tuple[int, ...]) -> nn.Sequential:
    """A small network that two CPU cores train in a minute; after the stem, each stage halves the resolution."""
    layers: list[nn.Module] = [stem]
    for num_in, num_out in itertools.pairwise(widths):
        layers += [_conv(num_in, num_out, stride=2), _conv(num_out, num_out)]
    return nn.Sequential(*layers)


def _torchvision_backbone(name: str, *, weights: str, option: str) -> Backbone:
    from torchvision import models

    if weights == WEIGHTS_IMAGENET:
        network = _with_imagenet_weights(name, option=option)
    else:
        network = models.get_model(name, weights=None)
        if weights != WEIGHTS_NONE:
            _load_state(network, Path(weights), name=name)
    features = _without_head(network)
    return Backbone(features, num_channels=num_feature_channels(name), pretrained=weights != WEIGHTS_NONE)


@cache
def num_feature_channels(name: str) -> int:
    """The number of channels of a torchvision feature map, from a forward pass on the meta device, which only computes shapes.

    Raises:
        UserError: torchvision has no classification network of that name, or the network has no spatial feature map: transformers,
            networks with auxiliary outputs in training, and AlexNet, which needs larger inputs.
    """
    models = require("torchvision.models", extra="train")
    if name not in models.list_models(module=models):
        raise UserError(f"torchvision has no classification network {name!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some networks warn about a changed initialisation
        try:
            with torch.device("meta"):
                network = models.get_model(name, weights=None)
        except (RuntimeError, NotImplementedError):  # RegNet computes its widths with tensors
            network = models.get_model(name, weights=None).to("meta")
    image = torch.zeros(1, 3, MIN_TORCHVISION_SIZE, MIN_TORCHVISION_SIZE, device="meta")
    try:
        shape = tuple(_without_head(network).eval()(image).shape)
    except Exception:  # the exception depends on the network
        shape = ()
    if len(shape) != 4 or shape[2] != shape[3]:  # Swin has its channels last
        raise UserError(f"{name} has none for inputs of {MIN_TORCHVISION_SIZE} x {MIN_TORCHVISION_SIZE} pixels")
    return int(shape[1])


def _with_imagenet_weights(name: str, *, option: str) -> Any:
    """The network with the weights of torchvision; a download is logged."""
    from torchvision import models

    enum = models.get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(enum.url).name
    if not cached.is_file():
        size_mb = enum.meta["_file_size"]
        _log.info("downloading the ImageNet weights of %s (%.0f MB) to %s (only once)", name, size_mb, cached)
    try:
        return models.get_model(name, weights=enum)
    except OSError as error:
        raise UserError(
            f"the ImageNet weights of {name} could not be downloaded ({error}): download {enum.url} on another "
            f"machine and use {option} FILE, or train without them with {option} none"
        ) from error
    except Exception as error:  # torch raises many exceptions for a damaged file
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"the ImageNet weights of {name} cannot be read ({_first_line(error)}): delete {cached} to download them again"
        ) from error


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0][:200] or type(error).__name__


def _without_head(network: Any) -> nn.Sequential:
    """A torchvision classifier up to its pooling; the children are the stages that can be frozen."""
    from torchvision.models import DenseNet

    children = getattr(network, "features", network).named_children()
    parts = [part for _, part in itertools.takewhile(lambda child: child[0] not in HEADS, children)]
    if len(parts) <= 2:  # MNASNet and RegNet: one child contains almost all layers
        parts = [inner for part in parts for inner in (part if isinstance(part, nn.Sequential) else [part])]
    if isinstance(network, DenseNet):
        parts.append(nn.ReLU())  # applied after `features` in its forward()
    return nn.Sequential(*parts)


def _load_state(network: nn.Module, path: Path, *, name: str) -> None:
    """Load a torchvision state dict (.pth without pickled code, or .safetensors); the layers of `HEADS` may differ."""
    if not path.is_file():
        raise UserError(f"the weights file {path} does not exist: give a state dict of torchvision's {name}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many exceptions for a bad file
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"{path} is not a readable state dict ({_first_line(error)}): save one with torch.save(model.state_dict(), FILE)"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    state = {key: value for key, value in state.items() if _is_plain(value)} if isinstance(state, dict) else {}
    own = network.state_dict()
    wanted = {key for key in own if not key.startswith(tuple(f"{head}." for head in HEADS))}
    fitting = {key: value for key, value in state.items() if key in wanted and value.shape == own[key].shape}
    missing = sorted(key for key in wanted - fitting.keys() if not key.endswith("num_batches_tracked"))
    if missing:
        raise UserError(
            f"{path} does not fit {name}: {len(missing)} of {len(wanted)} tensors are missing or of another shape, "
            f"first {missing[0]}: give a state dict of torchvision's {name}"
        )
    not_finite = [key for key, value in fitting.items() if not bool(torch.isfinite(value).all())]
    if not_finite:
        raise UserError(
            f"{path} contains values that are not finite ({not_finite[0]}; {len(not_finite)} tensor(s)): give another state dict of "
            f"torchvision's {name}"
        )
    own.update(fitting)  # updated in place, because MNASNet checks the version in its state dict
    network.load_state_dict(own)
