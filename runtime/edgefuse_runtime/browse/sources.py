"""The data sets that a page shows, in any layout that `edgefuse.data` reads. Owns finding their pairs, and which can be changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import Align
from edgefuse.data.collection import REVIEW, read_kept
from edgefuse.data.dataset import read_pair
from edgefuse.data.description import describe
from edgefuse.data.detect_layout import recognised
from edgefuse.data.layouts.convert import READERS
from edgefuse.data.layouts.source import Item
from edgefuse.data.pairing import find_pairs, no_pairs
from edgefuse.data.tree import walk
from edgefuse.errors import UserError
from edgefuse.io.text import name_problem, quoted
from edgefuse_runtime.browse.journal import NAME, SUFFIXES, Journal

FOLDER_LAYOUT = "folder"

Stamp = tuple[tuple[int, ...], ...]


class Listed(NamedTuple):
    """A pair of a data set.

    Attributes:
        key: its files' name from the root, without suffixes.
        is_review: nobody has checked its label.
        stamp: identity, size and time of its files; changes with them.
        noted: what `live --collect` noted of it; empty for other pairs.
    """

    key: str
    label: str
    sequence: str
    name: str
    is_review: bool
    stamp: Stamp
    noted: dict[str, Any]


@dataclass(kw_only=True)
class DataSource:
    """One data set.

    Attributes:
        layout: "folder", or one of `edgefuse data convert`.
        read_only: why its labels cannot be changed; empty if they can.
        problems: files that are no pairs, one sentence each; of the last `pairs`.
    """

    root: Path
    layout: str
    depth_unit_m: float
    align: Align
    read_only: str = ""
    journal: Journal | None = None
    problems: tuple[str, ...] = ()
    _items: dict[str, Item] | None = None
    _noted: dict[tuple[int, ...], dict[str, Any]] = field(default_factory=dict)

    def pairs(self) -> Iterator[Listed]:
        """All pairs, by class, sequence and name."""
        if self._items is not None:
            for key, item in self._items.items():
                yield Listed(key, item.label, item.sequence, item.name, False, (), {})
            return
        problems: list[str] = []
        for top in (self.root, self.root / REVIEW):
            if top.is_dir():
                tree = find_pairs(top)
                problems += [problem.text for problem in tree.problems]
                for pair in tree.pairs:
                    yield self.listed((pair.rgb_path.parent / pair.name).relative_to(self.root).as_posix())
        self.problems = tuple(problems)

    def folders(self) -> list[Path]:
        """Every folder of the data set; none for other layouts, which are read once."""
        tops = () if self._items is not None else (self.root, self.root / REVIEW)
        return [folder.path for top in tops for folder in walk(top)]

    def read(self, key: str) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """The images of a pair.

        Raises:
            UserError: they cannot be read.
        """
        if self._items is not None:
            pair = self._items[key].read()
            return pair.rgb, pair.depth
        depth, rgb, _ = (self.root / f"{key}{suffix}" for suffix in SUFFIXES)
        return read_pair(rgb, depth)

    def stamp(self, key: str) -> Stamp:
        """See `Listed.stamp`; a missing file is ()."""
        return tuple(_state(self.root / f"{key}{suffix}") for suffix in SUFFIXES)

    def listed(self, key: str) -> Listed:
        """A pair of the folder layout by its key."""
        *above, label, sequence, name = key.split("/")
        stamp = self.stamp(key)
        return Listed(key, label, sequence, name, above == [REVIEW], stamp, self._note(key, stamp[2]))

    def _note(self, key: str, stamp: tuple[int, ...]) -> dict[str, Any]:
        if not stamp:
            return {}
        if stamp not in self._noted:
            self._noted[stamp] = {}
            with contextlib.suppress(UserError):  # a file of another program
                self._noted[stamp] = read_kept(self.root / f"{key}{SUFFIXES[2]}")
        return self._noted[stamp]


def _state(path: Path) -> tuple[int, ...]:
    try:
        state = path.stat()
    except OSError:
        return ()
    return state.st_ino, state.st_size, state.st_mtime_ns


def open_source(root: Path, *, layout: str | None = None, unit: str | None = None) -> DataSource:
    """Open a data set.

    Args:
        layout: "folder" or a layout of `edgefuse data convert`; None = what the names of its files indicate.
        unit: depth unit of a layout that has that option.

    Raises:
        UserError: no data set in that layout.
    """
    if root.name == REVIEW:
        raise UserError(f"{root} is the unchecked part of a collection: give {quoted(root.parent)}")
    layout = layout or _layout_of(root)
    if layout == FOLDER_LAYOUT:
        description = describe(root)
        source = DataSource(root=root, layout=layout, depth_unit_m=description.depth_unit_m, align=description.align)
        try:
            source.journal = Journal(root)
        except UserError as error:
            source.read_only = f"Read-only: {error}"
        if source.journal is not None and not os.access(root, os.W_OK):
            source.read_only = f"Read-only: the folder {root} cannot be written"
        return source
    if layout not in READERS:
        raise UserError(f"unknown layout {layout!r}: one of {', '.join((FOLDER_LAYOUT, *READERS))} was expected")
    given: dict[str, Any] = {} if unit is None else {"unit": unit}
    if layout == "tum":
        name = root.resolve().name
        given["label"] = name if name_problem(name) is None else "sequence"
    other = READERS[layout](root, given)
    return DataSource(
        root=root,
        layout=layout,
        depth_unit_m=other.depth_unit_m,
        align=other.align,
        problems=other.problems,
        read_only=f"Read-only: {root} has the layout {layout}. Labels can be changed after: edgefuse data convert {quoted(root)} OUT "
        f"--layout {layout}",
        _items={f"{item.label}/{item.sequence}/{item.name}": item for item in other.items},
    )


def _layout_of(root: Path) -> str:
    describe(root)  # raises if it is no folder
    tree = find_pairs(root)
    if tree.pairs or (root / REVIEW).is_dir() or (root / NAME).exists():
        return FOLDER_LAYOUT
    layout = recognised(root)
    if layout is not None:
        return layout
    if (root / "associations.txt").is_file() or ((root / "rgb.txt").is_file() and (root / "depth.txt").is_file()):
        return "tum"
    for word in ("pairs", "npy"):
        with contextlib.suppress(UserError):
            if READERS[word](root, {}).items:
                return word
    raise UserError(no_pairs(tree))
