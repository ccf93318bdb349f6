"""Sinks for other programs: Prometheus metrics, an MQTT broker, Rerun. With real servers and clients."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from runtime_scenes import RESULT, spans_of

from edgefuse.bundle import Bundle
from edgefuse.errors import UserError
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.results import Event, LiveSummary
from edgefuse_runtime.sensor_health import SensorStates
from edgefuse_runtime.sinks import bus as bus_module
from edgefuse_runtime.sinks import mqtt as mqtt_module
from edgefuse_runtime.sinks.bus import SinkBus
from edgefuse_runtime.sinks.metrics import MetricsSink, parse_address
from edgefuse_runtime.sinks.mqtt import MqttSink, parse_mqtt
from edgefuse_runtime.sinks.sink import Sink
from edgefuse_runtime.sinks.trace import TraceSink


def _live(bundle: Bundle, camera: object, *sinks: Sink) -> LiveSummary:
    with open_engine(bundle) as engine, open_camera(str(camera)) as source:
        return run_live(engine=engine, camera=source, sinks=sinks)


def _until(condition: Callable[[], object], *, timeout_s: float = 30) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.02)


def _free_port() -> int:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# Metrics


def _scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_metrics_show_results_latency_sensors_and_sinks(tmp_path: Path) -> None:
    port = _free_port()
    hangs = TraceSink(Path("/dev/full"), force=True)
    with (
        SinkBus([MetricsSink("127.0.0.1", port), hangs]) as bus,
        closing(socket.create_connection(("127.0.0.1", port))),
    ):
        for label in ("palm", "palm", None):
            missing = SensorStates(rgb="ok" if label else "missing", depth="ok")
            bus.publish(dataclasses.replace(RESULT, label=label, sensors=missing))
        _until(lambda: _scrape(port).get('edgefuse_sink_ok{sink="/dev/full"}') == 0.0)
        bus.drain(hurry=True)
        found = _scrape(port)
    assert (
        found['edgefuse_results_total{label="palm"}'] == 2 and found['edgefuse_results_total{label="no decision"}'] == 1
    )
    assert (found["edgefuse_dropped_pairs_total"], found["edgefuse_stale_pairs_total"]) == (2, 1)
    assert found["edgefuse_latency_seconds_sum"] == pytest.approx(3 * 0.00425)
    assert (
        found['edgefuse_latency_seconds_bucket{le="0.006"}'] == 3 > found['edgefuse_latency_seconds_bucket{le="0.004"}']
    )
    assert found['edgefuse_stage_seconds_sum{stage="infer"}'] == pytest.approx(3 * 0.0035)
    assert found['edgefuse_sensor_ok{sensor="rgb"}'] == 0 and found['edgefuse_sensor_ok{sensor="depth"}'] == 1
    assert found["edgefuse_last_result_timestamp_seconds"] == RESULT.times.published_unix_ms / 1e3
    with pytest.raises(OSError, match="refused|reset"):
        _scrape(port)


def test_the_metrics_close_at_once() -> None:
    """The server of Prometheus took up to half a second: as long as a signal leaves for all outputs, so that a clean end had exit code 1."""
    for _ in range(4):
        with MetricsSink("127.0.0.1", _free_port()):
            time.sleep(0.05)  # its thread waits
            started_s = time.monotonic()
        assert time.monotonic() - started_s < bus_module.HURRY_TIMEOUT_S / 5


def test_a_port_that_is_taken_is_refused_at_the_start(bundle: Bundle, near_far_folder: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--metrics 127.0.0.1:{port} cannot be served"):
            _live(bundle, near_far_folder, MetricsSink("127.0.0.1", port))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("9100", ("127.0.0.1", 9100)),
        ("0.0.0.0:9100", ("0.0.0.0", 9100)),
        ("[::1]:9100", ("::1", 9100)),
        ("host", None),
        ("host:0", None),
        ("host:99999", None),
        ("", None),
    ],
)
def test_addresses(text: str, found: tuple[str, int] | None) -> None:
    if found is None:
        with pytest.raises(UserError, match=re.escape(repr(text))):
            parse_address(text)
    else:
        assert parse_address(text) == found


# MQTT


@contextmanager
def _broker(port: int, folder: Path) -> Iterator[subprocess.Popen[str]]:
    config = folder / "broker.json"  # JSON is YAML, too
    anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    listeners = {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}
    config.write_text(json.dumps({"listeners": listeners, "plugins": anonymous}))
    command = [sys.executable, str(Path(sys.executable).with_name("amqtt")), "-c", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            _until(lambda: _listens(port), timeout_s=60)
            yield process
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with closing(socket.socket()) as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _subscriber(port: int) -> Iterator[list[tuple[str, Any]]]:
    """Messages below "shelf", as (topic, JSON value or text)."""
    import paho.mqtt.client as mqtt

    received: list[tuple[str, Any]] = []
    subscribed: list[object] = []

    def keep(_client: object, _data: object, message: Any) -> None:
        text = message.payload.decode()
        received.append((message.topic, json.loads(text) if text.startswith("{") else text))

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_connect = lambda client, *_: client.subscribe("shelf/#")
    client.on_subscribe = lambda *arguments: subscribed.append(arguments)
    client.on_message = keep
    client.connect("127.0.0.1", port)
    client.loop_start()
    _until(lambda: subscribed)
    try:
        yield received
    finally:
        client.disconnect()
        client.loop_stop()


def test_results_are_published_and_the_broker_may_die_and_return(
    bundle: Bundle, near_far_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "LONGEST_PAUSE_S", 0.5)
    port = _free_port()
    summary = _live(bundle, near_far_folder)
    with SinkBus([MqttSink("127.0.0.1", port, "shelf/left")]) as bus:
        with _broker(port, tmp_path) as broker, _subscriber(port) as received:
            bus.publish(RESULT)  # before the first connection
            _until(lambda: [value["index"] for topic, value in received if topic == "shelf/left"] == [4])
            assert ("shelf/left/state", "online") in received
            broker.kill()
            broker.wait()
        number = 10
        deadline_s = time.monotonic() + 30
        while bus.counts()[0].state != "failed":
            number += 1
            bus.publish(dataclasses.replace(RESULT, index=number))
            assert time.monotonic() < deadline_s
            time.sleep(0.5)  # fewer than 64 in 30 s, so the queue has room for all
        with _broker(port, tmp_path), _subscriber(port) as received:
            bus.publish(dataclasses.replace(RESULT, index=number + 1))
            _until(lambda: any(topic == "shelf/left" and value["index"] == number + 1 for topic, value in received))
            bus.drain(hurry=False)
            bus.finish(summary)
            _until(lambda: ("shelf/left/state", "offline") in received)
            (ended,) = [value for topic, value in received if topic == "shelf/left/summary"]
    assert (ended["kind"], ended["processed"]) == ("summary", 8)
    counts = bus.counts()[0]
    assert (counts.state, counts.dropped) == ("open", 0) and counts.errors > 0 and counts.restarts > 0


def test_a_connection_that_is_lost_during_a_message_is_no_fault_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bus drops a result whose error is no OSError, because it may be the reason."""
    port = _free_port()
    with _broker(port, tmp_path), MqttSink("127.0.0.1", port, "shelf/left") as sink:
        client: Any = sink._client
        client.disconnect()
        _until(lambda: client._thread is None or not client._thread.is_alive())  # until then, paho takes messages
        monkeypatch.setattr(client, "is_connected", lambda: True)  # as it was a moment ago
        with pytest.raises(OSError, match="the connection to the broker was lost"):
            sink.result(RESULT, None)
        sink.__exit__(None, None, None)  # its last message cannot be sent either


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(b"", "the broker does not answer"), (b"\x20\x02\x00\x00", "the broker takes no messages")],  # CONNACK
)
def test_a_broker_that_takes_no_messages_delays_nothing(
    answer: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_module, "TIMEOUT_S", 0.3)
    callers: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                callers.append(silent.accept()[0])
                callers[-1].sendall(answer)

    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        threading.Thread(target=accept, daemon=True).start()
        started_s = time.monotonic()
        with SinkBus([MqttSink("127.0.0.1", silent.getsockname()[1], "shelf/left")]) as bus:
            bus.publish(RESULT)
            published_s = time.monotonic()
            _until(lambda: bus.counts()[0].errors > 1)
            bus.drain(hurry=True)
            counts = bus.counts()[0]
        silent.shutdown(socket.SHUT_RDWR)  # ends `accept`; closing alone does not
    for caller in callers:
        caller.close()
    assert published_s - started_s < 1.5 and (counts.written, counts.dropped) == (0, 1)
    assert counts.error == reason


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("broker/shelf/left", ("broker", 1883, "shelf/left")),
        ("broker:1884/shelf", ("broker", 1884, "shelf")),
        ("broker", None),
        ("broker/", None),
        ("/shelf", None),
        ("broker:x/shelf", None),
        ("broker:70000/shelf", None),
        ("broker/shelf/#", None),
        ("broker/+/left", None),
    ],
)
def test_mqtt_addresses(text: str, found: tuple[str, int, str] | None) -> None:
    if found is None:
        with pytest.raises(UserError, match=re.escape(repr(text))):
            parse_mqtt(text)
    else:
        assert parse_mqtt(text) == found


