"""Whether the sensors delivered data in the pairs of a data set: RGB present, depth present, depth in the model's range.

Owns the tests of single images, also used by live, and the warnings by class, person and sequence in `data check`, training and evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import Clipped, clipped
from edgefuse.data.dataset import Dataset, RgbdDataset, spread_evenly
from edgefuse.io.text import printable, some_of

MAX_BLACK_LEVEL = 8.0
"""RGB counts as black if mean + 2 standard deviations of each channel are at most this, of 255. The noise of a sensor eight stops
below good light is above it (`edgefuse.evaluation.corruptions.dark_rgb`: 20 and more)."""

MAX_OVERLAY = 0.02
"""RGB also counts as black if at most this fraction of its values is above that level: a driver may draw a clock or a name."""

MIN_DEVIATION = 1.0
"""RGB counts as uniform if no channel deviates by more: a driver's grey image, or overexposure."""

MIN_VALID_FRACTION = 0.01
"""Depth counts as missing if a smaller fraction of the pixels has a measurement."""

MAX_CLASS_CLIPPED = 0.5
"""Warn of a class if more than this fraction of its measurements is out of range, even if the complete set is in range."""

NUM_SAMPLED, NUM_OF_CLASS = 200, 20
"""Number of pairs to check, evenly spread over the classes, and the minimum for each class."""

MOST_OF_GROUP, MIN_OF_GROUP = 0.9, 3
"""Warn of a person or a sequence if a sensor is missing in at least this fraction of its checked pairs, at least three."""

_MODALITIES = ("rgb", "depth")
_MISSING = {
    "rgb": "RGB is missing (black or uniform)",
    "depth": "depth is missing (less than 1% measured, or constant)",
}


@dataclass(frozen=True, kw_only=True)
class Sensed:
    """Findings for one pair: the sensors ("rgb", "depth") without data, its measured pixels, and those out of range."""

    missing: frozenset[str]
    num_measured: int
    outside: Clipped


def rgb_is_missing(rgb: NDArray[np.uint8]) -> bool:
    """Whether an image, uint8 [h, w, 3], is black or uniform."""
    # Three numbers each, as Python floats: NumPy takes longer for so few.
    mean, deviation = (values.ravel().tolist() for values in cv2.meanStdDev(rgb))
    if max(deviation) <= MIN_DEVIATION:
        return True
    # With so few values above the level, the mean cannot be higher than this; usually it is, and nothing is counted.
    highest_mean = MAX_BLACK_LEVEL + MAX_OVERLAY * (255 - MAX_BLACK_LEVEL)
    if sum(mean) > highest_mean * len(mean):
        return False
    if np.count_nonzero(rgb > MAX_BLACK_LEVEL) <= MAX_OVERLAY * rgb.size:
        return True
    return bool(max(m + 2 * d for m, d in zip(mean, deviation, strict=True)) <= MAX_BLACK_LEVEL)


def has_next_to_no_depth(codes: NDArray[np.uint16]) -> bool:
    """Whether a depth image, uint16 [h, w] with 0 = no measurement, has (almost) no measurements."""
    return cv2.countNonZero(codes) < MIN_VALID_FRACTION * codes.size


def sensed(
    rgb: NDArray[np.uint8], depth: NDArray[np.uint16], *, depth_unit_m: float, near_m: float, far_m: float
) -> Sensed:
    """The findings for one pair: `rgb` uint8 [H, W, 3], `depth` uint16 [H, W] in codes of `depth_unit_m`."""
    num_measured = int(np.count_nonzero(depth))
    # One measured pixel is constant by nature; a constant over more pixels is not a measurement.
    is_constant = num_measured > 1 and bool(depth.max() == np.where(depth > 0, depth, depth.max()).min())
    missing = {"rgb": rgb_is_missing(rgb), "depth": has_next_to_no_depth(depth) or is_constant}
    return Sensed(
        missing=frozenset(name for name, is_missing in missing.items() if is_missing),
        num_measured=num_measured,
        outside=clipped(depth, depth_unit_m=depth_unit_m, near_m=near_m, far_m=far_m),
    )


