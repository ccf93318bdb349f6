"""What a block leaves behind in this process. Things that earlier tests left, and that vanish meanwhile, do not count."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GONE_WITHIN_S = 5.0


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """At the end, no thread, open file or shared memory of edgefuse may exist that did not exist before.

    Raises:
        AssertionError: with what was left.
    """
    gc.collect()
    before = _resources()
    yield
    gc.collect()
    until_s = time.monotonic() + GONE_WITHIN_S
    while (left := _resources() - before) and time.monotonic() < until_s:
        time.sleep(0.01)  # a thread of an earlier test may have had a file open
    assert not left


def _resources() -> set[str]:
    found = {f"thread {thread.name} {thread.ident}" for thread in threading.enumerate()}
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the folder itself
            found.add(f"file {entry.name}: {entry.readlink()}")
    maps = Path("/proc/self/maps").read_text().splitlines()
    return found | {line for line in maps if "edgefuse-capture" in line}
