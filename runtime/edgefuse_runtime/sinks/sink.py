"""The `Sink` protocol, its implementations for text lines and JSON lines, and the handling of sinks that fail.

Sinks run in the live loop: one that blocks delays the next frame.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from edgefuse.errors import UserError
from edgefuse.io.files import refuse_existing
from edgefuse.io.json_files import dumps, parse_json
from edgefuse.io.temporaries import take_lock
from edgefuse.io.text import some_of, write_line
from edgefuse_runtime.results import STAGES, LiveSummary, Result

NO_DECISION = "no decision"

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Receives each result of a run, then its summary. `with sink:` opens it; the constructor opens nothing.

    A sink that raises OSError is not called again; the run continues.
    """

    def result(self, result: Result) -> None:
        """Handle one result; called from the live loop, in order."""

    def summary(self, summary: LiveSummary) -> None:
        """Handle the summary; the last call of a run."""

    def __enter__(self) -> Sink: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def line_of(result: Result) -> str:
    """A result as one line of text."""
    verdict = {None: "", True: "  right", False: f"  wrong, it is {result.expected}"}[result.correct]
    if result.expected is not None and not result.is_known:
        verdict = f"  {result.expected} is not a class of the model"
    age = "" if result.age_ms is None else f"  age {result.age_ms:6.1f} ms"
    warning = f"  WARNING {result.warning}" if result.warning else ""
    return (
        f"frame {result.frame:6d}  {label_of(result):<14}  {probability_of(result)}  gate {gate_of(result)}  {nearest_of(result)}  "
        f"{result.latency_ms:6.2f} ms{age}  dropped {result.dropped}  stale {result.stale}{verdict}{warning}"
    )


def label_of(result: Result) -> str:
    """The label, or `NO_DECISION`."""
    return NO_DECISION if result.label is None else result.label


def probability_of(result: Result) -> str:
    """The label's probability in four characters."""
    return "   -" if result.probability is None else f"{result.probability:4.2f}"


def gate_of(result: Result) -> str:
    """The gate's mean in four characters."""
    return "   -" if result.gate_mean is None else f"{result.gate_mean:4.2f}"


def nearest_of(result: Result) -> str:
    """The distance of the nearest surface, such as "0.62 m"."""
    return "     -" if result.nearest_m is None else f"{result.nearest_m:4.2f} m"


def summary_lines(summary: LiveSummary) -> list[str]:
    """A summary as lines of text."""
    lines = [
        f"{summary.processed} results in {summary.elapsed_s:.1f} s ({summary.results_per_s:.1f}/s), ended: {summary.ended}",
        f"received {summary.received} = processed {summary.processed} + dropped {summary.dropped} + stale {summary.stale}"
        f" + without region {summary.without_region} + unfinished {summary.unfinished}",
    ]
    if summary.latency_ms is not None:
        figures = "  ".join(f"{name} {value:.2f}" for name, value in summary.latency_ms.items())
        medians = {stage: summary.stages_ms[name]["p50"] for stage, name in STAGES.items() if name in summary.stages_ms}
        stages = "  ".join(f"{stage} {median:.2f}" for stage, median in medians.items())
        lines += [f"latency in ms, arrival to result: {figures}", f"stages in ms, p50: {stages}"]
    if summary.age_ms is not None:
        lines.append("frame age in ms: " + "  ".join(f"{name} {value:.2f}" for name, value in summary.age_ms.items()))
    lines += [f"WARNING {warning}" for warning in summary.warnings]
    if summary.without_decision:
        lines.append(f"{NO_DECISION} in {summary.without_decision} results")
    accuracy = summary.accuracy
    if accuracy is not None and accuracy.fraction is not None:
        excluded = f", without {accuracy.abstained} that have no decision" if accuracy.abstained else ""
        lines.append(f"accuracy {accuracy.fraction:.3f} ({accuracy.correct} of {accuracy.scored}{excluded})")
    if accuracy is not None and accuracy.unscored:
        lines.append(
            f"{accuracy.unscored} results are excluded from the accuracy, because the model does not have their classes: "
            + some_of(accuracy.unknown)
        )
    return lines