def missing_sensors(
    dataset: Dataset, found: Sequence[Sensed], *, modalities: Collection[str] = _MODALITIES
) -> list[str]:
    """One warning for each sensor that is missing in most pairs of a class.

    Args:
        found: the findings for each sample.
        modalities: the sensors to check: a model of RGB only needs no depth.
    """
    warnings = []
    for name in (name for name in _MODALITIES if name in modalities):
        without, most = _without(dataset, found, name), _labels_without(dataset, found, name)
        own = [i for i in without if dataset.samples[i].label in most]
        if own:
            label = min(most)
            first = next(i for i in own if dataset.samples[i].label == label)
            num_pairs = sum(sample.label in most for sample in dataset.samples)
            names = some_of([printable(dataset.labels[label]) for label in sorted(most)])
            warnings.append(
                f"{_MISSING[name]} in {len(own)} of {num_pairs} pairs of "
                f"{len(most)} of {len(dataset.labels)} classes ({names}), first {_path(dataset, first, name)}: a model may learn that "
                f"instead of the class, or nothing; record these again, or train with --fusion {'depth' if name == 'rgb' else 'rgb'}"
            )
    return warnings


def missing_by_group(
    dataset: Dataset,
    found: Sequence[Sensed],
    groups: Sequence[str],
    *,
    what: str = "sequences",
    modalities: Collection[str] = _MODALITIES,
) -> list[str]:
    """One warning for each sensor that is missing in (nearly) all pairs of a person or a sequence.

    Pairs of the classes that `missing_sensors` names do not count.

    Args:
        found: the findings for each sample.
        groups: the person or sequence of each sample.
        what: "people" or "sequences".
    """
    warnings = []
    for name in (name for name in _MODALITIES if name in modalities):
        without, most = set(_without(dataset, found, name)), _labels_without(dataset, found, name)
        of_group: dict[str, list[int]] = {}
        for i, group in enumerate(groups):
            if dataset.samples[i].label not in most:
                of_group.setdefault(group, []).append(i)
        concerned = {
            group: indices
            for group, indices in sorted(of_group.items())
            if len(indices) >= MIN_OF_GROUP and len(without.intersection(indices)) >= MOST_OF_GROUP * len(indices)
        }
        if concerned:
            own = sorted(i for indices in concerned.values() for i in indices)
            first = next(i for i in own if i in without)
            other = {"rgb": "depth", "depth": "RGB"}[name]
            warnings.append(
                f"{_MISSING[name]} in {len(without.intersection(own))} of {len(own)} checked pairs of {len(concerned)} of "
                f"{len(set(groups))} {what} ({printable(some_of(list(concerned)))}), first {_path(dataset, first, name)}: these are "
                f"trained and tested with {other} alone; record them again, or leave them out"
            )
    return warnings


def _without(dataset: Dataset, found: Sequence[Sensed], name: str) -> list[int]:
    """The samples without data of a sensor."""
    return [i for i, (_, fact) in enumerate(zip(dataset.samples, found, strict=True)) if name in fact.missing]


def _labels_without(dataset: Dataset, found: Sequence[Sensed], name: str) -> set[int]:
    """The classes with a sensor missing in most pairs."""
    totals = Counter(sample.label for sample in dataset.samples)
    missing = Counter(dataset.samples[i].label for i in _without(dataset, found, name))
    return {label for label, count in missing.items() if 2 * count > totals[label]}


def _path(dataset: Dataset, index: int, name: str) -> Path:
    sample = dataset.samples[index]
    return sample.rgb_path if name == "rgb" else sample.depth_path


