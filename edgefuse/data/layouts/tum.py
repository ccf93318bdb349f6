"""A sequence of the TUM RGB-D benchmark: lists of timestamps, paired by nearest time.

The reader returns a `Source`; images are read later.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from edgefuse.data.layouts.pairs import read_pair
from edgefuse.data.layouts.source import Item, Source
from edgefuse.errors import UserError
from edgefuse.io.files import real_path
from edgefuse.io.text import printable
from edgefuse.io.text_files import read_lines

TUM_UNIT_M = 1 / 5000
"""Source: file formats of the TUM RGB-D benchmark: 5000 codes are one metre, 0 is no measurement."""
MAX_TIME_DIFFERENCE_S = 0.02

_TIME = re.compile(r"-?\d{1,20}(\.\d{0,20})?")


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
            read = partial(read_pair, root / rgb, root / depth)
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
