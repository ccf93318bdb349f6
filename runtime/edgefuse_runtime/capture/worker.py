"""The loop that reads a camera into the ring, and opens it again after a failure. Runs in a capture process, or in a thread."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict

from edgefuse.errors import EdgefuseError, MissingPackageError, UserError
from edgefuse_runtime.camera import Camera, Counters, EndOfStream, no_frames_message
from edgefuse_runtime.capture.ladder import Ladder
from edgefuse_runtime.capture.link import WorkerLink
from edgefuse_runtime.capture.source import Source

READ_MS = 100
"""Time-out of one read: how soon a request to stop is seen."""
NO_FRAMES_S = 5.0
"""A live camera that sends no frame for this long is restarted."""
NO_FRAMES_IN_RECORDING_S = 10.0

OPEN_LIMIT_S, READ_LIMIT_S, CLOSE_LIMIT_S, RESET_LIMIT_S = 30.0, 5.0, 5.0, 30.0
"""A call of the SDK that takes longer hangs. Starting a pipeline without a device takes 15 s."""


class Worker:
    """Reads one camera."""

    def __init__(self, source: Source, link: WorkerLink, *, has_opened: bool) -> None:
        """`has_opened`: a camera that does not open is tried again, as one that an earlier worker has opened; otherwise it is an error."""
        self._source = source
        self._link = link
        self._has_opened = has_opened
        self._before = Counters()
        self._counters = Counters()
        self._opened_s: float | None = None

    def capture(self) -> None:
        """Read the camera until the reader asks to stop, the stream ends, or restarts do not help."""
        ladder, attempt = Ladder(), 0
        while not self._link.must_stop:
            try:
                self._stream()
                return
            except EndOfStream:
                self._link.send("ended", counters=asdict(self._counters))
                return
            except Exception as error:
                reason, step = _reason(error)
                is_final = isinstance(error, MissingPackageError) or not (self._has_opened and self._source.is_live)
            now_s = time.monotonic()
            self._before = self._counters
            if is_final:
                self._link.send("failed", problem=reason, step=step, counters=asdict(self._counters))
                return
            streamed_s = 0.0 if self._opened_s is None else now_s - self._opened_s
            action, pause_s = ladder.after_failure(streamed_s=streamed_s, now_s=now_s)
            attempt = 1 if ladder.num_failures == 1 else attempt + 1
            self._link.send("lost", reason=reason, attempt=attempt, counters=asdict(self._counters))
            if action == "give up":
                return
            if action == "reset":
                self._reset()
            self._pause(pause_s)

    def _stream(self) -> None:
        self._opened_s = None
        self._link.enter("opening", limit_s=OPEN_LIMIT_S)
        self._link.writer.discard()
        with self._source.camera(allocate=self._link.writer.allocate) as camera:
            try:
                self._has_opened = True
                description = camera.description
                self._source = self._source.with_serial(description.get("serial"))
                self._link.send("open", description=description, warnings=list(getattr(camera, "warnings", ())))
                self._publish_all(camera)
            finally:
                self._link.enter("closing", limit_s=CLOSE_LIMIT_S)

    def _publish_all(self, camera: Camera) -> None:
        patience_s = NO_FRAMES_S if self._source.is_live else NO_FRAMES_IN_RECORDING_S
        last_s = time.monotonic()
        is_requested = not self._source.waits
        while not self._link.must_stop:
            if not is_requested:
                self._link.enter("reading", limit_s=None)
                is_requested = self._link.writer.wait_for_request(READ_MS / 1e3)
                last_s = time.monotonic()
                continue
            self._link.enter("reading", limit_s=READ_LIMIT_S)
            try:
                frame = camera.read(READ_MS)
            finally:
                stale_before = self._counters.stale
                self._counters = _sum(self._before, camera.counters)
            if frame is not None:
                self._link.writer.publish(frame, self._counters)
                is_requested = not self._source.waits
                last_s = time.monotonic()
                self._opened_s = self._opened_s or last_s
                continue
            if self._counters.stale != stale_before:
                self._link.send("counters", counters=asdict(self._counters))
            if time.monotonic() - last_s > patience_s:
                raise UserError(no_frames_message(camera, patience_s))

    def _reset(self) -> None:
        self._link.enter("resetting", limit_s=RESET_LIMIT_S)
        camera = self._source.camera(allocate=self._link.writer.allocate)
        reset = getattr(camera, "hardware_reset", None)
        if reset is not None:
            with contextlib.suppress(UserError):  # the camera is not there
                reset()

    def _pause(self, pause_s: float) -> None:
        self._link.enter("starting", limit_s=None)
        until_s = time.monotonic() + pause_s
        while not self._link.must_stop and time.monotonic() < until_s:
            time.sleep(0.02)


def _reason(error: Exception) -> tuple[str, str]:
    """An error's message, and what to do."""
    if isinstance(error, UserError):
        return error.problem, error.step
    if isinstance(error, EdgefuseError | RuntimeError | OSError):
        return str(error), ""
    return f"{type(error).__name__}: {error}", ""


def _sum(before: Counters, now: Counters) -> Counters:
    return Counters(**{name: count + vars(now)[name] for name, count in vars(before).items()})
