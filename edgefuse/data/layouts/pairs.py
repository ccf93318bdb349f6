"""Read layouts of other programs: folders of pairs, depth as NumPy arrays, and TUM's lists of timestamps.

Owns how files are paired and what their depth means. Each reader returns a `Source`; images are read later.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.data.dataset import PLAUSIBLE_MEDIAN_M, UNITS_M, decode_pair
from edgefuse.data.detect_layout import is_made_by_edgefuse
from edgefuse.data.image_cache import one_at_a_time
from edgefuse.data.layouts.source import Item, Pair, Source
from edgefuse.data.pairing import MAX_LINES, Problem, Tree, pair_up, refuse_split_folders, report_misplaced
from edgefuse.data.tree import Folder, walk
from edgefuse.errors import UserError
from edgefuse.io.arrays import read_array
from edgefuse.io.files import real_path
from edgefuse.io.images import has_orientation, read_bytes, read_rgb
from edgefuse.io.text import printable
from edgefuse.io.text_files import read_lines

RGB_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
TUM_UNIT_M = 1 / 5000
"""Source: file formats of the TUM RGB-D benchmark: 5000 codes are one metre, 0 is no measurement."""
MAX_TIME_DIFFERENCE_S = 0.02

_MM_M = 0.001
_TIME = re.compile(r"-?\d{1,20}(\.\d{0,20})?")
_ORIENTATION_IGNORED = "the EXIF orientation was ignored: RGB and depth are written as stored"
_MAX_CODE = 65535
_UNIT_NAMES = {"m": "metres", "cm": "centimetres", "mm": "millimetres", "um": "micrometres"}


def read_pairs(root: Path, *, unit_m: float = _MM_M, sequence_pattern: str | None = None) -> Source:
    """A folder of `<name>_rgb` and `<name>_depth` images in <class>/<sequence>/, or directly in <class>/; see `_find`.

    Args:
        unit_m: metres per depth code.
        sequence_pattern: for images directly in <class>/: expression whose first group, searched in the file name, is the sequence.
    """
    found, seen, notes = _find(root, depth_suffixes=(".png", ".tif", ".tiff"), pattern=sequence_pattern)
    items = [
        Item(label=label, sequence=sequence, name=name, read=partial(_read_pair, rgb, depth))
        for label, sequence, name, rgb, depth in found
    ]
    return _source(items, unit_m, seen, notes)


def read_npy(root: Path, *, unit_m: float | None = None, sequence_pattern: str | None = None) -> Source:
    """Like `read_pairs`, with depth as `<name>_depth.npy`: uint16 codes of `unit_m` (default 1 mm), or floats in `unit_m` (1 m).

    Floats are converted to codes of 1 mm; values that are not finite or not above 0 become 0. All arrays must have the first one's kind.
    """
    found, seen, notes = _find(root, depth_suffixes=(".npy",), pattern=sequence_pattern)
    is_float = _has_floats(depth for *_, depth in found)
    given_m = unit_m if unit_m is not None else (1.0 if is_float else _MM_M)
    if not is_float and given_m > 0.1:
        raise UserError(
            f"the depth unit is {given_m:g} m: the arrays are integers, for which codes of at most 0.1 m were expected"
        )
    items = [
        Item(
            label=label,
            sequence=sequence,
            name=name,
            read=partial(_read_npy_pair, rgb, depth, is_float=is_float, unit_m=given_m),
        )
        for label, sequence, name, rgb, depth in found
    ]
    out_m = _MM_M if is_float else given_m
    return _source(items, out_m, seen, notes)


def _source(items: list[Item], unit_m: float, seen: Tree, notes: list[str]) -> Source:
    problems = tuple(problem.text for problem in seen.problems)
    return Source(
        items=tuple(items), depth_unit_m=unit_m, problems=problems, notes=tuple(notes), warnings=tuple(seen.warnings)
    )


def _has_floats(depth_paths: Iterable[Path]) -> bool:
    """Whether the first readable array has floats."""
    for path in depth_paths:
        with contextlib.suppress(UserError):
            return bool(np.issubdtype(read_array(path).dtype, np.floating))
    return False


def read_tum(root: Path, *, label: str, sequence: str | None = None, unit_m: float = TUM_UNIT_M) -> Source:
    """One sequence with `rgb.txt` and `depth.txt` (or `associations.txt`): lines "timestamp file", paired by nearest time.

    Args:
        label: the class of all frames.
        sequence: the folder's name by default.

    Raises:
        UserError: lists that are missing or invalid, or no two frames within 20 ms.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: a TUM sequence with rgb.txt and depth.txt was expected")
    together = root / "associations.txt"
    notes: list[str] = []
    if together.is_file():
        pairs = [_in_order(*row) for row in _rows(together, width=4)]
    else:
        rgb_rows, depth_rows = (_rows(root / name, width=2) for name in ("rgb.txt", "depth.txt"))
        matches = nearest_times([float(t) for t, _ in rgb_rows], [float(t) for t, _ in depth_rows])
        pairs = [(rgb_rows[i][0], rgb_rows[i][1], depth_rows[j][1]) for i, j in matches]
        if len(pairs) < len(rgb_rows):
            notes.append(
                f"{len(rgb_rows) - len(pairs)} of {len(rgb_rows)} RGB frames have no depth frame within 20 ms: left out"
            )
    if not pairs:
        raise UserError(f"{root}: no RGB and depth frames within 20 ms of one another")
    items, problems = [], []
    for time, rgb, depth in pairs:
        missing = [name for name in (rgb, depth) if not os.path.isfile(root / name)]  # noqa: PTH113
        if missing:
            problems.append(f"{root / rgb}: no {' and no '.join(missing)}")
        else:
            read = partial(_read_pair, root / rgb, root / depth)
            items.append(Item(label=label, sequence=sequence or real_path(root).name, name=time, read=read))
    return Source(items=tuple(items), depth_unit_m=unit_m, problems=tuple(problems), notes=tuple(notes))


