"""Missing and frozen sensors: detected, without false alarms, and handled according to the bundle's degraded mode."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from runtime_scenes import Pair, draw_pair

from edgefuse import framing
from edgefuse.bundle import Bundle
from edgefuse.contract import bytes_from_codes
from edgefuse.data.dataset import write_description, write_pair
from edgefuse.degraded_mode import DegradedMode
from edgefuse.evaluation.corruptions import Scene, dark_rgb
from edgefuse_runtime.camera import Camera, Frame
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.cameras.realsense import Profile, RealSense
from edgefuse_runtime.cameras.software_device import SoftwareCamera
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.recording.write_db3 import recorder, write_recording
from edgefuse_runtime.regions.region import parse_region
from edgefuse_runtime.results import LiveSummary, Result
from edgefuse_runtime.sensor_health import FROZEN_AFTER, depth_is_missing, rgb_is_missing
from edgefuse_runtime.sinks.json_lines import JsonlSink
from edgefuse_runtime.sinks.lines import LinesSink
from edgefuse_runtime.sinks.terminal import TableSink
from toy_bundle import make_toy_bundle, toy_answer

EDGEFUSE = (sys.executable, "-c", "from edgefuse.app.main import main; main()")
PREDICTS_WITHOUT_RGB = DegradedMode(no_rgb="predict", no_depth="abstain")


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_toy_bundle(tmp_path_factory.mktemp("declared") / "bundle", degraded_mode=PREDICTS_WITHOUT_RGB)


class Keep(LinesSink):
    """Stores the results and the lines printed for them."""

    def __init__(self) -> None:
        self.text = io.StringIO()
        self.results: list[Result] = []
        super().__init__(self.text)

    def result(self, result: Result, frame: Frame | None) -> None:
        self.results.append(result)
        super().result(result, frame)


def live(bundle: Bundle, camera: Camera, *, num_frames: int | None = None) -> tuple[LiveSummary, Keep]:
    keep = Keep()
    with open_engine(bundle) as engine, camera:
        summary = run_live(
            engine=engine,
            camera=camera,
            degraded_mode=bundle.manifest.degraded_mode,
            sinks=[keep],
            num_frames=num_frames,
        )
    return summary, keep


def states(keep: Keep) -> list[tuple[str, str]]:
    return [tuple(result.sensors) for result in keep.results]


def folder_of(root: Path, pairs: list[Pair], *, label: str = "far") -> Path:
    write_description(root, depth_unit_m=0.001)
    for number, (rgb, depth) in enumerate(pairs):
        write_pair(root / label / "take1", f"frame_{number:02d}", rgb, depth)
    return root


def without_rgb(pair: Pair) -> Pair:
    return np.zeros_like(pair[0]), pair[1]


def without_depth(pair: Pair) -> Pair:
    return pair[0], np.zeros_like(pair[1])


# What counts as missing


@pytest.mark.parametrize("level", [0, 3, 128, 255])
def test_a_uniform_image_is_missing(level: int) -> None:
    assert rgb_is_missing(np.full((96, 96, 3), level, np.uint8))


def test_noise_on_black_is_missing_and_darkness_is_not() -> None:
    rng = np.random.default_rng(0)
    assert rgb_is_missing(rng.integers(0, 4, (96, 96, 3), dtype=np.uint8))
    scene_rgb = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    codes = np.zeros((96, 96), np.uint16)
    for stops in (4, 6, 8):
        dark = dark_rgb(Scene(scene_rgb, codes, scene_rgb, codes), stops, rng)
        assert not rgb_is_missing(dark), stops
    wall = np.full((96, 96, 3), 180, np.uint8) + rng.integers(0, 5, (96, 96, 3), dtype=np.uint8)
    assert not rgb_is_missing(wall.astype(np.uint8))


def test_a_clock_that_a_driver_draws_on_black_is_missing() -> None:
    rgb = np.zeros((480, 640, 3), np.uint8)
    cv2.putText(rgb, "2026-11-25 18:30:11 CAM 1", (10, 470), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 255, 255), 2)
    assert rgb_is_missing(framing.fit(rgb, np.zeros((480, 640), np.uint16), size=128).rgb)
    assert rgb_is_missing(rgb)
    rgb[200:260, 300:400] = np.arange(100, 200)[np.newaxis, :, np.newaxis]  # an object in a fiftieth of the image
    assert not rgb_is_missing(rgb)


@pytest.mark.parametrize(("num_valid", "is_missing"), [(0, True), (40, True), (41, False), (4096, False)])
def test_depth_needs_a_measurement_in_a_hundredth_of_the_region(num_valid: int, is_missing: bool) -> None:
    codes = np.zeros(64 * 64, np.uint16)
    codes[:num_valid] = 256  # its low byte is 0, but it is a measurement
    assert depth_is_missing(bytes_from_codes(codes.reshape(64, 64))) is is_missing


# A folder, through the command line


def run_command(bundle: Bundle, folder: Path, log: Path) -> tuple[str, list[dict[str, object]], dict[str, object]]:
    command = [*EDGEFUSE, "live", str(bundle.folder), "--camera", str(folder), "--jsonl", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return done.stdout, [line for line in lines if line["kind"] == "result"], lines[-1]


def test_depth_missing_from_a_frame_on_gives_no_decision(declared: Bundle, tmp_path: Path) -> None:
    pairs = [draw_pair("far", brightness=number) for number in range(8)]
    folder = folder_of(tmp_path / "set", [*pairs[:4], *map(without_depth, pairs[4:])])
    text, results, summary = run_command(declared, folder, tmp_path / "log.jsonl")
    assert [result["label"] for result in results] == ["far"] * 4 + [None] * 4
    assert [result["sensors"] for result in results[3:5]] == [
        {"rgb": "ok", "depth": "ok"},
        {"rgb": "ok", "depth": "missing"},
    ]
    assert all(result["probability"] is None and result["top"] == [] for result in results[4:])
    assert [result["correct"] for result in results] == [True] * 4 + [None] * 4
    lines = text.splitlines()
    assert "WARNING" not in lines[3] and lines[4].endswith("WARNING depth is missing: no decision")
    assert "  no decision " in lines[4] and "right" not in lines[4]
    assert "accuracy 1.000 (4 of 4, without 4 that have no decision)" in text
    assert "WARNING depth was missing in 4 of 8 results" in text and "no decision in 4 results" in text
    assert (summary["without_decision"], summary["sensors"]) == (4, {"depth_missing": 4})
    assert summary["accuracy"] == {
        "scored": 4,
        "correct": 4,
        "unscored": 0,
        "unknown": [],
        "abstained": 4,
        "by_label": {"far": [4, 4]},
        "fraction": 1.0,
    }


def test_rgb_missing_from_a_frame_on_gives_labels_with_a_warning(declared: Bundle, tmp_path: Path) -> None:
    pairs = [draw_pair("far", brightness=number) for number in range(6)]
    folder = folder_of(tmp_path / "set", [*pairs[:3], *map(without_rgb, pairs[3:])])
    text, results, summary = run_command(declared, folder, tmp_path / "log.jsonl")
    assert [result["label"] for result in results] == ["far"] * 6
    assert [result["sensors"]["rgb"] for result in results] == ["ok"] * 3 + ["missing"] * 3  # type: ignore[index]
    assert [line.endswith("WARNING rgb is missing: predicted without it") for line in text.splitlines()[:6]] == (
        [False] * 3 + [True] * 3
    )
    assert "accuracy 1.000 (6 of 6)" in text and summary["sensors"] == {"rgb_missing": 3}
    framed = framing.fit(*without_rgb(pairs[3]), size=32)
    assert results[3]["probability"] == pytest.approx(toy_answer(framed.rgb, framed.depth)[0].max(), abs=1e-5)


def test_a_bundle_without_a_degraded_mode_abstains_without_rgb(bundle: Bundle, tmp_path: Path) -> None:
    manifest = json.loads((bundle.folder / "manifest.json").read_text())
    old = tmp_path / "old"
    old.mkdir()
    (old / "model.onnx").write_bytes((bundle.folder / "model.onnx").read_bytes())
    (old / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "degraded_mode"}))
    folder = folder_of(tmp_path / "set", [draw_pair("far"), without_rgb(draw_pair("far"))])
    opened = Bundle(folder=old, manifest=bundle.manifest)
    _, results, _ = run_command(opened, folder, tmp_path / "log.jsonl")
    assert [result["label"] for result in results] == ["far", None]


def test_both_missing_is_no_decision_in_any_degraded_mode(tmp_path: Path) -> None:
    bold = make_toy_bundle(tmp_path / "bold", degraded_mode=DegradedMode(no_rgb="predict", no_depth="predict"))
    nothing = without_depth(without_rgb(draw_pair("far")))
    _, keep = live(bold, open_camera(str(folder_of(tmp_path / "set", [nothing]))))
    assert keep.results[0].label is None
    assert keep.results[0].warning == "rgb is missing and depth is missing: no decision"


@pytest.mark.parametrize("spec", ["whole", "0,0,64,48", "-20,-20,60,60", "30,10,80,80", "5,5,20,20"])
def test_padding_outside_the_image_does_not_count(declared: Bundle, tmp_path: Path, spec: str) -> None:
    """Framing pads with black, so that grey with padding is not uniform."""
    _, depth = draw_pair("far")
    grey = np.full((48, 64, 3), 128, np.uint8)
    folder = folder_of(tmp_path / "set", [(grey, depth), draw_pair("far")])
    with open_engine(declared) as engine, open_camera(str(folder)) as camera, Keep() as keep:
        run_live(engine=engine, camera=camera, region=parse_region(spec), sinks=[keep])
    assert states(keep) == [("missing", "ok"), ("ok", "ok")]  # type: ignore[arg-type]


def test_a_grey_picture_is_shown_to_the_model_as_black(declared: Bundle, tmp_path: Path) -> None:
    """The accuracies behind the degraded mode were measured with black."""
    _, depth = draw_pair("far")
    grey = np.full((48, 64, 3), 255, np.uint8)
    _, keep = live(declared, open_camera(str(folder_of(tmp_path / "set", [(grey, depth)]))))
    framed = framing.fit(np.zeros_like(grey), depth, size=32)
    assert keep.results[0].probability == pytest.approx(toy_answer(framed.rgb, framed.depth)[0].max(), abs=1e-5)


# Frozen streams


def test_a_folder_may_repeat_images(declared: Bundle, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", [draw_pair("near")] * (FROZEN_AFTER + 5), label="near")
    summary, keep = live(declared, open_camera(str(folder)))
    assert set(states(keep)) == {("ok", "ok")} and summary.sensors == {}


def test_rendered_scenes_are_never_frozen(declared: Bundle) -> None:
    _, keep = live(declared, open_camera("synthetic:3"), num_frames=20)
    assert "frozen" not in {state for both in states(keep) for state in both}


@pytest.mark.parametrize(
    ("stream", "label"), [("rgb", "far"), ("depth", None)], ids=["frozen rgb is labelled", "frozen depth is not"]
)
def test_a_recording_of_a_frozen_stream(declared: Bundle, tmp_path: Path, stream: str, label: str | None) -> None:
    """The stream repeats its image from frame 5 on; its numbers and times advance, and the other stream is normal."""
    num_frames = 5 + FROZEN_AFTER + 4
    pairs = [moving_pair(number) for number in range(1, num_frames + 1)]
    pairs = [(frozen(pairs, n)[0], pair[1]) if stream == "rgb" else (pair[0], frozen(pairs, n)[1]) for n, pair in enumerate(pairs)]  # fmt: skip
    recording = write_recording(tmp_path / "frozen.db3", pairs, fps=60)
    summary, keep = live(declared, open_camera(str(recording)))
    found = [getattr(result.sensors, stream) for result in keep.results]
    first = 5 + FROZEN_AFTER - 1  # the image of index 4 has been repeated often enough
    assert found == ["ok"] * first + ["frozen"] * (num_frames - first)
    assert [result.label for result in keep.results[first:]] == [label] * (num_frames - first)
    assert summary.sensors == {f"{stream}_frozen": num_frames - first}
    assert f"{stream} is frozen" in keep.text.getvalue()
    if stream == "rgb":  # the model does not get the stale image
        framed = framing.fit(np.zeros_like(pairs[-1][0]), pairs[-1][1], size=32)
        answer = toy_answer(framed.rgb, framed.depth)[0].max()
        assert keep.results[-1].probability == pytest.approx(answer, abs=1e-5)


@pytest.mark.parametrize(("number_goes_on", "time_goes_on"), [(False, True), (True, False)])
def test_a_frozen_stream_with_constant_numbers_or_times(
    declared: Bundle, tmp_path: Path, number_goes_on: bool, time_goes_on: bool
) -> None:
    source = SoftwareCamera(width=64, height=48)
    num_frames = FROZEN_AFTER + 5
    with recorder(tmp_path / "still.db3", source):
        for number in range(1, num_frames + 1):
            labels = {"number": number if number_goes_on else 7, "timestamp_ms": number * 33.3 if time_goes_on else 5.0}
            source.send_depth(moving_pair(number)[1], **labels)  # type: ignore[arg-type]
            source.send_color(moving_pair(1)[0], **labels)  # type: ignore[arg-type]
            time.sleep(0.01)
    _, keep = live(declared, open_camera(str(tmp_path / "still.db3")))
    assert [rgb for rgb, _ in states(keep)] == ["ok"] * FROZEN_AFTER + ["frozen"] * 5
    assert {depth for _, depth in states(keep)} == {"ok"}


def frozen(pairs: list[Pair], index: int) -> Pair:
    return pairs[min(index, 4)]


def moving_pair(number: int) -> Pair:
    rgb, depth = draw_pair("far", brightness=number)
    return rgb, (depth + number).astype(np.uint16)


def test_a_live_device_with_colour_that_freezes_and_recovers(declared: Bundle) -> None:
    source = SoftwareCamera(width=64, height=48, domain="global_time")
    stays_until = 4 + FROZEN_AFTER + 3
    shown: dict[int, NDArray[np.uint8]] = {}

    def send(number: int) -> None:
        rgb, depth = moving_pair(number)
        shown[number] = shown[4] if 4 < number <= stays_until else rgb
        source.send_depth(depth, number=number)
        source.send_color(shown[number], number=number)

    class SendNext(Keep):
        def result(self, result: Result, frame: Frame | None) -> None:
            super().result(result, frame)
            send(result.frame + 1)

    camera = RealSense(device=source.device, profiles=[Profile(64, 48, 64, 48, 30)], warmup_frames=0)
    keep = SendNext()
    with open_engine(declared) as engine, camera:
        send(1)
        run_live(
            engine=engine, camera=camera, degraded_mode=PREDICTS_WITHOUT_RGB, sinks=[keep], num_frames=stays_until + 2
        )
    found = {result.frame: result.sensors.rgb for result in keep.results}
    assert {number: state for number, state in found.items() if state != "ok"} == dict.fromkeys(
        range(4 + FROZEN_AFTER, stays_until + 1), "frozen"
    )
    assert {result.sensors.depth for result in keep.results} == {"ok"}


def test_a_real_recording_has_no_faults(declared: Bundle, gestures_recording: Path) -> None:
    _, keep = live(declared, open_camera(str(gestures_recording)))
    assert Counter(states(keep)) == {("ok", "ok"): 50}


def test_a_real_cameras_recording_has_no_faults(declared: Bundle, d435_bag: Path) -> None:
    _, keep = live(declared, open_camera(str(d435_bag)))
    assert set(states(keep)) == {("ok", "ok")}


# Sinks


def test_the_table_warns(declared: Bundle, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", [draw_pair("far"), without_depth(draw_pair("far"))])
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40, color_system=None)
    with open_engine(declared) as engine, open_camera(str(folder)) as camera:
        sinks = [TableSink(console=console)]
        run_live(engine=engine, camera=camera, degraded_mode=PREDICTS_WITHOUT_RGB, sinks=sinks)
    stream = console.file
    assert isinstance(stream, io.StringIO)
    screen = stream.getvalue()
    last = screen[screen.rindex("edgefuse live") :]
    assert "WARNING depth is missing: no decision" in last and " no decision " in last
    assert "accuracy 1.000 (1 of 1)" in last and "gate    RGB" in last


def test_json_lines_have_the_states(declared: Bundle, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", [without_rgb(draw_pair("far"))])
    path = tmp_path / "log.jsonl"
    with open_engine(declared) as engine, open_camera(str(folder)) as camera:
        run_live(engine=engine, camera=camera, degraded_mode=PREDICTS_WITHOUT_RGB, sinks=[JsonlSink(path)])
    assert json.loads(path.read_text().splitlines()[1])["sensors"] == {"rgb": "missing", "depth": "ok"}
