"""Progress reports of long-running functions: one protocol, which any callable with this signature follows.

Messages are not progress: they go through `logging`, to the logger of their module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Called as work is done, from any thread, one call at a time.

    Example:
        >>> def show(done, total, /, *, stage=""):
        ...     print(f"{stage}: {done} of {total}")
        >>> import edgefuse
        >>> scores = edgefuse.evaluate("bundles/mugs", "mugs", progress=show)
        scoring: 32 of 36
        scoring: 36 of 36
    """

    def __call__(self, done: int, total: int | None, /, *, stage: str = "") -> None:
        """Report progress.

        Args:
            done: steps done so far.
            total: number of steps; None = unknown, such as for a recording that ends with Ctrl-C.
            stage: the current work, such as "rendering"; each stage counts from the start.
        """


def no_progress(done: int, total: int | None, /, *, stage: str = "") -> None:
    """The default: shows nothing."""


@contextmanager
def step(progress: Progress, stage: str) -> Iterator[None]:
    """Report a stage that cannot be divided: 0 of 1 at its start, 1 of 1 at its end."""
    progress(0, 1, stage=stage)
    yield
    progress(1, 1, stage=stage)
