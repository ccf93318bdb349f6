"""Delivers results to sinks: a bounded queue and a thread for each sink, so that none delays another or ends the run.

A sink that fails is closed and opened again after a pause. What it misses is counted, never waited for.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple

from edgefuse.errors import UserError
from edgefuse_runtime.results import Event, LiveSummary, Result, SinkCounts
from edgefuse_runtime.sinks.sink import ReaderClosedError, Sink

if TYPE_CHECKING:
    from edgefuse_runtime.camera import Frame

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Pauses before a failed sink is opened again; each is twice the one before."""
OPEN_TIMEOUT_S = 1.0
"""The run starts after this time even if a sink is still opening."""
DRAIN_TIMEOUT_S = 5.0
"""At the end of a run, a sink that takes no result for this long is abandoned."""
HURRY_TIMEOUT_S = 0.5
"""The same, for all results together, if a signal ends the run. The summary has this time once more."""
MAX_EVENTS = 1024
"""Events that wait while a sink is busy."""
REPORT_EVERY_S = 10.0
"""Lost results of a sink are reported at most this often."""

_log = logging.getLogger(__name__)


class SinkBus:
    """Owns the sinks of a run: `with bus:` opens and closes them."""

    def __init__(self, sinks: Sequence[Sink], *, wait_s: float = 0.0) -> None:
        """Choose the sinks.

        Args:
            wait_s: how long `publish` waits for room in the queue of a sink that wants every result: 0 for a camera, which does
                not wait; a few seconds for a source that does, such as a folder.
        """
        self.may_wait = wait_s > 0
        self._workers = [_Worker(sink, wait_s=wait_s, report=self._report) for sink in sinks]

    def __enter__(self) -> SinkBus:
        """Open the sinks.

        Raises:
            UserError: one of them must not or cannot be opened.
        """
        end_s = time.monotonic() + OPEN_TIMEOUT_S
        try:
            for worker in self._workers:
                worker.start()
            for worker in self._workers:
                worker.wait_until_opened(end_s)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sinks. Those that do not return in time are abandoned: their threads end with the process."""
        if not self.is_finished:
            self._finish(None, timeout_s=HURRY_TIMEOUT_S)

    @property
    def is_finished(self) -> bool:
        """Whether every sink has got the summary, or was given up."""
        return all(worker.is_finishing for worker in self._workers)

    @property
    def all_closed(self) -> bool:
        """Whether there were sinks, and the readers of all have closed them."""
        return bool(self._workers) and all(worker.is_closed for worker in self._workers)

    def publish(self, result: Result, frame: Frame | None = None) -> None:
        """Pass a result to every sink, and its frame to those that want images."""
        for worker in self._workers:
            worker.put(result, frame)

    def event(self, event: str, message: str, **detail: object) -> None:
        """Pass an event to every sink; see `Event`."""
        made = Event(event=event, message=message, unix_ms=round(time.time() * 1e3, 3), detail=detail)
        for worker in self._workers:
            worker.put_event(made)

    def drain(self, *, hurry: bool) -> None:
        """Wait until the sinks have taken what waits. A sink that has failed is tried once more, then its results are dropped.

        Args:
            hurry: wait shortly: a signal ended the run.
        """
        for worker in self._workers:
            worker.begin_ending(hurry=hurry)
        end_s = time.monotonic() + HURRY_TIMEOUT_S if hurry else None
        for worker in self._workers:
            worker.wait_until_idle(end_s, patience_s=DRAIN_TIMEOUT_S)

    def finish(self, summary: LiveSummary) -> None:
        """Pass the summary to every sink that can take it, and close them."""
        self._finish(summary, timeout_s=HURRY_TIMEOUT_S if summary.was_interrupted else DRAIN_TIMEOUT_S)

    def _finish(self, summary: LiveSummary | None, *, timeout_s: float) -> None:
        for worker in self._workers:
            worker.finish(summary)
        end_s = time.monotonic() + timeout_s
        for worker in self._workers:
            worker.wait_until_idle(end_s)

    def counts(self) -> tuple[SinkCounts, ...]:
        """Counts of each sink so far."""
        return tuple(worker.counts() for worker in self._workers)

    def _report(self, counts: SinkCounts, message: str) -> None:
        self.event("sink", message, **asdict(counts))


class _Waiting(NamedTuple):
    """A result that waits for a sink. `place`: in the order of results and events."""

    result: Result
    frame: Frame | None
    place: int


class _Worker:
    """The queue, the thread and the counts of one sink. `_changed` guards everything but the sink, which only the thread calls."""

    def __init__(self, sink: Sink, *, wait_s: float, report: Callable[[SinkCounts, str], None]) -> None:
        self._sink, self._info, self._report = sink, sink.info, report
        self._wait_s = wait_s if self._info.queue_size > 1 else 0.0
        self._changed = threading.Condition()
        self._results: deque[_Waiting] = deque()
        self._events: deque[tuple[int, Event]] = deque(maxlen=MAX_EVENTS)
        self._places = itertools.count(1)
        self._summary: LiveSummary | None = None
        self._current: _Waiting | Event | LiveSummary | None = None
        self._state: Literal["opening", "open", "failed", "closed"] = "opening"
        self._has_ended = self._is_busy = self._is_ending = self._may_hang = self._is_in_trouble = False
        self.is_finishing = False
        self._refusal: UserError | None = None
        self._retry_at_s, self._pause_s, self._tries_left = 0.0, FIRST_PAUSE_S, 0
        self._written = self._dropped = self._errors = self._restarts = self._progress = 0
        self._error = ""
        self._reported_at_s = -REPORT_EVERY_S
        self._thread = threading.Thread(target=self._run, name=f"sink {self._info.name}", daemon=True)

    # Called by the bus

    def start(self) -> None:
        self._is_busy = True
        self._thread.start()

    def wait_until_opened(self, end_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._state != "opening", max(end_s - time.monotonic(), 0.0))
            if self._refusal is not None:
                raise self._refusal

    def put(self, result: Result, frame: Frame | None) -> None:
        with self._changed:
            waiting = _Waiting(result, frame if self._info.wants_images else None, next(self._places))
            if self._has_ended or (self._info.wants_images and self._state == "failed"):  # images would take memory
                self._dropped += 1
                return
            if self._wait_s and self._state == "open" and not self._has_room():
                before = self._progress
                self._changed.wait_for(lambda: self._has_room() or self._state != "open", self._wait_s)
                if self._progress == before:
                    self._wait_s = 0.0  # it hangs: not waited for again
            is_dropping = not self._has_room()
            if is_dropping:
                self._results.popleft()
                self._dropped += 1
            self._results.append(waiting)
            self._changed.notify_all()
        if is_dropping and self._info.queue_size > 1:
            self._report_dropped()

    def put_event(self, event: Event) -> None:
        with self._changed:
            self._events.append((next(self._places), event))
            self._changed.notify_all()

    def begin_ending(self, *, hurry: bool) -> None:
        with self._changed:
            self._is_ending, self._may_hang = True, hurry and self._info.is_display
            self._retry_at_s, self._tries_left = 0.0, 1
            self._changed.notify_all()

    def finish(self, summary: LiveSummary | None) -> None:
        with self._changed:
            self._is_ending = self.is_finishing = True
            self._summary = summary
            self._retry_at_s, self._tries_left = 0.0, 1
            self._changed.notify_all()

    def wait_until_idle(self, end_s: float | None, *, patience_s: float = 0.0) -> None:
        """Wait until `end_s`; if that is None, as long as the sink takes something every `patience_s` seconds."""
        with self._changed:
            while not self._is_idle():
                before = self._progress
                timeout_s = patience_s if end_s is None else end_s - time.monotonic()
                if (timeout_s <= 0 or not self._changed.wait(timeout_s)) and self._progress == before:
                    return

    @property
    def is_closed(self) -> bool:
        return self._state == "closed"

    def counts(self) -> SinkCounts:
        with self._changed:
            is_late = self._is_ending and not self._is_idle()
            hangs = is_late and not self._may_hang
            lost = len(self._results) + isinstance(self._current, _Waiting) if is_late else 0
            return SinkCounts(
                name=self._info.name,
                state="hangs" if hangs else "failed" if self._is_in_trouble else "closed" if self.is_closed else "open",
                written=self._written,
                dropped=self._dropped + lost,
                errors=self._errors,
                restarts=self._restarts,
                error=self._error,
            )

    def _is_idle(self) -> bool:
        """Whether nothing waits and the sink is in no call; at the end, whether the thread has ended."""
        if self._has_ended or self.is_finishing:
            return self._has_ended
        has_given_up = self._state == "failed" and self._retry_at_s == math.inf
        return has_given_up or not (self._results or self._events or self._is_busy)

    def _has_room(self) -> bool:
        return len(self._results) < self._info.queue_size

    def _report_dropped(self) -> None:
        now_s = time.monotonic()
        if now_s - self._reported_at_s >= REPORT_EVERY_S:
            self._reported_at_s = now_s
            counts = self.counts()
            self._report(counts, f"{counts.name} is too slow: {counts.dropped} results were dropped so far")

    # Called by the thread

    def _run(self) -> None:
        try:
            self._attempt(self._open)
            while (call := self._next()) is not None:
                self._attempt(call)
        finally:
            reason = self._close()
            with self._changed:
                if reason and not self._is_in_trouble:
                    self._errors, self._error, self._is_in_trouble = self._errors + 1, reason, True
                self._has_ended, self._is_busy = True, False
                self._drop_all()
                self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        """Wait for the next call of the sink; None = the thread ends."""
        with self._changed:
            self._is_busy = False
            self._changed.notify_all()
            while True:
                if self._state == "closed" or (self.is_finishing and self._summary is None and not self._has_work()):
                    return None
                pause_s = self._retry_at_s - time.monotonic() if self._state == "failed" else 0.0
                if pause_s > 0:
                    self._changed.wait(min(pause_s, LONGEST_PAUSE_S))
                elif self._state == "failed":
                    self._is_busy = True
                    return self._open
                elif self._has_work() or self._summary is not None:
                    self._is_busy = True
                    return self._take()
                else:
                    self._changed.wait()

    def _has_work(self) -> bool:
        return bool(self._results or self._events)

    def _take(self) -> Callable[[], None]:
        if self._events and (not self._results or self._events[0][0] < self._results[0].place):
            _, event = self._events.popleft()
            self._current = event
            return lambda: self._sink.event(event)
        if self._results:
            self._current = waiting = self._results.popleft()
            return lambda: self._sink.result(waiting.result, waiting.frame)
        assert self._summary is not None
        summary, self._summary = self._summary, None
        self._current = summary
        return lambda: self._sink.summary(summary)

    def _open(self) -> None:
        self._sink.__enter__()
        with self._changed:
            self._restarts += self._state == "failed"
            self._state = "open"
            self._changed.notify_all()

    def _close(self) -> str:
        """Close the sink; returns the reason if that failed."""
        try:
            self._sink.__exit__(None, None, None)
        except Exception as error:
            return _reason(error)
        return ""

    def _attempt(self, call: Callable[[], None]) -> None:
        try:
            call()
        except ReaderClosedError as closed:
            with self._changed:
                self._state, self._error = "closed", str(closed)
        except Exception as error:
            self._fail(error)
        else:
            self._succeed()

    def _succeed(self) -> None:
        with self._changed:
            current, self._current = self._current, None
            self._written += isinstance(current, _Waiting)
            self._progress += 1
            # That it opens, or takes an event, shows little: a short line may fit a full disk.
            is_proof = isinstance(current, _Waiting) or (isinstance(current, LiveSummary) and not self._dropped)
            works_again = self._is_in_trouble and is_proof
            if works_again:
                self._is_in_trouble, self._pause_s = False, FIRST_PAUSE_S
            self._changed.notify_all()
        if works_again:
            counts = self.counts()
            text = f"{counts.name} works again; {counts.dropped} results were dropped so far"
            _log.info("%s", text)
            self._report(counts, text)

    def _fail(self, error: Exception) -> None:
        self._close()
        with self._changed:
            self._errors += 1
            self._error = _reason(error)
            is_first, self._is_in_trouble = not self._is_in_trouble, True
            if self._state == "opening" and isinstance(error, UserError):
                self._refusal, is_first = error, False
            self._state = "failed"
            self._put_back(is_lasting=not isinstance(error, OSError))
            if self._info.wants_images:
                self._dropped += len(self._results)
                self._results.clear()
            self._retry_at_s = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            if self._is_ending:
                self._tries_left -= 1
                if self._tries_left < 0:
                    self._drop_all()
                self._retry_at_s = 0.0 if self._tries_left >= 0 else math.inf
            self._changed.notify_all()
        if is_first:
            text = f"{self._info.name} failed ({self._error}): it is opened again after a pause"
            _log.warning("%s", text)
            self._report(self.counts(), text)

    def _put_back(self, *, is_lasting: bool) -> None:
        """Keep what could not be written for another try, if the queue is for every result and the result is not the reason."""
        current, self._current = self._current, None
        if isinstance(current, _Waiting):
            if self._info.queue_size > 1 and self._has_room() and not (is_lasting or self._info.wants_images):
                self._results.appendleft(current)
            else:
                self._dropped += 1
        elif isinstance(current, Event) and len(self._events) < MAX_EVENTS and not is_lasting:
            self._events.appendleft((0, current))
        elif isinstance(current, LiveSummary):
            self._summary = current

    def _drop_all(self) -> None:
        self._dropped += len(self._results) + isinstance(self._current, _Waiting)
        self._results.clear()
        self._events.clear()
        self._current = self._summary = None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
