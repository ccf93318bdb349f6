"""Move several files without replacing any: all of them, or none, also if the process is killed.

Owns such moves. Standard library only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgefuse.io.files import flush

Moves = Sequence[tuple[Path, Path]]
"""Each file and its new path, on the same file system."""
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def move_files(moves: Moves) -> None:
    """Move files; missing folders are made. First all get their new names in addition, in the order of `moves`, then the old names go.

    After a kill, some files have both names, until `complete_moves`. On file systems without hard links they move one after the other.

    Raises:
        OSError: one of them cannot be moved, such as FileExistsError. Nothing has moved.
    """
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            _name_too(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            _undo(source, target)
        raise
    for source, _ in reversed(moves):
        source.unlink(missing_ok=True)
    for folder in {path.parent for pair in moves for path in pair}:
        flush(folder)


def complete_moves(moves: Moves) -> bool:
    """End what a killed process has begun: forwards if all files have their new names, else back. Returns whether they have moved."""
    has_moved = all(os.path.lexists(target) for _, target in moves)
    for source, target in reversed(moves):
        if not has_moved:
            _undo(source, target)
        elif _is_same(source, target):
            source.unlink()
    return has_moved


def remove_empty(folders: Iterable[Path], *, below: Path) -> None:
    """Remove folders that are empty, and then those above them, but nothing that is not `below` a folder."""
    for folder in set(folders):
        for path in (folder, *folder.parents):
            try:
                if below not in path.parents:
                    break
                path.rmdir()
            except OSError:
                break


def _name_too(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        source.rename(target)


def _undo(source: Path, target: Path) -> None:
    if _is_same(source, target):
        target.unlink()
    elif os.path.lexists(target) and not os.path.lexists(source):
        target.rename(source)


def _is_same(first: Path, second: Path) -> bool:
    return os.path.lexists(first) and os.path.lexists(second) and os.path.samestat(first.lstat(), second.lstat())
