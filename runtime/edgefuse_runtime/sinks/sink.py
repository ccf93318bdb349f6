"""The `Sink` protocol: what receives the results of a live run. `edgefuse_runtime.sinks.bus` calls sinks."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgefuse_runtime.camera import Frame
    from edgefuse_runtime.results import Event, LiveSummary, Result


class ReaderClosedError(Exception):
    """The reader of an output has closed it, as `head` does: the sink is not opened again, and this is not a failure to report."""


@dataclass(frozen=True, kw_only=True)
class SinkInfo:
    """What the bus needs to know about a sink.

    Attributes:
        name: in messages, counts and the summary, such as the path of a file.
        queue_size: results that wait while the sink is busy. 1 = only the newest, for a sink that shows the present state. A sink
            that wants every result has more; when they are all waiting, the oldest is dropped.
        wants_images: `result` gets the frame.
        is_display: it shows the present state and keeps nothing. If a signal ends the run while it is busy, that is no failure.
    """

    name: str
    queue_size: int = 1
    wants_images: bool = False
    is_display: bool = False


class Sink(Protocol):
    """Receives the results and events of a run, then its summary. `with sink:` opens it; the constructor opens nothing.

    All calls come from one thread of the sink's own, which it may block. An exception of any call closes it; it is then opened
    again, after a pause that grows. Opening raises a UserError only for what the user must correct before the run starts.
    """

    @property
    def info(self) -> SinkInfo:
        """Its name and queue."""

    def result(self, result: Result, frame: Frame | None) -> None:
        """Handle one result. `frame`: the classified frame, not to be changed; None without `wants_images`.

        Raises:
            ReaderClosedError: nobody reads the output any more.
        """

    def event(self, event: Event) -> None:
        """Handle an event."""

    def summary(self, summary: LiveSummary) -> None:
        """Handle the summary; the last call of a run."""

    def __enter__(self) -> Sink: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
