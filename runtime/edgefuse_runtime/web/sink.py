"""`WebSink`: the page of a run. A process of its own serves it, so that viewers take no time from the engine.

That process gets every result, and the images of a frame when it has asked for them: nothing is copied or encoded while nobody watches.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from importlib.util import find_spec
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgefuse.errors import EdgefuseError, UserError, require
from edgefuse.io.json_files import dumps
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sinks.sink import SinkInfo
from edgefuse_runtime.web.address import TOKEN, WebAddress
from edgefuse_runtime.web.link import EventSent, Reply, Request, ResultSent, Sender, Thumbnail, next_request, pair

if TYPE_CHECKING:
    from edgefuse_runtime.camera import Frame
    from edgefuse_runtime.sinks.metrics import MetricsSink
    from edgefuse_runtime.web.collector import Collector

PACKAGES = ("starlette", "uvicorn", "websockets")
MAX_EVENTS = 50
"""Events that the page lists."""
STATES = ("started", "camera")
"""Events whose newest one describes the present: a new process of the page gets it, however old it is."""
WITHOUT_THUMBNAIL = ("started", "sink", "camera", "engine", "left")
"""Events that no frame shows."""
THUMBNAIL_PX = 96
QUEUE_SIZE = 32
"""Results of about one frame with many regions."""
CLOSE_TIMEOUT_S = 1.5
READY_WAIT_S = 3.0
START_TIMEOUT_S = 60.0
"""A process that receives nothing yet for so long counts as failed. It imports its packages first, on a busy device for many seconds."""

_CODE = "import sys; sys.path[:] = sys.argv[2:]; from edgefuse_runtime.web.process import main; main(sys.argv[1])"
"""Not python -m: that would also import modules from the working directory."""

_log = logging.getLogger(__name__)


class _Happened(NamedTuple):
    """An event, and when it happened (`time.monotonic`)."""

    at_s: float
    sent: EventSent


class WebSink:
    """Serves the page at an address. If the page's process fails, the bus opens the sink again."""

    def __init__(
        self,
        address: WebAddress,
        *,
        title: str = "",
        metrics: MetricsSink | None = None,
        collector: Collector | None = None,
    ) -> None:
        """Choose the address.

        Args:
            title: shown on the page, such as the name of the bundle.
            metrics: another sink of the run, whose metrics are served at /metrics.
            collector: keeps frames that a viewer marks as wrong.
        """
        self.info = SinkInfo(name=f"page on {address.text}", queue_size=QUEUE_SIZE, wants_images=True, is_display=True)
        self._address, self._title = address, title
        self._metrics, self._collector = metrics, collector
        self._run = secrets.token_hex(8)
        self._events: deque[_Happened] = deque(maxlen=MAX_EVENTS)
        self._states: dict[str, _Happened] = {}
        self._num_events = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._sender: Sender | None = None
        self._connection: Connection | None = None
        self._reader: threading.Thread | None = None
        self._wants_images = self._is_shown = self._is_ready = False
        self._started_s = 0.0
        self._frame = (-1, 0)
        self._thumbnails: list[tuple[int, tuple[int, int, int, int] | None]] = []
        self._has_announced = False

    def __enter__(self) -> WebSink:
        for package in PACKAGES:
            if find_spec(package) is None:  # the process imports it, not this one
                require(package, extra="web")
        self._connection, theirs = pair()
        with theirs, self._address.listen() as listener:
            self._process = self._started(theirs.fileno(), listener.fileno())
        self._sender, self._wants_images, self._is_ready = Sender(self._connection), False, False
        self._started_s = time.monotonic()
        served = self._connection, self._sender
        self._reader = threading.Thread(target=self._serve, args=served, name="page requests", daemon=True)
        self._reader.start()
        for at_s, sent in sorted({*self._states.values(), *self._events}, key=lambda happened: happened.sent.id):
            self._sender.send(EventSent(id=sent.id, event=sent.event, ago_s=time.monotonic() - at_s))
        if not self._has_announced:
            self._has_announced = True
            _log.info("page: http://%s/", self._address.text)
        else:
            self._wait_until_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sender = None
        if self._connection is not None:
            connection, self._connection = self._connection, None
            _shut_down(connection)  # the process ends, and the thread that reads from it
            if self._reader is not None:
                self._reader.join(CLOSE_TIMEOUT_S)
            connection.close()
        if self._process is not None:
            process, self._process = self._process, None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(CLOSE_TIMEOUT_S)
            process.kill()
            process.wait()

    def _started(self, *files: int) -> subprocess.Popen[bytes]:
        request = {
            "files": files,
            "text": self._address.text,
            "run": self._run,
            "title": self._title,
            "can_collect": self._collector is not None,
        }
        environment = {name: value for name, value in os.environ.items() if name != TOKEN}
        if self._address.token is not None:
            environment[TOKEN] = self._address.token  # not an argument, which other users could read
        return subprocess.Popen(
            [sys.executable, "-c", _CODE, dumps(request), *sys.path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=files,
            env=environment,
            start_new_session=True,
        )

    def result(self, result: Result, frame: Frame | None) -> None:
        if not self._is_ready:
            self._check_start()
            return
        sent = ResultSent(result=result)
        is_first, self._frame = sent.frame != self._frame, sent.frame
        if frame is not None and is_first and self._wants_images:
            self._wants_images = False
            height, width = frame.depth.shape
            sent = ResultSent(result=result, shape=(height, width), depth_unit_m=frame.depth_unit_m)
            self._send(sent, frame.rgb, frame.depth)
        else:
            self._send(sent)
        if is_first:
            self._is_shown = sent.shape is not None
        if frame is not None and self._is_shown and self._collector is not None:
            self._collector.shown(result, frame)
        if frame is not None:
            for number, roi in self._thumbnails:
                self._send(Thumbnail(id=number, pixels=_small(frame.rgb, roi if roi is not None else result.roi)))
        self._thumbnails.clear()

    def _wait_until_ready(self) -> None:
        """A process that was started again works only when it receives: it may end each time while it imports its packages."""
        end_s = time.monotonic() + READY_WAIT_S
        while not self._is_ready and time.monotonic() < end_s:
            self._check_start()
            time.sleep(0.02)

    def _check_start(self) -> None:
        """Results of before the process receives them are left out: they would fill the connection."""
        self._thumbnails.clear()
        assert self._process is not None
        if self._process.poll() is not None:
            raise OSError(errno.EPIPE, "the process of the page has ended")
        if time.monotonic() - self._started_s > START_TIMEOUT_S:
            raise OSError(errno.ETIMEDOUT, f"the process of the page did not start within {START_TIMEOUT_S:.0f} s")

    def event(self, event: Event) -> None:
        self._num_events += 1
        sent = EventSent(id=self._num_events, event=event)
        happened = _Happened(time.monotonic(), sent)
        self._events.append(happened)
        if event.event in STATES:
            self._states[event.event] = happened
        if event.event not in WITHOUT_THUMBNAIL:
            self._thumbnails.append((sent.id, event.detail.get("roi")))
        self._send(sent)

    def summary(self, summary: LiveSummary) -> None:
        self._send(summary)

    def _send(self, message: Any, *images: np.ndarray) -> None:
        assert self._sender is not None
        try:
            self._sender.send(message, *images)
        except BlockingIOError as error:
            raise OSError(error.errno, "the process of the page does not respond") from error
        except OSError as error:
            raise OSError(error.errno, "the process of the page has ended") from error

    def _serve(self, connection: Connection, sender: Sender) -> None:
        """Answer the requests of the page's process until it ends."""
        with contextlib.suppress(EOFError, OSError, UserError):
            while True:
                request = next_request(connection)
                if request.what == "image":
                    self._wants_images = True
                elif request.what == "ready":
                    self._is_ready = True
                else:
                    sender.send(self._reply(request))

    def _reply(self, request: Request) -> Reply:
        try:
            if request.what == "metrics" and self._metrics is not None:
                return Reply(id=request.id, data=self._metrics.text())
            if request.what == "wrong" and self._collector is not None:
                text = self._collector.mark_wrong(request.index, request.label)
                return Reply(id=request.id, data=text.encode())
            if request.what == "hold" and self._collector is not None:
                self._collector.hold(request.index)
                return Reply(id=request.id)
        except EdgefuseError as error:
            return Reply(id=request.id, problem=str(error))
        except Exception as error:  # a fault of one request does not end the others
            _log.warning("the page could not be answered: %s", error, exc_info=True)
            return Reply(id=request.id, problem=f"{type(error).__name__}: {error}")
        return Reply(id=request.id, problem="this run has none")


def _small(rgb: np.ndarray, roi: tuple[int, int, int, int] | None) -> np.ndarray:
    """The region of a frame, at most `THUMBNAIL_PX` on the longer side."""
    x, y, w, h = roi if roi is not None else (0, 0, rgb.shape[1], rgb.shape[0])
    part = rgb[max(y, 0) : y + h, max(x, 0) : x + w]
    step = max(1, -(-max(part.shape[:2]) // THUMBNAIL_PX))
    return np.ascontiguousarray(part[::step, ::step])


def _shut_down(connection: Connection) -> None:
    """End a connection in both directions, also for a thread that waits in it; that thread closes it."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)
