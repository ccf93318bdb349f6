"""Temporary names beside files and folders that are being written, and what killed commands leave behind.

Temporaries are named `.NAME-edgefuse-` and 16 hex digits, and locked while their writer lives (flock, which the kernel gives up
with the process), so that nobody removes what another process is writing; where there are no locks, nothing is removed.

Owns their names, locks and removal; the other modules of `edgefuse.io` use it. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = "-edgefuse-"
_TEMPORARY = re.compile(rf"\..*{MARK}[0-9a-f]{{16}}(\.[^.]*)?", re.DOTALL)
_MAX_STEM_BYTES = 150
_MAX_SUFFIX_BYTES = 20
_MAX_ATTEMPTS = 100
_cleaned: set[Path] = set()  # folders that this process has swept: once is enough, a folder of frames is long


def is_temporary(path: Path) -> bool:
    """Does `path` lie in, or is it, something that is still being written?"""
    return any(_TEMPORARY.fullmatch(part) for part in path.parts)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove temporaries in `folder` whose writer is gone; their paths. A writer that lives keeps its own."""
    removed = []
    with contextlib.suppress(OSError):
        for path in [path for path in folder.iterdir() if is_temporary(Path(path.name))]:
            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
                try:
                    fcntl.flock(
                        handle, fcntl.LOCK_EX | fcntl.LOCK_NB
                    )  # raises where it lives, and where there are no locks
                    remove(path)
                    removed.append(path)
                finally:
                    os.close(handle)
    return removed


@contextmanager
def temporary_beside(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """A new, locked temporary beside `path`; removed at the end where it still stands."""
    parent = path.parent
    if parent not in _cleaned:
        _cleaned.add(parent)
        remove_leftovers(parent)
    temporary, handle = _new_temporary(path, is_folder=is_folder)
    try:
        yield temporary
    finally:
        remove(temporary)
        os.close(handle)


def _new_temporary(path: Path, *, is_folder: bool) -> tuple[Path, int]:
    """A new temporary and the handle that holds its lock."""
    stem, suffix = (path.name, "") if is_folder else (path.stem, path.suffix)
    for _ in range(_MAX_ATTEMPTS):
        temporary = path.with_name(temporary_name(stem, suffix))
        try:
            if is_folder:
                temporary.mkdir()
                handle = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            else:
                handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except (FileExistsError, FileNotFoundError) as error:
            if not path.parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
            continue  # FileNotFoundError: see below
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(path)) from error
        if take_lock(temporary, handle):
            return temporary, handle
        # Between its making and its lock another process took it for left over.
        os.close(handle)
    raise OSError(errno.EIO, "no temporary file can be made beside it", str(path))


def take_lock(temporary: Path, handle: int) -> bool:
    """Lock it; is it still there, and nobody else's?"""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, where nobody removes leftovers
        return True
    try:
        return os.path.samestat(os.fstat(handle), temporary.stat())
    except FileNotFoundError:
        return False


def temporary_name(stem: str, suffix: str) -> str:
    if len(os.fsencode(stem)) > _MAX_STEM_BYTES:
        stem = os.fsencode(stem)[:_MAX_STEM_BYTES].decode("utf-8", "ignore")
    suffix = suffix if len(os.fsencode(suffix)) <= _MAX_SUFFIX_BYTES else ""
    return f".{stem}{MARK}{secrets.token_hex(8)}{suffix}"


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
