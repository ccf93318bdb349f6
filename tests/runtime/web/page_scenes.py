"""A bus with the page of a run, and results for it, without a camera and an engine."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import numpy as np
from runtime_scenes import RESULT, TIMES, draw_pair
from websockets.sync.client import ClientConnection, connect

from edgefuse.framing import Roi
from edgefuse_runtime.camera import Frame
from edgefuse_runtime.results import Result
from edgefuse_runtime.sinks.bus import SinkBus
from edgefuse_runtime.sinks.metrics import MetricsSink
from edgefuse_runtime.web.address import web_address
from edgefuse_runtime.web.collector import Collector
from edgefuse_runtime.web.sink import WebSink

TOKEN = "a-token-of-24-characters"
FACTS: dict[str, Any] = {
    "engine": {"engine": "onnxruntime", "precision": "fp16", "file": "model.onnx", "provider": "CPUExecutionProvider"},
    "model": {"labels": ["near", "far"], "near_m": 0.2, "far_m": 2.0},
    "camera": {"kind": "realsense", "name": "D435", "capture": {"state": {"name": "running"}}},
    "region": None,
}
LOST = {"state": "reconnecting", "reason": "the cable is loose", "attempt": 1, "losses": 1, "missing": []}
RUNNING = {"state": "running", "reason": "", "attempt": 0, "losses": 1, "missing": []}


class Kept:
    """A collector that notes what it is asked to keep."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []
        self.num_shown = 0
        self.held: list[int] = []

    def shown(self, result: Result, frame: Frame) -> None:
        self.num_shown += 1

    def hold(self, index: int) -> None:
        self.held.append(index)

    def mark_wrong(self, index: int, label: str) -> str:
        self.asked.append((index, label))
        return f"The frame is kept as {label}."


def free_port() -> int:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def until(condition: Callable[[], object], *, timeout_s: float = 30) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.02)


def run_async(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine in a thread of its own: Playwright's event loop occupies that of the tests, once a browser was opened."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, coroutine).result()


def a_frame(number: int = 1, *, label: str = "near", scale: int = 1) -> Frame:
    rgb, depth = draw_pair(label, brightness=number % 50)
    depth[:8] = 0
    return Frame(
        rgb=np.kron(rgb, np.ones((scale, scale, 1), np.uint8)),
        depth=np.kron(depth, np.ones((scale, scale), np.uint16)),
        depth_unit_m=0.001,
        align="color",
        color_number=number,
        depth_number=number,
        timestamp_ms=0.0,
        timestamp_domain="none",
        arrival_ns=0,
        ready_ns=0,
        name=str(number),
    )


def a_result(number: int, *, label: str = "near", **changes: Any) -> Result:
    top = ((label, 0.9), ("far" if label == "near" else "near", 0.1))
    values = {
        "label": label,
        "probability": 0.9,
        "top": top,
        "roi": Roi(20, 10, 20, 20),
        "nearest_m": 0.62,
        "frame": number + 1,
    } | changes
    return dataclasses.replace(RESULT, index=number, times=TIMES, **values)


class Run:
    """A running page. `publish` sends a result and its frame; `publishing` does so at a rate."""

    def __init__(self, bus: SinkBus, sink: WebSink, port: int, token: str | None) -> None:
        self.bus, self.sink, self.port = bus, sink, port
        self.url = f"http://127.0.0.1:{port}"
        self.headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self.number = 0
        self.scale, self.num_regions = 1, 1
        self.changes: dict[str, Any] = {"label": "near"}

    def publish(self) -> None:
        frame = a_frame(self.number + 1, scale=self.scale)
        for _ in range(self.num_regions):
            result = a_result(self.number, frame=frame.color_number, **self.changes)
            self.bus.publish(result, frame)
            self.number += 1

    @contextlib.contextmanager
    def publishing(self, per_s: float = 30.0) -> Iterator[None]:
        done = threading.Event()

        def publish() -> None:
            while not done.wait(1 / per_s):
                self.publish()

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def camera(self, state: dict[str, Any]) -> None:
        self.bus.event("camera", f"{state['state']}: {state['reason']}", **state)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=self.headers | headers, timeout=30)

    def post(self, path: str, value: Any, **headers: str) -> httpx.Response:
        return httpx.post(self.url + path, json=value, headers=self.headers | headers, timeout=30)

    def watch(self, **options: Any) -> ClientConnection:
        """A WebSocket client."""
        options = {"max_size": None, "additional_headers": self.headers, "compression": None} | options
        return connect(f"ws://127.0.0.1:{self.port}/live", **options)


@contextlib.contextmanager
def page_of_a_run(
    *, token: str | None = None, collector: Collector | None = None, port: int | None = None, **facts: Any
) -> Iterator[Run]:
    """A page that is served."""
    port = port if port is not None else free_port()
    metrics = MetricsSink()
    sink = WebSink(web_address(str(port), token=token), title="mugs", metrics=metrics, collector=collector)
    with SinkBus([metrics, sink]) as bus:
        bus.event("started", "the run started", **(FACTS | facts))
        run = Run(bus, sink, port, token)
        until(lambda: sink._is_ready, timeout_s=90)
        yield run


def frames_of(client: ClientConnection, *, ack: bool = True) -> Iterator[dict[str, Any]]:
    """The headers of the frames, with the JPEG files added."""
    for message in client:
        if isinstance(message, bytes):
            (length,) = struct.unpack("<I", message[:4])
            header = json.loads(message[4 : 4 + length])
            rgb_end = 4 + length + header["rgb_bytes"]
            assert len(message) == rgb_end + header["depth_bytes"]
            if ack:
                client.send(json.dumps({"kind": "ack", "id": header["id"]}))
            yield {**header, "rgb": message[4 + length : rgb_end], "depth": message[rgb_end:]}