def test_the_command_has_the_outputs(bundle: Bundle, near_far_folder: Path, tmp_path: Path) -> None:
    port, trace = _free_port(), tmp_path / "trace.json"
    outputs = ["--trace", str(trace), "--metrics", str(_free_port()), "--mqtt", f"127.0.0.1:{port}/shelf/left"]
    command = [sys.executable, "-c", "from edgefuse.app.main import main; main()", "live", str(bundle.folder)]
    with _broker(port, tmp_path), _subscriber(port) as received:
        done = subprocess.run(
            [*command, "--camera", str(near_far_folder), "--json", *outputs],
            capture_output=True,
            text=True,
            env=os.environ,
        )
        _until(lambda: any(topic.endswith("/summary") for topic, _ in received))
    assert done.returncode == 0, done.stderr
    assert [sink["written"] for sink in json.loads(done.stdout)["sinks"]] == [8, 8, 8, 8]
    assert [value["frame"] for topic, value in received if topic == "shelf/left"] == list(range(1, 9))
    assert len(spans_of(trace)) == 40


def test_the_documentation_has_every_field_and_metric(bundle: Bundle, near_far_folder: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "live.md").read_text()
    event = Event(event="sink", message="", unix_ms=0.0)
    values = [RESULT.to_json(), event.to_json(), _live(bundle, near_far_folder).to_json()]
    names = {
        name for value in values for name in (*value, *value.get("stages", ()), *value.get("since_arrival_ms", ()))
    }
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
    port = _free_port()
    with SinkBus([MetricsSink("127.0.0.1", port)]) as bus:
        bus.publish(RESULT)
        bus.drain(hurry=False)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            served = set(re.findall(r"^# HELP (\w+)", answer.read().decode(), re.MULTILINE))
    missing = [name for name in served if name not in text and not name.endswith("_created")]
    assert len(served) > 10 and missing == []