class LinesSink:
    """Writes one line per result to a text stream and flushes it. The caller owns the stream."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __enter__(self) -> LinesSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def result(self, result: Result) -> None:
        _write_line(line_of(result), self._stream)

    def summary(self, summary: LiveSummary) -> None:
        _write_line("\n".join(summary_lines(summary)), self._stream)


class SummarySink:
    """Writes only the summary, as one line of JSON, to a text stream. The caller owns the stream."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __enter__(self) -> SummarySink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def result(self, result: Result) -> None:
        pass

    def summary(self, summary: LiveSummary) -> None:
        _write_line(dumps(summary.to_json()), self._stream)


def _write_line(text: str, stream: IO[str]) -> None:
    try:
        write_line(text, stream)
    except OSError as error:
        raise OSError(error.errno, error.strerror, getattr(stream, "name", None)) from error


class JsonlSink:
    """Writes JSON lines to a file: {"kind": "result", ...} for each result, and {"kind": "summary", ...} at the end.

    Lines are always complete, even if the process is killed or the disk is full. If the last line is not a summary, the run did
    not end, or could not write it. The file is locked during the run, so that no other process replaces it.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        """Choose the file.

        Args:
            force: overwrite an existing file, if it is empty or was written by a `JsonlSink`.
        """
        self._path = path
        self._force = force
        self._file: IO[bytes] | None = None
        self._num_bytes = 0

    def __enter__(self) -> JsonlSink:
        refuse_existing(self._path, force=self._force, is_ours=_may_be_replaced)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(
                os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666), "wb", buffering=0
            )
            self._begin(self._file)
        except OSError as error:
            self._close()
            raise UserError(f"{self._path} cannot be written ({error.strerror}): choose another file") from error
        except UserError:
            self._close()
            raise
        self._num_bytes = 0
        return self

    def _begin(self, file: IO[bytes]) -> None:
        """Lock the file, then truncate it: before the lock, another process may be writing it. A pipe is not locked."""
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return
        if not take_lock(self._path, file.fileno()):
            raise UserError(f"another process is writing {self._path}: wait until it has ended, or choose another file")
        if os.fstat(file.fileno()).st_size:  # may have been written since the first check
            refuse_existing(self._path, force=self._force, is_ours=_may_be_replaced)
        file.truncate(0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # unbuffered: every line has been written
                self._file.close()
            self._file = None

    def result(self, result: Result) -> None:
        self._write("result", result.to_json())

    def summary(self, summary: LiveSummary) -> None:
        self._write("summary", summary.to_json())

    def _write(self, kind: str, value: dict[str, Any]) -> None:
        """Write one complete line, or nothing."""
        if self._file is None:
            raise RuntimeError("write outside of `with`")
        line = dumps({"kind": kind, **value}).encode() + b"\n"
        left = memoryview(line)
        try:
            while left:  # on an almost full disk, a write may be partial without an error
                left = left[self._file.write(left) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._num_bytes)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._num_bytes += len(line)


def _may_be_replaced(path: Path) -> bool:
    """Whether `path` is empty, written by a `JsonlSink`, a pipe or a terminal."""
    if path.is_fifo() or path.is_char_device():
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first = file.readline(1 << 20)
    try:
        return not first or parse_json(first, what=str(path), spec={"kind": str})["kind"] in ("result", "summary")
    except UserError:
        return False


class Outputs:
    """The sinks of a run. One that fails is removed."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.failed: list[str] = []
        self._sinks = list(sinks)

    @property
    def all_failed(self) -> bool:
        """Whether there were sinks and all have failed."""
        return bool(self.failed) and not self._sinks

    def write_result(self, result: Result) -> None:
        """Pass a result to each sink."""
        self._for_each(lambda sink: sink.result(result))

    def write_summary(self, summary: LiveSummary) -> None:
        """Pass the summary to each sink."""
        self._for_each(lambda sink: sink.summary(summary))

    def _for_each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except OSError as error:
                self._sinks.remove(sink)
                name = error.filename or "the output"
                reason = error.strerror or str(error)
                self.failed.append(f"{name}: {reason}")
                if error.errno != errno.EPIPE:  # the reader closed the pipe itself
                    _log.warning("%s cannot be written (%s): this output is closed", name, reason)
