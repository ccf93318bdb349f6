"""Read and write data sets in the folder layout.

    root/dataset.json                                   depth unit and alignment; optional
    root/<class>/<sequence>/<name>_rgb.png              8-bit colour
    root/<class>/<sequence>/<name>_depth.png            16-bit, 0 = no measurement

A sequence folder is one recording. Its frames are near-duplicates, so a split never puts them on both sides.
Owns the layout; recording, training and evaluation import it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edgefuse.answers import NONE, UNKNOWN
from edgefuse.contract import Align
from edgefuse.data.collection import REVIEW
from edgefuse.data.description import DATASET_NAME, UNITS_M, Description, describe, write_description
from edgefuse.data.image_cache import Budget, Images, OnDisk, Subset, digest_of_pixels, one_at_a_time, rgb_part
from edgefuse.data.incomplete_pairs import DEPTH_SUFFIX, RGB_SUFFIX
from edgefuse.data.pairing import MAX_LINES, Problem, find_pairs, no_pairs
from edgefuse.data.similar_names import alike_names
from edgefuse.data.tree import walk
from edgefuse.errors import UserError
from edgefuse.framing import regions_agree
from edgefuse.io.files import real_path
from edgefuse.io.images import read_bytes, read_depth, read_rgb, write_image
from edgefuse.io.text import printable, quoted

__all__ = [
    "DATASET_NAME",
    "DEPTH_SUFFIX",
    "PLAUSIBLE_MEDIAN_M",
    "RGB_SUFFIX",
    "UNITS_M",
    "Dataset",
    "Description",
    "RgbdDataset",
    "Sample",
]
__all__ += ["describe", "has_pairs", "load", "read_pair", "scan", "spread_evenly", "write_description", "write_pair"]

PLAUSIBLE_MEDIAN_M = (0.1, 10.0)
"""Plausible median depth of a data set: RGB-D cameras measure from about 0.1 to 10 m. Outside it, the unit is probably wrong."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One RGB-D pair on disk.

    Attributes:
        label: index into the data set's labels.
        sequence: name of the sequence folder; equal names under several classes are one group (one recording).
        depth_unit_m: metres of one depth code.
    """

    label: int
    sequence: str
    name: str
    rgb_path: Path
    depth_path: Path
    depth_unit_m: float


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Samples of one or several roots with one list of labels.

    Attributes:
        align: the common view of the pairs: "color" or "depth".
        region: the recorded region; None if a root does not state it, or the roots differ.
        pairs_sha256: digest of each sample's bytes; set by `load`, empty after `scan`.
        digest: sha256 over every pair's label, sequence, name and bytes; set by `load`, empty after `scan`.
        left_out: faults of the skipped pairs, one line for each kind and folder; `num_left_out` of them.
        warnings: probable faults of the other pairs, one sentence each.
    """

    roots: tuple[Path, ...]
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    align: Align
    pairs_sha256: tuple[str, ...] = ()
    digest: str = ""
    left_out: tuple[str, ...] = ()
    num_left_out: int = 0
    warnings: tuple[str, ...] = ()
    region: str | None = None

    def groups(self) -> list[str]:
        """The group of each sample. A split must not divide a group."""
        return [sample.sequence for sample in self.samples]

    def subset(self, indices: Iterable[int]) -> Dataset:
        """The same data set with only these samples. Labels and digest stay those of the complete set."""
        chosen = list(indices)
        return replace(
            self,
            samples=tuple(self.samples[i] for i in chosen),
            pairs_sha256=tuple(self.pairs_sha256[i] for i in chosen) if self.pairs_sha256 else (),
        )

    def left_out_lines(self) -> list[str]:
        """A report of the skipped pairs: their number, then one line for each kind and folder."""
        if not self.left_out:
            return []
        lines = [f"left out {self.num_left_out} bad pair(s), first {self.left_out[0]}"]
        lines += [f"left out: {text}" for text in self.left_out[1:MAX_LINES]]
        if len(self.left_out) > MAX_LINES:
            lines.append(f"left out: {len(self.left_out) - MAX_LINES} more; edgefuse data check --json lists all")
        return lines

    def sequence_digests(self) -> dict[str, str]:
        """class/sequence -> digest of its images' bytes, independent of names and folders; after `load`."""
        by_sequence: dict[str, list[str]] = {}
        for sample, sha256 in zip(self.samples, self.pairs_sha256, strict=True):
            by_sequence.setdefault(f"{self.labels[sample.label]}/{sample.sequence}", []).append(sha256)
        return {
            name: hashlib.sha256("".join(sorted(pairs)).encode()).hexdigest()[:16]
            for name, pairs in by_sequence.items()
        }


