"""How a command ends early: signals that act as Ctrl-C does, and errors in words.

Owns the signal handlers of the command line and the message of every error; `edgefuse.app.main.main` uses it.
"""

from __future__ import annotations

import errno
import signal
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""What systemd, docker stop and a closed terminal send."""


@dataclass
class Ending:
    """The signal that ended the command; Ctrl-C where no other came."""

    signal: signal.Signals = signal.SIGINT


@contextmanager
def ended_by_signals() -> Iterator[Ending]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C would, with its summary and its clean-up; later ones are ignored.

    A signal that the parent process had ignored stays so (nohup ignores SIGHUP).
    """
    ending = Ending()

    def end(number: int, _frame: types.FrameType | None) -> None:
        ending.signal = signal.Signals(number)
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt(ending.signal.name)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def message_of(error: Exception) -> str:
    """An error as the user reads it; one that is not the user's asks for a report."""
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
    return f"error: {type(error).__name__}: {error}\nThis is a fault in edgefuse; --debug shows where."
