"""`Viewers`: those who watch the page. Each gets the newest frame when it has confirmed the one before, so a slow one gets fewer.

Used in the event loop of the server only.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from edgefuse.errors import UserError
from edgefuse_runtime.web.messages import Ack, viewer_message

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

MAX_VIEWERS = 64
MAX_IN_FLIGHT = 2
"""Frames that are on their way to one viewer."""
IMAGES_PER_S = 10.0
TOTAL_IMAGES_PER_S = 100.0
"""Many viewers share this rate."""
PATIENCE_S = 15.0
"""A viewer that takes nothing, or confirms no frame, for so long is disconnected."""
MAX_WAITING = 64
POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013


class Viewer:
    """One connection: a slot for the newest frame, one for the newest status, and a bounded queue of other messages."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._texts: deque[str] = deque(maxlen=MAX_WAITING)
        self._status: str | None = None
        self._frame: tuple[int, bytes] | None = None
        self._in_flight: dict[int, float] = {}
        self._changed = asyncio.Event()
        self._wants_images = True
        self._sending_s: float | None = None
        self.given_up = asyncio.Event()

    @property
    def wants_frame(self) -> bool:
        """Whether the next frame would be sent to it soon."""
        return self._wants_images and self._frame is None and len(self._in_flight) < MAX_IN_FLIGHT

    def put_frame(self, number: int, data: bytes) -> None:
        if self._wants_images:
            self._frame = number, data
            self._changed.set()

    def put_status(self, text: str) -> None:
        self._status = text
        self._changed.set()

    def put(self, text: str) -> None:
        self._texts.append(text)
        self._changed.set()

    def check(self, *, now_s: float) -> None:
        """Give it up if it takes nothing, or confirms nothing."""
        oldest_s = min(
            [now_s if self._sending_s is None else self._sending_s, *self._in_flight.values()], default=now_s
        )
        if oldest_s < now_s - PATIENCE_S:
            self.given_up.set()

    async def send_all(self) -> None:
        """Send what is put, until the connection fails."""
        # No asyncio.wait_for: before Python 3.12 it may swallow the cancellation that ends this loop.
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._texts:
                await self._send(self._texts.popleft())
            if self._status is not None:
                status, self._status = self._status, None
                await self._send(status)
            if self._frame is not None and len(self._in_flight) < MAX_IN_FLIGHT:
                (number, data), self._frame = self._frame, None
                self._in_flight[number] = time.monotonic()
                await self._send(data)

    async def _send(self, data: str | bytes) -> None:
        self._sending_s = time.monotonic()
        await (self._socket.send_text(data) if isinstance(data, str) else self._socket.send_bytes(data))
        self._sending_s = None

    async def receive_all(self) -> None:
        """Handle what it sends, until it disconnects.

        Raises:
            UserError: it sends something that is no message.
        """
        async for text in self._socket.iter_text():
            message = viewer_message(text)
            if isinstance(message, Ack):
                self._in_flight.pop(message.id, None)
            else:
                self._wants_images = message.images
                if not message.images:
                    self._frame = None
            self._changed.set()


class Viewers:
    """All viewers."""

    def __init__(self) -> None:
        self._viewers: set[Viewer] = set()

    def __len__(self) -> int:
        return len(self._viewers)

    @property
    def want_frame(self) -> bool:
        """Whether one of them would get the next frame soon. May be read in any thread."""
        return any(viewer.wants_frame for viewer in tuple(self._viewers))

    @property
    def frame_pause_s(self) -> float:
        """Time between two frames."""
        return max(1.0 / IMAGES_PER_S, len(self._viewers) / TOTAL_IMAGES_PER_S)

    def put_frame(self, number: int, data: bytes) -> None:
        for viewer in self._viewers:
            viewer.put_frame(number, data)

    def put_status(self, text: str) -> None:
        now_s = time.monotonic()
        for viewer in self._viewers:
            viewer.put_status(text)
            viewer.check(now_s=now_s)

    def put(self, text: str) -> None:
        for viewer in self._viewers:
            viewer.put(text)

    async def serve(self, socket: WebSocket, *, first: Callable[[], Iterable[str]]) -> None:
        """Serve a viewer until it disconnects.

        Args:
            first: the first messages, as of the moment from which it gets all others.
        """
        from starlette.websockets import WebSocketDisconnect

        await socket.accept()
        if len(self._viewers) >= MAX_VIEWERS:
            await socket.close(TRY_AGAIN_LATER, f"{MAX_VIEWERS} viewers watch already")
            return
        viewer = Viewer(socket)
        for text in first():
            viewer.put(text)
        self._viewers.add(viewer)
        calls = (viewer.send_all(), viewer.receive_all(), viewer.given_up.wait())
        tasks = [asyncio.ensure_future(call) for call in calls]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            errors = [error for task in done if (error := task.exception()) is not None]
        finally:
            self._viewers.discard(viewer)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        refusal = next((str(error) for error in errors if isinstance(error, UserError)), "")
        if refusal or viewer.given_up.is_set():
            reason = refusal or f"no frame was confirmed for {PATIENCE_S:g} s"
            with contextlib.suppress(RuntimeError, WebSocketDisconnect, asyncio.TimeoutError):
                await asyncio.wait_for(socket.close(POLICY_VIOLATION, reason[:120]), 1.0)
