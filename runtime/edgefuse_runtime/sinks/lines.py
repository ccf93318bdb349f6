"""Results as lines of text, and the sinks that write them to standard output."""

from __future__ import annotations

import errno
import io
import os
from types import TracebackType
from typing import TYPE_CHECKING, TextIO, TypeVar

from edgefuse.answers import UNKNOWN
from edgefuse.io.json_files import dumps
from edgefuse.io.text import printable, some_of, write_line
from edgefuse_runtime.frame_times import STAGES
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sinks.sink import ReaderClosedError, SinkInfo

if TYPE_CHECKING:
    from edgefuse_runtime.camera import Frame

_TextSink = TypeVar("_TextSink", bound="TextSink")

NO_DECISION = "no decision"
OBJECT_EVENTS = ("appeared", "decided", "left")
QUEUE_SIZE = 256
"""Lines that wait for a slow reader."""


def line_of(result: Result) -> str:
    """A result as one line of text."""
    verdict = {None: "", True: "  right", False: f"  wrong, it is {result.expected}"}[result.correct]
    if result.expected is not None and not result.is_known:
        verdict = f"  {result.expected} is not a class of the model"
    age = "" if result.age_ms is None else f"  age {result.age_ms:6.1f} ms"
    warning = f"  WARNING {result.warning}" if result.warning else ""
    where = "" if result.region in (0, None) else f"  region {result.region}"
    alone = "  depth alone" if result.adaptive == "depth" else ""
    return (
        f"frame {result.frame:6d}{where}  {label_of(result):<14}  {probability_of(result)}  gate {gate_of(result)}  {nearest_of(result)}  "
        f"{result.latency_ms:6.2f} ms{age}  dropped {result.dropped}  stale {result.stale}{alone}{verdict}{warning}"
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


def summary_lines(summary: LiveSummary, *, stats: bool = False) -> list[str]:
    """A summary as lines of text; none if the engine or the camera could not be opened, whose error is shown elsewhere.

    Args:
        stats: with the percentiles of each stage, and the counts of each sink.
    """
    if not summary.engine:
        return []
    lines = [
        f"{summary.num_results} results in {summary.elapsed_s:.1f} s ({summary.results_per_s:.1f}/s), ended: {summary.ended}",
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
    if summary.adaptive is not None:
        lines.append(f"answered from depth alone: {summary.adaptive['depth']} of {summary.num_results} results")
    if stats:
        lines += _stats_lines(summary)
    lines += [f"WARNING {warning}" for warning in summary.warnings]
    if summary.without_decision:
        lines.append(f"{NO_DECISION} in {summary.without_decision} results")
    if summary.unknown:
        lines.append(f"{UNKNOWN} in {summary.unknown} results")
    if summary.objects:
        counts = ", ".join(f"{label} {count}" for label, count in sorted(summary.objects.items()))
        lines.append(f"objects decided: {counts}")
    accuracy = summary.accuracy
    if accuracy is not None and accuracy.fraction is not None:
        without = f"no decision or are {UNKNOWN}" if summary.unknown else "no decision"
        excluded = f", without {accuracy.abstained} that have {without}" if accuracy.abstained else ""
        lines.append(f"accuracy {accuracy.fraction:.3f} ({accuracy.correct} of {accuracy.scored}{excluded})")
    if accuracy is not None and accuracy.unscored:
        lines.append(
            f"{accuracy.unscored} results are excluded from the accuracy, because the model does not have their classes: "
            + some_of(accuracy.unknown)
        )
    return lines


def _stats_lines(summary: LiveSummary) -> list[str]:
    rows = {stage: summary.stages_ms.get(name) for stage, name in STAGES.items()}
    rows |= {"arrival to result": summary.latency_ms, "frame age": summary.age_ms}
    lines = [f"{'ms':<20}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}"]
    lines += [
        f"{name:<20}" + "".join(f"{value:9.2f}" for value in row.values())
        for name, row in rows.items()
        if row is not None
    ]
    if summary.age_ms is None:
        lines.append(f"{'frame age':<20}  unknown: the clock of the frames is not the host's")
    lines.append(f"{'sink':<20}{'written':>9}{'dropped':>9}{'errors':>9}{'restarts':>9}")
    lines += [
        f"{printable(sink.name):<20}{sink.written:9}{sink.dropped:9}{sink.errors:9}{sink.restarts:9}  {sink.error}".rstrip()
        for sink in summary.sinks
    ]
    return lines


class TextOutput:
    """Lines to a text stream, each complete at once and without a buffer, so that a thread that hangs in it holds no lock."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        try:
            self._number = stream.fileno() if stream is not None else None
        except (io.UnsupportedOperation, ValueError):  # in memory, or closed
            self._number = None

    def write(self, text: str) -> None:
        """Write `text` and a line break.

        Raises:
            ReaderClosedError: the reader closed the pipe.
            OSError: it cannot be written.
        """
        if self._number is None or self._stream is None:
            write_line(text, self._stream)
            return
        line = printable(text, keep="\n\t") + "\n"
        left = memoryview(line.encode(self._stream.encoding or "utf-8", "backslashreplace"))
        try:
            while left:
                left = left[os.write(self._number, left) :]
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise ReaderClosedError("the reader closed the pipe") from error
            raise


class TextSink:
    """A sink that writes to a text stream, such as standard output. The caller owns the stream, so opening and closing do nothing."""

    def __init__(self, stream: TextIO | None, *, queue_size: int = QUEUE_SIZE) -> None:
        self._output = TextOutput(stream)
        self.info = SinkInfo(name="standard output", queue_size=queue_size)

    def __enter__(self: _TextSink) -> _TextSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class LinesSink(TextSink):
    """Writes one line per result, or per event of an object, and the summary."""

    def __init__(self, stream: TextIO | None, *, stats: bool = False, events: bool = False) -> None:
        """Choose the stream; `events`: lines for events, and none for results."""
        super().__init__(stream)
        self._stats, self._events = stats, events

    def result(self, result: Result, frame: Frame | None) -> None:
        if not self._events:
            self._output.write(line_of(result))

    def event(self, event: Event) -> None:
        if self._events and event.event in OBJECT_EVENTS:
            self._output.write(f"{event.event:<8}  {event.message}")

    def summary(self, summary: LiveSummary) -> None:
        if lines := summary_lines(summary, stats=self._stats):
            self._output.write("\n".join(lines))


class SummarySink(TextSink):
    """Writes only the summary, as one line of JSON."""

    def result(self, result: Result, frame: Frame | None) -> None:
        pass

    def event(self, event: Event) -> None:
        pass

    def summary(self, summary: LiveSummary) -> None:
        self._output.write(dumps(summary.to_json()))
