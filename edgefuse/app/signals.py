"""Early ends of a command: signals that act like Ctrl-C, and error messages.

Owns the signal handlers of the command line and the messages of all exceptions; used by `edgefuse.app.main.main`.
"""

from __future__ import annotations

import errno
import signal
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edgefuse.console import interrupts

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Sent by systemd, docker stop and a closed terminal."""


@dataclass
class Ending:
    """The signal that ended the command; SIGINT (Ctrl-C) by default."""

    signal: signal.Signals = signal.SIGINT


@contextmanager
def ended_by_signals() -> Iterator[Ending]:
    """Make SIGTERM and SIGHUP end the block like Ctrl-C, with summary and clean-up; further ones are ignored.

    All three are remembered, so that a loop ends even if compiled code swallows the KeyboardInterrupt.
    Signals that the parent process ignored stay ignored (nohup ignores SIGHUP).
    """
    ending = Ending()

    def end(number: int, _frame: types.FrameType | None) -> None:
        ending.signal = signal.Signals(number)
        interrupts.remember(ending.signal)
        for other in SIGNALS if number != signal.SIGINT else ():
            signal.signal(other, signal.SIG_IGN)
        if not interrupts.is_held():
            raise KeyboardInterrupt(ending.signal.name)

    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGINT)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        interrupts.forget()


def message_of(error: Exception) -> str:
    """The message for an exception; unexpected ones are reported as a fault in edgefuse."""
    from edgefuse.errors import UserError, is_out_of_memory

    if is_out_of_memory(error):
        return f"error: not enough memory: {error}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"error: {error}: free some space, or choose another disk"
    if isinstance(error, UserError | OSError):
        return f"error: {error}"
    if isinstance(error, ImportError):
        package = (error.name or "").split(".")[0] or "a package"
        return f"error: {package} is missing or does not load ({error}): install edgefuse again: pip install --force-reinstall edgefuse"
    return f"error: {type(error).__name__}: {error}\nThis is a fault in edgefuse; --debug prints the traceback."
