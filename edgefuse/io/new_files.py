"""Add files and folders atomically without replacing any, such as a sequence of a data set and its pairs; and locks.

Owns adding, and locks between processes. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgefuse.errors import UserError
from edgefuse.io.temporaries import MARK, is_temporary, take_lock, temporary_beside

_CLAIM_ATTEMPTS, _CLAIM_WAIT_S = 10, 0.01


@contextmanager
def folder_added(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder next to `folder`. If the block ends without an error, it is renamed to `folder`.

    Nothing is replaced.

    Raises:
        FileExistsError: `folder` exists by then.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(folder, is_folder=True) as temporary:
        temporary.chmod(0o755)
        yield temporary
        try:
            temporary.rename(folder)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise FileExistsError(errno.EEXIST, "it exists already", str(folder)) from error
            raise


@contextmanager
def files_added(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder inside `folder`. If the block ends without an error, its files move into `folder`: all or none.

    They move in the order of their names, one right after the other. A process killed during the move leaves the rest in the
    temporary folder, where `left_behind` finds them. Ctrl-C must not interrupt the move: call it in a thread, or block signals.
    """
    with temporary_beside(folder / "files", is_folder=True) as temporary:
        yield temporary
        names = sorted(path.name for path in temporary.iterdir())
        try:
            for name in names:
                (temporary / name).rename(folder / name)
        except BaseException:
            for name in names:
                if not (temporary / name).exists():
                    (folder / name).unlink(missing_ok=True)
            raise


def left_behind(folder: Path) -> list[Path]:
    """Files that `files_added` has not moved into `folder` yet, because it is running or was killed."""
    with contextlib.suppress(OSError):
        temporaries = [path for path in folder.iterdir() if is_temporary(Path(path.name)) and path.is_dir()]
        return [
            path for folder in temporaries for path in sorted(folder.iterdir()) if not is_temporary(Path(path.name))
        ]
    return []


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Lock a name in a folder against other processes, whether or not a file of that name exists; yields False if it is locked.

    Args:
        folder: an existing folder, in which a hidden, locked file represents the name.
    """
    path = folder / f".claim{MARK}{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    for attempt in range(1, _CLAIM_ATTEMPTS + 1):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        is_ours = take_lock(path, handle)
        if is_ours or attempt == _CLAIM_ATTEMPTS:
            break
        os.close(handle)  # just released by another process, or being checked by `remove_leftovers`
        time.sleep(_CLAIM_WAIT_S)
    try:
        yield is_ours
    finally:
        if is_ours:
            path.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the only process that writes into `folder` while the block runs. Creates a missing folder.

    `folder_begun` holds the same lock until its block ends.

    Raises:
        UserError: another process is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) as is_ours:
        if not is_ours:
            raise UserError(f"another process is writing {folder}: wait until it has ended, or choose another name")
        yield


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Wait for the lock of a file and hold it while the block runs. On file systems without locks, nothing is locked.

    If all writers hold this lock to replace another file, no replacement happens during the block.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Lock an existing file or folder while the block runs; yields False if another process holds the lock.

    The lock ends with the process. On file systems without locks, it always succeeds.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield take_lock(path, handle)
    finally:
        os.close(handle)
