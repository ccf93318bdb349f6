"""Label, delete and undo: what pages ask for, checked against what they have seen. Owns conflicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from edgefuse.answers import NONE, UNKNOWN
from edgefuse.data.collection import NO_ANSWER, REVIEW
from edgefuse.data.detect_layout import split_folders
from edgefuse.errors import UserError
from edgefuse.io.text import check_name, printable
from edgefuse_runtime.browse.index import SHOWN, Entry, Index
from edgefuse_runtime.browse.journal import SUFFIXES, TRASH, Change, Fields, Journal
from edgefuse_runtime.browse.sources import DataSource

MAX_ITEMS = 500
"""Pairs of one change."""
Seen = Sequence[tuple[int, int]]
"""Number and version of each pair, as a page has seen it."""


class ConflictError(UserError):
    """Someone else has changed the data set since the page saw it. Nothing was done."""


class Changes:
    """Changes the data sets of an index."""

    def __init__(self, index: Index) -> None:
        self._index = index

    @property
    def last(self) -> tuple[DataSource, Change] | None:
        """The change that `undo` takes back: the newest one of all data sets."""
        found = [(s, s.journal.newest()) for s in self._index.sources if s.journal is not None and not s.read_only]
        made = [(source, change) for source, change in found if change is not None]
        return max(made, key=lambda pair: pair[1].time, default=None)

    def label(self, seen: Seen, label: str) -> tuple[str, list[Entry]]:
        """Move pairs to the folder of a class; returns a sentence and the pairs.

        Raises:
            ConflictError: one of them has changed.
            UserError: no possible name, or a data set that cannot be changed.
        """
        check_name(label, what="class")
        if label in (NONE, UNKNOWN, REVIEW, NO_ANSWER):
            raise UserError(f"{label!r} cannot be a class: edgefuse uses the name for something else")
        if split_folders([*self._index.labels, label]):
            raise UserError(f"{label!r} cannot be a class: it reads like a part of a split")

        def change(number: int, entries: list[Entry]) -> Change | None:
            moves: list[tuple[str, str]] = []
            fields = []
            for entry in entries:
                if entry.label == label and not entry.is_review:
                    continue
                key = self._free(entry, label, {new for _, new in moves})
                moves += _moves(entry, key)
                if entry.noted:
                    before = {name: entry.noted.get(name) for name in ("label", "labelled_by")}
                    after = {"label": label, "labelled_by": "browse"}
                    fields.append(
                        Fields(old=f"{entry.key}{SUFFIXES[2]}", new=f"{key}{SUFFIXES[2]}", before=before, after=after)
                    )
            text = f"{_named(entries)} labelled {label}"
            return (
                Change(number=number, action="label", text=text, moves=tuple(moves), fields=tuple(fields))
                if moves
                else None
            )

        return self._make(seen, change)

    def delete(self, seen: Seen) -> tuple[str, list[Entry]]:
        """Move pairs to the trash; returns a sentence and the pairs. Raises as `label`."""

        def change(number: int, entries: list[Entry]) -> Change:
            moves = [move for entry in entries for move in _moves(entry, f"{TRASH}/{number}/{entry.key}")]
            return Change(number=number, action="delete", text=f"{_named(entries)} deleted", moves=tuple(moves))

        return self._make(seen, change)

    def undo(self, source_number: int, number: int) -> tuple[str, list[Entry]]:
        """Take the last change back, which the page names; returns a sentence and the pairs.

        Raises:
            ConflictError: it is not the last one, or its files are not where it has put them.
        """
        with self._index.lock:
            self._index.refresh()
            sources = self._index.sources
            source = sources[source_number] if 0 <= source_number < len(sources) else None
            if source is None or source.journal is None:
                raise ConflictError("there is nothing to undo")
            with self._changing(source) as journal:
                last = journal.last
                if last is None or last.number != number:
                    raise ConflictError("another page has made or undone a change in the meantime: nothing was undone")
                missing = next((new for _, new in last.moves if not (source.root / new).is_file()), None)
                if missing is not None:
                    raise ConflictError(
                        f"{printable(missing)} was moved or removed by another program: nothing was undone"
                    )
                change = last.undone(journal.next_number)
                journal.make(change)
            return change.text, self._index.apply(source, change)

    def _make(self, seen: Seen, plan: Callable[[int, list[Entry]], Change | None]) -> tuple[str, list[Entry]]:
        with self._index.lock:
            self._index.refresh()
            entries = [self._seen(number, version) for number, version in seen]
            sources = {id(entry.source): entry.source for entry in entries}
            if len(sources) != 1 or len({entry.id for entry in entries}) != len(entries) or len(entries) > MAX_ITEMS:
                raise UserError(f"1 to {MAX_ITEMS} pairs of one data set were expected")
            (source,) = sources.values()
            with self._changing(source) as journal:
                for entry in entries:
                    if source.stamp(entry.key) != entry.stamp:
                        self._index.scan()
                        raise ConflictError(f"{_title(entry)} was changed by another program: nothing was done")
                change = plan(journal.next_number, entries)
                if change is None:
                    return "They have that label already.", entries
                journal.make(change)
            return change.text, self._index.apply(source, change)

    def _seen(self, number: int, version: int) -> Entry:
        entry = self._index.entries.get(number)
        if entry is None or entry.state != SHOWN:
            name = "a pair" if entry is None else _title(entry)
            raise ConflictError(f"{name} was deleted or moved in the meantime: nothing was done")
        if entry.version != version:
            raise ConflictError(
                f"{_title(entry)} was changed in the meantime, by another page or program: nothing was done"
            )
        return entry

    @contextmanager
    def _changing(self, source: DataSource) -> Iterator[Journal]:
        if source.read_only or source.journal is None:
            raise UserError(source.read_only)
        try:
            with source.journal.locked():
                yield source.journal
        except OSError as error:
            if isinstance(error, FileNotFoundError | FileExistsError):
                raise ConflictError(f"another program has moved files ({error.filename}): nothing was done") from error
            raise UserError(f"{source.root} cannot be changed ({error.strerror}): nothing was done") from error

    @staticmethod
    def _free(entry: Entry, label: str, taken: set[str]) -> str:
        """A key in a class that no pair has: that of the pair, or with a number."""
        root, name = entry.source.root, entry.name
        for number in range(2, 10_000):
            key = f"{label}/{entry.sequence}/{name}"
            if not any(f"{key}{suffix}" in taken or (root / f"{key}{suffix}").exists() for suffix in SUFFIXES):
                return key
            name = f"{entry.name}-{number}"
        raise UserError(f"{label}/{entry.sequence} has too many pairs of the name {entry.name}")


def _moves(entry: Entry, key: str) -> list[tuple[str, str]]:
    files = [suffix for suffix, state in zip(SUFFIXES, entry.stamp, strict=True) if state]
    return [(f"{entry.key}{suffix}", f"{key}{suffix}") for suffix in files]


def _title(entry: Entry) -> str:
    return printable(f"{entry.label}/{entry.sequence}/{entry.name}")


def _named(entries: Sequence[Entry]) -> str:
    return _title(entries[0]) if len(entries) == 1 else f"{len(entries)} pairs"