def nearest_times(
    first_s: Sequence[float], second_s: Sequence[float], *, limit_s: float = MAX_TIME_DIFFERENCE_S
) -> list[tuple[int, int]]:
    """Pair two lists of times, the closest first, each time once. Returns indices into both, in the order of the first list."""
    second = np.array(second_s, np.float64)
    order = np.argsort(second, kind="stable")
    candidates = []
    for i, time in enumerate(first_s):
        low, high = np.searchsorted(second[order], [time - limit_s, time + limit_s])
        candidates += [(abs(time - second[j]), i, int(j)) for j in order[low:high]]
    used_first: set[int] = set()
    used_second: set[int] = set()
    pairs = []
    for _, i, j in sorted(candidates):
        if i not in used_first and j not in used_second:
            used_first.add(i)
            used_second.add(j)
            pairs.append((i, j))
    return sorted(pairs)


_Found = tuple[str, str, str, Path, Path]


def _find(root: Path, *, depth_suffixes: tuple[str, ...], pattern: str | None) -> tuple[list[_Found], Tree, list[str]]:
    """The pairs (class, sequence, name, RGB file and depth file), the tree with its problems, and notes.

    Raises:
        UserError: no pairs, folders of a split, or an invalid expression.
    """
    expected = f"<class>/<sequence>/<name>_rgb.png with <name>_depth{depth_suffixes[0]} was expected"
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: {expected}")
    expression = _compiled(pattern)
    found: list[_Found] = []
    tree, folders = Tree(root=root), list(walk(root))
    refuse_split_folders(root, folders)
    direct = False
    for folder in folders:
        if len(folder.parts) not in (1, 2):
            continue
        rgb = _by_name(folder, "_rgb", RGB_SUFFIXES, tree)
        depth = _by_name(folder, "_depth", depth_suffixes, tree)
        in_class = len(folder.parts) == 1
        if in_class and not rgb and not depth and is_made_by_edgefuse(folder.files):
            continue
        names = pair_up(folder, rgb, depth, tree, names=folder.parts, depth_suffix=f"_depth{depth_suffixes[0]}")
        for name in names:
            sequence = folder.parts[-1]
            if in_class and expression is not None:
                match = expression.search(name)
                if match is None or not match.group(1):
                    text = f"{folder.path / rgb[name]}: --sequence-pattern {pattern} does not match the name"
                    tree.problems.append(Problem(text, 1, is_half=True))
                    continue
                sequence = match.group(1)
            direct |= in_class and expression is None
            found.append((folder.parts[0], sequence, name, folder.path / rgb[name], folder.path / depth[name]))
    report_misplaced(folders, tree, in_classes=True)
    if not found and not any(problem.is_half for problem in tree.problems):
        reasons = "".join(f"\n  {problem.text}" for problem in tree.problems[:MAX_LINES])
        raise UserError(f"{root} has no pairs: {expected}{reasons}")
    notes = []
    if direct:
        notes.append(
            "without sequence folders each class is one sequence, which cannot be split: use --sequence-pattern REGEX, whose first group "
            "names the sequence, such as '(.*)_[0-9]+$', or '(.+)' to make each image a sequence"
        )
    return found, tree, notes


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--sequence-pattern {pattern!r} is not a regular expression ({error})") from error
    if expression.groups < 1:
        raise UserError(
            f"--sequence-pattern {pattern!r} has no group: put the part that names the sequence in parentheses"
        )
    return expression


