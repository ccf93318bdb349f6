"""A sink that writes a trace of every frame's stages, for ui.perfetto.dev and chrome://tracing.

The file is complete JSON at any time, even if the process is killed: each write ends with the closing brackets, and the next one
begins in their place. Format: "Trace Event Format" of Chromium, complete events ("X") and counters ("C"), times in microseconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgefuse.errors import UserError
from edgefuse.io.files import refuse_existing
from edgefuse.io.json_files import dumps
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sinks.sink import SinkInfo

if TYPE_CHECKING:
    from edgefuse_runtime.camera import Frame

MAX_BYTES = 64_000_000
"""About 80,000 frames: three quarters of an hour at 30 frames/s."""
HEAD, TAIL = b'{"displayTimeUnit": "ms", "traceEvents": [\n', b"\n]}\n"
CAMERA, SLOT, FRAMING, ENGINE, RESULTS = 1, 2, 3, 4, 5
TRACKS = {CAMERA: "camera", SLOT: "newest frame", FRAMING: "framing", ENGINE: "engine", RESULTS: "results"}
"""Track number ("tid") -> name. The stages of one track never overlap."""

_log = logging.getLogger(__name__)


class TraceSink:
    """Writes the trace until the file has `MAX_BYTES`; later frames are left out."""

    def __init__(self, path: Path, *, force: bool = False, max_bytes: int = MAX_BYTES) -> None:
        """Choose the file.

        Args:
            force: replace an existing trace.
            max_bytes: limit of its size.
        """
        self.info = SinkInfo(name=str(path), queue_size=256)
        self._path, self._force, self._max_bytes = path, force, max_bytes
        self._handle: int | None = None
        self._end = 0
        self._is_full = False
        self._published_ns = 0

    def __enter__(self) -> TraceSink:
        if not self._end:
            refuse_existing(self._path, force=self._force, is_ours=_is_trace)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (0 if self._end else os.O_TRUNC)
            self._handle = os.open(self._path, flags, 0o666)
        except OSError as error:
            raise UserError(f"{self._path} cannot be written ({error.strerror}): choose another file") from error
        if not self._end:
            self._append(HEAD, b",\n".join(dumps(event).encode() for event in _names()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            handle, self._handle = self._handle, None
            os.close(handle)

    def result(self, result: Result, frame: Frame | None) -> None:
        if result.is_first:
            self._add(_events(result, after_ns=self._published_ns))
            self._published_ns = result.times.published_ns

    def event(self, event: Event) -> None:
        pass  # their clock is the wall clock, which may step

    def summary(self, summary: LiveSummary) -> None:
        pass

    def _add(self, events: Iterator[dict[str, Any]]) -> None:
        if self._is_full:
            return
        text = b",\n".join(dumps(event).encode() for event in events)
        if self._end + len(text) + len(TAIL) + 2 > self._max_bytes:
            self._is_full = True
            _log.warning("%s has %d MB: later frames are not traced", self._path, self._max_bytes // 1_000_000)
            return
        self._append(b",\n", text)

    def _append(self, separator: bytes, text: bytes) -> None:
        if self._handle is None:
            raise OSError("the trace is not open")
        data = memoryview(separator + text + TAIL)
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._handle, data[written:], self._end + written)
        except OSError:
            if self._end:  # restore the closing brackets; their place on the disk is still there
                with contextlib.suppress(OSError):
                    os.pwrite(self._handle, TAIL, self._end)
                    os.ftruncate(self._handle, self._end + len(TAIL))
            raise
        self._end += len(data) - len(TAIL)


def _names() -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "edgefuse live"}}
    for number, name in TRACKS.items():
        yield {"ph": "M", "name": "thread_name", "pid": 1, "tid": number, "args": {"name": name}}


def _events(result: Result, *, after_ns: int) -> Iterator[dict[str, Any]]:
    """The events of a frame. `after_ns`: when the result before was published; this one's may have waited for that."""
    times = result.times
    frame = {"frame": result.frame}
    args = {**frame, "label": result.label, "time": times.to_json()["time"]}
    yield _span("read", CAMERA, times.arrival_ns, times.ready_ns, frame)
    yield _span("queue", SLOT, times.ready_ns, times.dequeued_ns, frame)
    yield _span("preprocess", FRAMING, times.dequeued_ns, times.framed_ns, frame)
    yield _span("infer", ENGINE, times.engine_start_ns, times.engine_end_ns, frame)
    yield _span("publish", RESULTS, max(times.engine_end_ns, after_ns), times.published_ns, args)
    values = {"dropped": result.dropped, "stale": result.stale}
    yield {"ph": "C", "name": "pairs lost", "pid": 1, "ts": times.published_ns / 1e3, "args": values}
    if result.age_ms is not None:
        age = {"ms": result.age_ms}
        yield {"ph": "C", "name": "frame age", "pid": 1, "ts": times.published_ns / 1e3, "args": age}


def _span(name: str, track: int, start_ns: int, end_ns: int, args: dict[str, Any]) -> dict[str, Any]:
    start_us, duration_us = start_ns / 1e3, (end_ns - start_ns) / 1e3
    return {"ph": "X", "name": name, "pid": 1, "tid": track, "ts": start_us, "dur": duration_us, "args": args}


def _is_trace(path: Path) -> bool:
    if not path.is_file():
        return path.is_char_device()
    with path.open("rb") as file:
        return file.read(len(HEAD)) in (HEAD, b"")