@dataclass(frozen=True, kw_only=True)
class RgbdDataset:
    """Decoded pairs, one for each sample of a data set, in its order. Pairs that do not fit into memory are read on access.

    rgb[i] is uint8 [H, W, 3] in RGB order, depth[i] uint16 [H, W] in codes of the sample's `depth_unit_m`.
    """

    dataset: Dataset
    rgb: Sequence[NDArray[np.uint8]]
    depth: Sequence[NDArray[np.uint16]]

    def subset(self, indices: Sequence[int]) -> RgbdDataset:
        """The same images with only these samples; nothing is copied."""
        return RgbdDataset(
            dataset=self.dataset.subset(indices), rgb=Subset(self.rgb, indices), depth=Subset(self.depth, indices)
        )


def scan(roots: Sequence[Path], *, skip_bad: bool = False, may_be_unchecked: bool = False) -> Dataset:
    """Find the pairs below `roots` without reading images.

    Args:
        skip_bad: skip bad pairs instead of raising; `Dataset.left_out` lists them.
        may_be_unchecked: a root may be the part of a collection whose classes nobody has checked; not for training and scores.

    Raises:
        UserError: a root is missing, has no pairs, is given twice, or contains the parts of a split; the roots differ in
            alignment; or a file below them looks like an image but belongs to no pair or cannot be read (all are listed).
    """
    _refuse_overlap(roots)
    for root in roots:
        if real_path(root).name == REVIEW and not may_be_unchecked:
            raise UserError(
                f"{root} has pairs of a collection whose classes nobody has checked: edgefuse data browse {quoted(root.parent)}, then "
                f"give {quoted(root.parent)}"
            )
    trees = [find_pairs(root) for root in roots]
    for tree in trees:
        if tree.root.is_dir() and not tree.pairs and not any(problem.is_half for problem in tree.problems):
            raise UserError(no_pairs(tree))
    descriptions = [describe(root) for root in roots]
    problems = [problem for tree in trees for problem in tree.problems]
    if not skip_bad:
        _refuse(problems)
    found = [(pair, d.depth_unit_m) for tree, d in zip(trees, descriptions, strict=True) for pair in tree.pairs]
    labels = tuple(sorted({pair.label for pair, _ in found}))
    numbers = {label: number for number, label in enumerate(labels)}
    samples = tuple(
        Sample(
            label=numbers[pair.label],
            sequence=pair.sequence,
            name=pair.name,
            rgb_path=pair.rgb_path,
            depth_path=pair.depth_path,
            depth_unit_m=unit_m,
        )
        for pair, unit_m in found
    )
    return Dataset(
        roots=tuple(roots),
        labels=labels,
        samples=samples,
        align=_common_align(roots, descriptions),
        left_out=tuple(problem.text for problem in problems),
        num_left_out=sum(problem.count for problem in problems),
        warnings=(*(text for tree in trees for text in tree.warnings), *_differences(roots, descriptions, labels)),
        region=descriptions[0].region if len({d.region for d in descriptions}) == 1 else None,
    )


