"""Recipes: functions that return all settings of a training in one frozen dataclass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from edgefuse.contract import DEPTH_UNIT_M, MAX_DEPTH_CODE, InputContract
from edgefuse.data.augmentation import Augmentation
from edgefuse.errors import UserError
from edgefuse.io.json_files import with_new_names
from edgefuse.limits import check_limits, limited, one_of
from edgefuse.model.choices import (
    DEFM_BACKBONES,
    DEPTH_ENCODINGS,
    DEPTH_FROM_SCRATCH,
    FUSION_KINDS,
    RGB_FROM_SCRATCH,
    WEIGHTS_IMAGENET,
    WEIGHTS_NONE,
    DepthEncoding,
    FusionKind,
    check_backbones,
    is_torchvision,
)

OLD_NAMES = {
    "reach_m": "depth_window_m",
    "vote_weight": "aux_loss_weight",
    "frozen_share": "frozen_fraction",
    "validation_share": "validation_fraction",
    "test_share": "test_fraction",
}
"""Fields of runs from before 2026-11-25, and their current names; --set accepts both."""
MAX_SEED = 2**32 - 2
"""NumPy accepts 32 bits, and a split also uses seed + 1."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of a training except the data.

    Attributes:
        rgb_weights, depth_weights: "imagenet", "none" or a file; see `edgefuse.model.backbones`.
        encoding, depth_window_m: input of the depth backbone; see `edgefuse.model.classifier.ModelConfig`.
        size: side of the model input in pixels.
        near_m, far_m: depth range of the contract in metres.
        learning_rate, final_learning_rate: Adam's, annealed along a cosine from the first to the last (the paper: 1e-3 to 1e-5).
        warm_up: fraction of the steps in which the learning rate rises from 0. Without warm-up, the first steps of Adam can zero all
            features of a pretrained backbone, and the accuracy stays at chance.
        pretrained_rate_scale: factor of the learning rate of pretrained backbones; their BatchNorm statistics are frozen.
        aux_loss_weight: weight of the loss of each auxiliary head, added to that of the fused output; 0 = no heads, as in the paper.
        frozen_fraction: fraction of the stages of a pretrained backbone, from the input on, that are not trained.
        validation_fraction, test_fraction: fraction of the samples held out by group, in addition to `exclude`.
        exclude: glob patterns of sequences held out for testing.
        person: regular expression whose first group, searched in a sequence's name, is the person; only for warnings and the model card.
        num_threads: CPU threads of torch and OpenCV; None = one for each core.
        amp: mixed precision: backbones and heads run in bfloat16 (`torch.autocast`), `FusionClassifier.fp32_modules` in FP32. For
            NVIDIA GPUs since Ampere, and CPUs with AVX-512 BF16 or AMX.
    """

    fusion: FusionKind = field(default="spatial", metadata=one_of(FUSION_KINDS))
    rgb: str = RGB_FROM_SCRATCH
    depth: str = DEPTH_FROM_SCRATCH
    rgb_weights: str = WEIGHTS_NONE
    depth_weights: str = WEIGHTS_NONE
    encoding: DepthEncoding = field(default="relative", metadata=one_of(DEPTH_ENCODINGS))
    depth_window_m: float = limited(0.3, 0, MAX_DEPTH_CODE * DEPTH_UNIT_M, above=True)
    size: int = limited(128, 16, 1024, whole=True)
    near_m: float = limited(0.2, 0, MAX_DEPTH_CODE * DEPTH_UNIT_M)
    far_m: float = limited(2.0, 0, MAX_DEPTH_CODE * DEPTH_UNIT_M, above=True)
    num_features: int = limited(128, 1, 65536, whole=True)
    num_hidden: int = limited(128, 1, 65536, whole=True)
    dropout: float = limited(0.2, 0, 1, below=True)
    feature_dropout: float = limited(0.2, 0, 1, below=True)
    epochs: int = limited(40, 1, 1_000_000, whole=True)
    batch_size: int = limited(32, 1, 65536, whole=True)
    learning_rate: float = limited(1e-3, 0, above=True)
    final_learning_rate: float = limited(1e-5, 0, above=True)
    warm_up: float = limited(0.1, 0, 1)
    pretrained_rate_scale: float = limited(0.3, 0, 100)
    frozen_fraction: float = limited(0.7, 0, 1)
    weight_decay: float = limited(0.0, 0)
    label_smoothing: float = limited(0.1, 0, 1, below=True)
    aux_loss_weight: float = limited(1.0, 0, 1000)
    validation_fraction: float = limited(0.15, 0, 0.5)
    test_fraction: float = limited(0.0, 0, 0.5)
    exclude: tuple[str, ...] = ()
    person: str | None = None
    seed: int = limited(0, 0, MAX_SEED, whole=True)
    num_threads: int | None = limited(None, 1, 1024, whole=True, optional=True)
    amp: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        check_limits(self)
        check_backbones(rgb=self.rgb, depth=self.depth, encoding=self.encoding)
        InputContract(size=self.size, near_m=self.near_m, far_m=self.far_m)
        if self.final_learning_rate > self.learning_rate:
            raise UserError(
                f"learning rates are {self.learning_rate} to {self.final_learning_rate}: 0 < final <= first was expected"
            )

    def to_json(self) -> dict[str, Any]:
        """The configuration as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_json`; fields that an older version did not write keep their defaults."""
        value = with_new_names(value, OLD_NAMES)
        known = {f.name: value[f.name] for f in fields(cls) if f.name in value}
        known["exclude"] = tuple(known.get("exclude", ()))
        known["augmentation"] = Augmentation(**known.get("augmentation", {}))
        return cls(**known)


def small_rgbd(**changes: Any) -> TrainConfig:
    """Small backbones trained from scratch on any machine: the default of `edgefuse train`.

    Args:
        changes: fields of `TrainConfig` to change, such as `epochs=20`.

    Raises:
        UserError: a value is out of range.
        TypeError: unknown field.

    Example:
        >>> import edgefuse
        >>> edgefuse.recipes.small_rgbd(epochs=20).epochs
        20
    """
    return TrainConfig(**changes)


def mobilenet_rgbd(**changes: Any) -> TrainConfig:
    """MobileNetV2 with ImageNet weights for both sensors: the recipe for real images.

    Args:
        changes: as for `small_rgbd`; `rgb_weights="mobilenet_v2.pth"` loads the weights from a file.

    Example:
        >>> import edgefuse
        >>> edgefuse.recipes.mobilenet_rgbd(epochs=20).rgb
        'mobilenet_v2'
    """
    backbones: dict[str, Any] = {"rgb": "mobilenet_v2", "depth": "mobilenet_v2", "rgb_weights": WEIGHTS_IMAGENET}
    chosen = {**backbones, **changes}
    if "depth_weights" not in chosen:
        is_same = chosen["depth"] == chosen["rgb"]
        chosen["depth_weights"] = chosen["rgb_weights"] if is_same else default_weights(chosen["depth"])
    return TrainConfig(**chosen)


def demo_rgbd() -> TrainConfig:
    """Small enough to train the four models of the demo on a CPU in a few minutes.

    One thread: layers this small gain nothing from a second one (7 s with one, 8 s with two on two idle cores) and lose much if the
    cores are busy (7 s with one, 20 s with two).

    Example:
        >>> import edgefuse
        >>> edgefuse.recipes.demo_rgbd().size
        64
    """
    return TrainConfig(size=64, epochs=24, far_m=1.6, test_fraction=0.25, validation_fraction=0.1, num_threads=1)


RECIPES: dict[str, Callable[..., TrainConfig]] = {"small_rgbd": small_rgbd, "mobilenet_rgbd": mobilenet_rgbd}
"""Values of `--recipe`."""


def recipe_with_options(name: str = "small_rgbd", **options: Any) -> TrainConfig:
    """A recipe changed by the options of a command line.

    Args:
        name: one of `RECIPES`.
        options: fields of `TrainConfig`, and `flip` and `background` ("replace", "keep") of its augmentation; None = as in the recipe.
            An RGB backbone also sets the depth backbone to the same network ("scratch" for "small"), and both use ImageNet weights if
            available, unless other options set them. A depth backbone of DeFM also sets the encoding that it expects.

    Raises:
        UserError: unknown recipe, a value out of range, or a depth backbone of DeFM without its weights.
    """
    if name not in RECIPES:
        raise UserError(f"the recipe is {name!r}: one of {', '.join(RECIPES)} was expected")
    recipe = RECIPES[name]()
    changes = {option: value for option, value in options.items() if value is not None}
    augmentation = replace(recipe.augmentation, flip=changes.pop("flip", recipe.augmentation.flip))
    if background := changes.pop("background", None):
        augmentation = replace(augmentation, background=0.0 if background == "keep" else Augmentation.background)
    if "rgb" in changes:
        changes.setdefault("depth", changes["rgb"] if is_torchvision(changes["rgb"]) else DEPTH_FROM_SCRATCH)
        changes.setdefault("rgb_weights", default_weights(changes["rgb"]))
    if changes.get("depth") in DEFM_BACKBONES:
        changes.setdefault("encoding", "log")
    if changes.keys() & {"rgb_weights", "depth"}:
        rgb, depth = changes.get("rgb", recipe.rgb), changes.get("depth", recipe.depth)
        same = changes.get("rgb_weights", recipe.rgb_weights)
        if "depth_weights" not in changes:
            changes["depth_weights"] = same if depth == rgb else default_weights(depth)
    return replace(recipe, **changes, augmentation=augmentation)


def default_weights(backbone: str) -> str:
    """The default initial weights of a backbone.

    Raises:
        UserError: a backbone of DeFM, whose weights edgefuse does not download.
    """
    if backbone in DEFM_BACKBONES:
        raise UserError(
            f"{backbone} has no default weights: give the file of https://github.com/leggedrobotics/defm with --depth-weights FILE "
            "(crossval and bench people: --rgb-weights FILE), or train from scratch with none in place of FILE"
        )
    return WEIGHTS_IMAGENET if is_torchvision(backbone) else WEIGHTS_NONE


def with_values(config: TrainConfig, values: Iterable[str]) -> TrainConfig:
    """The recipe with some values replaced.

    Args:
        values: "name=value", such as "depth_window_m=0.2" or "augmentation.grey=0"; any field of `TrainConfig` with a
            single number, bool or string, and any of `Augmentation`; "auto" for None.

    Raises:
        UserError: another form, an unknown name, or a value of the wrong type or out of range.
    """
    for text in values:
        name, equals, value = text.partition("=")
        name = OLD_NAMES.get(name, name)
        part = config.augmentation if name.startswith("augmentation.") else config
        field_name = name.removeprefix("augmentation.")
        kinds = {f.name: str(f.type) for f in fields(part) if f.name not in ("exclude", "augmentation")}
        if not equals or field_name not in kinds:
            prefix = "augmentation." if part is config.augmentation else ""
            names = sorted(prefix + known_name for known_name in kinds)
            if part is config:
                names += [f"augmentation.{f.name}" for f in fields(config.augmentation)]
            raise UserError(f"--set {text}: NAME=VALUE was expected, with one of {', '.join(names)}")
        changed: dict[str, Any] = {field_name: _parsed(value, kinds[field_name], text=text)}
        try:
            if part is config:
                config = replace(config, **changed)
            else:
                config = replace(config, augmentation=replace(config.augmentation, **changed))
        except UserError as error:
            raise UserError(f"--set {text}: {error}") from error
    return config


def _parsed(value: str, kind: str, *, text: str) -> bool | float | str | None:
    """Convert `value` to the annotated type of a field; "auto" for None, if allowed."""
    kind, *others = kind.split(" | ")
    if "None" in others and value.lower() == "auto":
        return None
    readers: dict[str, tuple[Callable[[str], bool | float], str]] = {
        "bool": (lambda word: {"true": True, "false": False}[word.lower()], "true or false"),
        "int": (int, "a whole number"),
        "float": (float, "a number"),
    }
    if kind not in readers:
        return value
    read, expected = readers[kind]
    try:
        return read(value)
    except (KeyError, ValueError) as error:
        raise UserError(f"--set {text}: {expected}{', or auto,' if 'None' in others else ''} was expected") from error
