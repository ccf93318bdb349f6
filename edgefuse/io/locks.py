"""Locks between processes on files and folders (flock): the kernel gives them up with the process. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgefuse.errors import UserError


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Wait until nobody else holds this file, and hold it while the block runs; nothing is held where there are no locks.

    What is replaced by those alone who hold it, is replaced before or after the block.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the only process that writes into `folder`, which is made where it is missing, while the block runs.

    What `folder_begun` keeps is held likewise until its block ends.

    Raises:
        UserError: another process writes there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is writing {folder}: wait until it has ended, or choose another name"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)
