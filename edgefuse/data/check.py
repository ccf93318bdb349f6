"""Checks of a data set folder before training: counts, sizes, depth, near-duplicates between sequences, bad pairs.

Owns the report. Reads pairs one by one, so that a data set larger than the memory can be checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.answers import BACKGROUND, NONE
from edgefuse.contract import MAX_DEPTH_CODE
from edgefuse.data.dataset import PLAUSIBLE_MEDIAN_M, Dataset, Sample, decode_pair, same_images, scan
from edgefuse.data.folds import BY_FRAME, BY_SEQUENCE, group_names
from edgefuse.data.image_cache import digest_of_pixels, one_at_a_time
from edgefuse.data.people import class_warnings, one_person_warning, people_of, short_sequences_note
from edgefuse.data.sensor_coverage import Sensed, missing_by_group, missing_sensors, outside_range, sensed
from edgefuse.errors import UserError
from edgefuse.io.images import has_orientation, read_bytes
from edgefuse.progress import Progress, no_progress

PERCENTILES = (1, 5, 50, 95, 99)
MAX_LIMIT_FRACTION = 0.01
"""Warn if more than this fraction of the pixels has the largest code."""
NEAR_M, FAR_M = 0.2, 2.0
"""The default depth range of training."""
THUMBNAIL = 16
SAME_IMAGE = 0.98
"""Two frames count as near-duplicates from this correlation of their grey 16x16 thumbnails, normalised in mean and contrast.

In 1,200 recorded frames of hands, 69 % of the frames have such a near-duplicate in their own sequence, and none has one in another
sequence. At 0.95, two of 400 rendered frames of different objects matched; 0.995 found half as many true near-duplicates.
"""
_FLAT_LEVELS = 2.0
"""Thumbnails with less contrast are not compared: all images of a dark scene look the same."""
_BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """Pairs of each sequence of one class."""

    label: str
    pairs: int
    sequences: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Two groups of sequences with near-duplicate frames.

    Attributes:
        frames: number of frames in the two groups whose most similar frame outside their group is in the other one.
        correlation: of the most similar two frames, `first` and `second`.
    """

    groups: tuple[str, str]
    frames: int
    correlation: float
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of `check`.

    Attributes:
        sizes: number of pairs by "WxH".
        valid_depth: mean fraction of pixels with depth, the lowest of a pair, number of pairs without any, and mean fraction of
            pixels at the largest code, which some recorders write for "too far".
        depth_m: percentiles of all measured depths in metres, by number; empty if nothing was measured.
        leaks: groups with near-duplicates, the most first.
        num_leaking: frames with a near-duplicate in another group.
        problems: bad pairs and files that belong to no pair, one sentence for each kind and folder; `num_bad` of them.
        warnings: probable faults of readable pairs, one sentence each.
        notes: remarks that are no fault, such as on short sequences.
    """

    num_pairs: int
    num_groups: int
    classes: tuple[ClassCount, ...]
    sizes: dict[str, int]
    depth_unit_m: tuple[float, ...]
    align: str
    valid_depth: dict[str, float]
    depth_m: dict[str, float]
    leaks: tuple[Leak, ...]
    num_leaking: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    num_bad: int = 0
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return asdict(self)


def check(  # long: one pass over the pairs collects all figures, then one call for each figure
    roots: Sequence[Path],
    *,
    by: str = BY_SEQUENCE,
    person: str | None = None,
    near_m: float = NEAR_M,
    far_m: float = FAR_M,
    progress: Progress = no_progress,
) -> tuple[Report, Dataset]:
    """Read every pair below `roots`. Bad pairs are listed, the others are reported and returned as a data set.

    Args:
        by: near-duplicates count between these groups: "sequence", or an expression as in `edgefuse.data.folds`.
        person: expression that finds the person in a sequence's name; warnings say what the data of one person lacks.
        near_m, far_m: depth range of the planned training; measurements outside it give a warning.

    Raises:
        UserError: an invalid expression, a root that is missing or has no pairs, or roots that differ in alignment.
    """
    dataset = scan(roots, skip_bad=True, may_be_unchecked=True)
    if by == BY_FRAME:
        raise UserError("--by is 'frame': sequence, or an expression whose first group names the group, was expected")
    group_names(dataset, by=by)  # raises for an invalid expression before the pairs are read
    if person is not None:
        people_of(dataset, person=person)
    problems = list(dataset.left_out)
    good: list[int] = []
    facts: list[_Facts] = []
    histograms: dict[float, NDArray[np.int64]] = {}
    with ThreadPoolExecutor() as pool:
        for i, result in enumerate(pool.map(partial(_read_facts, near_m=near_m, far_m=far_m), dataset.samples)):
            if isinstance(result, str):
                problems.append(result)
            else:
                found, codes, counts = result
                good.append(i)
                facts.append(found)
                unit_m = dataset.samples[i].depth_unit_m
                histograms.setdefault(unit_m, np.zeros(MAX_DEPTH_CODE + 1, np.int64))[codes] += counts
            progress(i + 1, len(dataset.samples), stage="reading")
    dataset = dataset.subset(good)
    groups = group_names(dataset, by=by)
    leaks, num_leaking = _leaks(dataset, [fact.thumbnail for fact in facts], groups)
    valid_depth, depth_m = _valid(facts), _percentiles(histograms)
    every = [fact.sensed for fact in facts]
    report = Report(
        num_pairs=len(good),
        num_groups=len(set(groups)),
        classes=count_classes(dataset),
        sizes=dict(Counter(fact.size for fact in facts).most_common()),
        depth_unit_m=tuple(sorted({sample.depth_unit_m for sample in dataset.samples})),
        align=dataset.align,
        valid_depth=valid_depth,
        depth_m=depth_m,
        leaks=leaks,
        num_leaking=num_leaking,
        problems=tuple(problems),
        num_bad=dataset.num_left_out + len(problems) - len(dataset.left_out),
        notes=tuple(filter(None, [short_sequences_note(dataset), _background_note(dataset)])),
        warnings=(
            *dataset.warnings,
            *same_images(dataset, [fact.pixels for fact in facts]),
            *_orientation_warnings(dataset, facts),
            *missing_sensors(dataset, every),
            *_group_warnings(dataset, every, person=person),
            *(_warnings(valid_depth, depth_m) or outside_range(dataset, every, near_m=near_m, far_m=far_m)),
        ),
    )
    return report, dataset


def thumbnail(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """An image's grey levels on a grid of `THUMBNAIL` squared, [D], as `closest_twins` compares them."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).ravel()


