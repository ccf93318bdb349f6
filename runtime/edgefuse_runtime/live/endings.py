"""How a run ends: which signal it was, and no further signals while the summary is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edgefuse_runtime.results import Ending

_SIGNALS: dict[str, Ending] = {"SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP"}
"""Messages of the KeyboardInterrupt that the command line's signal handler raises."""


def ending_after(error: BaseException) -> Ending:
    """The ending of a run that an exception ended."""
    return _SIGNALS.get(str(error), "interrupted") if isinstance(error, KeyboardInterrupt) else "failed"


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Ignore SIGINT, SIGTERM and SIGHUP while the summary is written. Only the main thread receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handlers = {number: handler for number, handler in before.items() if handler is not None}
    for number in handlers:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
