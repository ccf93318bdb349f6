"""`LivePage`: the state of a run that its page shows. Used in the event loop of the server only, except where it says otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse.io.images import jpeg_bytes
from edgefuse_runtime.frame_times import utc
from edgefuse_runtime.results import LiveSummary, Result
from edgefuse_runtime.web.camera_status import CameraStatus
from edgefuse_runtime.web.link import EventSent, Reply, Request, Thumbnail
from edgefuse_runtime.web.messages import Ended, Event, Hello, Status, text_of
from edgefuse_runtime.web.recent import Recent
from edgefuse_runtime.web.viewers import Viewers

STATUS_PAUSE_S = 0.5
REPLY_TIMEOUT_S = 3.0
IMAGE_TIMEOUT_S = 1.5
MAX_EVENTS = 50
DEPTH_RANGE_M = (0.3, 3.0)
"""If the run does not say which range its model has."""


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """What a page is started with; see `edgefuse_runtime.web.messages.Hello`."""

    run: str
    title: str
    version: str
    can_collect: bool


class LivePage:
    """Takes what live sends, and answers viewers."""

    def __init__(self, options: PageOptions, *, ask: Callable[[Request], None]) -> None:
        """Choose the page.

        Args:
            ask: sends a request to live.
        """
        self.options, self.viewers = options, Viewers()
        self.is_running = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._ask = ask
        self._recent, self._camera = Recent(), CameraStatus(now_s=time.monotonic())
        self._newest: tuple[float, Result] | None = None
        self._facts: dict[str, Any] = {}
        self._events: deque[tuple[float, Event]] = deque(maxlen=MAX_EVENTS)
        self._thumbnails: dict[int, NDArray[np.uint8]] = {}
        self._outputs: dict[str, str] = {}
        self._has_asked = False
        self._snapshots: list[asyncio.Future[bytes]] = []
        self._replies: dict[int, asyncio.Future[bytes]] = {}
        self._num_requests = 0

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[None]:
        """Send statuses and ask for images while the server runs."""
        self.loop = asyncio.get_running_loop()
        tasks = [asyncio.ensure_future(self._send_statuses()), asyncio.ensure_future(self._ask_for_images())]
        self.is_running.set()
        yield
        for task in tasks:
            task.cancel()

    @property
    def depth_range_m(self) -> tuple[float, float]:
        """The distances of the first and the last colour. May be read in any thread."""
        model = self._facts.get("model") or {}
        return model.get("near_m", DEPTH_RANGE_M[0]), model.get("far_m", DEPTH_RANGE_M[1])

    @property
    def wants_snapshot(self) -> bool:
        """Whether someone waits for one. May be read in any thread."""
        return bool(self._snapshots)

    # What live sends

    def result(self, result: Result) -> None:
        now_s = time.monotonic()
        self._recent.add(result, now_s=now_s)
        self._newest = now_s, result
        self._camera.result(now_s=now_s)

    def images_arrived(self) -> None:
        """The images that were asked for have arrived."""
        self._has_asked = False

    def snapshot(self, jpeg: bytes) -> None:
        waiting, self._snapshots = self._snapshots, []
        for future in waiting:
            _resolve(future, jpeg)

    def event(self, sent: EventSent) -> None:
        event, at_s = sent.event, time.monotonic() - sent.ago_s
        self._camera.event(event, at_s=at_s)
        if event.event == "started":
            self._facts = event.detail
        if event.event == "sink":
            name, state = str(event.detail.get("name")), event.detail.get("state")
            self._outputs.pop(name, None)
            if state != "open":
                self._outputs[name] = event.message
        shown = Event(
            id=sent.id,
            event=event.event,
            message=event.message,
            time=utc(event.unix_ms),
            ago_s=0.0,
            has_thumbnail=False,
            detail=event.detail if event.event not in ("started", "sink") else {},
        )
        self._events.append((at_s, shown))
        kept = {event.id for _, event in self._events}
        self._thumbnails = {number: pixels for number, pixels in self._thumbnails.items() if number in kept}
        if event.event == "started":
            self.viewers.put(text_of(self.hello()))
        else:
            self.viewers.put(text_of(_now(at_s, shown)))
        if event.event == "camera":
            self.viewers.put_status(text_of(self.status()))

    def thumbnail(self, thumbnail: Thumbnail) -> None:
        for place, (at_s, event) in enumerate(self._events):
            if event.id == thumbnail.id and thumbnail.pixels.size:
                self._thumbnails[event.id] = thumbnail.pixels
                shown = replace(event, has_thumbnail=True)
                self._events[place] = at_s, shown
                self.viewers.put(text_of(_now(at_s, shown)))

    def summary(self, summary: LiveSummary) -> None:
        self._camera.ended(now_s=time.monotonic(), failure=summary.failure)
        self.viewers.put_status(text_of(self.status()))
        ended = Ended(reason=summary.ended, failure=summary.failure, results=summary.processed)
        self.viewers.put(text_of(ended))

    def reply(self, reply: Reply) -> None:
        future = self._replies.pop(reply.id, None)
        if future is not None and not future.done():
            if reply.problem:
                future.set_exception(UserError(reply.problem))
            else:
                future.set_result(reply.data)

    # What viewers ask for

    def hello(self) -> Hello:
        facts, options = self._facts, self.options
        return Hello(
            run=options.run,
            version=options.version,
            title=options.title,
            labels=tuple((facts.get("model") or {}).get("labels", ())),
            engine=facts.get("engine", {}),
            camera=facts.get("camera", {}),
            region=facts.get("region"),
            depth_range_m=self.depth_range_m,
            can_collect=options.can_collect,
            events=tuple(_now(at_s, event) for at_s, event in self._events),
        )

    def status(self) -> Status:
        now_s = time.monotonic()
        since_s, result = (None, None) if self._newest is None else (now_s - self._newest[0], self._newest[1])
        return Status(
            camera=self._camera.message(now_s=now_s),
            since_result_s=None if since_s is None else round(since_s, 1),
            results=0 if result is None else result.index + 1,
            dropped=0 if result is None else result.dropped,
            stale=0 if result is None else result.stale,
            viewers=len(self.viewers),
            outputs=self._outputs,
            **asdict(self._recent.numbers(now_s=now_s)),
        )

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether the camera runs, and JSON about it."""
        status = self.status()
        value = {**asdict(status.camera), "since_result_s": status.since_result_s}
        return self._camera.is_working, {**value, "results_per_s": status.results_per_s, "results": status.results}

    def thumbnail_jpeg(self, number: int) -> bytes | None:
        """A JPEG file; None if there is none."""
        pixels = self._thumbnails.get(number)
        return None if pixels is None else jpeg_bytes(pixels, quality=85)

    async def new_snapshot(self) -> bytes:
        """A JPEG file of the next frame.

        Raises:
            asyncio.TimeoutError: no frame arrives.
        """
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._snapshots.append(future)
        self._ask_for_image()
        try:
            return await asyncio.wait_for(future, IMAGE_TIMEOUT_S)
        finally:
            self._snapshots = [other for other in self._snapshots if other is not future]

    async def answer(self, request: Request) -> bytes:
        """What live replies.

        Raises:
            UserError: it refuses, with the reason.
            asyncio.TimeoutError: it does not reply.
        """
        self._num_requests += 1
        number = self._num_requests
        future = self._replies[number] = asyncio.get_running_loop().create_future()
        self._ask(replace(request, id=number))
        try:
            return await asyncio.wait_for(future, REPLY_TIMEOUT_S)
        finally:
            self._replies.pop(number, None)

    async def _send_statuses(self) -> None:
        while True:
            await asyncio.sleep(STATUS_PAUSE_S)
            if len(self.viewers):
                self.viewers.put_status(text_of(self.status()))

    async def _ask_for_images(self) -> None:
        while True:
            await asyncio.sleep(self.viewers.frame_pause_s)
            if self.viewers.want_frame or self._snapshots:
                self._ask_for_image()

    def _ask_for_image(self) -> None:
        if not self._has_asked:
            self._has_asked = True
            self._ask(Request(what="image"))


def _now(at_s: float, event: Event) -> Event:
    return replace(event, ago_s=round(max(time.monotonic() - at_s, 0.0), 1))


def _resolve(future: asyncio.Future[bytes], value: bytes) -> None:
    if not future.done():
        future.set_result(value)
