"""The process of `edgefuse_runtime.web.sink`: `main`. It ends when the connection to live does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse.io.images import jpeg_bytes
from edgefuse.io.json_files import parse_json
from edgefuse_runtime.results import LiveSummary, Result
from edgefuse_runtime.web.address import web_address
from edgefuse_runtime.web.frames import frame_of
from edgefuse_runtime.web.images import depth_jpeg, rgb_jpeg
from edgefuse_runtime.web.link import EventSent, Reply, Request, ResultSent, Thumbnail, images_after, send_request
from edgefuse_runtime.web.live_app import live_app
from edgefuse_runtime.web.live_page import LivePage, PageOptions
from edgefuse_runtime.web.messages import frame_bytes
from edgefuse_runtime.web.server import serving
from edgefuse_runtime.web.static_files import StaticFiles

_PR_SET_PDEATHSIG = 1
NICE = 10
"""The engine comes first."""
SERVER_START_TIMEOUT_S = 20.0
LAST_MESSAGES_S = 0.2
"""Time in which viewers get the end of the run, before they are disconnected."""
SAME_FRAME_S = 0.01
"""The results of one frame follow each other within this time."""
_REQUEST = {"files": [int], "text": str, "run": str, "title": str, "can_collect": bool}


def main(text: str) -> None:
    """Serve the page.

    Args:
        text: the request, as JSON.
    """
    # The signals of the terminal and of systemd also reach this process; live handles them and ends it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Also a process that hangs ends with live: with the thread of the sink, which waits for it at the end of a run.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(NICE)
    request = parse_json(text, what="the request", spec=_REQUEST)
    connection, listener = Connection(request["files"][0]), socket.socket(fileno=request["files"][1])
    files = StaticFiles()
    options = PageOptions(
        version=files.version, run=request["run"], title=request["title"], can_collect=request["can_collect"]
    )
    page = LivePage(options, ask=lambda asked: send_request(connection, asked))
    with serving(live_app(page, files, web_address(request["text"])), listener):
        if not page.is_running.wait(SERVER_START_TIMEOUT_S):
            sys.exit("the server of the page did not start")
        _receive(connection, page)
        time.sleep(LAST_MESSAGES_S)
    os._exit(0)  # a thread may still encode, or wait for a viewer


class _Pending(NamedTuple):
    """A frame whose other results may follow."""

    first: ResultSent
    results: list[Result]
    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint16]


def _receive(connection: Connection, page: LivePage) -> None:
    """Pass what live sends to the page, until live closes the connection."""
    assert page.loop is not None
    call = page.loop.call_soon_threadsafe
    handlers: dict[type, Callable[[Any], None]] = {
        EventSent: page.event,
        Thumbnail: page.thumbnail,
        Reply: page.reply,
        LiveSummary: page.summary,
    }
    pending: _Pending | None = None
    with contextlib.suppress(EOFError, OSError):
        send_request(connection, Request(what="ready"))
        while True:
            if pending is not None and not connection.poll(SAME_FRAME_S):
                _show(page, pending)
                pending = None
            message = connection.recv()
            if not isinstance(message, ResultSent):
                call(handlers[type(message)], message)
                continue
            call(page.result, message.result)
            images = images_after(message, connection)
            if pending is not None and message.frame == pending.first.frame:
                pending.results.append(message.result)
            elif pending is not None:
                _show(page, pending)
                pending = None
            if images is not None:
                pending = _Pending(message, [message.result], *images)


def _show(page: LivePage, frame: _Pending) -> None:
    """Encode the images in this thread, for those who want them."""
    assert page.loop is not None
    call = page.loop.call_soon_threadsafe
    if page.wants_snapshot:
        call(page.snapshot, jpeg_bytes(frame.rgb, quality=92))
    if page.viewers.want_frame:
        depth = depth_jpeg(frame.depth, depth_unit_m=frame.first.depth_unit_m, range_m=page.depth_range_m)
        rgb = rgb_jpeg(frame.rgb)
        message = frame_of(frame.results, shape=frame.depth.shape, num_bytes=(len(rgb), len(depth)))
        call(page.viewers.put_frame, message.id, frame_bytes(message, rgb, depth))
    call(page.images_arrived)
