"""`Index`: every pair that a page shows, with a number that stays when its class changes. Owns noticing what other programs changed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.data.collection import NO_ANSWER
from edgefuse.data.dataset import RGB_SUFFIX
from edgefuse.errors import UserError
from edgefuse.framing import Roi
from edgefuse_runtime.browse.journal import TRASH, Change
from edgefuse_runtime.browse.sources import DataSource, Listed, Stamp

SHOWN, DELETED, GONE = "shown", "deleted", "gone"


@dataclass(kw_only=True, eq=False)
class Entry:
    """A pair.

    Attributes:
        id: does not change while the program runs.
        version: increases with every change: whoever changes the pair names the version that was seen.
        state: "shown", "deleted" (in the trash), or "gone" (moved or removed by another program).
    """

    id: int
    source: DataSource
    key: str
    label: str
    sequence: str
    name: str
    is_review: bool
    stamp: Stamp
    noted: dict[str, Any] = field(default_factory=dict)
    version: int = 1
    state: str = SHOWN

    @property
    def suggestion(self) -> str | None:
        """The label that nobody has checked; None for other pairs, and without one."""
        label = self.noted.get("label", self.label) if self.is_review else None
        return None if label == NO_ANSWER else label

    @property
    def whole(self) -> str | None:
        """Key of the whole images of which this pair is a region; None if it is whole itself, or they are not there."""
        key = self.noted.get("whole")
        return key if key is not None and all(self.source.stamp(key)[:2]) else None

    @property
    def roi(self) -> Roi | None:
        """Its region in the whole images."""
        return Roi(*roi) if len(roi := self.noted.get("roi") or ()) == len(Roi._fields) else None

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """See `DataSource.read`."""
        return self.source.read(self.key)

    def read_whole(self) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """The whole images of which the pair is a region.

        Raises:
            UserError: there are none, or they cannot be read.
        """
        if (key := self.whole) is None:
            raise UserError(f"there are no whole images of {self.key}")
        return self.source.read(key)


class Index:
    """All pairs of some data sets. Hold `lock` while using it."""

    def __init__(self, sources: Sequence[DataSource], *, labels: Iterable[str] = ()) -> None:
        """Find the pairs.

        Args:
            labels: more classes to choose from, such as those of a model.
        """
        self.sources = tuple(sources)
        self.lock = threading.RLock()
        self.entries: dict[int, Entry] = {}
        self.revision = 0
        self._more_labels = tuple(labels)
        self._by_key: dict[tuple[int, str], Entry] = {}
        self._folders: dict[Path, int] = {}
        self._order: dict[str, None] = {}
        self.scan()

    @property
    def labels(self) -> list[str]:
        """The classes in an order that does not change, because keys have their numbers; new ones are the last."""
        for label in sorted({e.label for e in self.entries.values() if e.state == SHOWN and not e.is_review}):
            self._order.setdefault(label)
        for label in self._more_labels:
            self._order.setdefault(label)
        return list(self._order)

    def shown(self) -> list[Entry]:
        """Every pair that is there, by data set, class, sequence and name."""
        return [entry for entry in self.entries.values() if entry.state == SHOWN]

    def refresh(self) -> None:
        """Notice files that other programs have added, moved or removed."""
        if any(_time_of(path) != time for path, time in self._folders.items()):
            self.scan()

    def apply(self, source: DataSource, change: Change) -> list[Entry]:
        """Follow a change that was made; returns its pairs."""
        changed = []
        for old, new in ((old, new) for old, new in change.moves if new.endswith(RGB_SUFFIX)):
            key = new.removesuffix(RGB_SUFFIX)
            entry = self._by_key.pop((id(source), old.removesuffix(RGB_SUFFIX)), None)
            if entry is not None:
                self._by_key[id(source), key] = entry
            if not new.startswith(f"{TRASH}/"):
                changed.append(self.entries[self._take(source, source.listed(key))])
            elif entry is not None:
                entry.key, entry.state, entry.version = key, DELETED, entry.version + 1
                changed.append(entry)
        paths = {source.root / name for pair in change.moves for name in pair if not name.startswith(f"{TRASH}/")}
        for folder in {above for path in paths for above in path.parents if above.is_relative_to(source.root)}:
            self._folders[folder] = _time_of(folder)
            if not self._folders[folder]:
                del self._folders[folder]
        self.revision += 1
        return changed

    def scan(self) -> None:
        """Find all pairs again."""
        self._folders = {path: _time_of(path) for source in self.sources for path in source.folders()}
        seen = {self._take(source, listed) for source in self.sources for listed in source.pairs()}
        for entry in self.entries.values():
            if entry.state == SHOWN and entry.id not in seen:
                entry.state, entry.version = GONE, entry.version + 1
                self._by_key.pop((id(entry.source), entry.key), None)
                self.revision += 1

    def _take(self, source: DataSource, listed: Listed) -> int:
        key, label, sequence, name, is_review, stamp, noted = listed
        entry = self._by_key.get((id(source), key))
        if entry is None:
            entry = Entry(
                id=len(self.entries) + 1, source=source, key=key, label=label, sequence=sequence, name=name,
                is_review=is_review, stamp=stamp, noted=noted,
            )  # fmt: skip
            self.entries[entry.id] = self._by_key[id(source), key] = entry
            self.revision += 1
        elif (entry.key, entry.stamp, entry.state) != (key, stamp, SHOWN):
            entry.key, entry.label, entry.sequence, entry.name, entry.is_review = key, label, sequence, name, is_review
            entry.stamp, entry.noted, entry.state = stamp, noted, SHOWN
            entry.version += 1
            self.revision += 1
        return entry.id


def _time_of(folder: Path) -> int:
    """When the names in a folder changed last; 0 if it is not there."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
