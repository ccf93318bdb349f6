"""Log messages on the command line: one line each on standard error, warnings with a prefix."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from edgefuse.io.text import say

LOGGERS = ("edgefuse", "edgefuse_export", "edgefuse_runtime", "edgefuse_benchmarks")


class _Lines(logging.Handler):
    """Prints records as lines; rich moves them above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        say(f"warning: {text}" if record.levelno >= logging.WARNING else text)


@contextmanager
def messages_shown() -> Iterator[None]:
    """Show log messages of the project's packages from INFO on while the block runs."""
    handler = _Lines()
    with ExitStack() as stack:
        for name in LOGGERS:
            logger = logging.getLogger(name)
            stack.callback(_restore, logger, logger.level, logger.propagate, handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False  # some packages give the root logger a handler of their own
            logger.addHandler(handler)
        yield


@contextmanager
def muted(name: str) -> Iterator[None]:
    """Hide messages below ERROR of one package while the block runs, such as those that every fold repeats."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _restore(logger: logging.Logger, level: int, propagate: bool, handler: logging.Handler) -> None:
    logger.setLevel(level)
    logger.propagate = propagate
    logger.removeHandler(handler)
