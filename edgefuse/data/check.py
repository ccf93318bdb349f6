"""What is in a data set folder, before anything is trained on it: counts, sizes, depth, leaks between instances, bad pairs.

Owns the report and its montage; reads pairs one by one, so that a set larger than the memory can be checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import MAX_DEPTH_CODE
from edgefuse.data.folder import DEPTH_SUFFIX, RGB_SUFFIX, Dataset, Sample, read_pair, scan
from edgefuse.data.folds import BY_FRAME, BY_INSTANCE, group_names
from edgefuse.errors import UserError
from edgefuse.io.images import write_image
from edgefuse.io.text import ascii_only

PERCENTILES = (1, 5, 50, 95, 99)
MAX_LIMIT_SHARE = 0.01
"""Share of pixels at the largest code from which on the user is warned."""
PLAUSIBLE_MEDIAN_M = (0.1, 10.0)
"""Where the median of a set's depth lies when its unit is right: RGB-D cameras measure from about 0.1 to 10 m."""
CAPTION_PX = 12

THUMBNAIL = 16
SAME_PICTURE = 0.98
"""Correlation of two grey thumbnails of 16x16, mean and contrast taken out, from which two frames count as the same picture.

On 1,200 recorded frames of hands 69 % of the frames have such a twin in their own take, and none has one in another take;
0.95 gave twins to two of 400 rendered frames of different objects, 0.995 found half as many true ones.
"""
_FLAT_LEVELS = 2.0
"""Thumbnails with less contrast have nothing to compare: a dark room looks like every other."""
_BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """Pairs of each instance of one class."""

    label: str
    pairs: int
    instances: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Two groups of instances with frames that are nearly the same picture.

    Attributes:
        frames: frames of the two whose closest twin outside their group stands in the other.
        correlation: of the most similar two, which are named.
    """

    groups: tuple[str, str]
    frames: int
    correlation: float
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `check` found.

    Attributes:
        sizes: number of pairs by "WxH".
        valid_depth: mean share of pixels with depth, the lowest of a pair, pairs with none at all, and the mean share of
            pixels at the largest code, which some recorders write for "too far".
        depth_m: percentiles of all measured depths in metres, by number; empty where nothing was measured.
        leaks: the groups with most near-duplicates first.
        num_leaking: frames with a near-duplicate in another group.
        problems: bad pairs, one sentence each.
        warnings: what is probably wrong with the depth of pairs that can be read, one sentence each.
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

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def check(  # long: what each pair tells is gathered in one pass, and each figure is a call
    roots: Sequence[Path],
    *,
    by: str = BY_INSTANCE,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[Report, Dataset]:
    """Read every pair below `roots`; bad ones are listed, the others reported and returned as a data set.

    Args:
        by: what near-duplicates must stand across to count: "instance", or an expression as for `edgefuse.data.folds`.

    Raises:
        UserError: an expression that does not fit, a root is missing or has no pairs at all, or the roots differ in alignment.
    """
    dataset = scan(roots, skip_bad=True)
    if by == BY_FRAME:
        raise UserError("--by is 'frame': instance, or an expression whose first group names the group, was expected")
    group_names(dataset, by=by)  # what does not fit is better said before the pairs are read
    problems = _incomplete(roots)
    good: list[int] = []
    facts: list[_Facts] = []
    histograms: dict[float, NDArray[np.int64]] = {}
    with ThreadPoolExecutor() as pool:
        for i, result in enumerate(pool.map(_look, dataset.samples)):
            if isinstance(result, str):
                problems.append(result)
            else:
                found, codes, counts = result
                good.append(i)
                facts.append(found)
                unit_m = dataset.samples[i].depth_unit_m
                histograms.setdefault(unit_m, np.zeros(MAX_DEPTH_CODE + 1, np.int64))[codes] += counts
            on_progress(i + 1, len(dataset.samples))
    dataset = dataset.subset(good)
    groups = group_names(dataset, by=by)
    leaks, num_leaking = _leaks(dataset, [fact.thumbnail for fact in facts], groups)
    valid_depth, depth_m = _valid(facts), _percentiles(histograms)
    report = Report(
        num_pairs=len(good),
        num_groups=len(set(groups)),
        classes=_count(dataset),
        sizes=dict(Counter(fact.size for fact in facts).most_common()),
        depth_unit_m=tuple(sorted({sample.depth_unit_m for sample in dataset.samples})),
        align=dataset.align,
        valid_depth=valid_depth,
        depth_m=depth_m,
        leaks=leaks,
        num_leaking=num_leaking,
        problems=tuple(problems),
        warnings=_warnings(valid_depth, depth_m),
    )
    return report, dataset


def closest_twins(thumbnails: NDArray[np.float32], groups: Sequence[str]) -> list[tuple[int, int, float]]:
    """The frames that look like one of another group: (frame, the most similar one there, their correlation).

    Every thumbnail meets every other, in blocks: 40,000 of them take some 10^12 operations.

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
            (int(usable[start + i]), int(usable[closest[i]]), float(best[i]))
            for i in np.flatnonzero(best > SAME_PICTURE)
        ]
    return found


