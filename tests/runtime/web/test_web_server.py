"""What the server of the page serves, and clients that misbehave. With real clients."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_scenes import LOST, RUNNING, Kept, Run, a_result, frames_of, page_of_a_run, run_async, until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from edgefuse.errors import UserError
from edgefuse.framing import Roi
from edgefuse.io.images import read_rgb
from edgefuse_runtime.results import Result
from edgefuse_runtime.web import messages
from edgefuse_runtime.web.static_files import FOLDER
from edgefuse_runtime.web.viewers import Viewers

# What it serves


def test_a_viewer_gets_frames_and_numbers(run: Run) -> None:
    run.scale = 20
    with run.watch() as client, run.publishing(60):
        hello = json.loads(client.recv())
        stream = frames_of(client)
        frames = [next(stream) for _ in range(3)]
    run.scale = 1
    assert (hello["labels"], hello["depth_range_m"], hello["can_collect"]) == (["near", "far"], [0.2, 2.0], False)
    rgb, depth = (read_rgb(Path(name), frames[0][name]) for name in ("rgb", "depth"))
    assert (frames[0]["width"], frames[0]["height"]) == (1280, 960) and rgb.shape == (480, 640, 3)
    assert depth.shape == (240, 320, 3)
    assert abs(int(rgb[240, 320, 0]) - 200) < 55 and depth[120, 160, 0] > 100 > depth[120, 160, 2]  # red: near
    assert np.ptp(depth[:30].astype(int), axis=2).max() < 40  # not measured: grey stripes
    (region,) = frames[0]["regions"]
    assert (region["label"], region["roi"], region["contribution_rgb"]) == ("near", [20, 10, 20, 20], 0.59)
    assert [frame["id"] for frame in frames] == sorted({frame["id"] for frame in frames})


def test_the_rate_is_bounded_and_a_slow_viewer_gets_fewer_frames(run: Run) -> None:
    with run.publishing(60), run.watch() as fast, run.watch() as slow:
        counts = {"fast": 0, "slow": 0}
        slow_frames = frames_of(slow, ack=False)
        started_s = time.monotonic()
        next(slow_frames)
        next(slow_frames)  # two on their way, and no more
        for _ in frames_of(fast):
            counts["fast"] += 1
            if time.monotonic() - started_s > 2:
                break
        with pytest.raises(TimeoutError):
            while not isinstance(slow.recv(timeout=0.3), bytes):
                if time.monotonic() - started_s > 3:
                    raise TimeoutError
    assert 3 < counts["fast"] <= 22


def test_nothing_is_copied_or_encoded_while_nobody_watches(run: Run) -> None:
    until(lambda: run.publish() or not run.sink._wants_images)
    with run.publishing(60):
        deadline_s = time.monotonic() + 1.0
        while time.monotonic() < deadline_s:
            assert not run.sink._wants_images
            time.sleep(0.01)
        with run.watch() as client:
            client.send('{"kind": "view", "images": false}')  # a hidden tab
            time.sleep(0.5)
            until(lambda: not run.sink._wants_images)
            time.sleep(0.5)
            assert not run.sink._wants_images
            client.send('{"kind": "view", "images": true}')
            next(frames_of(client))


def test_health_metrics_and_snapshot() -> None:
    with page_of_a_run() as run:
        with run.publishing():
            until(lambda: run.get("/healthz").json()["results"] > 3)
            snapshot = run.get("/snapshot.jpg")
            healthy = run.get("/healthz")
        run.bus.drain(hurry=False)
        text = run.get("/metrics").text
        run.camera(LOST)
        until(lambda: run.get("/healthz").status_code == 503)
        lost = run.get("/healthz").json()
        no_snapshot = run.get("/snapshot.jpg")
        run.camera(RUNNING)
        until(lambda: run.get("/healthz").status_code == 200)
    assert healthy.status_code == 200 and healthy.json()["state"] == "running" and healthy.json()["since_result_s"] < 5
    assert read_rgb(Path("snapshot.jpg"), snapshot.content).shape == (48, 64, 3)
    assert f'edgefuse_results_total{{label="near"}} {run.number}.0' in text
    assert (lost["state"], lost["reason"], lost["attempt"]) == ("reconnecting", "the cable is loose", 1)
    assert no_snapshot.status_code == 503


def test_an_event_has_a_thumbnail_of_its_region() -> None:
    with page_of_a_run() as run, run.watch() as client:
        run.bus.event("decided", "near", label="near")
        run.publish()
        events = [json.loads(text) for text in _texts(client, 4)]
        shown = [event for event in events if event["kind"] == "event" and event["has_thumbnail"]]
        pixels = read_rgb(Path("x.jpg"), run.get(f"/thumbnails/{shown[0]['id']}.jpg").content)
        assert pixels.shape == (20, 20, 3) and shown[0]["ago_s"] < 10
        assert run.get("/thumbnails/99.jpg").status_code == 404


def _texts(client: ClientConnection, num_events: int) -> Iterator[str]:
    while num_events:
        message = client.recv(timeout=10)
        if isinstance(message, str) and '"kind": "status"' not in message:
            num_events -= 1
            yield message
        if num_events == 1:
            return


class KeptOrRefused(Kept):
    """Refuses a frame below 0 and fails above 100."""

    def mark_wrong(self, index: int, label: str) -> str:
        if index < 0:
            raise UserError("that frame is not kept any more")
        if index > 100:
            raise RuntimeError("a fault")
        self.asked.append((index, label))
        return f"kept as {label}"


def test_a_wrong_answer_is_passed_to_the_collector() -> None:
    kept = KeptOrRefused()
    with page_of_a_run(collector=kept) as run:
        with run.watch() as client:
            name = json.loads(client.recv())["run"]
        good = {"run": name, "id": 3, "label": " far "}
        assert run.post("/wrong", good).json() == {"message": "kept as far"}
        gone, fault = (run.post("/wrong", good | {"id": number}) for number in (-1, 101))
        assert (gone.status_code, gone.text) == (400, "that frame is not kept any more\n")
        assert fault.status_code == 400 and "a fault" in fault.text
        assert run.post("/wrong", good | {"run": "other"}).status_code == 409
        hold = {"run": name, "id": 7}
        assert [run.post("/hold", hold | bad).status_code for bad in ({}, {"run": "other"}, {"id": "7"})] == [
            200,
            409,
            400,
        ]
        for bad in (
            {"label": ""},
            {"label": "a\nb"},
            {"label": "x" * 101},
            {"id": "3"},
            {"label": None},
        ):
            assert run.post("/wrong", good | bad).status_code == 400, bad
        assert run.post("/wrong", good | {"more": "x" * 20_000}).status_code == 400
    assert kept.asked == [(3, "far")] and kept.held == [7]


def test_without_a_collector_the_page_explains(run: Run) -> None:
    with run.watch() as client:
        name = json.loads(client.recv())["run"]
    answer = run.post("/wrong", {"run": name, "id": 3, "label": "far"})
    assert answer.status_code == 409 and "--collect DIR" in answer.text


def test_the_results_of_a_frame_are_shown_together(run: Run) -> None:
    with run.watch() as client:
        stream = frames_of(client)
        until(lambda: run.sink._wants_images)
        run.num_regions = 3
        for _ in range(3):
            run.publish()
        run.num_regions = 1
        frame = next(stream)
    assert [region["id"] for region in frame["regions"]] == [frame["id"], frame["id"] + 1, frame["id"] + 2]


def test_an_event_while_a_viewer_connects_is_not_lost() -> None:
    happened: list[str] = []

    class Connecting:
        """A connection that takes a moment: an event happens in the meantime."""

        async def accept(self) -> None:
            happened.append("an event")

        async def send_text(self, text: str) -> None:
            sent.append(text)

        async def iter_text(self) -> AsyncIterator[str]:
            while not sent:
                await asyncio.sleep(0.01)
                yield json.dumps({"kind": "view", "images": False})

    sent: list[str] = []
    run_async(Viewers().serve(Connecting(), first=lambda: tuple(happened)))  # type: ignore[arg-type]
    assert sent == ["an event"]


# Clients that misbehave


def test_a_large_message_ends_its_connection_only(run: Run) -> None:
    with run.publishing(), run.watch() as good, run.watch() as bad:
        with pytest.raises(ConnectionClosed) as closed:
            bad.send("x" * 10_000_000)
            while True:
                bad.recv(timeout=10)
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
        next(frames_of(good))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"kind": "x"}', '{"kind": "ack", "id": "1"}', b"\x00" * 10, '{"kind": "ack"}']
)
def test_a_message_of_another_form_ends_the_connection(run: Run, text: str | bytes) -> None:
    with run.watch() as client:
        client.send(text)
        with pytest.raises(ConnectionClosed):
            while True:
                client.recv(timeout=10)
    assert run.get("/").status_code == 200


def _memory_mb(process: int) -> float:
    text = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def test_clients_that_never_read_cost_no_memory() -> None:
    with page_of_a_run() as run, contextlib.ExitStack() as stack:
        run.scale = 10
        stack.enter_context(run.publishing(60))
        good = stack.enter_context(run.watch())
        stream = frames_of(good)
        next(stream)
        assert run.sink._process is not None
        before_mb = _memory_mb(run.sink._process.pid)
        for _ in range(10):
            silent = socket.create_connection(("127.0.0.1", run.port))
            stack.callback(silent.close)
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            silent.sendall(
                f"GET /live HTTP/1.1\r\nHost: 127.0.0.1:{run.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
        deadline_s = time.monotonic() + 4
        num_frames = 0
        for _ in stream:
            num_frames += 1
            if time.monotonic() > deadline_s:
                break
        grown_mb = _memory_mb(run.sink._process.pid) - before_mb
    assert num_frames > 5 and grown_mb < 20


def test_fifty_viewers_are_served_and_the_seventieth_is_told(run: Run) -> None:
    with run.publishing(), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(run.watch()) for _ in range(50)]
        for client in clients:
            next(frames_of(client))
        more = [stack.enter_context(run.watch()) for _ in range(20)]
        assert json.loads(more[0].recv())["kind"] == "hello"
        with pytest.raises(ConnectionClosed) as refused:
            while True:
                more[-1].recv(timeout=10)
    assert refused.value.rcvd is not None and refused.value.rcvd.code == 1013


def test_connections_that_are_only_held_open_keep_nobody_out(run: Run) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(run.publishing())
        viewer = stack.enter_context(run.watch())
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", run.port))) for _ in range(300)]
        for number, connection in enumerate(silent):
            if number % 2:
                with contextlib.suppress(OSError):  # closed already
                    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: half of a request")
        for _ in range(3):
            assert run.get("/healthz").status_code == 200 and run.get("/").status_code == 200
        next(frames_of(viewer))
        first, last = silent[0], silent[-1]
        first.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert first.recv(1) == b""  # closed for the newest
        last.sendall(b"\r\nConnection: close\r\n\r\n")
        last.settimeout(10)
        assert last.recv(12).startswith(b"HTTP/1.1 4")  # it could still complete its request: that Host is refused


# Its files and its documentation


def test_the_files_are_small_and_name_no_other_host() -> None:
    files = {path.name: path.read_text() for path in FOLDER.iterdir()}
    assert sum(len(text.encode()) for text in files.values()) < 60_000
    urls = {url for text in files.values() for url in re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text)}
    assert urls == {"http://www.w3.org/2000/svg"}  # a namespace, which nothing loads
    assert [
        name for name, text in files.items() if "innerHTML" in text or "eval(" in text or "document.write" in text
    ] == []


def test_the_documentation_has_every_message_and_field() -> None:
    text = (Path(__file__).parents[3] / "docs" / "web.md").read_text()
    kinds = (messages.Hello, messages.Status, messages.Frame, messages.Event, messages.Ended, messages.Region)
    kinds = (*kinds, messages.Camera, messages.Wrong, messages.Hold, messages.Ack, messages.View)
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
    assert f"`schema` is {messages.SCHEMA}" in text


def test_results_without_an_answer_can_be_shown() -> None:
    """NaN, and a region at the edge of the image."""
    with page_of_a_run() as run:
        changes: dict[str, Any] = {"probability": None, "gate_mean": None, "nearest_m": None, "valid_depth": None}
        run.changes = {**changes, "label": None, "top": (), "roi": Roi(60, 40, 20, 20), "is_finite": False}
        run.bus.event("left", "an object left")
        with run.publishing(), run.watch() as client:
            frame = next(frames_of(client))
    (region,) = frame["regions"]
    assert region["label"] is None and region["contribution_rgb"] is None and "not finite" in region["warning"]


def test_a_result_is_pickled_completely() -> None:
    import pickle

    result: Result = a_result(3)
    assert pickle.load(io.BytesIO(pickle.dumps(result))) == result
