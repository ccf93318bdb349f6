"""Worker processes that never outlive the command that started them, however it ends; and work in a few threads.

Owns the start of a worker process: every pool uses `begin_worker` as its initializer, or calls it in its own.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item], *, num_threads: int) -> Iterator[Result]:
    """The results in the order of the items; one thread is the caller's own, so that PyTorch's modes, which belong to it, apply."""
    if num_threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(num_threads) as pool:
        yield from pool.map(function, items)


def begin_worker() -> None:
    """Ignore Ctrl-C, because the parent ends its workers, and exit as soon as the parent is gone, even after SIGKILL."""

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("edgefuse").addHandler(logging.NullHandler())  # what it warns of, its parent tells
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
