"""`Capture`: a camera that is read in a process or thread of its own, and kept alive. Owns that process."""

from __future__ import annotations

import logging
import math
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

from edgefuse.console.interrupts import raise_if_interrupted
from edgefuse.contract import Align
from edgefuse.errors import UserError
from edgefuse_runtime.camera import PATIENCE_S, Camera, Counters, EndOfStream, Frame
from edgefuse_runtime.cameras.find import on_usb
from edgefuse_runtime.capture.child import ProcessRunner, Runner, ThreadRunner
from edgefuse_runtime.capture.ladder import GOOD_AFTER_S, pause_before_process
from edgefuse_runtime.capture.link import Files, ReaderLink
from edgefuse_runtime.capture.source import Source
from edgefuse_runtime.capture.state import CaptureState, StateLog

Mode = Literal["process", "thread"]

END_S = 1.0
"""The worker may take this long to stop; then it is killed."""
_CHECK_S = 0.1
"""Interval between two checks of the worker."""

_log = logging.getLogger(__name__)


class _Started:
    """A running worker and its link."""

    def __init__(self, source: Source, mode: Mode, *, has_opened: bool) -> None:
        self._files = Files.create()
        self._mode = mode
        self.link = ReaderLink(self._files)
        runner = ProcessRunner if mode == "process" else ThreadRunner
        self.runner: Runner = runner(source, self._files, has_opened=has_opened)
        if mode == "process":
            self._files = self._files.without_worker()
        self.poll = select.poll()
        for file in (self.link.reader.ready_file, self.link.messages_file):
            self.poll.register(file, select.POLLIN)

    def end(self) -> None:
        """Stop the worker; kill it if it does not stop."""
        self.link.stop()
        self.runner.end(END_S)

    def close(self) -> None:
        """Close the link of a worker that was ended."""
        self.link.reader.close()
        if self._mode == "process" or self.runner.ending() is not None:
            self._files.close()  # otherwise a thread that hangs would write to files that are opened later