def outside_range(
    dataset: Dataset, found: Sequence[Sensed], *, near_m: float, far_m: float, of: str | None = None
) -> list[str]:
    """A warning of measurements out of range: in the complete set, or in the classes that are mostly out of range.

    Args:
        found: the findings for each sample.
        of: name of the pairs for a message with their number, such as "training pairs".
    """
    whole = _fractions(found).warning(near_m=near_m, far_m=far_m)
    if whole:
        num_over = sum(fact.outside.warning(near_m=near_m, far_m=far_m) is not None for fact in found)
        return [whole if of is None else f"in {num_over} of {len(found)} {of}: {whole}"]
    classes = {}
    for number, label in enumerate(dataset.labels):
        fractions = _fractions(
            [fact for sample, fact in zip(dataset.samples, found, strict=True) if sample.label == number]
        )
        if fractions.nearer + fractions.farther > MAX_CLASS_CLIPPED:
            classes[label] = fractions.warning(near_m=near_m, far_m=far_m)
    label = next(iter(classes), "")
    return (
        [f"{len(classes)} class(es) are out of the depth range, first {printable(label)}: {classes[label]}"]
        if classes
        else []
    )


def sensing_warnings(
    rgbd: RgbdDataset,
    indices: Sequence[int],
    *,
    near_m: float,
    far_m: float,
    of: str = "pairs",
    modalities: Collection[str] = _MODALITIES,
) -> list[str]:
    """The warnings of `missing_sensors` and `outside_range` for a sample of the pairs, a few of each class.

    Args:
        of: name of the pairs, such as "training pairs".
    """
    dataset, found, chosen = _sampled(
        rgbd, indices, [rgbd.dataset.samples[i].label for i in indices], near_m=near_m, far_m=far_m
    )
    of = of if len(chosen) == len(indices) else f"sampled {of}"
    return [
        *missing_sensors(dataset, found, modalities=modalities),
        *outside_range(dataset, found, near_m=near_m, far_m=far_m, of=of),
    ]


def group_warnings(
    rgbd: RgbdDataset,
    indices: Sequence[int],
    groups: Sequence[str],
    *,
    what: str,
    modalities: Collection[str] = _MODALITIES,
) -> list[str]:
    """The warnings of `missing_by_group` for a sample of the pairs, a few of each group.

    Args:
        groups: the person or sequence of every sample of the data set.
        what: "people" or "sequences".
    """
    of_group = [groups[i] for i in indices]
    dataset, found, chosen = _sampled(rgbd, indices, of_group, near_m=0.0, far_m=1.0, least=MIN_OF_GROUP)
    return missing_by_group(dataset, found, [groups[i] for i in chosen], what=what, modalities=modalities)


def _sampled(
    rgbd: RgbdDataset,
    indices: Sequence[int],
    keys: Sequence[object],
    *,
    near_m: float,
    far_m: float,
    least: int = NUM_OF_CLASS,
) -> tuple[Dataset, list[Sensed], list[int]]:
    """The findings for about `NUM_SAMPLED` pairs, evenly spread over the values of `keys`, at least `least` of each."""
    by_key: dict[object, list[int]] = {}
    for i, key in zip(indices, keys, strict=True):
        by_key.setdefault(key, []).append(i)
    most = max(least, NUM_SAMPLED // max(1, len(by_key)))
    chosen = [own[k] for own in by_key.values() for k in spread_evenly(len(own), most)]
    found = [
        sensed(
            rgbd.rgb[i],
            rgbd.depth[i],
            depth_unit_m=rgbd.dataset.samples[i].depth_unit_m,
            near_m=near_m,
            far_m=far_m,
        )
        for i in chosen
    ]
    return rgbd.dataset.subset(chosen), found, chosen


def _fractions(found: Sequence[Sensed]) -> Clipped:
    total = sum(fact.num_measured for fact in found)
    if not total:
        return Clipped(0.0, 0.0)
    nearer = sum(fact.outside.nearer * fact.num_measured for fact in found)
    farther = sum(fact.outside.farther * fact.num_measured for fact in found)
    return Clipped(nearer / total, farther / total)
