"""The notifications that systemd receives from a real live process, and from loops that hang or wait for a camera."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgefuse.bundle import Bundle
from edgefuse_runtime.camera import Camera, Frame
from edgefuse_runtime.capture.capture import Capture
from edgefuse_runtime.capture.source import Source
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live import systemd
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.live.systemd import Systemd
from logs import logged

LIVE = [sys.executable, "-c", "from edgefuse.app.main import main; main()", "live"]
WATCHDOG_S = 0.6


class Received:
    """The messages at a notify socket, with the times of arrival."""

    def __init__(self, address: str) -> None:
        self.messages: list[tuple[float, list[str]]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        while data := self._socket.recv(4096):
            self.messages.append((time.monotonic(), data.decode().split("\n")))

    def words(self) -> list[str]:
        return [line.split("=")[0] for _, lines in list(self.messages) for line in lines]

    def times(self, word: str) -> list[float]:
        return [at for at, lines in self.messages if word in lines]

    def wait_for(self, word: str, count: int = 1, *, limit_s: float = 60.0) -> None:
        until_s = time.monotonic() + limit_s
        while self.words().count(word) < count:
            assert time.monotonic() < until_s, f"only {self.messages}"
            time.sleep(0.02)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


@contextmanager
def received(address: str) -> Iterator[Received]:
    messages = Received(address)
    try:
        yield messages
    finally:
        messages.close()


def environment(address: str, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": str(round(WATCHDOG_S * 1e6)), **more}


def live(bundle: Bundle, camera: Camera, address: str, *, num_frames: int | None = None, **options: object) -> None:
    with open_engine(bundle) as engine, camera:
        service = Systemd(camera, environment=environment(address))
        run_live(engine=engine, camera=camera, num_frames=num_frames, service=service, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_abstract", [False, True], ids=["file", "abstract"])
def test_a_live_process_is_ready_alive_and_stopping(bundle: Bundle, tmp_path: Path, is_abstract: bool) -> None:
    address = f"@edgefuse-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with received(address.replace("@", "\0")) as at_systemd:
        process = subprocess.Popen(
            [*LIVE, str(bundle.folder), "--camera", "synthetic", "--json"],
            env={**os.environ, **environment(address)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        at_systemd.wait_for("WATCHDOG", 3)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    first, *_, last = at_systemd.messages
    assert first[1][0] == "READY=1" and last[1][0] == "STOPPING=1"
    assert at_systemd.words().count("READY") == at_systemd.words().count("STOPPING") == 1
    status = [line for _, lines in at_systemd.messages for line in lines if line.startswith("STATUS=running, ")]
    assert len(status) >= 3
    assert all(float(line.split()[1]) > 0 for line in status)


class Hanging:
    """A camera with a read that hangs once, in the middle of a run."""

    def __init__(self, camera: Camera, *, at: int, hang_s: float) -> None:
        self._camera, self._at, self._hang_s = camera, at, hang_s
        self.align, self.description = camera.align, camera.description
        self.hung: tuple[float, float] = (0.0, 0.0)

    @property
    def counters(self):  # type: ignore[no-untyped-def]
        return self._camera.counters

    def __enter__(self) -> Hanging:
        self._camera.__enter__()
        return self

    def __exit__(self, *error) -> None:  # type: ignore[no-untyped-def]
        self._camera.__exit__(*error)

    def read(self, timeout_ms: int) -> Frame | None:
        if self.counters.delivered == self._at and not self.hung[0]:
            begun_s = time.monotonic()
            time.sleep(self._hang_s)
            self.hung = (begun_s, time.monotonic())
        time.sleep(0.02)
        return self._camera.read(timeout_ms)


def test_a_loop_that_hangs_does_not_feed_the_watchdog(bundle: Bundle, near_far_folder: Path, tmp_path: Path) -> None:
    from edgefuse_runtime.cameras import open_camera

    camera = Hanging(open_camera(str(near_far_folder)), at=4, hang_s=3 * WATCHDOG_S)
    with received(str(tmp_path / "notify")) as at_systemd:
        live(bundle, camera, str(tmp_path / "notify"))
    begun_s, ended_s = camera.hung
    assert ended_s - begun_s >= 3 * WATCHDOG_S
    fed = at_systemd.times("WATCHDOG=1")
    assert not [at for at in fed if begun_s + 0.1 < at < ended_s]
    assert [at for at in fed if at > ended_s]  # the loop goes on, so it is fed again


@pytest.mark.parametrize("stuck_after_s", [60.0, 0.1])
def test_a_lost_camera_feeds_the_watchdog_only_while_it_is_tried_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stuck_after_s: float
) -> None:
    monkeypatch.setattr(systemd, "STUCK_AFTER_S", stuck_after_s)
    faults = {"folder": str(tmp_path), "faults": ["raise", "absent"]}
    camera = Capture(
        Source(factory="capture_cameras:FaultyCamera", arguments=faults, is_live=True), align="color", mode="thread"
    )
    stop = threading.Event()
    address = str(tmp_path / "notify")
    with received(address) as at_systemd:
        thread = threading.Thread(target=live, args=(bundle, camera, address), kwargs={"stop": stop})
        thread.start()
        try:
            at_systemd.wait_for("STATUS", 8)
        finally:
            stop.set()
            thread.join()
    lost = [lines for _, lines in at_systemd.messages if any("=reconnecting, attempt" in line for line in lines)]
    assert len(lost) >= 4
    assert "the cable is loose" in lost[0][-1] or "no camera 7" in lost[0][-1]
    num_fed = sum("WATCHDOG=1" in lines for lines in lost)
    assert num_fed == len(lost) if stuck_after_s == 60 else num_fed < len(lost)


def test_a_service_that_waits_for_its_camera_is_ready(bundle: Bundle, tmp_path: Path) -> None:
    arguments = {"folder": str(tmp_path), "faults": ["absent", "absent", "none"]}
    source = Source(factory="capture_cameras:FaultyCamera", arguments=arguments, is_live=True)
    with received(str(tmp_path / "notify")) as at_systemd:
        live(bundle, Capture(source, align="color", wait=True), str(tmp_path / "notify"), num_frames=5)
    assert at_systemd.words().count("READY") == 1
    ready, *_ = at_systemd.messages
    assert ready[1][0] == "READY=1" and ready[1][1].endswith("no camera 7 was found")


def test_without_systemd_nothing_is_sent_and_a_missing_socket_is_one_warning(
    bundle: Bundle, near_far_folder: Path, tmp_path: Path
) -> None:
    from edgefuse_runtime.cameras import open_camera

    with logged() as lines:
        live(bundle, open_camera(str(near_far_folder)), "")
    assert not [line for line in lines if "systemd" in line]
    with logged() as lines:
        live(bundle, open_camera(str(near_far_folder)), str(tmp_path / "gone"))
    assert len([line for line in lines if line.startswith("warning: systemd cannot be notified")]) == 1


def test_the_watchdog_of_another_process_is_not_fed(near_far_folder: Path, tmp_path: Path) -> None:
    from edgefuse_runtime.cameras import open_camera

    address = str(tmp_path / "notify")
    with received(address) as at_systemd:
        service = Systemd(open_camera(str(near_far_folder)), environment=environment(address, WATCHDOG_PID="1"))
        for _ in range(8):
            service.processed()
            time.sleep(WATCHDOG_S / 4)
    assert at_systemd.words() == ["READY", "STATUS"]