class Capture:
    """A `Camera` that never hangs. A live camera that fails is opened again, forever; meanwhile `read` returns None.

    Use it in one thread. Frames are in shared memory, which is reused after their arrays are garbage-collected.
    """

    def __init__(
        self,
        source: Source,
        *,
        align: Align,
        mode: Mode = "process",
        description: dict[str, Any] | None = None,
        wait: bool = False,
    ) -> None:
        """Choose the camera; `with` opens it.

        Args:
            description: of the camera, until it is open.
            wait: a live camera that cannot be opened at the start is tried again, as one that was lost; otherwise it is an error.
        """
        self._source, self._align, self._mode = source, align, mode
        self._description = dict(description or {})
        self._wait = wait and source.is_live
        self._counters = Counters()
        self._states = StateLog()
        self._started: _Started | None = None
        self._has_opened = self._is_open = self._has_ended = self._is_closed = False
        self._before = Counters()  # of earlier workers
        self._latest = Counters()  # of this worker
        self._reported = Counters()  # of this worker, from its last message
        self._failure: UserError | None = None
        self._num_failures = 0
        self._frames_since_s: float | None = None
        self._retry_s = 0.0
        self._usb: list[Any] = []
        self._check_s = 0.0
        self._is_requested = self._is_early = False
        self._skewed_before = 0

    @property
    def align(self) -> Align:
        return self._align

    @property
    def description(self) -> dict[str, Any]:
        capture = {"mode": self._mode, "losses": self.state.losses, "state": self.state.to_json()}
        return {**self._description, "capture": capture}

    @property
    def counters(self) -> Counters:
        return self._counters

    @property
    def state(self) -> CaptureState:
        """What the camera is doing."""
        return self._states.state

    def observe(self, observer: Callable[[CaptureState], None]) -> None:
        """Call `observer` with the present state, and then with each change, in the thread that uses the camera."""
        self._states.observer = observer
        if self.state.name != "closed":
            observer(self.state)

    def start_early(self) -> None:
        """Start to open a live camera, without waiting for it: `with` waits. Frames until then are not counted."""
        if self._source.is_live and self._started is None:
            self._is_early = True
            self._states.enter("opening")
            self._start(has_opened=self._wait)

    def _start(self, *, has_opened: bool) -> None:
        self._started = _Started(self._source, self._mode, has_opened=has_opened)
        self._retry_s, self._is_requested = 0.0, False

    def __enter__(self) -> Capture:
        try:
            if self._started is None:
                self._states.enter("opening")
                self._start(has_opened=self._wait)
            while not self._has_opened:
                raise_if_interrupted()
                self._supervise()
                self._raise_failure()
                if self._wait and self.state.name == "reconnecting":
                    return self
                if self._started is not None:
                    self._started.poll.poll(_CHECK_S * 1000)
            self._forget_early_frames()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker, within two seconds in every state."""
        started, self._started = self._started, None
        if started is not None:
            self._end(started)
        self._is_open, self._is_closed = False, True
        if self.state.name != "failed":
            self._states.enter("closed")

    def read(self, timeout_ms: int) -> Frame | None:
        """See `Camera.read`. None also while a lost camera is being opened again."""
        if not (self._has_opened or self._wait) or self._is_closed:
            raise RuntimeError("read outside of `with`")
        deadline_s, has_arrived = time.monotonic() + timeout_ms / 1e3, False
        while True:
            has_ended = self._has_ended
            # A worker that always has a frame may also have messages; a frame that was waited for is not delayed by checks.
            if time.monotonic() >= self._check_s and not has_arrived:
                self._supervise()
            frame, has_arrived = self._take(), False
            if frame is not None:
                return frame
            if has_ended:
                self._raise_failure()
                raise EndOfStream
            left_s = min(deadline_s - time.monotonic(), _CHECK_S)
            if left_s <= 0:
                self._counters.timeouts += 1
                return None
            if self._started is None:
                time.sleep(left_s)
            else:
                files = [file for file, _ in self._started.poll.poll(left_s * 1000)]
                has_arrived = files == [self._started.link.reader.ready_file]
            if not has_arrived:
                self._supervise()

    def _take(self) -> Frame | None:
        if self._started is None:
            return None
        reader = self._started.link.reader
        if self._source.waits and not self._is_requested:
            reader.request()
            self._is_requested = True
        taken = reader.take()
        if taken is None:
            self._count(self._reported)
            return None
        frame, counters = taken
        self._is_requested = self._source.waits
        if self._source.waits:
            reader.request()  # it is read and aligned while the consumer works
        self._counters.delivered += 1
        self._count(counters)
        self._note(frame)
        return frame

    def _forget_early_frames(self) -> None:
        taken = self._started.link.reader.take() if self._is_early and self._started is not None else None
        if taken is not None:
            early = taken[1]
            self._before = Counters(received=-early.received, stale=-early.stale, skewed=-early.skewed)

    def _count(self, now: Counters) -> None:
        """Add this worker's counts to those of earlier ones. Pairs that it delivered but the consumer did not see were dropped.

        A message may be newer than the frames that are still in the ring: it is used when they have been taken.
        """
        if now.received < self._latest.received:
            return
        self._latest = now
        counters, before = self._counters, self._before
        counters.received = before.received + now.received
        counters.stale = before.stale + now.stale
        counters.skewed = before.skewed + now.skewed
        counters.dropped = counters.received - counters.stale - counters.delivered

    def _note(self, frame: Frame) -> None:
        """Derive the state from a frame."""
        if self._frames_since_s is None:
            self._frames_since_s = time.monotonic()
        if self._counters.skewed > self._skewed_before and frame.skew_ms is not None and self._skewed_before == 0:
            _log.warning("the images of colour and depth are %.0f ms apart", frame.skew_ms)
        self._skewed_before = self._counters.skewed
        if not self._is_open:
            return
        if frame.missing:
            self._states.degrade(frame.missing)
        else:
            self._states.enter("running")

    def _supervise(self) -> None:
        """Handle messages; end a worker that hangs; start a new one after one that has ended."""
        now_s = time.monotonic()
        self._check_s = now_s + _CHECK_S
        if self._started is None:
            if not self._has_ended and (now_s >= self._retry_s or on_usb() != self._usb):
                self._start(has_opened=True)
            return
        ending = self._started.runner.ending()  # before the messages, so that none of an ended worker is missed
        self._read_messages(self._started)
        if self._has_ended:
            return
        if ending is not None:
            self._lose(ending or self.state.reason)
        elif (phase := self._started.link.overdue()) is not None:
            reason = f"{phase} the camera did not return: a call of librealsense hangs"
            if self._started.runner.can_be_killed:
                self._lose(reason)
            else:
                self._states.enter("reconnecting", reason)

    def _read_messages(self, started: _Started) -> None:
        for message in started.link.messages():
            kind = message["kind"]
            if "counters" in message:
                self._reported = Counters(**message["counters"])
            if kind == "open":
                self._open(message["description"], message["warnings"])
            elif kind == "lost":
                self._lost(message["reason"])
            elif kind == "ended":
                self._has_ended, self._is_open = True, False
                self._states.enter("ended")
            elif kind == "failed":
                self._fail(message["problem"], message["step"])

    def _open(self, description: dict[str, Any], warnings: list[str]) -> None:
        before = [self._description.get(stream) for stream in ("color", "depth")]
        now = [description.get(stream) for stream in ("color", "depth")]
        for warning in warnings if not self._has_opened else ():
            _log.warning("%s", warning)
        if self._has_opened and before != now:
            _log.warning("the camera's streams have changed: colour %s, depth %s", *now)
        self._description |= description
        self._source = self._source.with_serial(description.get("serial"))
        self._has_opened = self._is_open = self._states.has_opened = True

    def _fail(self, problem: str, step: str = "") -> None:
        """End the stream with an error, after the frames that are still in the ring."""
        self._states.enter("failed", problem)
        self._has_ended, self._is_open = True, False
        self._failure = UserError(problem, step)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _lose(self, reason: str) -> None:
        """End the worker. A live camera gets a new one, after a pause."""
        started, self._started = self._started, None
        if started is not None:
            started.runner.kill()
            self._end(started)
        totals = self._counters
        self._before = Counters(received=totals.received, stale=totals.stale, skewed=totals.skewed)
        self._latest = self._reported = Counters()
        if not (self._has_opened or self._wait) or not self._source.is_live:
            self._fail(reason, "Unplug the camera and plug it in again" if self._source.is_live else "")
            return
        self._lost(reason)
        self._num_failures += 1
        self._retry_s = time.monotonic() + pause_before_process(self._num_failures)
        self._usb = on_usb()

    def _end(self, started: _Started) -> None:
        started.end()
        self._read_messages(started)
        self._count(self._reported)
        started.close()

    def _lost(self, reason: str) -> None:
        if self._frames_since_s is not None and time.monotonic() - self._frames_since_s > GOOD_AFTER_S:
            self._num_failures = 0
        self._is_open, self._frames_since_s = False, None
        self._states.enter("reconnecting", reason, attempt=self.state.attempt + 1)


@contextmanager
def early_start(camera: Camera) -> Iterator[None]:
    """Let a live camera start while the block opens other things, such as the engine; closed afterwards in every case."""
    if not isinstance(camera, Capture):
        yield
        return
    try:
        camera.start_early()
        yield
    finally:
        camera.close()


def patience_s(camera: Camera) -> float:
    """How long the consumer waits for a frame before it gives the camera up: a `Capture` gives up by itself."""
    return math.inf if isinstance(camera, Capture) else PATIENCE_S
