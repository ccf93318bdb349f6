"""What a data set in another layout gives, and how it becomes a data set folder.

Owns the seam between the readers of layouts and the folder layout: a reader returns a `Source`, `write_source` writes it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.data.folder import write_description, write_pair
from edgefuse.errors import UserError
from edgefuse.io.files import folder_replaced
from edgefuse.io.json_files import write_json

LEFT_OUT_NAME = "left_out.json"
"""Beside `dataset.json` where bad pairs were left out: what was wrong with each."""
MAX_PROBLEMS = 20
"""Bad pairs after which a conversion that refuses them gives up: more would be the same fault again."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """One decoded pair: `rgb` uint8 [H, W, 3] in RGB order, `depth` uint16 [H, W] with 0 = none; `note` tells of a repair."""

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Item:
    """One pair to convert; `read` raises `UserError` where the pair cannot be used, and looks at `files`."""

    label: str
    instance: str
    name: str
    read: Callable[[], Pair]
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set in another layout.

    Attributes:
        depth_unit_m: metres of one depth code of the pairs.
        problems: pairs that are incomplete, one sentence each.
        notes: what the user should know although it is no fault.
        origin: what `dataset.json` says of where the data came from; no absolute paths.
        more_files: JSON files beside `dataset.json`, by name.
    """

    items: tuple[Item, ...]
    depth_unit_m: float
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    more_files: Mapping[str, Any] = field(default_factory=dict)

    def files_sha256(self) -> str:
        """Digest of which pairs there are and of their files' names, sizes and times, without reading them.

        Another place of the same tree gives the same digest, and a copy that kept no times another one.
        """
        digest = hashlib.sha256(f"{len(self.problems)} problems\n".encode())
        for item in sorted(self.items, key=lambda item: (item.label, item.instance, item.name)):
            for file in item.files:
                state = file.stat() if file.is_file() else None
                seen = "absent" if state is None else f"{state.st_size} {state.st_mtime_ns}"
                digest.update(f"{item.label}/{item.instance}/{item.name} {file.name} {seen}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What became of a source: pairs written, pairs left out (one sentence each), and notes."""

    num_pairs: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def write_source(
    source: Source,
    out: Path,
    *,
    skip_bad: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Converted:
    """Write a source as a data set folder, which appears when it is complete and not before.

    Args:
        skip_bad: leave bad pairs out instead of refusing.
        on_progress: called with the pairs done and their total.

    Raises:
        UserError: bad pairs, all of those found are named; nothing to write; two pairs of one name.
    """
    if not skip_bad:
        _refuse(source.problems)
    names = Counter((item.label, item.instance, item.name) for item in source.items)
    double = ["/".join(name) for name, count in names.items() if count > 1]
    if double:
        raise UserError(f"{len(double)} name(s) stand for several pairs, such as {double[0]}: rename them")
    problems, notes = list(source.problems), list(source.notes)
    with folder_replaced(out) as folder:
        found = _write_all(source.items, folder, stop_at=None if skip_bad else MAX_PROBLEMS, on_progress=on_progress)
        problems += found.problems
        if not skip_bad:
            _refuse(problems)
        num_pairs = len(source.items) - len(found.problems)
        if not num_pairs:
            raise UserError(
                f"none of the {len(problems)} pairs can be used; the first: {(problems or ['no pairs'])[0]}"
            )
        notes += [f"{count} pair(s): {note}" for note, count in sorted(found.notes.items())]
        for name, value in source.more_files.items():
            write_json(folder / name, value)
        if problems:
            write_json(folder / LEFT_OUT_NAME, {"left_out": problems})
        origin = {**source.origin, "pairs": num_pairs, "left_out": len(problems)}
        write_description(folder, depth_unit_m=source.depth_unit_m, source=origin)
    return Converted(num_pairs=num_pairs, left_out=tuple(problems), notes=tuple(notes))


@dataclass(frozen=True)
class _Found:
    problems: list[str]
    notes: Counter[str]


def _write_all(
    items: tuple[Item, ...], folder: Path, *, stop_at: int | None, on_progress: Callable[[int, int], None]
) -> _Found:
    found = _Found([], Counter())
    pool = ThreadPoolExecutor()
    try:
        pending = [pool.submit(_write_one, item, folder) for item in items]
        for done, future in enumerate(as_completed(pending), start=1):
            result = future.result()
            if isinstance(result, UserError):
                found.problems.append(str(result))
                if stop_at is not None and len(found.problems) >= stop_at:
                    break
            elif result is not None:
                found.notes[result] += 1
            on_progress(done, len(items))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    found.problems.sort()
    return found


def _write_one(item: Item, folder: Path) -> str | UserError | None:
    """Write one pair. A note on it, the reason why it cannot be used, or nothing to say."""
    try:
        pair = item.read()
    except UserError as error:
        return error
    write_pair(folder / item.label / item.instance, item.name, pair.rgb, pair.depth)
    return pair.note


def _refuse(problems: tuple[str, ...] | list[str]) -> None:
    if problems:
        shown = "\n  ".join(problems[:MAX_PROBLEMS])
        more = f"\n  ... and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        raise UserError(
            f"nothing was written: {len(problems)} bad pair(s), mend them or leave them out with --skip-bad:\n  {shown}{more}"
        )