def load(dataset: Dataset, *, skip_bad: bool = False, budget: Budget | None = None) -> RgbdDataset:
    """Read and check every pair once, and keep as many images in memory as fit.

    Args:
        skip_bad: skip bad pairs instead of raising.
        budget: memory for the images; by default a fraction of what is available.

    Raises:
        UserError: images that cannot be used; all of them are listed.
        MemoryError: not even one pair fits.
    """
    budget = Budget() if budget is None else budget
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(partial(_read_checked, budget=budget), dataset.samples))
    problems = [Problem(result, 1) for result in results if isinstance(result, str)]
    if not skip_bad:
        _refuse(problems)
    good = [i for i, result in enumerate(results) if not isinstance(result, str)]
    if not good:
        raise UserError(
            f"none of the {len(results)} pairs can be used; the first: {problems[0].text if problems else 'no pairs'}"
        )
    pairs = [cast("_Pair", results[i]) for i in good]
    kept = dataset.subset(good)
    kept = replace(
        kept,
        pairs_sha256=tuple(pair.sha256 for pair in pairs),
        left_out=(*dataset.left_out, *(problem.text for problem in problems)),
        num_left_out=dataset.num_left_out + len(problems),
        warnings=(*dataset.warnings, *same_images(kept, [pair.pixels for pair in pairs])),
    )
    lines = sorted(
        f"{kept.labels[sample.label]}/{sample.sequence}/{sample.name} {pair.sha256}\n"
        for sample, pair in zip(kept.samples, pairs, strict=True)
    )
    checked = replace(kept, digest=hashlib.sha256("".join(lines).encode()).hexdigest())
    return RgbdDataset(
        dataset=checked, rgb=Images([pair.rgb for pair in pairs]), depth=Images([pair.depth for pair in pairs])
    )


_SAME_IMAGES = {
    "class": "in two classes: one of the labels is wrong; remove that pair",
    "image": "in two classes, with different depth: one of the labels is wrong, or the depth belongs to another image",
    "sequence": "in two sequences: a split may train and test on it; give the sequences one name, or remove one",
    "root": "in one sequence of two folders: it counts twice; include each pair once",
}


def same_images(dataset: Dataset, pixels: Sequence[bytes]) -> tuple[str, ...]:
    """Warnings of samples with the same pixels in two classes, in two sequences, or in two roots.

    Args:
        pixels: `digest_of_pixels` of each sample.
    """
    by_pixels: dict[bytes, list[int]] = {}
    by_rgb: dict[bytes, list[int]] = {}
    for i, digest in enumerate(pixels):
        by_pixels.setdefault(digest, []).append(i)
        by_rgb.setdefault(rgb_part(digest), []).append(i)
    found: dict[str, list[tuple[Sample, Sample]]] = {kind: [] for kind in _SAME_IMAGES}
    for same in by_pixels.values():
        first, *others = (dataset.samples[i] for i in same)
        for other in others:
            if other.label != first.label:
                found["class"].append((first, other))
            elif other.sequence != first.sequence:
                found["sequence"].append((first, other))
            elif other.rgb_path.parent != first.rgb_path.parent:
                found["root"].append((first, other))
    for same in by_rgb.values():
        first = dataset.samples[same[0]]
        for i in same[1:]:
            if dataset.samples[i].label != first.label and pixels[i] != pixels[same[0]]:
                found["image"].append((first, dataset.samples[i]))
    return tuple(
        f"{len(twins)} pair(s) have the same {'RGB image' if kind == 'image' else 'pixels'} as another, first {twins[0][0].rgb_path} and {twins[0][1].rgb_path}, {words}"
        for kind, words in _SAME_IMAGES.items()
        if (twins := found[kind])
    )


