"""The folder layout of a data set, read and written.

    root/dataset.json                                   depth unit and alignment; may be absent
    root/<class>/<instance>/<name>_rgb.png              8-bit colour
    root/<class>/<instance>/<name>_depth.png            16-bit, 0 = no measurement

An instance folder is one take: its frames are nearly the same picture and never stand on both sides of a split.
Owns the layout; recording, training and evaluation import it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import Align
from edgefuse.data.description import DATASET_NAME, UNITS_M, Description, describe, read_description, write_description
from edgefuse.data.recognise import other_layout
from edgefuse.errors import UserError
from edgefuse.io.images import read_bytes, read_depth, read_rgb, write_image

__all__ = ["DATASET_NAME", "DEPTH_SUFFIX", "RGB_SUFFIX", "UNITS_M", "Dataset", "Description", "Pictures", "Sample"]
__all__ += ["describe", "has_pairs", "load", "read_description", "read_pair", "scan", "write_description", "write_pair"]

RGB_SUFFIX = "_rgb.png"
DEPTH_SUFFIX = "_depth.png"
_EXPECTED = f"<class>/<instance>/<name>{RGB_SUFFIX} with <name>{DEPTH_SUFFIX} was expected"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One RGB-D pair on disk.

    Attributes:
        label: index into the data set's labels.
        instance: name of the instance folder; equal names under several classes are one group (one take).
        depth_unit_m: metres of one depth code.
    """

    label: int
    instance: str
    name: str
    rgb_path: Path
    depth_path: Path
    depth_unit_m: float


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Samples of one or several roots under one list of labels.

    Attributes:
        align: whose view the pairs share.
        region: where `record` looked; None where the roots say nothing, or not the same.
        pairs_sha256: digest of each sample's bytes; set by `load`, empty after `scan`.
        digest: sha256 over every pair's label, instance, name and bytes; set by `load`, empty after `scan`.
        left_out: what was wrong with the pairs that were skipped.
    """

    roots: tuple[Path, ...]
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    align: Align
    pairs_sha256: tuple[str, ...] = ()
    digest: str = ""
    left_out: tuple[str, ...] = ()
    region: str | None = None

    def groups(self) -> list[str]:
        """The group of each sample: what a split must not tear apart."""
        return [sample.instance for sample in self.samples]

    def subset(self, indices: Iterable[int]) -> Dataset:
        """The same data set with only these samples; the labels and the digest of the whole stay."""
        chosen = list(indices)
        return replace(
            self,
            samples=tuple(self.samples[i] for i in chosen),
            pairs_sha256=tuple(self.pairs_sha256[i] for i in chosen) if self.pairs_sha256 else (),
        )

    def instance_digests(self) -> dict[str, str]:
        """class/instance -> digest of its pictures' bytes, whatever they are called and wherever they lie; after `load`."""
        by_instance: dict[str, list[str]] = {}
        for sample, sha256 in zip(self.samples, self.pairs_sha256, strict=True):
            by_instance.setdefault(f"{self.labels[sample.label]}/{sample.instance}", []).append(sha256)
        return {
            name: hashlib.sha256("".join(sorted(pairs)).encode()).hexdigest()[:16]
            for name, pairs in by_instance.items()
        }


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Decoded pairs in memory, one of each sample of a data set, in its order.

    rgb[i] is uint8 [H, W, 3] in RGB order, depth[i] uint16 [H, W] in codes of the sample's `depth_unit_m`.
    """

    dataset: Dataset
    rgb: tuple[NDArray[np.uint8], ...]
    depth: tuple[NDArray[np.uint16], ...]

    def subset(self, indices: Sequence[int]) -> Pictures:
        """The same pictures with only these samples; nothing is copied."""
        return Pictures(
            dataset=self.dataset.subset(indices),
            rgb=tuple(self.rgb[i] for i in indices),
            depth=tuple(self.depth[i] for i in indices),
        )


def scan(roots: Sequence[Path], *, skip_bad: bool = False) -> Dataset:  # long: one root after the other
    """Find the pairs below `roots`, without reading pictures.

    Args:
        skip_bad: leave incomplete pairs out instead of refusing.

    Raises:
        UserError: a root is missing or empty, a pair is incomplete (all are named), or the roots differ in alignment.
    """
    found: list[tuple[str, Path, float]] = []
    problems: list[str] = []
    aligns: dict[Align, Path] = {}
    descriptions = [describe(root) for root in roots]
    for root, description in zip(roots, descriptions, strict=True):
        unit_m = description.depth_unit_m
        aligns.setdefault(description.align, root)
        rgb_paths = sorted(_pictures(root, RGB_SUFFIX))
        depth_paths = set(_pictures(root, DEPTH_SUFFIX))
        for rgb_path in rgb_paths:
            depth_path = _depth_beside(rgb_path)
            if depth_path in depth_paths:
                depth_paths.remove(depth_path)
                found.append((rgb_path.parent.parent.name, rgb_path, unit_m))
            else:
                problems.append(f"{rgb_path}: no {depth_path.name} beside it")
        problems.extend(f"{path}: no RGB picture beside it" for path in sorted(depth_paths))
        if not rgb_paths and not depth_paths:
            raise UserError(f"{root} has no pairs: {_EXPECTED}{other_layout(root)}")
    if len(aligns) > 1:
        raise UserError(
            f"the folders differ in alignment: {', '.join(f'{path} is aligned to {align}' for align, path in aligns.items())}"
        )
    if not skip_bad:
        _refuse(problems)
    labels = tuple(sorted({label for label, _, _ in found}))
    regions = {description.region for description in descriptions}
    samples = tuple(
        Sample(
            label=labels.index(label),
            instance=path.parent.name,
            name=path.name.removesuffix(RGB_SUFFIX),
            rgb_path=path,
            depth_path=_depth_beside(path),
            depth_unit_m=unit_m,
        )
        for label, path, unit_m in found
    )
    return Dataset(
        roots=tuple(roots),
        labels=labels,
        samples=samples,
        align=next(iter(aligns)),
        left_out=tuple(problems),
        region=regions.pop() if len(regions) == 1 else None,
    )


def load(dataset: Dataset, *, skip_bad: bool = False) -> Pictures:
    """Read every pair into memory and check it.

    Args:
        skip_bad: leave bad pairs out instead of refusing.

    Raises:
        UserError: pictures that cannot be used; all are named at once.
    """
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(_read_checked, dataset.samples))
    problems = [result for result in results if isinstance(result, str)]
    if not skip_bad:
        _refuse(problems)
    good = [i for i, result in enumerate(results) if not isinstance(result, str)]
    if not good:
        raise UserError(
            f"none of the {len(results)} pairs can be used; the first: {problems[0] if problems else 'no pairs'}"
        )
    pairs = [cast("_Pair", results[i]) for i in good]
    kept = replace(
        dataset.subset(good),
        pairs_sha256=tuple(pair.sha256 for pair in pairs),
        left_out=(*dataset.left_out, *problems),
    )
    lines = sorted(
        f"{kept.labels[sample.label]}/{sample.instance}/{sample.name} {pair.sha256}\n"
        for sample, pair in zip(kept.samples, pairs, strict=True)
    )
    checked = replace(kept, digest=hashlib.sha256("".join(lines).encode()).hexdigest())
    return Pictures(dataset=checked, rgb=tuple(pair.rgb for pair in pairs), depth=tuple(pair.depth for pair in pairs))


def read_pair(rgb_path: Path, depth_path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Read one pair: RGB uint8 [H, W, 3] in RGB order, and depth uint16 [H, W] in the file's codes.

    Raises:
        UserError: unreadable, depth not 16-bit with one channel, or different sizes.
    """
    return _decode_pair(rgb_path, depth_path, read_bytes(rgb_path), read_bytes(depth_path))


