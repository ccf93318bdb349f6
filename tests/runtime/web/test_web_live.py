"""The page of a real run in a headless Chromium: a camera is unplugged, labels follow a recording, the service is started again."""

from __future__ import annotations

import contextlib
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Viewer
from page_scenes import free_port
from runtime_scenes import draw_pair
from test_sink_bus import Recorded

from edgefuse.bundle import Bundle
from edgefuse_runtime.capture.capture import Capture
from edgefuse_runtime.capture.source import Source
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.live.opening import opened_bus
from edgefuse_runtime.recording.write_db3 import write_recording
from edgefuse_runtime.results import Event
from edgefuse_runtime.web.address import web_address
from edgefuse_runtime.web.sink import WebSink

pytestmark = pytest.mark.slow


class Noted(Recorded):
    """A sink that notes when the camera was lost."""

    lost_s = math.inf

    def event(self, event: Event) -> None:
        if event.detail.get("state") == "reconnecting":
            self.lost_s = min(self.lost_s, time.monotonic())


def test_a_camera_that_is_unplugged_shows_within_two_seconds(chromium: Any, bundle: Bundle, tmp_path: Path) -> None:
    """The capture process, the loop and the page together. The images of this camera are uniform: colour counts as missing."""
    arguments = {"folder": str(tmp_path), "faults": ["raise", "absent", "absent", "none"], "num_frames": 600}
    source = Source(factory="capture_cameras:FaultyCamera", arguments=arguments, is_live=True)
    port, stop = free_port(), threading.Event()
    noted = Noted()

    def run() -> None:
        sinks = [noted, WebSink(web_address(str(port)))]
        with open_engine(bundle) as engine, opened_bus(sinks, camera) as bus, camera:
            run_live(engine=engine, camera=camera, sinks=bus, stop=stop)

    camera = Capture(source, align="color")
    thread = threading.Thread(target=run)
    thread.start()
    viewer = Viewer(chromium, f"http://127.0.0.1:{port}")
    try:
        viewer.wait("#camera-text", "Colour is missing")
        viewer.wait("#camera-text", "Camera lost", timeout_s=20)
        assert time.monotonic() - noted.lost_s < 2
        assert "the cable is loose" in viewer.text("#notice") and viewer.page.locator("#veil").is_visible()
        viewer.wait("#camera-text", "Colour is missing", timeout_s=20)
        assert not viewer.page.locator("#veil").is_visible()
    finally:
        stop.set()
        thread.join()
        viewer.context.close()
    assert viewer.errors == []


@pytest.fixture(scope="module")
def changing_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds of 64x48; the class changes every second."""
    pairs = [draw_pair("near" if second % 2 else "far", brightness=n % 30) for second in range(20) for n in range(15)]
    return write_recording(tmp_path_factory.mktemp("changing") / "changing.db3", pairs, fps=15)


@contextlib.contextmanager
def _live(bundle: Bundle, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", "from edgefuse.app.main import main; main()", "live", str(bundle.folder)]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_labels_follow_a_recording_and_the_page_survives_a_restart(
    chromium: Any, bundle: Bundle, changing_recording: Path
) -> None:
    port = free_port()
    arguments = ("--camera", str(changing_recording), "--real-time", "--web", str(port))
    with _live(bundle, *arguments) as process:
        viewer = Viewer(chromium, f"http://127.0.0.1:{port}")
        for label in ("near", "far", "near"):
            viewer.wait(".label", label, timeout_s=30)
        assert viewer.text("#title") == bundle.folder.name
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors.decode()
    assert f"page: http://127.0.0.1:{port}/" in errors.decode()
    viewer.wait("#notice", "The run has ended (SIGTERM)", timeout_s=10)
    first_frame = viewer.text("#frame")
    with _live(bundle, *arguments):
        viewer.wait("#camera-text", "Running", timeout_s=30)
        viewer.wait(".label", "far", timeout_s=30)
        assert viewer.text("#frame") != first_frame
        assert viewer.page.locator("#events li", has_text="the run started").count() == 1  # not that of the run before
        viewer.context.close()
    assert viewer.errors == []
