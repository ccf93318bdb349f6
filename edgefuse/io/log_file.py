"""Log files: appended to by one process, in complete lines, and rotated by size. Standard library only.

log.jsonl        the newest lines
log.jsonl.1      the lines before these, and so on
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from edgefuse.errors import UserError
from edgefuse.io.files import flush, real_path
from edgefuse.io.temporaries import take_lock


class LogFile:
    """Appends lines to a file. A FIFO or a device is written to, but neither locked nor rotated."""

    def __init__(self, path: Path, *, max_bytes: int, num_kept: int, is_ours: Callable[[Path], bool]) -> None:
        """Choose the file.

        Args:
            max_bytes: a file that would become larger is rotated first.
            num_kept: rotated files to keep.
            is_ours: returns whether an existing file is such a log; another file is neither appended to nor deleted.
        """
        self._path = real_path(path)
        self._max_bytes, self._num_kept, self._is_ours = max_bytes, num_kept, is_ours
        self._handle: int | None = None
        self._is_regular = False
        self._num_bytes = 0

    def open(self, *, truncate: bool = False) -> None:
        """Open the file, or create it and its folder.

        Args:
            truncate: begin with an empty file instead of appending.

        Raises:
            UserError: it is something else than a log, another process is writing it, or it cannot be written.
        """
        try:
            if os.path.lexists(self._path):
                self._check(self._path)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._begin(self._handle, truncate=truncate)
        except OSError as error:
            self.close()
            raise UserError(f"{self._path} cannot be written ({error.strerror}): choose another file") from error
        except UserError:
            self.close()
            raise

    def _begin(self, handle: int, *, truncate: bool) -> None:
        """Lock the file, then look at it: before the lock, another process may be writing it."""
        self._is_regular = stat.S_ISREG(os.fstat(handle).st_mode)
        if not self._is_regular:
            return
        if not take_lock(self._path, handle):
            raise UserError(f"another process is writing {self._path}: wait until it has ended, or choose another file")
        self._check(self._path)
        if truncate:
            os.ftruncate(handle, 0)
        self._num_bytes = os.fstat(handle).st_size
        if self._num_bytes and _last_byte(self._path) != b"\n":  # the machine lost power
            self.write(b"\n")

    def _check(self, path: Path) -> None:
        if not self._is_ours(path):
            raise UserError(f"{path} is left as it is, because this command did not write it: choose another file")

    def write(self, line: bytes) -> None:
        """Append one complete line, or nothing.

        Raises:
            OSError: the disk is full, for example.
            UserError: the file must be rotated, but a file that this command did not write has the oldest name.
        """
        if self._is_regular and self._num_bytes and self._num_bytes + len(line) > self._max_bytes:
            self._rotate()
        if self._handle is None:
            raise OSError("the log file is not open")
        left = memoryview(line)
        try:
            while left:  # on an almost full disk, a write may be partial without an error
                left = left[os.write(self._handle, left) :]
        except OSError:
            if self._is_regular:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._handle, self._num_bytes)
            raise
        self._num_bytes += len(line)

    def _rotate(self) -> None:
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n + 1}") for n in range(self._num_kept))]
        if os.path.lexists(names[-1]):
            self._check(names[-1])
        self.close()
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            if os.path.lexists(newer):
                os.replace(newer, older)  # noqa: PTH105
        flush(self._path.parent)
        self.open(truncate=not self._num_kept)

    def close(self) -> None:
        """Write the file to the disk and close it."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            try:
                if self._is_regular:
                    os.fsync(handle)
            finally:
                os.close(handle)


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
