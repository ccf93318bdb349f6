"""The connection between `edgefuse live` and the process that serves its page: typed messages, and images that follow them.

From live, which the page's process trusts: pickled dataclasses. From the page's process, which strangers talk to: JSON.
"""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.io.json_files import dumps, parse_json
from edgefuse_runtime.results import Event, LiveSummary, Result

SEND_TIMEOUT_S = 5.0
"""A process that takes nothing for so long counts as failed."""


@dataclass(frozen=True, kw_only=True)
class ResultSent:
    """A result; with `shape`, the images of its frame follow: rgb [H, W, 3] and depth [H, W]."""

    result: Result
    shape: tuple[int, int] | None = None
    depth_unit_m: float = 0.0

    @property
    def frame(self) -> tuple[int, int]:
        """Equal for the results of one frame, which follow each other."""
        return self.result.frame, self.result.times.arrival_ns


@dataclass(frozen=True, kw_only=True, eq=False)
class EventSent:
    """An event. `id` increases by one; `ago_s` is not zero for one that is sent again to a new process."""

    id: int
    event: Event
    ago_s: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Thumbnail:
    """A small image of the region in the first frame after event `id`, uint8 [H, W, 3]."""

    id: int
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answer to request `id`: `data`, or the reason why there is none."""

    id: int
    data: bytes = b""
    problem: str = ""


FromLive = ResultSent | EventSent | Thumbnail | Reply | LiveSummary


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request of the page's process.

    Attributes:
        what: "ready": the process receives results from now on; "image": send the images of the next result; both without a `Reply`.
            "metrics"; "wrong" and "hold": see `Collector`.
        id: of the reply.
    """

    what: str
    id: int = 0
    index: int = 0
    label: str = ""


_REQUEST = {"what": str, "id": int, "index": int, "label": str}


def pair() -> tuple[Connection, Connection]:
    """Two ends of a connection. Sending at the first one fails after `SEND_TIMEOUT_S`."""
    ours, theirs = socket.socketpair()
    seconds, microseconds = int(SEND_TIMEOUT_S), int(SEND_TIMEOUT_S % 1 * 1e6)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", seconds, microseconds))
    return Connection(ours.detach()), Connection(theirs.detach())


class Sender:
    """Live's end: sends from several threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, message: FromLive, *images: NDArray[Any]) -> None:
        """Send a message and the images that belong to it.

        Raises:
            OSError: the other process has ended, or takes nothing.
        """
        with self._lock:
            self._connection.send(message)
            for image in images:
                self._connection.send_bytes(np.ascontiguousarray(image).data.cast("B"))


def images_after(message: ResultSent, connection: Connection) -> tuple[NDArray[np.uint8], NDArray[np.uint16]] | None:
    """The images that belong to a message."""
    if message.shape is None:
        return None
    rgb = np.frombuffer(connection.recv_bytes(), np.uint8).reshape(*message.shape, 3)
    depth = np.frombuffer(connection.recv_bytes(), np.uint16).reshape(message.shape)
    return rgb, depth


def send_request(connection: Connection, request: Request) -> None:
    """Send a request to live."""
    connection.send_bytes(dumps(asdict(request)).encode())


def next_request(connection: Connection) -> Request:
    """The next request of the page's process.

    Raises:
        EOFError: it has ended.
        UserError: it has sent something else.
    """
    value = parse_json(connection.recv_bytes(65_536), what="a request of the page's process", spec=_REQUEST)
    return Request(**{name: value[name] for name in _REQUEST})
