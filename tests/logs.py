"""Log messages of the library during a test, as lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from edgefuse.console.messages import LOGGERS


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(("warning: " if record.levelno >= logging.WARNING else "") + record.getMessage())


@contextmanager
def logged() -> Iterator[list[str]]:
    """A list that collects messages from INFO on while the block runs; warnings start with "warning: "."""
    lines: list[str] = []
    handler = _Lines(lines)
    with ExitStack() as stack:
        for logger in map(logging.getLogger, LOGGERS):
            stack.callback(logger.setLevel, logger.level)
            stack.callback(logger.removeHandler, handler)
            logger.setLevel(logging.INFO)
            logger.addHandler(handler)
        yield lines
