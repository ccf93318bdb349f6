"""The state of a camera reaches every output: JSON lines, metrics, the terminal, MQTT; also before the camera is open."""

from __future__ import annotations

import io
import json
import socket
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_network_sinks import _broker, _subscriber, _until
from test_sink_bus import Recorded

from edgefuse.bundle import Bundle
from edgefuse.errors import UserError
from edgefuse_runtime.capture.capture import Capture
from edgefuse_runtime.capture.source import Source
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.live.opening import open_live, opened_bus
from edgefuse_runtime.results import Event
from edgefuse_runtime.sinks.bus import SinkBus
from edgefuse_runtime.sinks.json_lines import JsonlSink
from edgefuse_runtime.sinks.metrics import MetricsSink
from edgefuse_runtime.sinks.mqtt import MqttSink
from edgefuse_runtime.sinks.terminal import TableSink


def _free_port() -> int:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def _faulty(folder: Path, *faults: str, wait: bool = False, num_frames: int = 5) -> Capture:
    arguments = {"folder": str(folder), "faults": list(faults), "num_frames": num_frames}
    return Capture(
        Source(factory="capture_cameras:FaultyCamera", arguments=arguments, is_live=True), align="color", wait=wait
    )


def _states(events: list[Event]) -> list[tuple[str, int, int]]:
    details = [event.detail for event in events if event.event == "camera"]
    return [(detail["state"], detail["attempt"], detail["losses"]) for detail in details]


class _Screen(TableSink):
    """A terminal; `shown` has what it shows after each event."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self._stream = io.StringIO()
        console = Console(file=self._stream, force_terminal=True, width=100, height=40, color_system=None)
        super().__init__(console=console)

    def event(self, event: Event) -> None:
        super().event(event)
        with closing(io.StringIO()) as stream:
            Console(file=stream, width=100).print(self._draw())
            self.shown.append(stream.getvalue())


class _Metrics(MetricsSink):
    """`found` has the metrics after each event."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self._at, self.found = port, list[dict[str, float]]()

    def event(self, event: Event) -> None:
        super().event(event)
        self.found.append(_scrape(self._at))


def _value(found: dict[str, float], state: str) -> float:
    return found[f'edgefuse_camera_state{{state="{state}"}}']


def test_a_camera_that_is_lost_and_comes_back_is_shown_by_every_output(bundle: Bundle, tmp_path: Path) -> None:
    recorded, screen, metrics = Recorded(), _Screen(), _Metrics(_free_port())
    log = tmp_path / "log.jsonl"
    with (
        open_engine(bundle) as engine,
        opened_bus(
            [recorded, screen, metrics, JsonlSink(log)], camera := _faulty(tmp_path, "raise", "absent", "none")
        ) as bus,
        camera,
    ):
        summary = run_live(engine=engine, camera=camera, sinks=bus, num_frames=8)
    expected = [("opening", 0, 0), ("running", 0, 0), ("reconnecting", 1, 1), ("reconnecting", 2, 1), ("running", 0, 1)]
    assert _states(recorded.events) == expected
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    logged = [line for line in lines if line.get("event") == "camera"]
    assert [(line["detail"]["state"], line["detail"]["attempt"]) for line in logged] == [one[:2] for one in expected]
    assert logged[2]["detail"]["reason"] == "the camera stopped: the cable is loose" and logged[2]["time"]
    assert logged[2]["message"] == "camera reconnecting, attempt 1: the camera stopped: the cable is loose"
    names = [event.event for event in recorded.events]
    assert names[:2] == ["camera", "started"]
    found = [metrics.found[place] for place, name in enumerate(names) if name == "camera"]
    assert [_value(one, "running") for one in found] == [0, 1, 0, 0, 1]
    assert [_value(one, "reconnecting") for one in found] == [0, 0, 1, 1, 0]
    assert [one["edgefuse_camera_losses_total"] for one in found] == [0, 0, 1, 1, 1]
    assert found[2]['edgefuse_sensor_ok{sensor="rgb"}'] == found[2]['edgefuse_sensor_ok{sensor="depth"}'] == 0
    shown = [screen.shown[place] for place, name in enumerate(names) if name == "camera"]
    assert ["camera reconnecting" in one for one in shown] == [False, False, True, True, False]
    assert "camera opening" in shown[0] and "waiting for the first frame" in shown[0]
    assert summary.camera["capture"]["losses"] == 1


