"""What a TensorRT build says while it runs: its log in a file, its errors for the message, its progress for a bar.

TensorRT calls both from threads of its own, and nothing that goes wrong in showing may reach it.
"""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

KEPT_ERRORS = 5

# Words of TensorRT's own messages (TensorRT #477, #948; DeepStream-Yolo #366).
_SHORT_GPU_MEMORY = re.compile(
    r"out of memory|OutOfMemory|Requested amount of (GPU )?memory|insufficient memory on requested size", re.IGNORECASE
)
_SHORT_WORKSPACE = re.compile(
    r"insufficient workspace|do not have sufficient workspace|could not find any implementation", re.IGNORECASE
)


class Journal:
    """The builder's log in a file, and its last errors in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._errors: deque[str] = deque(maxlen=KEPT_ERRORS)
        self._short_gpu_memory = False
        self._short_workspace = False
        self._file: IO[str] | None = None

    def __enter__(self) -> Journal:
        self.path.unlink(missing_ok=True)  # the log of before may be another user's
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, severity: str, text: str) -> None:
        """One message; VERBOSE ones are left out, they fill hundreds of megabytes."""
        if severity == "VERBOSE":
            return
        with self._lock, contextlib.suppress(OSError):  # a full disk must not reach TensorRT's threads
            self._short_gpu_memory |= bool(_SHORT_GPU_MEMORY.search(text))
            if severity in {"ERROR", "INTERNAL_ERROR"}:
                self._errors.append(text)
                self._short_workspace |= bool(_SHORT_WORKSPACE.search(text))
            if self._file is not None:
                self._file.write(f"{severity}: {text}\n")
                self._file.flush()

    def last_words(self) -> str:
        """The last errors, for a message: ": first; second", or empty."""
        return f": {'; '.join(self._errors)}" if self._errors else ""

    def names_short_gpu_memory(self) -> bool:
        """Did the builder speak of GPU memory that it did not get?"""
        return self._short_gpu_memory

    def names_short_workspace(self) -> bool:
        """Did it end for want of a kernel within the workspace?"""
        return self._short_workspace


class Progress:
    """Nested phases as one percentage that never falls. See IProgressMonitor in TensorRT's Python API.

    Args:
        on_progress: called with (percent, 100), from any thread, one call at a time.

    Attributes:
        interrupted: the user wants the build to end; the next `step` says so to TensorRT.
    """

    def __init__(self, on_progress: Callable[[int, int], None]) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._parents: dict[str, str | None] = {}
        self._sizes: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._shown = 0
        self.interrupted = False

    def start(self, phase: str, parent: str | None, num_steps: int) -> None:
        with self._lock:
            self._parents[phase] = parent
            self._sizes[phase] = max(1, num_steps)
            self._done[phase] = 0
            self._show()

    def step(self, phase: str, step: int) -> bool:
        """Returns False once the user has pressed Ctrl-C, which ends the build."""
        with self._lock:
            self._done[phase] = step + 1
            self._show()
            return not self.interrupted

    def finish(self, phase: str) -> None:
        with self._lock:
            self._parents.pop(phase, None)

    def _show(self) -> None:
        roots = [phase for phase, parent in self._parents.items() if parent not in self._parents]
        percent = int(100 * max((self._share(phase) for phase in roots), default=0.0))
        if percent <= self._shown:
            return
        self._shown = percent
        try:
            self._on_progress(percent, 100)
        except Exception:  # a display that fails must not end a build of minutes
            self._on_progress = lambda _done, _total: None

    def _share(self, phase: str) -> float:
        """Steps done, and of the step in hand the part that its own phases have done."""
        inner = max((self._share(child) for child, parent in self._parents.items() if parent == phase), default=0.0)
        return min(1.0, (self._done[phase] + min(inner, 0.99)) / self._sizes[phase])


@contextlib.contextmanager
def interrupt_noted(progress: Progress) -> Iterator[None]:
    """Let Ctrl-C end the build at its next step: an exception must not pass through TensorRT's frames."""

    def note(_signal: int, _frame: Any) -> None:
        progress.interrupted = True

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    previous = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
