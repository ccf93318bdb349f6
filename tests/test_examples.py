"""Each program in `examples/` runs with the command in its first line; its README lists which ones were tried."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefuse_runtime.recording.write_db3 import write_recording
from toy_bundle import make_toy_bundle

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NUM_FRAMES = 5


def _run(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def _server(*command: object, port: int) -> Iterator[None]:
    """A process that listens on a local `port`, terminated afterwards."""
    process = subprocess.Popen([sys.executable, *map(str, command)], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not _listens(port):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _listens(port: int) -> bool:
    with closing(socket.socket()) as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_bundle(tmp_path_factory.mktemp("examples") / "bundle").folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "far.db3"
    rgb = np.random.default_rng(0).integers(0, 60, (48, 64, 3), np.uint8)
    write_recording(path, [(rgb, np.full((48, 64), 1900, np.uint16))] * NUM_FRAMES)
    return path


def test_two_images_are_classified(bundle: Path, colour_and_range: Path) -> None:
    pair = colour_and_range / "red_near" / "take0" / "frame_0"
    label, probability = _run("classify_images.py", bundle, f"{pair}_rgb.png", f"{pair}_depth.png").split()
    assert label in ("near", "far") and 0.5 <= float(probability) <= 1


def test_live_results_are_printed(bundle: Path, recording: Path) -> None:
    lines = _run("live_loop.py", bundle, recording).splitlines()
    assert lines and all(": far " in line and " ms" in line for line in lines)


def test_a_model_is_trained_and_exported(tmp_path: Path, colour_and_range: Path) -> None:
    lines = _run("train_and_export.py", colour_and_range, tmp_path, 1).splitlines()
    assert [line.split(":")[0] for line in lines] == ["both", "no_rgb", "no_depth"]
    assert (tmp_path / "bundle" / "model.fp16.onnx").exists()


def test_pairs_are_classified_over_http(bundle: Path, colour_and_range: Path) -> None:
    import httpx

    pair = colour_and_range / "red_near" / "take0" / "frame_0"
    rgb, depth = (Path(f"{pair}_{sensor}.png").read_bytes() for sensor in ("rgb", "depth"))
    port = _free_port()
    with (
        _server(EXAMPLES / "http_server.py", bundle, port, port=port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        printed = _run("classify_images.py", bundle, f"{pair}_rgb.png", f"{pair}_depth.png").split()
        for _ in range(3):
            answer = client.post("/classify", files={"rgb": rgb, "depth": depth})
            assert answer.status_code == 200, answer.text
            assert [answer.json()["label"], str(answer.json()["probability"])] == printed
            assert answer.json()["sensors"] == {"rgb": "ok", "depth": "ok"} and 0 < answer.json()["gate"] < 1
            assert answer.json()["nearest_m"] > 0
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"files": {"rgb": rgb}}, "two files were expected"),
            ({"data": {"rgb": "text", "depth": "text"}}, "two files were expected"),
            ({"files": {"rgb": rgb, "depth": rgb}}, "16-bit with one was expected"),
            ({"files": {"rgb": b"no image", "depth": depth}}, "not a readable image"),
            ({"files": {"rgb": rgb[: len(rgb) // 2], "depth": depth}}, "not a readable image"),
        ]
        for request, message in wrong:
            refused = client.post("/classify", **request)
            assert refused.status_code == 400 and message in refused.json()["error"], refused.text
        assert client.get("/classify").status_code == 405
        assert client.post("/classify", files={"rgb": rgb, "depth": depth}).status_code == 200


def test_live_results_are_published_over_mqtt(bundle: Path, recording: Path, tmp_path: Path) -> None:
    import paho.mqtt.client as mqtt

    port, received = _free_port(), []
    config = tmp_path / "broker.json"  # JSON is YAML, too
    anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    listeners = {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}
    config.write_text(json.dumps({"listeners": listeners, "plugins": anonymous}))
    subscriber = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    subscriber.on_connect = lambda client, *_: client.subscribe("shelf/#")
    subscriber.on_message = lambda _client, _data, message: received.append(message)
    subscribed: list[object] = []
    subscriber.on_subscribe = lambda *arguments: subscribed.append(arguments)
    with _server(Path(sys.executable).with_name("amqtt"), "-c", config, port=port):
        subscriber.connect("127.0.0.1", port)
        subscriber.loop_start()
        _wait_for(lambda: bool(subscribed))
        _run("mqtt_publisher.py", bundle, recording, "127.0.0.1", port, "shelf/left")
        _wait_for(lambda: bool(received) and json.loads(received[-1].payload)["frame"] == NUM_FRAMES)
        subscriber.disconnect()
        subscriber.loop_stop()
    results = [json.loads(message.payload) for message in received]
    assert {message.topic for message in received} == {"shelf/left"}
    assert [result["index"] for result in results] == list(range(len(results)))
    assert all(result["label"] == "far" and result["sensors"]["depth"] == "ok" for result in results)


def _wait_for(condition: Any, *, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "nothing came in time"
        time.sleep(0.02)


@pytest.mark.slow
def test_frames_that_were_marked_wrong_are_right_after_another_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("Chromium is missing; tests/runtime/web fails without it where it could be installed")
    monkeypatch.syspath_prepend(EXAMPLES)
    improve = importlib.import_module("improve.py".removesuffix(".py"))
    with ThreadPoolExecutor(1) as pool:  # the browser of other tests occupies the main thread
        result = pool.submit(improve.improve, tmp_path).result()
    assert len(result.marked) == 3 and result.before.marked == 0 and result.after.marked == 1
    assert result.after.others >= result.before.others
    assert len(list(tmp_path.glob("collected/[!_.]*/*/*_rgb.png"))) == 3


def test_the_ros_node_is_python_and_marked_untried() -> None:
    source = (EXAMPLES / "ros2_node.py").read_text(encoding="utf-8")
    compile(source, "ros2_node.py", "exec")
    assert "Untried" in source


def test_every_example_is_run_and_listed() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+\.py)` .*\| ([^|]+) \|$", (EXAMPLES / "README.md").read_text(), re.MULTILINE))
    assert rows.keys() == {path.name for path in EXAMPLES.glob("*.py")}
    assert all(f'"{name}"' in source for name in rows)
    assert {name for name, tried in rows.items() if not tried.startswith("yes")} == {"ros2_node.py"}
