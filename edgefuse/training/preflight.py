"""Checks before a training starts: a summary of the data, whether images are mirrored and why, and warnings.

Owns these messages, and the augmentation that labels and fusion allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgefuse.data.augmentation import Augmentation
from edgefuse.data.dataset import Dataset, RgbdDataset
from edgefuse.data.mirrored_labels import labels_with_sides
from edgefuse.data.people import class_warnings, one_person_warning, people_of, short_sequences_note
from edgefuse.data.sensor_coverage import group_warnings, sensing_warnings
from edgefuse.data.splits import Split, labels_without_samples
from edgefuse.io.text import some_of
from edgefuse.model.choices import SINGLE_MODALITIES
from edgefuse.training.recipe import TrainConfig


def fitting_augmentation(config: TrainConfig, dataset: Dataset) -> Augmentation:
    """The augmentation with `flip` resolved, and without modality dropout if there is only one modality."""
    augmentation = config.augmentation
    if augmentation.flip is None:
        augmentation = replace(augmentation, flip=not labels_with_sides(dataset.labels))
    if config.fusion in SINGLE_MODALITIES:
        augmentation = replace(augmentation, rgb_dropout=0.0, depth_dropout=0.0)
    return augmentation


def opening_line(dataset: Dataset, parts: Split, *, asked_flip: bool | None) -> str:
    """Classes, pairs of each part, and mirroring.

    Args:
        asked_flip: `flip` of the recipe; None = by the class names.
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
        return f"images are {'' if asked else 'not '}mirrored, as requested"
    with_sides = labels_with_sides(labels)
    if with_sides:
        contain = "contains" if len(with_sides) == 1 else "contain"
        return f"images are not mirrored: {some_of(with_sides, most=3)} {contain} a side (--flip mirrors them anyway)"
    return "half of the images are mirrored: no class name contains a side (--no-flip turns it off)"


def warnings_before(rgbd: RgbdDataset, parts: Split, *, config: TrainConfig) -> list[str]:
    """One line for each problem that would silently make the metrics or the model wrong.

    Args:
        config: as requested, before `fitting_augmentation`.
    """
    dataset = rgbd.dataset
    found = list[str]()
    for name, part in (("test", parts.test), ("validation", parts.validation)):
        lacking = labels_without_samples(dataset, part) if part else []
        if lacking:
            rest = (
                "the test metrics do not cover"
                if name == "test"
                else "temperature and degraded mode are chosen without"
            )
            found.append(
                f"no {name} pair of {some_of(lacking)} ({len(lacking)} of {len(dataset.labels)} classes): "
                f"{rest} {'it' if len(lacking) == 1 else 'them'}; record more sequences of {'it' if len(lacking) == 1 else 'them'}"
            )
    if config.validation_fraction and not parts.validation:
        found.append(
            "no validation pairs: each class needs its last sequence for training, so the temperature stays 1 and degraded mode is "
            "chosen on the test pairs, if there are any; record more sequences"
        )
    with_sides = labels_with_sides(dataset.labels)
    if config.augmentation.flip and with_sides:
        found.append(
            f"images are mirrored although {some_of(with_sides, most=3)} contain{'s' if len(with_sides) == 1 else ''} a side: "
            "a mirrored image may belong to another class; leave out --flip"
        )
    if config.person is not None:
        people = people_of(dataset, person=config.person)
        tested = {people[i] for part in (parts.validation, parts.test) for i in part}
        found += one_person_warning({people[i] for i in parts.train}, tested=tested)
    every = sorted([*parts.train, *parts.validation, *parts.test])
    return [*found, *sensing_notes(rgbd, parts.train, config), *group_notes(rgbd, every, config)]


def sensing_notes(
    rgbd: RgbdDataset, indices: Sequence[int], config: TrainConfig, *, of: str = "training pairs"
) -> list[str]:
    """One line for each sensor of the recipe that is missing in most pairs of a class, and one for depth out of range."""
    return sensing_warnings(
        rgbd, indices, near_m=config.near_m, far_m=config.far_m, of=of, modalities=_modalities(config)
    )


def group_notes(rgbd: RgbdDataset, indices: Sequence[int], config: TrainConfig) -> list[str]:
    """What the data of one person or sequence lacks: one line for each sensor, and one for the people without a class.

    Without `person` in the recipe, only sensors are checked, by sequence.
    """
    dataset, modalities = rgbd.dataset, _modalities(config)
    found = list[str]()
    if config.person is not None:
        people = people_of(dataset, person=config.person)
        found = class_warnings(dataset.subset(indices), [people[i] for i in indices])
        missing = group_warnings(rgbd, indices, people, what="people", modalities=modalities)
        if missing:
            return [*found, *missing]
    return [*found, *group_warnings(rgbd, indices, dataset.groups(), what="sequences", modalities=modalities)]


def data_notes(rgbd: RgbdDataset, config: TrainConfig) -> list[str]:
    """What a cross-validation reports about all of its pairs: mirroring, `sensing_notes`, `group_notes` and short sequences."""
    every = range(len(rgbd.rgb))
    return [
        mirroring(rgbd.dataset.labels, asked=config.augmentation.flip),
        *sensing_notes(rgbd, every, config, of="pairs"),
        *group_notes(rgbd, every, config),
        *filter(None, [short_sequences_note(rgbd.dataset)]),
    ]


def _modalities(config: TrainConfig) -> tuple[str, ...]:
    return SINGLE_MODALITIES if config.fusion not in SINGLE_MODALITIES else (config.fusion,)