def _by_name(folder: Folder, ending: str, suffixes: tuple[str, ...], tree: Tree) -> dict[str, str]:
    """File by the name of its pair. Two files with one name are a problem, and neither is used."""
    by_name: dict[str, list[str]] = {}
    for file in folder.files:
        stem, suffix = os.path.splitext(file)  # noqa: PTH122
        if stem.lower().endswith(ending) and suffix.lower() in suffixes:
            by_name.setdefault(stem[: -len(ending)], []).append(file)
    for name, files in by_name.items():
        if len(files) > 1:
            text = f"{folder.path}: {' and '.join(files)} are both named {name}{ending}: remove one"
            tree.problems.append(Problem(text, len(files)))
    return {name: files[0] for name, files in by_name.items() if len(files) == 1}


def _read_pair(rgb_path: Path, depth_path: Path) -> Pair:
    rgb_bytes, depth_bytes = read_bytes(rgb_path), read_bytes(depth_path)
    with one_at_a_time(rgb_bytes, depth_bytes):
        rgb, depth = decode_pair(rgb_path, depth_path, rgb_bytes, depth_bytes)
    return Pair(
        rgb=rgb,
        depth=depth,
        note=_ORIENTATION_IGNORED if has_orientation(rgb_bytes) or has_orientation(depth_bytes) else None,
    )


def _read_npy_pair(rgb_path: Path, depth_path: Path, *, is_float: bool, unit_m: float) -> Pair:
    rgb_bytes = read_bytes(rgb_path)
    rgb, depth = read_rgb(rgb_path, rgb_bytes), read_array(depth_path)
    depth = depth.astype(depth.dtype.newbyteorder("="), copy=False)
    if depth.shape != rgb.shape[:2]:
        raise UserError(f"{depth_path}: depth is {depth.shape}, but its RGB is {rgb.shape[:2]}")
    if depth.dtype.kind in "iub" and depth.dtype != np.uint16:
        raise UserError(
            f"{depth_path}: depth is {depth.dtype}, uint16 was expected: save it with "
            "np.save(path, np.clip(depth, 0, 65535).astype(np.uint16)), codes with 0 = no measurement, or as floats in metres"
        )
    if np.issubdtype(depth.dtype, np.floating) != is_float or (not is_float and depth.dtype != np.uint16):
        raise UserError(
            f"{depth_path}: depth is {depth.dtype}, {'floats' if is_float else 'uint16'} were expected as in the first file"
        )
    num_measured = None
    if is_float:
        num_measured = int(np.count_nonzero(np.isfinite(depth) & (depth != 0)))
        codes = np.where(np.isfinite(depth) & (depth > 0), np.rint(depth.astype(np.float64) * (unit_m / _MM_M)), 0)
        if codes.max(initial=0) > _MAX_CODE:
            raise UserError(
                f"{depth_path}: depth goes up to {codes.max() * _MM_M:g} m: is --unit {unit_m:g} right?{_likely_unit(depth)}"
            )
        depth = codes.astype(np.uint16)
    return Pair(
        rgb=rgb,
        depth=depth,
        note=_ORIENTATION_IGNORED if has_orientation(rgb_bytes) else None,
        num_measured=num_measured,
    )


def _likely_unit(depth: NDArray[Any]) -> str:
    """A question about the unit that makes the median of an array of floats plausible for a camera; "" if there is none."""
    median = float(np.median(depth[np.isfinite(depth) & (depth > 0)]))
    near_m, far_m = PLAUSIBLE_MEDIAN_M
    likely = [name for name, unit_m in UNITS_M.items() if near_m <= median * unit_m <= far_m]
    # Of two possible units, choose the one whose median is closest to 1 m, the usual distance.
    best = min(likely, key=lambda name: abs(math.log(median * UNITS_M[name])), default=None)
    return "" if best is None else f" The median is {median:g}: are these {_UNIT_NAMES[best]}, --unit {best}?"


def _rows(path: Path, *, width: int) -> list[list[str]]:
    """The words of each line that is not a comment; the first is a time.

    Raises:
        UserError: the file is missing or not such a list.
    """
    rows = []
    what = f"a list of {'time file ' * (width // 2)}a line (rgb.txt and depth.txt, or associations.txt)"
    for number, line in enumerate(read_lines(path, what=what), start=1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != width or not all(_TIME.fullmatch(word) for word in words[::2]):
            raise UserError(
                f"{path}, line {number}: {printable(line[:80])!r}; {'time file ' * (width // 2)}was expected"
            )
        rows.append(words)
    return rows


def _in_order(first_time: str, first: str, second_time: str, second: str) -> tuple[str, str, str]:
    """RGB time, RGB file and depth file of an association. Some programs write the depth first."""
    if "depth" in first and "depth" not in second:
        return second_time, second, first
    return first_time, first, second
