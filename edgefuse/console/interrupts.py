"""Remembers the signal that is to end the command.

The signal's handler raises KeyboardInterrupt, but compiled code may swallow that: Cython does in parts of an import.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_received: list[signal.Signals] = []
_is_held = False


def remember(received: signal.Signals) -> None:
    """A signal has arrived."""
    _received.append(received)


def forget() -> None:
    """The command has ended."""
    _received.clear()


def is_held() -> bool:
    """Whether the handler only remembers the signal, see `held`."""
    return _is_held


@contextmanager
def held() -> Iterator[None]:
    """A block that no signal interrupts: its KeyboardInterrupt is raised at the end. For steps that belong together and never wait.

    Only the main thread is interrupted by signals, so in other threads this does nothing.

    Raises:
        KeyboardInterrupt: a signal has arrived; with its name.
    """
    global _is_held  # noqa: PLW0603  (the handler reads it)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _is_held = True
    try:
        yield
    finally:
        _is_held = False
    raise_if_interrupted()


def raise_if_interrupted() -> None:
    """Raise the KeyboardInterrupt of the signal again. For endless loops.

    Raises:
        KeyboardInterrupt: a signal has arrived; with its name.
    """
    if _received:
        raise KeyboardInterrupt(_received[0].name)
