"""Sinks that write every result, event and summary as a line of JSON: to a log file, or to standard output."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from edgefuse.io.json_files import dumps
from edgefuse.io.log_file import LogFile
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sinks.lines import TextSink
from edgefuse_runtime.sinks.sink import SinkInfo

if TYPE_CHECKING:
    from edgefuse_runtime.camera import Frame

QUEUE_SIZE = 1024
"""Results that wait while the disk is slow or full: half a minute at 30 frames/s."""
MAX_MB = 256
NUM_KEPT = 8


class JsonlSink:
    """Appends JSON lines to a file: {"kind": "result" | "event" | "summary", ...}; docs/live.md has the fields.

    Lines are complete, also on a full disk. If the process is killed during a write, the last line may end at a page of the file; the
    next run begins a new line. A run begins with the event "started"; if no summary follows, it did not end, or could not write it. The
    file is locked during the run.
    """

    def __init__(self, path: Path, *, force: bool = False, max_mb: int = MAX_MB, num_kept: int = NUM_KEPT) -> None:
        """Choose the file.

        Args:
            force: begin with an empty file instead of appending.
            max_mb: the file is rotated before it exceeds this size, in MB of 10^6 bytes.
            num_kept: number of older files to keep: FILE.1, FILE.2, ...
        """
        self.info = SinkInfo(name=str(path), queue_size=QUEUE_SIZE)
        self._log = LogFile(path, max_bytes=max_mb * 1_000_000, num_kept=num_kept, is_ours=_is_log)
        self._truncates = force

    def __enter__(self) -> JsonlSink:
        self._log.open(truncate=self._truncates)
        self._truncates = False  # when it is opened again after an error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()

    def result(self, result: Result, frame: Frame | None) -> None:
        self._write(result)

    def event(self, event: Event) -> None:
        self._write(event)

    def summary(self, summary: LiveSummary) -> None:
        self._write(summary)

    def _write(self, item: Result | Event | LiveSummary) -> None:
        self._log.write(dumps(item.to_json()).encode() + b"\n")


class JsonLinesOutput(TextSink):
    """Writes the same lines to a text stream."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream, queue_size=QUEUE_SIZE)

    def result(self, result: Result, frame: Frame | None) -> None:
        self._output.write(dumps(result.to_json()))

    def event(self, event: Event) -> None:
        self._output.write(dumps(event.to_json()))

    def summary(self, summary: LiveSummary) -> None:
        self._output.write(dumps(summary.to_json()))


_FIRST_LINE = re.compile(rb'\{"kind": "(result|event|summary)"')


def _is_log(path: Path) -> bool:
    """Whether `path` is empty, written by a `JsonlSink`, a pipe or a terminal. A power cut leaves zeros in a file."""
    if path.is_fifo() or path.is_char_device():
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first = file.read(64)
    return not first.strip(b"\0") or _FIRST_LINE.match(first) is not None
