"""Worker processes that never outlive the command that started them, however it ends.

Owns the start of a worker: every pool uses `begin_worker` as its initializer, or calls it in its own.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading


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