def closest_twins(thumbnails: NDArray[np.float32], groups: Sequence[str]) -> list[tuple[int, int, float]]:
    """Frames that look like a frame of another group: (frame, the most similar one there, their correlation).

    Compares every thumbnail with every other, in blocks: 40,000 of them take about 10^12 operations.

    Args:
        thumbnails: [N, D] grey levels, 0 to 255.
    """
    centred = thumbnails - thumbnails.mean(1, keepdims=True)
    contrast = centred.std(1)
    usable = np.flatnonzero(contrast > _FLAT_LEVELS)
    if not len(usable):
        return []
    units = centred[usable] / (contrast[usable, None] * np.sqrt(np.float32(thumbnails.shape[1])))
    _, numbers = np.unique(np.array(groups, dtype=str)[usable], return_inverse=True)
    found = []
    for start in range(0, len(usable), _BLOCK):
        block = slice(start, start + _BLOCK)
        likeness = np.where(numbers[block, None] == numbers, np.float32(-1), units[block] @ units.T)
        closest = likeness.argmax(1)
        best = np.minimum(likeness.max(1), 1.0)
        found += [
            (int(usable[start + i]), int(usable[closest[i]]), float(best[i])) for i in np.flatnonzero(best > SAME_IMAGE)
        ]
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Facts:
    size: str
    valid_fraction: float
    limit_fraction: float
    thumbnail: NDArray[np.float32]
    sensed: Sensed
    pixels: bytes
    has_orientation: bool


def _read_facts(
    sample: Sample, *, near_m: float, far_m: float
) -> tuple[_Facts, NDArray[np.uint16], NDArray[np.int64]] | str:
    """Figures of a pair, its depth codes and the number of pixels with each; or why the pair cannot be used."""
    try:
        rgb_bytes, depth_bytes = read_bytes(sample.rgb_path), read_bytes(sample.depth_path)
        with one_at_a_time(rgb_bytes, depth_bytes):
            rgb, depth = decode_pair(sample.rgb_path, sample.depth_path, rgb_bytes, depth_bytes)
            codes, counts = np.unique(depth, return_counts=True)
            facts = _Facts(
                size=f"{rgb.shape[1]}x{rgb.shape[0]}",
                valid_fraction=float((depth > 0).mean()),
                limit_fraction=float((depth == MAX_DEPTH_CODE).mean()),
                thumbnail=thumbnail(rgb),
                sensed=sensed(rgb, depth, depth_unit_m=sample.depth_unit_m, near_m=near_m, far_m=far_m),
                pixels=digest_of_pixels(rgb, depth),
                has_orientation=has_orientation(rgb_bytes) or has_orientation(depth_bytes),
            )
    except UserError as error:
        return str(error)
    return facts, codes, counts.astype(np.int64)


def count_classes(dataset: Dataset) -> tuple[ClassCount, ...]:
    """Pairs and sequences of each class."""
    sequences = [Counter[str]() for _ in dataset.labels]
    for sample in dataset.samples:
        sequences[sample.label][sample.sequence] += 1
    return tuple(
        ClassCount(label=label, pairs=count.total(), sequences=dict(sorted(count.items())))
        for label, count in zip(dataset.labels, sequences, strict=True)
    )


