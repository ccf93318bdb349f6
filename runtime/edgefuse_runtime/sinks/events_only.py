"""A sink without the results of each frame: only its events and its summary."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sinks.sink import Sink

if TYPE_CHECKING:
    from edgefuse_runtime.camera import Frame


class EventsOnly:
    """Passes everything but results to another sink."""

    def __init__(self, sink: Sink) -> None:
        self.info = sink.info
        self._sink = sink

    def __enter__(self) -> EventsOnly:
        self._sink.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sink.__exit__(kind, error, trace)

    def result(self, result: Result, frame: Frame | None) -> None:
        pass

    def event(self, event: Event) -> None:
        self._sink.event(event)

    def summary(self, summary: LiveSummary) -> None:
        self._sink.summary(summary)
