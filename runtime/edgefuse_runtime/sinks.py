"""Where results go: lines on a stream, a table on a terminal, JSON lines in a file.

Owns the protocol and its three implementations. Sinks run in the live loop: one that blocks holds up the next frame.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from edgefuse.errors import UserError
from edgefuse.io.files import refuse_existing
from edgefuse.io.json_files import dumps
from edgefuse.io.text import write_line
from edgefuse_runtime.results import LiveSummary, Result

NO_DECISION = "no decision"


class Sink(Protocol):
    """Takes each result of a run, then its summary. The constructor opens nothing; `with sink:` does."""

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
    age = "" if result.age_ms is None else f"  age {result.age_ms:6.1f} ms"
    warning = f"  WARNING {result.warning}" if result.warning else ""
    return (
        f"frame {result.frame:6d}  {label_of(result):<14}  {probability_of(result)}  gate {result.gate_mean:4.2f}  "
        f"{result.latency_ms:6.2f} ms{age}  dropped {result.dropped}  stale {result.stale}{verdict}{warning}"
    )


def label_of(result: Result) -> str:
    """The label, or that there is none."""
    return NO_DECISION if result.label is None else result.label


def probability_of(result: Result) -> str:
    """The label's probability in four characters."""
    return "   -" if result.probability is None else f"{result.probability:4.2f}"


def summary_lines(summary: LiveSummary) -> list[str]:
    """A summary as plain lines."""
    lines = [
        f"{summary.processed} results in {summary.elapsed_s:.1f} s ({summary.results_per_s:.1f}/s), ended: {summary.ended}",
        f"received {summary.received} = processed {summary.processed} + dropped {summary.dropped} + stale {summary.stale}"
        f" + without region {summary.without_region} + unfinished {summary.unfinished}",
    ]
    if summary.latency_ms is not None:
        figures = "  ".join(f"{name} {value:.2f}" for name, value in summary.latency_ms.items())
        stages = "  ".join(
            f"{name.removesuffix('_ms')} {value['p50']:.2f}" for name, value in summary.stages_ms.items()
        )
        lines += [f"latency in ms, arrival to result: {figures}", f"stages in ms, p50: {stages}"]
    if summary.age_ms is not None:
        lines.append("frame age in ms: " + "  ".join(f"{name} {value:.2f}" for name, value in summary.age_ms.items()))
    for name, count in summary.sensors.items():
        sensor, _, state = name.partition("_")
        lines.append(f"WARNING {sensor} was {state} in {count} of {summary.processed} results")
    if summary.without_decision:
        lines.append(f"{NO_DECISION} in {summary.without_decision} results")
    accuracy = summary.accuracy
    if accuracy is not None and accuracy.share is not None:
        apart = f", {accuracy.abstained} without a decision apart" if accuracy.abstained else ""
        lines.append(f"accuracy {accuracy.share:.3f} ({accuracy.correct} of {accuracy.scored}{apart})")
    if accuracy is not None and accuracy.unscored:
        lines.append(f"{accuracy.unscored} results have an expected class that the model does not know")
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
        write_line(line_of(result), self._stream)

    def summary(self, summary: LiveSummary) -> None:
        write_line("\n".join(summary_lines(summary)), self._stream)


class JsonlSink:
    """One JSON object a line in a file: {"kind": "result", ...} each, and {"kind": "summary", ...} last.

    Each line is one write to the file, so that a program that is killed leaves whole lines; a file whose last line is not a
    summary is of a run that did not end.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        """Name the file.

        Args:
            force: replace a file of this name; without it one is refused.
        """
        self._path = path
        self._force = force
        self._file: IO[bytes] | None = None

    def __enter__(self) -> JsonlSink:
        refuse_existing(self._path, force=self._force)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb", buffering=0)
        except OSError as error:
            raise UserError(f"{self._path} cannot be written ({error.strerror}): choose another file") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def result(self, result: Result) -> None:
        self._write("result", result.to_json())

    def summary(self, summary: LiveSummary) -> None:
        self._write("summary", summary.to_json())

    def _write(self, kind: str, value: dict[str, Any]) -> None:
        if self._file is None:
            raise RuntimeError("write outside of `with`")
        self._file.write(dumps({"kind": kind, **value}).encode() + b"\n")
