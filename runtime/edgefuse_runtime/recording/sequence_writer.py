"""A take as it grows on the disk: claimed by one process, and made of whole pairs whenever that process ends.

Images are encoded and written by threads beside the camera's, so that recording keeps a camera's pace and Ctrl-C never comes
between the two files of a pair. Owns names, claims and the order of writing; `edgefuse_runtime.recording.record` decides what is written.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgefuse.data.dataset import write_pair
from edgefuse.data.incomplete_pairs import DEPTH_SUFFIX, RGB_SUFFIX, complete
from edgefuse.errors import UserError
from edgefuse.io.files import check_writable, flush_below, folder_replaced, refuse_existing
from edgefuse.io.new_files import claimed, files_added, folder_added
from edgefuse.io.temporaries import is_temporary

Pair = tuple[NDArray[np.uint8], NDArray[np.uint16]]

NUM_WRITERS = 2
MAX_WAITING = 8
"""Pairs in memory that are not written yet; a camera that is faster for long has its frames dropped, and counted."""


class SequenceWriter:
    """One take that this process writes.

    Attributes:
        folder: where it is in the end.
        replaces: pairs are written aside and take the place of another take in the end.
        num_written: pairs on the disk.
    """

    def __init__(self, folder: Path, pool: ThreadPoolExecutor, *, aside: Path | None) -> None:
        self.folder = folder
        self.replaces = aside is not None
        self.num_written = 0
        self._aside = aside
        self._pool = pool
        self._waiting: deque[Future[None]] = deque()
        self._num_added = 0

    def add(self, pair: Pair) -> None:
        """Have a pair written; waits where too many are waiting.

        Raises:
            OSError: an earlier pair could not be written.
        """
        self._num_added += 1
        name = f"frame_{self._num_added:06d}"
        if self._num_added == 1:  # alone: it makes the take's folder
            self._write(name, pair)
            self.num_written += 1
            return
        self._waiting.append(self._pool.submit(self._write, name, pair))
        while len(self._waiting) > MAX_WAITING or (self._waiting and self._waiting[0].done()):
            self._write_oldest()

    def finish(self) -> None:
        """Wait until what was added is on the disk.

        Raises:
            OSError: a pair could not be written; the others are there.
        """
        failure: Exception | None = None
        while self._waiting:
            try:
                self._write_oldest()
            except Exception as error:
                failure = failure or error
        if self.num_written:
            flush_below(self._aside or self.folder)
        if failure is not None:
            raise failure

    def _write_oldest(self) -> None:
        self._waiting[0].exception()  # Ctrl-C while waiting leaves it in the queue
        self._waiting.popleft().result()
        self.num_written += 1

    def _write(self, name: str, pair: Pair) -> None:
        if self._aside is not None:
            write_pair(self._aside, name, *pair)
        elif self.folder.exists():
            with files_added(self.folder) as temporary:
                write_pair(temporary, name, *pair)
        else:
            self._write_first(name, pair)

    def _write_first(self, name: str, pair: Pair) -> None:
        """Let the take, and its class where that is new, appear with a whole pair in it."""
        label = self.folder.parent
        while not self.folder.exists():
            top = self.folder if label.is_dir() else label
            try:
                with folder_added(top) as temporary:
                    write_pair(temporary if top == self.folder else temporary / self.folder.name, name, *pair)
            except FileExistsError:  # another process has just made the class's folder
                if top == self.folder:
                    raise


@contextmanager
def open_sequence(root: Path, label: str, sequence: str | None, *, force: bool) -> Iterator[SequenceWriter]:
    """Claim a take, and write into it.

    Args:
        instance: its name; None = one made of the date and time that no other process has or writes.
        force: replace a take of this name: when the block ends without an error.

    Raises:
        UserError: it exists, or another process records it, or a folder above it is a link to nothing.
    """
    folder = root / label / (sequence if sequence is not None else time.strftime("take_%Y%m%d_%H%M%S"))
    _refuse_dead_links(folder.parent)
    if sequence is None:
        check_writable(folder)
    else:
        refuse_existing(folder, force=force, is_ours=_is_sequence)
    is_new = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            if sequence is None:
                folder = _claim_free(stack, root, folder)
            elif stack.enter_context(claimed(root, f"{label}/{sequence}")):
                refuse_existing(folder, force=force, is_ours=_is_sequence)  # it may have appeared before the claim
            else:
                raise UserError(f"{folder} is being recorded by another process: choose another name with --sequence")
            for other in root.glob("*/*"):
                if other.is_dir():
                    complete(other)
            replaces = folder.is_dir() and any(folder.iterdir())
            aside = stack.enter_context(folder_replaced(folder)) if replaces else None
            pool = stack.enter_context(ThreadPoolExecutor(NUM_WRITERS))
            yield SequenceWriter(folder, pool, aside=aside)
    finally:
        if is_new and not any(root.iterdir()):
            root.rmdir()


def _refuse_dead_links(folder: Path) -> None:
    """Refuse a folder that cannot be made because a link to nothing, or to itself, stands at its name or above it."""
    for path in (folder, *folder.parents):
        if path.is_symlink() and not path.exists():
            raise UserError(
                f"{path} is a link to {path.readlink()}, which does not exist: make that folder, or record into another one"
            )


def _claim_free(stack: ExitStack, root: Path, wanted: Path) -> Path:
    """The first name like `wanted` that does not exist and could be claimed."""
    label = wanted.parent.name
    for count in itertools.count(1):
        name = wanted.name if count == 1 else f"{wanted.name}_{count}"
        if stack.enter_context(claimed(root, f"{label}/{name}")) and not (wanted.parent / name).exists():
            return wanted.parent / name
    raise AssertionError("unreachable")


def _is_sequence(folder: Path) -> bool:
    """Is there nothing but pairs in it? Anything else was not recorded, and is not replaced."""
    return (
        folder.is_dir()
        and not folder.is_symlink()
        and all(
            is_temporary(Path(path.name)) or (path.is_file() and path.name.endswith((RGB_SUFFIX, DEPTH_SUFFIX)))
            for path in folder.iterdir()
        )
    )
