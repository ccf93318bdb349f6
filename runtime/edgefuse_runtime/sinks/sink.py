"""Where results go: lines on a stream, a table on a terminal, JSON lines in a file.

Owns the protocol, its implementations, and what becomes of one that fails. Sinks run in the live loop: one that blocks holds up the next frame.
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
    """Takes each result of a run, then its summary. The constructor opens nothing; `with sink:` does.

    A sink that raises OSError is given nothing more; the run goes on.
    """

    def result(self, result: Result) -> None:
        """Take one result; called from the live loop, in order."""

    def summary(self, summary: LiveSummary) -> None:
        """Take the summary; the last call of a run."""

    def __enter__(self) -> Sink: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def line_of(result: Result) -> str:
    """A result as one plain line."""
    verdict = {None: "", True: "  right", False: f"  wrong, it is {result.expected}"}[result.correct]
    if result.expected is not None and not result.is_known:
        verdict = f"  the model does not know {result.expected}"
    age = "" if result.age_ms is None else f"  age {result.age_ms:6.1f} ms"
    warning = f"  WARNING {result.warning}" if result.warning else ""
    return (
        f"frame {result.frame:6d}  {label_of(result):<14}  {probability_of(result)}  gate {gate_of(result)}  "
        f"{result.latency_ms:6.2f} ms{age}  dropped {result.dropped}  stale {result.stale}{verdict}{warning}"
    )


def label_of(result: Result) -> str:
    """The label, or that there is none."""
    return NO_DECISION if result.label is None else result.label


def probability_of(result: Result) -> str:
    """The label's probability in four characters."""
    return "   -" if result.probability is None else f"{result.probability:4.2f}"


def gate_of(result: Result) -> str:
    """The gate's mean in four characters."""
    return "   -" if result.gate_mean is None else f"{result.gate_mean:4.2f}"


def summary_lines(summary: LiveSummary) -> list[str]:
    """A summary as plain lines."""
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
        apart = f", {accuracy.abstained} without a decision apart" if accuracy.abstained else ""
        lines.append(f"accuracy {accuracy.fraction:.3f} ({accuracy.correct} of {accuracy.scored}{apart})")
    if accuracy is not None and accuracy.unscored:
        lines.append(
            f"{accuracy.unscored} results show classes that the model does not know, and are not in the accuracy: "
            + some_of(accuracy.unknown)
        )
    return lines


class LinesSink:
    """One plain line a result to a text stream, flushed; the stream stays the caller's."""

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
    """The summary alone, as one line of JSON to a text stream; the stream stays the caller's."""

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
    """One JSON object a line in a file: {"kind": "result", ...} each, and {"kind": "summary", ...} last.

    A program that is killed and a disk that is full leave whole lines; a file whose last line is not a summary is of a run
    that did not end, or could not write it. The file is locked while it is written: nobody replaces it under its writer.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        """Name the file.

        Args:
            force: replace a file of this name that a sink like this wrote, or an empty one; no other is ever replaced.
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
        """Lock the file and empty it. Until it is locked, it may be another's, and stays as it is; a pipe is not locked."""
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return
        if not take_lock(self._path, file.fileno()):
            raise UserError(f"another process is writing {self._path}: wait until it has ended, or choose another file")
        if os.fstat(file.fileno()).st_size:  # perhaps written since the first look
            refuse_existing(self._path, force=self._force, is_ours=_may_be_replaced)
        file.truncate(0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # every line was written at once: there is nothing more to lose
                self._file.close()
            self._file = None

    def result(self, result: Result) -> None:
        self._write("result", result.to_json())

    def summary(self, summary: LiveSummary) -> None:
        self._write("summary", summary.to_json())

    def _write(self, kind: str, value: dict[str, Any]) -> None:
        """Write one line, whole or not at all."""
        if self._file is None:
            raise RuntimeError("write outside of `with`")
        line = dumps({"kind": kind, **value}).encode() + b"\n"
        left = memoryview(line)
        try:
            while left:  # where the disk is nearly full, a part of it is written without an error
                left = left[self._file.write(left) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._num_bytes)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._num_bytes += len(line)


def _may_be_replaced(path: Path) -> bool:
    """Is `path` empty, or what a `JsonlSink` wrote? A pipe or a terminal has nothing to lose."""
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
    """The sinks of a run, without those that failed."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.failed: list[str] = []
        self._sinks = list(sinks)

    @property
    def are_all_gone(self) -> bool:
        """Whether there were sinks, and none is left to decide for."""
        return bool(self.failed) and not self._sinks

    def give_result(self, result: Result) -> None:
        """Let each sink take a result; one that cannot is switched off."""
        self._give(lambda sink: sink.result(result))

    def give_summary(self, summary: LiveSummary) -> None:
        """The same for the summary."""
        self._give(lambda sink: sink.summary(summary))

    def _give(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except OSError as error:
                self._sinks.remove(sink)
                name = error.filename or "the output"
                reason = error.strerror or str(error)
                self.failed.append(f"{name}: {reason}")
                if error.errno != errno.EPIPE:  # who reads no more knows it
                    _log.warning("%s cannot be written (%s): nothing more is written there", name, reason)
