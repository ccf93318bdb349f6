"""Backbones: from a decoded image to a feature map. Owns their construction, widths and pretrained weights.

RGB    float [N, 3, S, S]  ->  float [N, c, h, w]
depth  float [N, e, S, S]  ->  float [N, c, h, w]     (encoded by `edgefuse.model.encoding`)
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgefuse.contract import IMAGENET_MEAN, IMAGENET_STD
from edgefuse.errors import UserError, is_out_of_memory, require
from edgefuse.model.choices import (
    COMMON_BACKBONES,
    DEFM_BACKBONES,
    DEFM_PREFIX,
    DEPTH_FROM_SCRATCH,
    RGB_FROM_SCRATCH,
    WEIGHTS_IMAGENET,
    WEIGHTS_NONE,
    check_backbones,
)

MIN_TORCHVISION_SIZE = 32
"""Smallest input side in pixels: a downsampling by 32 leaves one pixel."""

DEPTH_OPTION = "--depth-weights"

HEADS = ("avgpool", "classifier", "fc")
"""Names of the modules of torchvision networks that follow the feature map."""

DEFM_KEY_PREFIX = "backbone."
"""Of the ResNet in DeFM's state dicts; their other keys belong to layers behind the feature map, which are not used."""

DEFM_NUM_GROUPS = 32
"""Groups of each GroupNorm in DeFM's networks."""

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

    Two channels: range as grey, as in the comparison of the paper. Four: nearness as red, slopes as green and blue. (Three, of the
    encoding "log", are an image already, and the backbone has no such layer.)
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