# Rerun


def _rerun_entities(path: Path) -> str:
    cli = pytest.importorskip("rerun_cli")
    command = [sys.executable, "-m", cli.__name__, "rrd", "print", "-v", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_frames_are_recorded_for_rerun(bundle: Bundle, near_far_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    from edgefuse_runtime.sinks.rerun import RerunSink

    path = tmp_path / "live.rrd"
    summary = _live(bundle, near_far_folder, RerunSink(str(path), max_per_s=1e6))
    assert summary.sinks[0].state == "open", summary.sinks
    found = _rerun_entities(path)
    assert [
        name for name in ("/rgb", "/depth", "/rgb/region", "/values/probability", "/events") if name not in found
    ] == []
    with pytest.raises(UserError, match="exists already"), RerunSink(str(path)):
        pass


def test_a_rerun_process_that_is_killed_is_started_again(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    from edgefuse_runtime.sinks.rerun import RerunSink

    sink, frame = RerunSink(str(tmp_path / "live.rrd"), max_per_s=1e6), next(iter(_frames()))
    with SinkBus([sink]) as bus:
        bus.publish(RESULT, frame)
        _until(lambda: bus.counts()[0].written == 1)
        assert sink._process is not None
        sink._process.kill()
        _until(lambda: bus.publish(RESULT, frame) or bus.counts()[0].restarts == 1)
        before = bus.counts()[0].written
        _until(lambda: bus.publish(RESULT, frame) or bus.counts()[0].written > before)
    assert "/rgb" in _rerun_entities(tmp_path / "live-1.rrd")


def _frames() -> Iterator[Any]:
    with open_camera("synthetic") as camera:
        yield camera.read(1000)


@pytest.mark.parametrize("target", ["file.txt", "", "host:9876"])
def test_rerun_targets(target: str) -> None:
    from edgefuse_runtime.sinks.rerun import RerunSink

    with pytest.raises(UserError, match=re.escape(repr(target))):
        RerunSink(target)
