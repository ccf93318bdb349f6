"""Remembers the signal that is to end the command.

The signal's handler raises KeyboardInterrupt, but compiled code may swallow that: Cython does in parts of an import.
"""

from __future__ import annotations

import signal

_received: list[signal.Signals] = []


def remember(received: signal.Signals) -> None:
    """A signal has arrived."""
    _received.append(received)


def forget() -> None:
    """The command has ended."""
    _received.clear()


def raise_if_interrupted() -> None:
    """Raise the KeyboardInterrupt of the signal again. For endless loops.

    Raises:
        KeyboardInterrupt: a signal has arrived; with its name.
    """
    if _received:
        raise KeyboardInterrupt(_received[0].name)