def _background_note(dataset: Dataset) -> str:
    """Advice for a data set without the background class; empty for others."""
    if BACKGROUND in dataset.labels:
        return ""
    return (
        f"no class {BACKGROUND}: a model answers an empty image, or an object of no class, with one of its classes; record such images with "
        f"edgefuse record --label {BACKGROUND}, and edgefuse live answers them with {NONE}"
    )


def _valid(facts: Sequence[_Facts]) -> dict[str, float]:
    if not facts:
        return {}
    fractions = [fact.valid_fraction for fact in facts]
    return {
        "mean": float(np.mean(fractions)),
        "lowest": min(fractions),
        "pairs_without": float(fractions.count(0.0)),
        "at_limit": float(np.mean([fact.limit_fraction for fact in facts])),
    }


def _percentiles(histograms: Mapping[float, NDArray[np.int64]]) -> dict[str, float]:
    """Percentiles of all measured depths in metres, from the number of pixels with each code, by depth unit."""
    units_m = sorted(histograms)
    if not any(histograms[unit_m][1:].any() for unit_m in units_m):
        return {}
    depths_m = np.concatenate([unit_m * np.arange(1, MAX_DEPTH_CODE + 1) for unit_m in units_m])
    counts = np.concatenate([histograms[unit_m][1:] for unit_m in units_m])
    order = np.argsort(depths_m, kind="stable")
    cumulative = np.cumsum(counts[order])
    places = np.searchsorted(cumulative, np.array(PERCENTILES) / 100 * cumulative[-1])
    return {f"p{p}": round(float(depths_m[order[i]]), 6) for p, i in zip(PERCENTILES, places, strict=True)}


def _warnings(valid_depth: Mapping[str, float], depth_m: Mapping[str, float]) -> tuple[str, ...]:
    """Warnings of probable faults of the depth."""
    found = []
    if valid_depth and valid_depth["at_limit"] > MAX_LIMIT_FRACTION:
        found.append(
            f"{valid_depth['at_limit']:.1%} of the pixels have the largest code {MAX_DEPTH_CODE}: some recorders write it for "
            "'too far'; replace it by 0 (no measurement), or it counts as depth"
        )
    near_m, far_m = PLAUSIBLE_MEDIAN_M
    if depth_m and not near_m <= depth_m["p50"] <= far_m:
        found.append(
            f"half of the depth is below {depth_m['p50']:g} m, {near_m:g} to {far_m:g} m was expected: is depth_unit_m in "
            "dataset.json right?"
        )
    return tuple(found)


def _orientation_warnings(dataset: Dataset, facts: Sequence[_Facts]) -> list[str]:
    paths = [sample.rgb_path for sample, fact in zip(dataset.samples, facts, strict=True) if fact.has_orientation]
    if not paths:
        return []
    return [
        f"{len(paths)} pair(s) have an EXIF orientation, first {paths[0]}: it is ignored, and both images are used as stored; "
        "if a viewer shows colour and depth rotated alike, save the images upright"
    ]


def _group_warnings(dataset: Dataset, found: Sequence[Sensed], *, person: str | None) -> list[str]:
    """What the data of one person lacks; without an expression, sequences without a sensor."""
    by_sequence = missing_by_group(dataset, found, dataset.groups())
    if person is None or not dataset.samples:
        return by_sequence
    people = people_of(dataset, person=person)
    missing = missing_by_group(dataset, found, people, what="people")
    return [*one_person_warning(people, tested=None), *class_warnings(dataset, people), *(missing or by_sequence)]


def _leaks(
    dataset: Dataset, thumbnails: Sequence[NDArray[np.float32]], groups: Sequence[str]
) -> tuple[tuple[Leak, ...], int]:
    """Leaks, the largest first, and the number of frames with a near-duplicate."""
    if not thumbnails:
        return (), 0
    twins = closest_twins(np.stack(thumbnails), groups)
    by_groups: dict[tuple[str, str], list[tuple[int, int, float]]] = {}
    for i, j, likeness in twins:
        first, second = sorted((groups[i], groups[j]))
        by_groups.setdefault((first, second), []).append((i, j, likeness))
    leaks = []
    for pair, found in by_groups.items():
        i, j, likeness = max(found, key=lambda twin: twin[2])
        names = (_name(dataset, i), _name(dataset, j))
        leaks.append(Leak(groups=pair, frames=len(found), correlation=likeness, first=names[0], second=names[1]))
    return tuple(sorted(leaks, key=lambda leak: (-leak.frames, leak.groups))), len(twins)


def _name(dataset: Dataset, index: int) -> str:
    sample = dataset.samples[index]
    return f"{dataset.labels[sample.label]}/{sample.sequence}/{sample.name}"
