"""Log and progress of a TensorRT build: the log goes to a file, the last errors to the message, the progress to a bar and to lines.

TensorRT calls both from its own threads. An exception from writing or display must not reach it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from edgefuse.progress import Progress, no_progress

KEPT_ERRORS = 5
BUILDING = "building"
"""The stage name in calls of `progress`."""
LINE_EVERY_S = 8.0
"""Between two lines of a long step: also a busy machine shows one in ten seconds."""

# Texts of TensorRT's messages (TensorRT #477, #948; DeepStream-Yolo #366). A tactic that is skipped because of "insufficient
# memory on requested size" is a warning about the workspace: TensorRT tries others.
_SHORT_GPU_MEMORY = re.compile(r"out of memory|OutOfMemory|Requested amount of (GPU )?memory", re.IGNORECASE)
_SHORT_WORKSPACE = re.compile(r"insufficient workspace|do not have sufficient workspace", re.IGNORECASE)
_NO_KERNEL = re.compile(r"could not find any implementation|no implementation.*constraint", re.IGNORECASE)

_log = logging.getLogger(__name__)


class Journal:
    """The builder's log in a file, and its last errors in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._errors: deque[str] = deque(maxlen=KEPT_ERRORS)
        self.reset_errors()
        self._file: IO[str] | None = None

    def __enter__(self) -> Journal:
        self.path.unlink(missing_ok=True)  # another user may own the previous log
        self._file = self.path.open("w", encoding="utf-8", errors="backslashreplace")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, severity: str, text: str) -> None:
        """Write one message. VERBOSE messages are dropped: they fill hundreds of megabytes."""
        if severity == "VERBOSE":
            return
        with self._lock, contextlib.suppress(OSError):  # such as a full disk
            if severity in {"ERROR", "INTERNAL_ERROR"}:
                self._errors.append(text)
                self._short_gpu_memory |= bool(_SHORT_GPU_MEMORY.search(text))
                self._short_workspace |= bool(_SHORT_WORKSPACE.search(text))
                self._no_kernel |= bool(_NO_KERNEL.search(text))
            else:
                self._warned_of_gpu_memory |= bool(_SHORT_GPU_MEMORY.search(text))
            if self._file is not None:
                self._file.write(f"{severity}: {text}\n")
                self._file.flush()

    def last_errors(self) -> str:
        """The last errors, to append to a message: ": first; second", or ""."""
        return f": {'; '.join(self._errors)}" if self._errors else ""

    def reset_errors(self) -> None:
        """Start a new attempt without the errors of the previous one. The file keeps them."""
        self._errors.clear()
        self._short_gpu_memory = self._warned_of_gpu_memory = self._short_workspace = self._no_kernel = False

    def lacked_gpu_memory(self) -> bool:
        """Whether the build failed for lack of GPU memory. A warning counts only if no error has another cause."""
        other_cause = self._short_workspace or self._no_kernel
        return self._short_gpu_memory or (self._warned_of_gpu_memory and not other_cause)

    def lacked_kernel(self) -> bool:
        """Whether the build failed because a layer has no kernel, with enough workspace and GPU memory."""
        return self._no_kernel and not self._short_workspace and not self._short_gpu_memory

    def lacked_workspace(self) -> bool:
        """Whether a layer has no kernel within the workspace. TensorRT does not always name the workspace as the cause."""
        return self._short_workspace or self._no_kernel


class BuildProgress:
    """Progress of nested phases as one percentage that never decreases. See IProgressMonitor in TensorRT's Python API.

    Args:
        progress: called with (percent, 100), from any thread, one call at a time.

    Attributes:
        interrupted: True = the next `step` tells TensorRT to stop the build.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
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
        """Returns False after Ctrl-C, which stops the build."""
        with self._lock:
            self._done[phase] = step + 1
            self._show()
            return not self.interrupted

    def finish(self, phase: str) -> None:
        with self._lock:
            self._parents.pop(phase, None)

    def complete(self) -> None:
        """Report 100 %: the phases need not add up to it, and those of TensorRT-RTX do not."""
        with self._lock:
            self._report(100)

    def status(self) -> str:
        """The innermost phase and the percentage: "building the engine: Timing tactics, 17 %"."""
        with self._lock:
            phase = next(reversed(self._parents), "")
            return f"building the engine{phase and f': {phase}'}, {self._shown} %"

    def _show(self) -> None:
        roots = [phase for phase, parent in self._parents.items() if parent not in self._parents]
        self._report(int(100 * max((self._fraction(phase) for phase in roots), default=0.0)))

    def _report(self, percent: int) -> None:
        if percent <= self._shown:
            return
        self._shown = percent
        try:
            self._progress(percent, 100, stage=BUILDING)
        except Exception:  # a failing display must not stop a build of minutes
            self._progress = no_progress

    def _fraction(self, phase: str) -> float:
        """Fraction of the phase that is done; its child phases count as part of the current step."""
        inner = max((self._fraction(child) for child, parent in self._parents.items() if parent == phase), default=0.0)
        return min(1.0, (self._done[phase] + min(inner, 0.99)) / self._sizes[phase])


@contextlib.contextmanager
def reported(status: Callable[[], str], *, every_s: float = LINE_EVERY_S) -> Iterator[None]:
    """Log `status()` and the elapsed time every few seconds while the block runs: on any terminal, also if the library reports nothing."""
    started_s, ended = time.monotonic(), threading.Event()

    def report() -> None:
        while not ended.wait(every_s):
            _log.info("%s, %.0f s so far", status(), time.monotonic() - started_s)

    thread = threading.Thread(target=report, name="build-status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def interrupt_noted(progress: BuildProgress) -> Iterator[None]:
    """Make Ctrl-C stop the build at its next step: an exception must not pass through TensorRT's frames."""

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