def test_a_sensor_that_is_missing_and_back_is_an_event(bundle: Bundle) -> None:
    arguments = {"color_gaps": [[20, 50]]}
    camera = Capture(
        Source(factory="capture_cameras:SoftwareRealSense", arguments=arguments, is_live=True), align="color"
    )
    recorded = Recorded()
    with open_engine(bundle) as engine, camera:
        run_live(engine=engine, camera=camera, sinks=[recorded], num_frames=60)
    details = [event.detail for event in recorded.events if event.event == "camera"]
    assert [(one["state"], one["missing"]) for one in details if one["state"] != "opening"] == [
        ("running", []),
        ("degraded", ["rgb"]),
        ("running", []),
    ]
    assert [one["reason"] for one in details if one["state"] == "degraded"] == ["the colour sensor sends no images"]


def test_outputs_are_open_before_a_recording_plays(bundle: Bundle, small_recording: Path) -> None:
    """The sink takes longer to open than the recording lasts."""
    slow = Recorded(wants_images=True, opening=lambda: time.sleep(0.7))
    with open_live(bundle, camera=str(small_recording), region=None, real_time=True, sinks=[slow]) as live:
        summary = run_live(engine=live.engine, camera=live.camera, sinks=live.bus)
    assert slow.results[0] == 0 and summary.processed + summary.dropped == 30
    assert slow.frames[0].color_number < 20, "playback began before the outputs were open"


def test_a_camera_that_cannot_be_opened_leaves_a_summary(bundle: Bundle, small_recording: Path, tmp_path: Path) -> None:
    recording, log = tmp_path / "cut.db3", tmp_path / "log.jsonl"
    recording.write_bytes(small_recording.read_bytes()[:5000])
    with (
        pytest.raises(UserError, match="cannot play") as raised,
        open_live(bundle, camera=str(recording), region=None, sinks=[JsonlSink(log)]),
    ):
        pass
    *events, summary = (json.loads(line) for line in log.read_text().splitlines())
    assert [event["detail"]["state"] for event in events] == ["opening", "failed"]
    assert (summary["kind"], summary["ended"], summary["failure"]) == ("summary", "failed", str(raised.value))
    assert summary["engine"] == {} and summary["received"] == 0


def test_a_camera_that_is_not_there_at_the_start_is_waited_for(bundle: Bundle, tmp_path: Path) -> None:
    recorded = Recorded()
    with open_engine(bundle) as engine, _faulty(tmp_path, "absent", "absent", "none", wait=True) as camera:
        assert camera.state.name == "reconnecting" and camera.read(10) is None
        summary = run_live(engine=engine, camera=camera, sinks=[recorded], num_frames=5)
    assert _states(recorded.events) == [("reconnecting", 1, 0), ("reconnecting", 2, 0), ("running", 0, 0)]
    assert summary.processed == 5 and summary.camera["serial"] == "7"


def test_mqtt_keeps_the_newest_state_of_the_camera(tmp_path: Path) -> None:
    port = _free_port()
    detail: dict[str, Any] = {"state": "reconnecting", "reason": "gone", "attempt": 1, "missing": [], "losses": 1}

    def states(received: list[tuple[str, Any]]) -> list[str]:
        return [value["detail"]["state"] for topic, value in received if topic == "shelf/left/camera"]

    with SinkBus([MqttSink("127.0.0.1", port, "shelf/left")]) as bus:
        with _broker(port, tmp_path) as broker:
            bus.event("camera", "camera running", **detail | {"state": "running"})
            bus.event("camera", "camera reconnecting", **detail)
            with _subscriber(port) as received:
                _until(lambda: "reconnecting" in states(received))
            with _subscriber(port) as late:  # gets the retained one only
                _until(lambda: states(late))
                assert set(states(late)) == {"reconnecting"}
            broker.kill()
            broker.wait()
        with _broker(port, tmp_path), _subscriber(port) as received:
            bus.event("started", "again")  # fails, and the sink connects again
            _until(lambda: "reconnecting" in states(received), timeout_s=60)