def read_pair(rgb_path: Path, depth_path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Read one pair: RGB uint8 [H, W, 3] in RGB order, and depth uint16 [H, W] in the file's codes.

    Raises:
        UserError: unreadable, depth not 16-bit with one channel, or different sizes.
    """
    return decode_pair(rgb_path, depth_path, read_bytes(rgb_path), read_bytes(depth_path))


def has_pairs(root: Path) -> bool:
    """Whether `root` has any file of a pair. Without one, the root has no depth unit yet."""
    return any(name.endswith((RGB_SUFFIX, DEPTH_SUFFIX)) for folder in walk(root) for name in folder.files)


def decode_pair(
    rgb_path: Path, depth_path: Path, rgb_bytes: bytes, depth_bytes: bytes
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """`read_pair` for bytes that were read already."""
    rgb, depth = read_rgb(rgb_path, rgb_bytes), read_depth(depth_path, depth_bytes)
    if rgb.shape[:2] != depth.shape:
        raise UserError(
            f"{rgb_path}: RGB is {rgb.shape[1]}x{rgb.shape[0]}, but its depth is {depth.shape[1]}x{depth.shape[0]}"
        )
    return rgb, depth


def write_pair(folder: Path, name: str, rgb: NDArray[np.uint8], depth: NDArray[np.uint16]) -> None:
    """Write one pair into a sequence folder, each file atomically, depth first so that there is never RGB without depth."""
    write_image(folder / f"{name}{DEPTH_SUFFIX}", depth)
    write_image(folder / f"{name}{RGB_SUFFIX}", rgb)


@dataclass(frozen=True)
class _Pair:
    rgb: NDArray[np.uint8] | OnDisk
    depth: NDArray[np.uint16] | OnDisk
    sha256: str
    pixels: bytes


def spread_evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0..count - 1, evenly spread, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()  # type: ignore[no-any-return]


def _refuse_overlap(roots: Sequence[Path]) -> None:
    """Refuse a folder that is given twice, under any name, or is inside another one."""
    real = [real_path(root) for root in roots]
    for number, first in enumerate(real):
        for other, second in zip(roots[number + 1 :], real[number + 1 :], strict=True):
            if first == second:
                raise UserError(f"{other} and {roots[number]} are the same folder: give each data set once")
            for inner, outer in ((first, second), (second, first)):
                if inner.is_relative_to(outer):
                    raise UserError(f"{inner} is inside {outer}: give data sets that do not contain each other")


def _common_align(roots: Sequence[Path], descriptions: Sequence[Description]) -> Align:
    aligns = {description.align: root for root, description in zip(roots, descriptions, strict=True)}
    if len(aligns) > 1:
        found = ", ".join(f"{path} is aligned to {align}" for align, path in sorted(aligns.items()))
        raise UserError(f"the folders differ in alignment: {found}")
    return next(iter(aligns))


def _differences(roots: Sequence[Path], descriptions: Sequence[Description], labels: Sequence[str]) -> Iterator[str]:
    """Warnings of differences between the roots, and of class names that probably mean the same class."""
    known = {d.region: root for root, d in zip(roots, descriptions, strict=True) if d.region is not None}
    if not all(regions_agree(first, second) for first in known for second in known):
        found = ", ".join(f"{root}: {printable(region)}" for region, root in known.items())
        yield f"the folders differ in the recorded region ({found}), so none is stored: use --roi with edgefuse live"
    yield from alike_names(labels)
    for label in (NONE, UNKNOWN):
        if label in labels:
            yield f"the class {label} has the name of an answer of edgefuse live that is no class: rename its folder"


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        count = sum(problem.count for problem in problems)
        shown = "\n  ".join(problem.text for problem in problems[:MAX_LINES])
        if len(problems) > MAX_LINES:
            shown += f"\n  ... and {len(problems) - MAX_LINES} more lines; edgefuse data check --json lists all"
        raise UserError(f"{count} bad pair(s), fix them or skip them with --skip-bad:\n  {shown}")


def _read_checked(sample: Sample, *, budget: Budget) -> _Pair | str:
    try:
        rgb_bytes, depth_bytes = read_bytes(sample.rgb_path), read_bytes(sample.depth_path)
        with one_at_a_time(rgb_bytes, depth_bytes):
            rgb, depth = decode_pair(sample.rgb_path, sample.depth_path, rgb_bytes, depth_bytes)
            pixels = digest_of_pixels(rgb, depth)
    except UserError as error:
        return str(error)
    sha256 = hashlib.sha256(rgb_bytes + depth_bytes).hexdigest()
    if budget.take(rgb.nbytes + depth.nbytes):
        return _Pair(rgb, depth, sha256, pixels)
    later = (OnDisk(sample.rgb_path, rgb_bytes, read_rgb), OnDisk(sample.depth_path, depth_bytes, read_depth))
    return _Pair(*later, sha256, pixels)