class GroupNorm(nn.GroupNorm):
    """PyTorch's GroupNorm from an instance norm over each group: its ONNX graph has constant shapes for a dynamic batch too.

    PyTorch's own is exported with shapes that are computed in INT64, which `edgefuse lint-onnx` refuses.
    """

    def forward(self, input: Tensor) -> Tensor:
        _, channels, height, width = input.shape
        grouped = input.reshape(-1, self.num_groups, channels // self.num_groups * height * width)
        normalised = functional.instance_norm(grouped, eps=self.eps).reshape(-1, channels, height, width)
        return normalised * self.weight[:, None, None] + self.bias[:, None, None]


def build_rgb_backbone(name: str, *, weights: str = WEIGHTS_NONE) -> Backbone:
    """An RGB backbone.

    Args:
        name: "small", or a torchvision classification network with a spatial feature map, such as "resnet18".
        weights: "imagenet" (torchvision downloads them), "none", or a state dict file (.pth, .safetensors) of the torchvision model.

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
        name: "scratch", a torchvision network as in `build_rgb_backbone`, or one of `DEFM_BACKBONES`.
        weights: as in `build_rgb_backbone`; for one of `DEFM_BACKBONES` "none" or a state dict file of DeFM.
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
    backbone = _torchvision_backbone(name, weights=weights, option=DEPTH_OPTION)
    if num_channels != 3:
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
    if weights == WEIGHTS_IMAGENET:
        network = _with_imagenet_weights(name, option=option)
    else:
        network = _new_network(name)
        if weights != WEIGHTS_NONE:
            _load_state(network, Path(weights), name=name, option=option)
    num_channels = num_feature_channels(name.removeprefix(DEFM_PREFIX))
    return Backbone(_without_head(network), num_channels=num_channels, pretrained=weights != WEIGHTS_NONE)


def _new_network(name: str) -> Any:
    """A network of torchvision; for one of `DEFM_BACKBONES` with GroupNorm instead of BatchNorm."""
    from torchvision import models

    if name in DEFM_BACKBONES:
        norm = partial(GroupNorm, DEFM_NUM_GROUPS)
        return models.get_model(name.removeprefix(DEFM_PREFIX), weights=None, norm_layer=norm)
    return models.get_model(name, weights=None)


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

    if name in DEFM_BACKBONES:
        raise UserError(f"{name} has no ImageNet weights: give a state dict of {_in_words(name)} with {option} FILE")
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


def _load_state(network: nn.Module, path: Path, *, name: str, option: str) -> None:
    """Load a state dict of torchvision or DeFM; the layers of `HEADS` may differ."""
    state = _read_state(path, expected=_in_words(name))
    problem = _misfit(state, network, name=name)
    if problem:
        raise UserError(f"{path} does not fit {name}: {problem}; {_what_fits(state, name=name, option=option)}")
    own, state = _used(network), _by_own_keys(state, name)
    fitting = {key: state[key] for key, value in own.items() if key in state and state[key].shape == value.shape}
    not_finite = [key for key, value in fitting.items() if not bool(torch.isfinite(value).all())]
    if not_finite:
        raise UserError(
            f"{path} contains values that are not finite ({not_finite[0]}; {len(not_finite)} tensor(s)): give another state dict of "
            f"{_in_words(name)}"
        )
    complete = network.state_dict()
    complete.update(fitting)  # updated in place, because MNASNet checks the version in its state dict
    network.load_state_dict(complete)


def _read_state(path: Path, *, expected: str) -> dict[str, Tensor]:
    """The tensors of a state dict file: .pth without pickled code, or .safetensors."""
    if not path.is_file():
        raise UserError(f"the weights file {path} does not exist: give a state dict of {expected}")
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
    for name in ("state_dict", "model"):  # of many training scripts; of DeFM's
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    return {key: value for key, value in state.items() if _is_plain(value)} if isinstance(state, dict) else {}


def _misfit(state: Mapping[str, Tensor], network: nn.Module, *, name: str) -> str:
    """Why a state dict does not fit a network; empty if it does."""
    own, state = _used(network), _by_own_keys(state, name)
    first = next(key for key, value in own.items() if value.ndim == 4)
    if first in state and state[first].ndim == 4 and state[first].shape[1] != own[first].shape[1]:
        return f"its first convolution, {first}, has {state[first].shape[1]} input channel(s), {own[first].shape[1]} were expected"
    missing = sorted(
        key
        for key, value in own.items()
        if not (key in state and state[key].shape == value.shape) and not key.endswith("num_batches_tracked")
    )
    if missing:
        return f"{len(missing)} of {len(own)} tensors are missing or of another shape, first {missing[0]}"
    if name in DEFM_BACKBONES and "bn1.running_mean" in state:  # its tensors have the shapes of GroupNorm's
        return "it has BatchNorm layers, GroupNorm was expected"
    return ""


def _what_fits(state: Mapping[str, Tensor], *, name: str, option: str) -> str:
    """What a state dict is instead, and what to do."""
    step = f"give a state dict of {_in_words(name)}"
    for other in (*COMMON_BACKBONES, *(DEFM_BACKBONES if option == DEPTH_OPTION else ())):
        with torch.device("meta"):
            network = _new_network(other)
        if not _misfit(state, network, name=other):
            return f"it is one of {_in_words(other)}: {step}, or use {option.removesuffix('-weights')} {other}"
    keys = [f"{key} {list(value.shape)}" for key, value in state.items()]
    return f"it has {len(keys)} tensors{f', from {keys[0]} to {keys[-1]}' if keys else ''}: {step}"


def _in_words(name: str) -> str:
    return f"DeFM's {name.removeprefix(DEFM_PREFIX)}" if name in DEFM_BACKBONES else f"torchvision's {name}"


def _used(network: nn.Module) -> dict[str, Tensor]:
    """The state dict without the layers of `HEADS`."""
    heads = tuple(f"{head}." for head in HEADS)
    return {key: value for key, value in network.state_dict().items() if not key.startswith(heads)}


def _by_own_keys(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The state dict with the keys of the network `name`."""
    prefix = DEFM_KEY_PREFIX if name in DEFM_BACKBONES else ""
    return {key.removeprefix(prefix): value for key, value in state.items()}
