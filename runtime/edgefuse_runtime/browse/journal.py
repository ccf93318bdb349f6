"""`Journal`: the changes of a data set, in `changes.jsonl` in its folder. Owns that file, and making changes so that a kill at any time loses none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from edgefuse.data.dataset import DATASET_NAME, DEPTH_SUFFIX, RGB_SUFFIX
from edgefuse.errors import UserError
from edgefuse.io.files import real_path
from edgefuse.io.json_files import Optional, dumps, parse_json, read_json, write_json
from edgefuse.io.moves import complete_moves, move_files, remove_empty
from edgefuse.io.new_files import held
from edgefuse.io.text import name_problem, printable

NAME = "changes.jsonl"
TRASH = ".trash"
"""Deleted pairs, in ROOT/.trash/<number of the change>/. Readers skip it, because its name begins with a dot."""
SCHEMA = 1
SUFFIXES = (DEPTH_SUFFIX, RGB_SUFFIX, ".json")
"""Files of a pair in the order in which they appear at a new place: there is never RGB without depth."""
_CHANGE = {
    "schema": int, "number": int, "action": str, "text": str, "time": str, "moves": [[str]], "undoes": Optional(int),
    "fields": [{"old": str, "new": str, "before": dict, "after": dict}],
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Values in the JSON file of a pair, which follow its class: the file's name and the values before and after a change."""

    old: str
    new: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change.

    Attributes:
        action: "label", "delete" or "undo".
        text: what it did, for people.
        moves: names of the files from the root, before and after.
        undoes: number of the change that this one undoes.
    """

    number: int
    action: str
    text: str
    moves: tuple[tuple[str, str], ...]
    fields: tuple[Fields, ...] = ()
    undoes: int | None = None
    time: str = ""

    def undone(self, number: int) -> Change:
        """The change that undoes this one."""
        fields = tuple(Fields(old=f.new, new=f.old, before=f.after, after=f.before) for f in self.fields)
        moves = tuple((new, old) for old, new in self.moves)
        return Change(
            number=number, action="undo", text=f"undone: {self.text}", moves=moves, fields=fields, undoes=self.number
        )


class Journal:
    """The changes of one data set. Other processes may use it at the same time."""

    _changes: dict[int, Change]
    _failed: set[int]
    _unfinished: int | None
    _num_bytes: int

    def __init__(self, root: Path) -> None:
        """Read the journal, if there is one.

        Raises:
            UserError: there is another file of that name.
        """
        self._root = root
        self.path = root / NAME
        self._forget()
        self._read()
        if self._unfinished is not None:
            with self.locked():
                pass

    @property
    def last(self) -> Change | None:
        """The newest change that is not undone; None if there is none."""
        made = [change for number, change in self._changes.items() if number not in self._failed]
        undone = {change.undoes for change in made}
        return next((c for c in reversed(made) if c.action != "undo" and c.number not in undone), None)

    def newest(self) -> Change | None:
        """The same as `last`, also of other processes."""
        with contextlib.suppress(UserError, OSError):
            self._read()
        return self.last

    @property
    def next_number(self) -> int:
        return max(self._changes, default=0) + 1

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the data set; also `live --collect`, which locks `dataset.json`.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            self.path.touch(exist_ok=True)
        except OSError as error:
            raise UserError(f"{self._root} cannot be changed ({error.strerror})") from error
        with contextlib.ExitStack() as stack:
            for path in (self.path, self._root / DATASET_NAME):
                if path.is_file():
                    stack.enter_context(held(path))
            self._read()
            if self._unfinished is not None:
                self._complete(self._changes[self._unfinished])
            yield

    def make(self, change: Change) -> None:
        """Make a change: note it, move its files, note that it is done. Needs the lock.

        Raises:
            UserError: a file is a link, or outside of the data set.
            OSError: a file cannot be moved, or the disk is full. Nothing has changed.
        """
        moves = self._paths(change)
        change = replace(change, time=datetime.now(timezone.utc).isoformat(timespec="milliseconds"))
        self._append({"kind": "change", "schema": SCHEMA, **asdict(change)})
        self._changes[change.number], self._unfinished = change, change.number
        try:
            move_files(moves)
        except OSError:
            self._failed_to_make(change)
            raise
        self._finish(change)

    def _complete(self, change: Change) -> None:
        """End a change that a killed process has begun."""
        if complete_moves(self._paths(change)):
            self._finish(change)
        else:
            self._failed_to_make(change)

    def _failed_to_make(self, change: Change) -> None:
        remove_empty((path.parent for _, path in self._paths(change)), below=self._root)
        self._end(change, "failed")

    def _finish(self, change: Change) -> None:
        for fields in change.fields:
            self._set(fields)
        remove_empty((path.parent for path, _ in self._paths(change)), below=self._root)
        self._end(change, "done")

    def _end(self, change: Change, kind: str) -> None:
        # If the disk is full, the next one who reads the journal finds out what happened.
        with contextlib.suppress(OSError):
            self._append({"kind": kind, "number": change.number})
        self._unfinished = None
        if kind == "failed":
            self._failed.add(change.number)

    def _set(self, fields: Fields) -> None:
        path = self._path(fields.new)
        with contextlib.suppress(UserError, OSError):  # the class is that of the folder; this file only repeats it
            write_json(path, {**read_json(path, what="what live noted of a frame"), **fields.after}, follow_links=False)

    def _paths(self, change: Change) -> list[tuple[Path, Path]]:
        return [(self._path(old), self._path(new)) for old, new in change.moves]

    def _path(self, name: str) -> Path:
        """A file of a pair. The journal may come with a data set of a stranger: nothing else is moved, and nothing elsewhere."""
        parts = PurePosixPath(name).parts
        is_plain = all(name_problem(part) is None or (not place and part == TRASH) for place, part in enumerate(parts))
        path = self._root.joinpath(*parts)
        if not parts or not is_plain or not name.endswith(SUFFIXES):
            raise UserError(f"{self.path} names {printable(name)!r}, which is no file of a pair: remove the journal")
        if real_path(path.parent) != real_path(self._root).joinpath(*parts[:-1]) or path.is_symlink():
            raise UserError(f"{path} is a link, or in a linked folder: change it where it really is")
        return path

    def _forget(self) -> None:
        self._changes, self._failed, self._unfinished, self._num_bytes = {}, set(), None, 0

    def _read(self) -> None:
        """Read what was appended since the last time."""
        if not os.path.lexists(self.path):
            data = b""
        elif self.path.is_symlink() or not self.path.is_file():
            raise UserError(f"{self.path} is not a file that this command wrote: rename it")
        elif self.path.stat().st_size == self._num_bytes:
            return
        else:
            data = self.path.read_bytes()
        if len(data) < self._num_bytes:  # removed, or another one
            self._forget()
        whole = data.rfind(b"\n") + 1  # a line without an end was being written when the machine lost power
        for line in data[self._num_bytes : whole].splitlines():
            self._take(line)
        self._num_bytes = whole

    def _take(self, line: bytes) -> None:
        value = parse_json(line, what=f"a line of {self.path}", spec={"kind": str, "number": int})
        if value["kind"] == "change":
            if value.get("schema") != SCHEMA:
                raise UserError(
                    f"{self.path} was written by another version of edgefuse: use that one, or rename the file"
                )
            parse_json(line, what=f"a line of {self.path}", spec=_CHANGE)
            known = {name: value[name] for name in ("number", "action", "text", "time", "undoes")}
            moves = tuple((old, new) for old, new in value["moves"])
            fields = tuple(Fields(**{key: item[key] for key in _CHANGE["fields"][0]}) for item in value["fields"])  # type: ignore[index]
            self._changes[value["number"]] = Change(**known, moves=moves, fields=fields)
            self._unfinished = value["number"]
        else:
            self._unfinished = None
            if value["kind"] == "failed":
                self._failed.add(value["number"])

    def _append(self, value: Mapping[str, Any]) -> None:
        line = dumps(value).encode() + b"\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            os.ftruncate(handle, self._num_bytes)
            try:
                if os.write(handle, line) != len(line):
                    raise OSError(28, "No space left on device", str(self.path))
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, self._num_bytes)
                raise
        finally:
            os.close(handle)
        self._num_bytes += len(line)
