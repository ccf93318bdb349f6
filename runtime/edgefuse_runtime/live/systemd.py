"""`Systemd`: reports to systemd that live is ready, makes progress, and stops. Owns the protocol of sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

from edgefuse_runtime.camera import Camera
from edgefuse_runtime.capture.capture import Capture

STATUS_INTERVAL_S = 10.0
STUCK_AFTER_S = 120.0
"""A camera that is away is tried again at least this often: at most 30 s of pause, and the time that librealsense takes to open it."""

_log = logging.getLogger(__name__)


class Systemd:
    """The notifications of one run. The loop itself sends them, so they end when it hangs, and systemd starts live again.

    Nothing is sent unless systemd has set NOTIFY_SOCKET.
    """

    def __init__(self, camera: Camera, *, environment: Mapping[str, str] = os.environ) -> None:
        self._camera = camera
        self._address = environment.get("NOTIFY_SOCKET", "")
        is_for_this = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_s = int(environment.get("WATCHDOG_USEC", 0)) / 1e6 if is_for_this else 0.0
        self._has_watchdog = watchdog_s > 0
        self._interval_s = min(watchdog_s / 2, STATUS_INTERVAL_S) if self._has_watchdog else STATUS_INTERVAL_S
        self._is_ready = self._has_failed = False
        self._num_frames, self._state = 0, ""
        self._moved_s = self._sent_s = time.monotonic()

    def processed(self) -> None:
        """A frame was processed; the first one makes the service ready."""
        self._num_frames += 1
        self._moved_s = time.monotonic()
        if not self._is_ready:
            self._is_ready = True
            self._send("READY=1", "STATUS=the first frame was processed")
        self._report()

    def waiting(self) -> None:
        """The camera was read, but had no frame. Attempts to open it again are progress.

        The service is also ready when it waits for a camera that is not there at the start.
        """
        state = _described(self._camera)
        if not self._is_ready and state.startswith("reconnecting"):
            self._is_ready = True
            self._send("READY=1", f"STATUS={state}")
        if state != self._state:
            self._state, self._moved_s = state, time.monotonic()
        self._report()

    def stopping(self) -> None:
        """The run has ended; the summary is still to be written."""
        self._send("STOPPING=1", "STATUS=stopping")

    def _report(self) -> None:
        now_s = time.monotonic()
        duration_s = now_s - self._sent_s
        if duration_s < self._interval_s:
            return
        status = f"STATUS={_described(self._camera)}, {self._num_frames / duration_s:.1f} frames/s"
        is_stuck = now_s - self._moved_s > STUCK_AFTER_S
        self._send(*(["WATCHDOG=1"] if self._has_watchdog and not is_stuck else []), status)
        self._num_frames, self._sent_s = 0, now_s

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address  # @: abstract
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(assignments).encode(), address)
        except OSError as error:
            if not self._has_failed:
                _log.warning("systemd cannot be notified at NOTIFY_SOCKET=%s: %s", self._address, error)
            self._has_failed = True


def _described(camera: Camera) -> str:
    """What the camera is doing, in one line."""
    return camera.state.message if isinstance(camera, Capture) else "running"
