"""The interface between the readers of other layouts and the folder layout.

A reader returns a `Source`; `write_source` writes it as a data set folder.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import MAX_DEPTH_CODE, Align
from edgefuse.data.dataset import PLAUSIBLE_MEDIAN_M, write_description, write_pair
from edgefuse.errors import UserError
from edgefuse.io.files import folder_replaced
from edgefuse.io.json_files import write_json
from edgefuse.io.text import name_problem, printable
from edgefuse.progress import Progress, no_progress

LEFT_OUT_NAME = "left_out.json"
"""Written next to `dataset.json` if bad pairs were left out, with the fault of each."""
MAX_LOST = 0.05
"""Warn if a conversion loses more than this fraction of the measurements, or of the pairs."""
MAX_PROBLEMS = 20
"""A conversion without --skip-bad stops after this many bad pairs, which probably have the same fault."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """One decoded pair: `rgb` uint8 [H, W, 3] in RGB order, `depth` uint16 [H, W] with 0 = no measurement.

    Attributes:
        note: describes a repair.
        num_measured: number of measurements in the source; None if `depth` has all of them.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    note: str | None = None
    num_measured: int | None = None


@dataclass(frozen=True, kw_only=True)
class Item:
    """One pair to convert. `read` reads `files`, and raises `UserError` if the pair cannot be used."""

    label: str
    sequence: str
    name: str
    read: Callable[[], Pair]
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set in another layout.

    Attributes:
        depth_unit_m: metres per depth code of the pairs.
        problems: incomplete pairs, one sentence each.
        notes, warnings: remarks that are no fault, and probable faults.
        align, region: see `edgefuse.data.description.Description`.
        carried: further keys of the source's `dataset.json`.
        origin: value of `source` in `dataset.json`; no absolute paths.
        more_files: JSON files to write next to `dataset.json`, by name.
    """

    items: tuple[Item, ...]
    depth_unit_m: float
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    align: Align = "color"
    region: str | None = None
    carried: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    more_files: Mapping[str, Any] = field(default_factory=dict)

    def files_sha256(self) -> str:
        """Digest of the pairs and of their files' names, sizes and times, without reading them.

        The digest does not depend on the tree's location. It changes if a copy did not preserve the times.
        """
        digest = hashlib.sha256(f"{len(self.problems)} problems\n".encode())
        for item in sorted(self.items, key=lambda item: (item.label, item.sequence, item.name)):
            for file in item.files:
                state = file.stat() if file.is_file() else None
                seen = "absent" if state is None else f"{state.st_size} {state.st_mtime_ns}"
                digest.update(f"{item.label}/{item.sequence}/{item.name} {file.name} {seen}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Converted:
    """The result of a conversion: pairs written, pairs left out, notes and warnings, one sentence each."""

    num_pairs: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def write_source(
    source: Source,
    out: Path,
    *,
    skip_bad: bool = False,
    strict: bool = False,
    progress: Progress = no_progress,
) -> Converted:
    """Write a source as a data set folder, atomically.

    Args:
        skip_bad: skip bad pairs instead of raising.
        strict: raise for warnings.
        progress: called with the pairs done and their total.

    Raises:
        UserError: bad pairs (all that were found are listed), no pairs, or two pairs of one name.
    """
    if not skip_bad:
        _refuse(source.problems)
    names = Counter((item.label, item.sequence, item.name) for item in source.items)
    double = ["/".join(name) for name, count in names.items() if count > 1]
    if double:
        raise UserError(f"{len(double)} name(s) occur for several pairs, such as {double[0]}: rename them")
    problems, notes = list(source.problems), list(source.notes)
    with folder_replaced(out) as folder:
        found = _write_all(source.items, folder, stop_at=None if skip_bad else MAX_PROBLEMS, progress=progress)
        problems += found.problems
        if not skip_bad:
            _refuse(problems)
        num_pairs = len(source.items) - len(found.problems)
        if not num_pairs:
            raise UserError(
                f"none of the {len(problems)} pairs can be used; the first: {(problems or ['no pairs'])[0]}"
            )
        warnings = (*source.warnings, *_depth_warnings(found, num_pairs=num_pairs, unit_m=source.depth_unit_m))
        if strict:
            _refuse_warnings(warnings)
        notes += [f"{count} pair(s): {note}" for note, count in sorted(found.notes.items())]
        for name, value in source.more_files.items():
            write_json(folder / name, value)
        if problems:
            write_json(folder / LEFT_OUT_NAME, {"left_out": problems})
        origin = {**source.origin, "pairs": num_pairs, "left_out": len(problems)}
        more = {**source.carried, "source": origin}
        write_description(folder, depth_unit_m=source.depth_unit_m, align=source.align, region=source.region, **more)
    return Converted(num_pairs=num_pairs, left_out=tuple(problems), notes=tuple(notes), warnings=warnings)


@dataclass(kw_only=True)
class _Found:
    """Figures of the pairs so far; several threads add to it."""

    problems: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    num_measured: int = 0
    num_kept: int = 0
    num_without: int = 0
    pixels_by_code: NDArray[np.int64] = field(default_factory=lambda: np.zeros(MAX_DEPTH_CODE + 1, np.int64))
    lock: Lock = field(default_factory=Lock)

    def add(self, pair: Pair) -> None:
        codes, counts = np.unique(pair.depth, return_counts=True)
        num_kept = int(counts[codes > 0].sum())
        with self.lock:
            if pair.note is not None:
                self.notes[pair.note] += 1
            self.num_measured += num_kept if pair.num_measured is None else pair.num_measured
            self.num_kept += num_kept
            self.num_without += not num_kept
            self.pixels_by_code[codes] += counts


def _depth_warnings(found: _Found, *, num_pairs: int, unit_m: float) -> list[str]:
    """Warnings of depth that the conversion lost, and of an implausible unit."""
    if not found.num_kept:
        return [f"no pair has any depth ({num_pairs} pairs): does the source have depth, and is --unit right?"]
    warnings = []
    lost = 1 - found.num_kept / max(found.num_measured, found.num_kept)
    if lost > MAX_LOST:
        warnings.append(f"{lost:.0%} of the measurements became 0 (below half a code, or negative): is --unit right?")
    if found.num_without > MAX_LOST * num_pairs:
        warnings.append(f"{found.num_without} of {num_pairs} pairs have no depth at all")
    at_limit = float(found.pixels_by_code[MAX_DEPTH_CODE] / found.num_kept)
    if at_limit > MAX_LOST:
        warnings.append(
            f"{at_limit:.0%} of the measurements have the largest code {MAX_DEPTH_CODE}, which often means 'too far'"
        )
    cumulative = np.cumsum(found.pixels_by_code[1:])
    median_m = unit_m * (1 + int(np.searchsorted(cumulative, found.num_kept / 2)))
    near_m, far_m = PLAUSIBLE_MEDIAN_M
    if not near_m <= median_m <= far_m:
        warnings.append(
            f"half of the depth is below {median_m:g} m, {near_m:g} to {far_m:g} m was expected: is --unit right?"
        )
    return warnings


def _write_all(items: tuple[Item, ...], folder: Path, *, stop_at: int | None, progress: Progress) -> _Found:
    found = _Found()
    pool = ThreadPoolExecutor()
    try:
        pending = [pool.submit(_write_one, item, folder, found) for item in items]
        for done, future in enumerate(as_completed(pending), start=1):
            problem = future.result()
            if problem is not None:
                found.problems.append(problem)
                if stop_at is not None and len(found.problems) >= stop_at:
                    break
            progress(done, len(items), stage="converting")
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    found.problems.sort()
    return found


def _write_one(item: Item, folder: Path, found: _Found) -> str | None:
    """Write one pair; returns the reason if it cannot be used."""
    for what, name in (("class", item.label), ("sequence", item.sequence), ("pair", item.name)):
        problem = name_problem(name)
        if problem:
            return f"the {what} {printable(name)!r}: the name cannot be used: {problem}; rename it"
    try:
        pair = item.read()
    except UserError as error:
        return str(error)
    write_pair(folder / item.label / item.sequence, item.name, pair.rgb, pair.depth)
    found.add(pair)
    return None


def _refuse_warnings(warnings: Sequence[str]) -> None:
    if warnings:
        shown = "\n  ".join(warnings)
        raise UserError(f"nothing was written: {len(warnings)} warning(s), which --strict makes errors:\n  {shown}")


def _refuse(problems: tuple[str, ...] | list[str]) -> None:
    if problems:
        shown = "\n  ".join(problems[:MAX_PROBLEMS])
        more = f"\n  ... and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        raise UserError(
            f"nothing was written: {len(problems)} bad pair(s), fix them or skip them with --skip-bad:\n  {shown}{more}"
        )