def has_pairs(root: Path) -> bool:
    """Has `root` any image of a pair yet? Until then it has no depth unit, whatever else lies there."""
    return any(next(_pictures(root, suffix), None) is not None for suffix in (RGB_SUFFIX, DEPTH_SUFFIX))


def write_pair(folder: Path, name: str, rgb: NDArray[np.uint8], depth: NDArray[np.uint16]) -> None:
    """Write one pair into an instance folder, each file atomically, depth first so that no RGB picture stands alone."""
    write_image(folder / f"{name}{DEPTH_SUFFIX}", depth)
    write_image(folder / f"{name}{RGB_SUFFIX}", rgb)


@dataclass(frozen=True)
class _Pair:
    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    sha256: str


def _pictures(root: Path, suffix: str) -> Iterator[Path]:
    """Pictures of a suffix; hidden folders are unfinished work of a writer, or not meant."""
    for path in root.glob(f"*/*/*{suffix}"):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            yield path


def _depth_beside(rgb_path: Path) -> Path:
    return rgb_path.with_name(rgb_path.name.removesuffix(RGB_SUFFIX) + DEPTH_SUFFIX)


def _refuse(problems: Sequence[str], *, most: int = 1000) -> None:
    if problems:
        shown = "\n  ".join(problems[:most]) + (
            f"\n  ... and {len(problems) - most} more" if len(problems) > most else ""
        )
        raise UserError(f"{len(problems)} bad pair(s), mend them or leave them out with --skip-bad:\n  {shown}")


def _read_checked(sample: Sample) -> _Pair | str:
    try:
        rgb_bytes, depth_bytes = read_bytes(sample.rgb_path), read_bytes(sample.depth_path)
        rgb, depth = _decode_pair(sample.rgb_path, sample.depth_path, rgb_bytes, depth_bytes)
    except UserError as error:
        return str(error)
    return _Pair(rgb, depth, hashlib.sha256(rgb_bytes + depth_bytes).hexdigest())


def _decode_pair(
    rgb_path: Path, depth_path: Path, rgb_bytes: bytes, depth_bytes: bytes
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    rgb, depth = read_rgb(rgb_path, rgb_bytes), read_depth(depth_path, depth_bytes)
    if rgb.shape[:2] != depth.shape:
        raise UserError(
            f"{rgb_path}: RGB is {rgb.shape[1]}x{rgb.shape[0]}, its depth {depth.shape[1]}x{depth.shape[0]}"
        )
    return rgb, depth
