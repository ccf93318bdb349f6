"""What a training says before it starts: what it learns from, whether images are mirrored and why, and what may go wrong.

Owns these lines, and the augmentation that labels and fusion allow.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgefuse.contract import Clipped, clipped
from edgefuse.data.augment import Augmentation
from edgefuse.data.folder import Dataset, Pictures
from edgefuse.data.sides import sided_names
from edgefuse.data.splits import Split, untouched
from edgefuse.io.text import some_of
from edgefuse.model.names import SINGLE_MODALITIES
from edgefuse.training.recipe import TrainConfig

NUM_RANGED = 200
"""So many training pairs, evenly spread, tell how much of the depth is out of range."""


def fitting_augmentation(config: TrainConfig, dataset: Dataset) -> Augmentation:
    """The augmentation with mirroring decided, and without dropping the only modality that there is."""
    augmentation = config.augmentation
    if augmentation.flip is None:
        augmentation = replace(augmentation, flip=not sided_names(dataset.labels))
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
    sided = sided_names(labels)
    if sided:
        speak = "speaks of a side" if len(sided) == 1 else "speak of sides"
        return f"images are not mirrored: {some_of(sided, most=3)} {speak} (--flip mirrors them all the same)"
    return "half of the images are mirrored: no class name speaks of a side (--no-flip turns it off)"


def warnings_before(pictures: Pictures, parts: Split, *, config: TrainConfig) -> list[str]:
    """One line for each thing that would make figures or the model wrong without a word.

    Args:
        config: as it was asked for, before `fitting_augmentation`.
    """
    dataset = pictures.dataset
    found = list[str]()
    for name, part in (("test", parts.test), ("validation", parts.validation)):
        lacking = untouched(dataset, part) if part else []
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
    if config.validation_share and not parts.validation:
        found.append(
            "no validation pairs: each class needs its last sequence to learn from, so temperature and degraded mode are not "
            "chosen on pairs of their own; record more sequences"
        )
    sided = sided_names(dataset.labels)
    if config.augmentation.flip and sided:
        found.append(
            f"images are mirrored although {some_of(sided, most=3)} speak{'s' if len(sided) == 1 else ''} of a side: "
            "a mirrored image may belong to another class; leave --flip out"
        )
    out_of_range = depth_out_of_range(pictures, parts.train, near_m=config.near_m, far_m=config.far_m)
    return [*found, *([out_of_range] if out_of_range else [])]


def depth_out_of_range(pictures: Pictures, indices: tuple[int, ...], *, near_m: float, far_m: float) -> str | None:
    """One line where more than a few per cent of the measurements of these pairs are out of the depth range."""
    step = max(1, len(indices) // NUM_RANGED)
    shares = []
    for i in indices[::step]:
        unit_m = pictures.dataset.samples[i].depth_unit_m
        shares.append(clipped(pictures.depth[i], depth_unit_m=unit_m, near_m=near_m, far_m=far_m))
    if not shares:
        return None
    nearer, farther = np.mean(shares, axis=0)
    text = Clipped(float(nearer), float(farther)).warning(near_m=near_m, far_m=far_m)
    if text is None:
        return None
    num_over = sum(share.warning(near_m=near_m, far_m=far_m) is not None for share in shares)
    return (
        f"in {num_over} of {len(shares)} training pairs: {text}"
        if step == 1
        else f"in {num_over} of {len(shares)} sampled training pairs: {text}"
    )
