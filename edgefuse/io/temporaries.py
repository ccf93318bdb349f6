"""Temporary names for files and folders that are being written, and cleaning up after killed commands.

Temporaries are named `.NAME-edgefuse-` plus 16 hex digits. The writer holds a lock on its temporary (flock, which the kernel
releases when the process ends), so that no other process removes it. On file systems without locks, nothing is removed.

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
_cleaned: set[Path] = set()  # folders already cleaned by this process: listing a large folder again would be slow


def is_temporary(path: Path) -> bool:
    """Whether `path` is a temporary or inside one."""
    return any(_TEMPORARY.fullmatch(part) for part in path.parts)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove temporaries in `folder` whose writer has ended; returns their paths."""
    removed = []
    with contextlib.suppress(OSError):
        for path in [path for path in folder.iterdir() if is_temporary(Path(path.name))]:
            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
                try:
                    fcntl.flock(
                        handle, fcntl.LOCK_EX | fcntl.LOCK_NB
                    )  # raises if the writer is running, or without locks
                    remove(path)
                    removed.append(path)
                finally:
                    os.close(handle)
    return removed


@contextmanager
def temporary_beside(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """Create a locked temporary next to `path`; removed at the end if it still exists."""
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
    """A new temporary and the handle with its lock."""
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
        # Another process removed it as a leftover before it was locked.
        os.close(handle)
    raise OSError(errno.EIO, "no temporary file can be made beside it", str(path))


def take_lock(temporary: Path, handle: int) -> bool:
    """Lock a temporary; returns whether it still exists and no other process has the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, where no process removes leftovers
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
