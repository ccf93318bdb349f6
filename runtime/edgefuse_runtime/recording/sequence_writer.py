"""Writing a sequence to the disk: locked by one process, with complete pairs at any time, even if the process is killed.

Separate threads encode and write the images, so that recording keeps up with the camera, and Ctrl-C never comes between the two
files of a pair.
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
"""Maximum number of pairs in memory that are not yet written. If the camera is faster for longer, frames are dropped and counted."""


class SequenceWriter:
    """Writes the pairs of one sequence.

    Attributes:
        folder: the sequence's folder.
        replaces: whether an existing sequence is being replaced. Pairs are then written to a temporary folder first.
        num_written: number of pairs on the disk.
    """

    def __init__(self, folder: Path, pool: ThreadPoolExecutor, *, temporary: Path | None) -> None:
        self.folder = folder
        self.replaces = temporary is not None
        self.num_written = 0
        self._temporary = temporary
        self._pool = pool
        self._waiting: deque[Future[None]] = deque()
        self._num_added = 0

    def add(self, pair: Pair) -> None:
        """Queue a pair for writing. Blocks while more than `MAX_WAITING` pairs are queued.

        Raises:
            OSError: an earlier pair could not be written.
        """
        self._num_added += 1
        name = _name(self._num_added)
        if self._num_added == 1:  # synchronously: it creates the sequence's folder
            self._write(name, pair)
            self.num_written += 1
            return
        self._waiting.append(self._pool.submit(self._write, name, pair))
        while len(self._waiting) > MAX_WAITING or (self._waiting and self._waiting[0].done()):
            self._write_oldest()

    def num_bytes(self, number: int) -> int:
        """The size of a written pair, from 1; 0 if it was removed."""
        paths = (self.folder / f"{_name(number)}{suffix}" for suffix in (RGB_SUFFIX, DEPTH_SUFFIX))
        return sum(path.stat().st_size for path in paths if path.exists())

    def finish(self) -> None:
        """Wait until all queued pairs are on the disk.

        Raises:
            OSError: a pair could not be written; the others were.
        """
        failure: Exception | None = None
        while self._waiting:
            try:
                self._write_oldest()
            except Exception as error:
                failure = failure or error
        if self.num_written:
            flush_below(self._temporary or self.folder)
        if failure is not None:
            raise failure

    def _write_oldest(self) -> None:
        self._waiting[0].exception()  # waits here, so that after Ctrl-C the pair is still in the queue
        self._waiting.popleft().result()
        self.num_written += 1

    def _write(self, name: str, pair: Pair) -> None:
        if self._temporary is not None:
            write_pair(self._temporary, name, *pair)
        elif self.folder.exists():
            with files_added(self.folder) as temporary:
                write_pair(temporary, name, *pair)
        else:
            self._write_first(name, pair)

    def _write_first(self, name: str, pair: Pair) -> None:
        """Create the sequence's folder, and the class's if it is new, together with the first pair."""
        label = self.folder.parent
        while not self.folder.exists():
            top = self.folder if label.is_dir() else label
            try:
                with folder_added(top) as temporary:
                    write_pair(temporary if top == self.folder else temporary / self.folder.name, name, *pair)
            except FileExistsError:  # another process has just created the class's folder
                if top == self.folder:
                    raise


def _name(number: int) -> str:
    return f"frame_{number:06d}"


@contextmanager
def open_sequence(root: Path, label: str, sequence: str | None, *, force: bool) -> Iterator[SequenceWriter]:
    """Lock a sequence for writing.

    Args:
        sequence: its name; None = date and time, with a suffix if another process uses that name.
        force: replace an existing sequence, when the block ends without an error.

    Raises:
        UserError: the sequence exists, another process is recording it, or a parent folder is a broken link.
    """
    folder = root / label / (sequence if sequence is not None else time.strftime("sequence_%Y%m%d_%H%M%S"))
    _refuse_broken_links(folder.parent)
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
                refuse_existing(folder, force=force, is_ours=_is_sequence)  # it may have been created before the lock
            else:
                raise UserError(f"{folder} is being recorded by another process: choose another name with --sequence")
            for other in root.glob("*/*"):
                if other.is_dir():
                    complete(other)
            replaces = folder.is_dir() and any(folder.iterdir())
            temporary = stack.enter_context(folder_replaced(folder)) if replaces else None
            pool = stack.enter_context(ThreadPoolExecutor(NUM_WRITERS))
            yield SequenceWriter(folder, pool, temporary=temporary)
    finally:
        if is_new and not any(root.iterdir()):
            root.rmdir()


def _refuse_broken_links(folder: Path) -> None:
    """Refuse a folder that cannot be created because it or one of its parents is a broken or circular link."""
    for path in (folder, *folder.parents):
        if path.is_symlink() and not path.exists():
            raise UserError(
                f"{path} is a link to {path.readlink()}, which does not exist: create that folder, or record to another one"
            )


def _claim_free(stack: ExitStack, root: Path, wanted: Path) -> Path:
    """The first of `wanted`, `wanted`_2, `wanted`_3, ... that does not exist and is not locked. Locks it."""
    label = wanted.parent.name
    for count in itertools.count(1):
        name = wanted.name if count == 1 else f"{wanted.name}_{count}"
        if stack.enter_context(claimed(root, f"{label}/{name}")) and not (wanted.parent / name).exists():
            return wanted.parent / name
    raise AssertionError("unreachable")


def _is_sequence(folder: Path) -> bool:
    """Whether a folder has only pairs. Other contents were not recorded, and are never replaced."""
    return (
        folder.is_dir()
        and not folder.is_symlink()
        and all(
            is_temporary(Path(path.name)) or (path.is_file() and path.name.endswith((RGB_SUFFIX, DEPTH_SUFFIX)))
            for path in folder.iterdir()
        )
    )
