"""What a training says before it starts: what it learns from, whether images are mirrored and why, and what may go wrong.

Owns these lines, and the augmentation that labels and fusion allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgefuse.data.augmentation import Augmentation
from edgefuse.data.dataset import Dataset, RgbdDataset
from edgefuse.data.mirrored_labels import labels_with_sides
from edgefuse.data.sensor_coverage import sensing_warnings
from edgefuse.data.splits import Split, labels_without_samples
from edgefuse.io.text import some_of
from edgefuse.model.choices import SINGLE_MODALITIES
from edgefuse.training.recipe import TrainConfig


def fitting_augmentation(config: TrainConfig, dataset: Dataset) -> Augmentation:
    """The augmentation with mirroring decided, and without dropping the only modality that there is."""
    augmentation = config.augmentation
    if augmentation.flip is None:
        augmentation = replace(augmentation, flip=not labels_with_sides(dataset.labels))
    if config.fusion in SINGLE_MODALITIES:
        augmentation = replace(augmentation, rgb_dropout=0.0, depth_dropout=0.0)
    return augmentation


def opening_line(dataset: Dataset, parts: Split, *, asked_flip: bool | None) -> str:
    """Classes, pairs of each part, and mirroring.

    Args:
        asked_flip: what the recipe says of mirroring; None = by the class names.
    """
    groups = dataset.groups()
    counts = ", ".join(
        f"{len(part)} {name} ({len({groups[i] for i in part})} groups)"
        for name, part in (("training", parts.train), ("validation", parts.validation), ("test", parts.test))
        if part
    )
    return f"{len(dataset.labels)} classes, {counts}; {mirroring(dataset.labels, asked=asked_flip)}"


def mirroring(labels: tuple[str, ...], *, asked: bool | None) -> str:
    """Whether images are mirrored, and why."""
    if asked is not None:
        return f"images are {'' if asked else 'not '}mirrored, as asked for"
    sided = labels_with_sides(labels)
    if sided:
        speak = "speaks of a side" if len(sided) == 1 else "speak of sides"
        return f"images are not mirrored: {some_of(sided, most=3)} {speak} (--flip mirrors them all the same)"
    return "half of the images are mirrored: no class name speaks of a side (--no-flip turns it off)"


def warnings_before(rgbd: RgbdDataset, parts: Split, *, config: TrainConfig) -> list[str]:
    """One line for each thing that would make figures or the model wrong without a word.

    Args:
        config: as it was asked for, before `fitting_augmentation`.
    """
    dataset = rgbd.dataset
    found = list[str]()
    for name, part in (("test", parts.test), ("validation", parts.validation)):
        lacking = labels_without_samples(dataset, part) if part else []
        if lacking:
            rest = (
                "the test figures say nothing of"
                if name == "test"
                else "temperature and degraded mode rest on figures without"
            )
            found.append(
                f"no {name} pair of {some_of(lacking)} ({len(lacking)} of {len(dataset.labels)} classes): "
                f"{rest} {'it' if len(lacking) == 1 else 'them'}; record more sequences of {'it' if len(lacking) == 1 else 'them'}"
            )
    if config.validation_fraction and not parts.validation:
        found.append(
            "no validation pairs: each class needs its last sequence to learn from, so temperature and degraded mode are not "
            "chosen on pairs of their own; record more sequences"
        )
    sided = labels_with_sides(dataset.labels)
    if config.augmentation.flip and sided:
        found.append(
            f"images are mirrored although {some_of(sided, most=3)} speak{'s' if len(sided) == 1 else ''} of a side: "
            "a mirrored image may belong to another class; leave --flip out"
        )
    return [*found, *sensing_notes(rgbd, parts.train, config)]


def sensing_notes(
    rgbd: RgbdDataset, indices: Sequence[int], config: TrainConfig, *, of: str = "training pairs"
) -> list[str]:
    """One line for each sensor of the recipe that is missing in most pairs of a class, and one of depth out of its range."""
    modalities = SINGLE_MODALITIES if config.fusion not in SINGLE_MODALITIES else (config.fusion,)
    return sensing_warnings(rgbd, indices, near_m=config.near_m, far_m=config.far_m, of=of, modalities=modalities)