def montage(dataset: Dataset, path: Path, *, side_px: int = 96, per_class: int = 3, columns: int = 10) -> None:
    """Write a PNG: a few pairs of each class, RGB below its instance's name and above depth (near is red, far blue, none black).

    Depth is coloured from the 2nd to the 98th percentile of each picture by itself, so that small relief shows; they stand below.
    """
    drawn = [_strip(dataset, number, side_px=side_px, per_class=per_class) for number in range(len(dataset.labels))]
    strips = [strip for strip in drawn if strip is not None]
    if not strips:
        raise UserError("there is no pair to draw a montage of")
    columns = min(columns, len(strips))
    rows = []
    for start in range(0, len(strips), columns):
        row = strips[start : start + columns]
        row += [np.zeros_like(row[0])] * (columns - len(row))
        rows.append(np.hstack(row))
    write_image(path, np.asarray(cv2.cvtColor(np.vstack(rows), cv2.COLOR_BGR2RGB), np.uint8))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Facts:
    size: str
    valid_share: float
    limit_share: float
    thumbnail: NDArray[np.float32]


def _look(sample: Sample) -> tuple[_Facts, NDArray[np.uint16], NDArray[np.int64]] | str:
    """What a pair is like, its depth codes and how many pixels have each; or why it cannot be used."""
    try:
        rgb, depth = read_pair(sample.rgb_path, sample.depth_path)
    except UserError as error:
        return str(error)
    codes, counts = np.unique(depth, return_counts=True)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    thumbnail = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    facts = _Facts(
        size=f"{rgb.shape[1]}x{rgb.shape[0]}",
        valid_share=float((depth > 0).mean()),
        limit_share=float((depth == MAX_DEPTH_CODE).mean()),
        thumbnail=thumbnail,
    )
    return facts, codes, counts.astype(np.int64)


def _incomplete(roots: Sequence[Path]) -> list[str]:
    """Pictures that stand alone, which `scan` leaves out."""
    problems = []
    for root in roots:
        rgb, depth = (
            {str(path).removesuffix(suffix) for path in root.glob(f"*/*/*{suffix}")}
            for suffix in (RGB_SUFFIX, DEPTH_SUFFIX)
        )
        problems += [f"{stem}{RGB_SUFFIX}: no depth beside it" for stem in sorted(rgb - depth)]
        problems += [f"{stem}{DEPTH_SUFFIX}: no RGB picture beside it" for stem in sorted(depth - rgb)]
    return problems


def _count(dataset: Dataset) -> tuple[ClassCount, ...]:
    instances = [Counter[str]() for _ in dataset.labels]
    for sample in dataset.samples:
        instances[sample.label][sample.instance] += 1
    return tuple(
        ClassCount(label=label, pairs=count.total(), instances=dict(sorted(count.items())))
        for label, count in zip(dataset.labels, instances, strict=True)
    )


def _valid(facts: Sequence[_Facts]) -> dict[str, float]:
    if not facts:
        return {}
    shares = [fact.valid_share for fact in facts]
    return {
        "mean": float(np.mean(shares)),
        "lowest": min(shares),
        "pairs_without": float(shares.count(0.0)),
        "at_limit": float(np.mean([fact.limit_share for fact in facts])),
    }


def _percentiles(histograms: Mapping[float, NDArray[np.int64]]) -> dict[str, float]:
    """Of all measured pixels in metres, from how many pixels have each code, by the code's unit."""
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
    """What is probably wrong with the depth."""
    found = []
    if valid_depth and valid_depth["at_limit"] > MAX_LIMIT_SHARE:
        found.append(
            f"{valid_depth['at_limit']:.1%} of the pixels have the largest code {MAX_DEPTH_CODE}: some recorders write it for "
            "'too far'; make it 0, which is no measurement, or it counts as depth"
        )
    near_m, far_m = PLAUSIBLE_MEDIAN_M
    if depth_m and not near_m <= depth_m["p50"] <= far_m:
        found.append(
            f"half of the depth is below {depth_m['p50']:g} m, {near_m:g} to {far_m:g} m was expected: is depth_unit_m in "
            "dataset.json right?"
        )
    return tuple(found)


def _leaks(
    dataset: Dataset, thumbnails: Sequence[NDArray[np.float32]], groups: Sequence[str]
) -> tuple[tuple[Leak, ...], int]:
    """Leaks, the largest first, and the number of frames in them."""
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
    return f"{dataset.labels[sample.label]}/{sample.instance}/{sample.name}"


def _strip(dataset: Dataset, label: int, *, side_px: int, per_class: int) -> NDArray[np.uint8] | None:
    """One class from top to bottom, BGR: its name, then its pairs, from instances as far apart in the list as there are."""
    members = [sample for sample in dataset.samples if sample.label == label]
    if not members:
        return None
    chosen = [members[i] for i in np.linspace(0, len(members) - 1, min(per_class, len(members)), dtype=int)]
    head = np.zeros((18, side_px, 3), np.uint8)
    cv2.putText(
        head,
        ascii_only(dataset.labels[label])[:16],
        (2, 13),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.38,
        (255, 255, 255),
        1,
        cv2.LINE_AA,
    )
    parts = [head]
    for sample in chosen:
        rgb, depth = read_pair(sample.rgb_path, sample.depth_path)
        bgr = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)
        parts += [_caption(sample.instance, side_px), _letterboxed(bgr, side_px)]
        parts += [_letterboxed(coloured(depth), side_px), _caption(_range_in_words(depth, sample), side_px)]
    empty = np.zeros((2 * side_px + 2 * CAPTION_PX, side_px, 3), np.uint8)
    parts += [empty] * (per_class - len(chosen))
    return np.pad(np.vstack(parts), ((0, 2), (0, 2), (0, 0)))


def _caption(text: str, side_px: int) -> NDArray[np.uint8]:
    strip = np.zeros((CAPTION_PX, side_px, 3), np.uint8)
    grey = (190, 190, 190)
    cv2.putText(strip, ascii_only(text)[: side_px // 6], (2, 9), cv2.FONT_HERSHEY_SIMPLEX, 0.3, grey, 1, cv2.LINE_AA)
    return strip


def _range_in_words(depth: NDArray[np.uint16], sample: Sample) -> str:
    """Which depths the reddest and the bluest colour of `coloured` stand for."""
    measured = depth[depth > 0]
    if not measured.size:
        return "no depth"
    near_m, far_m = np.percentile(measured, (2, 98)) * sample.depth_unit_m
    return f"{near_m:.2f}-{far_m:.2f} m"


def coloured(depth: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Depth codes [H, W] as a picture, uint8 [H, W, 3] in BGR order: near red, far blue, 0 black."""
    measured = depth > 0
    if not measured.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = np.percentile(depth[measured], (2, 98))
    nearness = 1 - np.clip((depth.astype(np.float32) - near) / max(far - near, 1.0), 0, 1)
    picture = cv2.applyColorMap(np.rint(nearness * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    picture[~measured] = 0
    return np.asarray(picture, np.uint8)


def _letterboxed(picture: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    box = np.zeros((side_px, side_px, 3), np.uint8)
    top, left = (side_px - small.shape[0]) // 2, (side_px - small.shape[1]) // 2
    box[top : top + small.shape[0], left : left + small.shape[1]] = small
    return box
