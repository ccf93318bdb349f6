"""The live loop with real engines and recordings: correct results and counts, and a clean end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from runtime_scenes import draw_pair, labels_of

from edgefuse import framing
from edgefuse.bundle import Bundle
from edgefuse.data.dataset import write_description
from edgefuse.errors import UserError
from edgefuse.framing import Roi
from edgefuse_runtime.camera import Camera
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.cameras.realsense import Profile, RealSense
from edgefuse_runtime.cameras.software_device import SoftwareCamera
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.regions.region import RegionSource, parse_region
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sinks.sink import SinkInfo
from toy_bundle import make_toy_bundle, toy_answer, toy_nearest_m


class Keep:
    """A sink that stores its results, and calls a function for each."""

    info = SinkInfo(name="keep", queue_size=1000)

    def __init__(self, *, act: Any = None) -> None:
        self.results: list[Result] = []
        self.summaries: list[LiveSummary] = []
        self._act = act

    def __enter__(self) -> Keep:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def result(self, result: Result, frame: Any) -> None:
        self.results.append(result)
        if self._act is not None:
            self._act(result)

    def event(self, event: Event) -> None: ...

    def summary(self, summary: LiveSummary) -> None:
        self.summaries.append(summary)


def _live(
    bundle: Bundle, camera: str | Camera, *, sink: Keep | None = None, **options: Any
) -> tuple[LiveSummary, Keep]:
    sink = sink if sink is not None else Keep()
    source = open_camera(camera) if isinstance(camera, str) else camera
    with open_engine(bundle) as engine, source:
        return run_live(engine=engine, camera=source, sinks=[sink], **options), sink


def _balanced(summary: LiveSummary) -> bool:
    kept = summary.processed + summary.without_region + summary.unfinished
    return summary.received == kept + summary.dropped + summary.stale


def test_every_frame_of_a_recording_gets_the_models_output(bundle: Bundle, small_recording: Path) -> None:
    summary, sink = _live(bundle, str(small_recording))
    assert [result.label for result in sink.results] == labels_of(30)
    for index, result in enumerate(sink.results):
        framed = framing.fit(*draw_pair(labels_of(30)[index], brightness=index), size=32)
        probabilities, gate = toy_answer(framed.rgb, framed.depth)
        assert (result.index, result.frame) == (index, index + 1)
        assert result.probability == pytest.approx(probabilities.max(), abs=1e-5)
        assert dict(result.top)[result.label] == result.probability
        assert result.gate_mean == pytest.approx(gate, abs=1e-5)
        assert result.nearest_m == pytest.approx(toy_nearest_m(framed.depth), abs=1e-4)
        assert result.roi == Roi(0, 0, 64, 48)
        assert result.expected is None and result.correct is None and result.age_ms is None
    assert sink.summaries == [summary]
    assert (summary.received, summary.processed, summary.dropped, summary.stale) == (30, 30, 0, 0)
    assert (summary.ended, summary.accuracy, summary.unfinished) == ("end of stream", None, 0)
    assert summary.gate_mean == pytest.approx(np.mean([result.gate_mean for result in sink.results]), abs=1e-5)


def test_times_add_up(bundle: Bundle, small_recording: Path) -> None:
    summary, sink = _live(bundle, str(small_recording))
    for result in sink.results:
        stages = result.stages
        parts = stages.read_ms + stages.queue_ms + stages.frame_ms + stages.infer_ms + stages.publish_ms
        assert min(stages.read_ms, stages.frame_ms, stages.infer_ms) > 0 <= stages.wait_ms
        assert parts == pytest.approx(result.latency_ms, abs=0.001)
    latencies = [result.latency_ms for result in sink.results]
    assert summary.latency_ms is not None
    assert summary.latency_ms["max"] == max(latencies)
    assert summary.latency_ms["p50"] == pytest.approx(np.median(latencies), abs=1e-3)
    assert summary.latency_ms["p50"] <= summary.latency_ms["p95"] <= summary.latency_ms["p99"]
    assert set(summary.stages_ms) == {"wait_ms", "read_ms", "queue_ms", "frame_ms", "infer_ms", "publish_ms"}
    total_s = sum(result.stages.infer_ms for result in sink.results) / 1e3
    assert total_s <= summary.elapsed_s + 0.001
    assert summary.results_per_s == pytest.approx(30 / summary.elapsed_s, rel=0.01)


def test_a_regions_file_has_regions_and_classes(bundle: Bundle, small_recording: Path, tmp_path: Path) -> None:
    """Every fifth frame has a wrong label, and one class is not in the model."""
    labels = labels_of(30)
    entries = [
        {"frame": n, "roi_xywh": [n, 4, 20, 20], "label": "far" if n % 5 == 0 else labels[n - 1]} for n in range(1, 30)
    ]
    entries.append({"frame": 30, "roi_xywh": [0, 0, 9, 9], "label": "elsewhere"})
    path = tmp_path / "regions.json"
    path.write_text(json.dumps({"frames": entries}))
    summary, sink = _live(bundle, str(small_recording), region=parse_region(str(path)))
    assert [result.roi for result in sink.results[:29]] == [Roi(n, 4, 20, 20) for n in range(1, 30)]
    num_right = sum(entry["label"] == label for entry, label in zip(entries, labels, strict=True))
    assert summary.accuracy is not None
    assert (summary.accuracy.scored, summary.accuracy.unscored) == (29, 1)
    assert summary.accuracy.correct == num_right < 29
    assert summary.accuracy.fraction == num_right / 29
    assert sum(correct for correct, _ in summary.accuracy.by_label.values()) == num_right
    assert summary.accuracy.by_label["near"][0] == summary.accuracy.by_label["near"][1]


def test_a_folder_provides_classes_and_its_depth_unit(bundle: Bundle, near_far_folder: Path) -> None:
    summary, sink = _live(bundle, str(near_far_folder))
    assert summary.accuracy is not None
    assert summary.accuracy.by_label == {"far": (4, 4), "near": (4, 4)}
    framed = framing.fit(*draw_pair("far"), size=32)
    assert sink.results[0].probability == pytest.approx(toy_answer(framed.rgb, framed.depth)[0].max(), abs=1e-5)


def test_frames_without_a_region_give_no_result_and_are_counted(
    bundle: Bundle, small_recording: Path, tmp_path: Path
) -> None:
    path = tmp_path / "some.json"
    path.write_text(json.dumps({"frames": [{"frame": n, "roi_xywh": [0, 0, 48, 48]} for n in range(1, 30, 2)]}))
    summary, sink = _live(bundle, str(small_recording), region=parse_region(str(path)))
    assert [result.frame for result in sink.results] == list(range(1, 30, 2))
    assert (summary.processed, summary.without_region) == (15, 15)
    assert _balanced(summary)


def test_it_stops_after_num_frames(bundle: Bundle, small_recording: Path) -> None:
    summary, sink = _live(bundle, str(small_recording), num_frames=4)
    assert (len(sink.results), summary.ended) == (4, "frames")


def test_it_stops_when_the_event_is_set(bundle: Bundle) -> None:
    stop = threading.Event()
    summary, sink = _live(
        bundle, "synthetic", stop=stop, sink=Keep(act=lambda result: stop.set() if result.index == 1 else None)
    )
    assert (len(sink.results), summary.ended) == (summary.processed, "stopped") and summary.processed >= 2
    assert sink.results[0].expected is not None


def test_ctrl_c_gives_a_summary(bundle: Bundle) -> None:
    sink = Keep(act=lambda result: os.kill(os.getpid(), signal.SIGINT) if result.index == 3 else None)
    summary, _ = _live(bundle, "synthetic", sink=sink)
    assert (summary.ended, summary.processed) == ("interrupted", len(sink.results))
    assert sink.summaries == [summary] and summary.processed >= 4
    assert _balanced(summary)


class Interrupted:
    """A region source during which Ctrl-C is pressed at the third frame."""

    def __init__(self, inner: RegionSource) -> None:
        self._inner = inner

    def __call__(self, frame: Any) -> Any:
        if frame.color_number == 3:
            raise KeyboardInterrupt
        return self._inner(frame)


def test_a_frame_interrupted_by_ctrl_c_is_counted(bundle: Bundle, small_recording: Path) -> None:
    summary, _ = _live(bundle, str(small_recording), region=Interrupted(parse_region("whole")))
    assert (summary.processed, summary.unfinished, summary.ended) == (2, 1, "interrupted")
    assert _balanced(summary)


def test_a_slow_loop_drops_frames_and_every_pair_is_counted(bundle: Bundle, small_recording: Path) -> None:
    def slow_region(frame: Any) -> Any:
        time.sleep(0.06)
        return parse_region("whole")(frame)

    summary, sink = _live(bundle, open_camera(str(small_recording), real_time=True), region=slow_region)
    assert summary.dropped == sink.results[-1].dropped > 0
    assert summary.received == sink.results[-1].frame - sink.results[0].frame + 1
    assert _balanced(summary)


def test_stalls_of_a_live_camera_are_counted(bundle: Bundle) -> None:
    """Colour stalls while depth continues. The sink sends the frames, so that the loop always has one."""
    source = SoftwareCamera(width=64, height=48, domain="global_time")

    def send(number: int) -> None:
        rgb, depth = draw_pair("near")
        source.send_depth(depth, number=number)
        if number % 4:
            source.send_color(rgb, number=number)

    def send_next(result: Result) -> None:
        for number in range(result.frame + 1, min(result.frame + 3, 41)):
            send(number)

    camera = RealSense(device=source.device, profiles=[Profile(64, 48, 64, 48, 30)], warmup_frames=0)
    with open_engine(bundle) as engine, camera:
        send(1)
        sink = Keep(act=send_next)
        summary = run_live(engine=engine, camera=camera, sinks=[sink], num_frames=12)
    assert all(result.frame % 4 for result in sink.results)
    assert summary.processed == 12 and summary.dropped + summary.stale > 0
    assert _balanced(summary)
    assert sink.results[-1].age_ms is not None and summary.age_ms is not None


def test_another_alignment_is_refused(tmp_path: Path, small_recording: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "depth", align="depth")
    with pytest.raises(UserError, match="aligned to color, but the bundle's contract requires depth"):
        _live(bundle, str(small_recording))
    summary, _ = _live(bundle, open_camera(str(small_recording), align="depth"))
    assert summary.processed == 30


def test_a_region_outside_the_image_is_refused(bundle: Bundle, small_recording: Path) -> None:
    with pytest.raises(UserError, match="does not overlap the 64x48 image"):
        _live(bundle, str(small_recording), region=parse_region("900,900,10,10"))


def test_a_second_run_counts_from_its_own_start(bundle: Bundle, small_recording: Path) -> None:
    camera = open_camera(str(small_recording))
    with open_engine(bundle) as engine, camera:
        run_live(engine=engine, camera=camera, num_frames=10)
        second = run_live(engine=engine, camera=camera, num_frames=5)
    assert (second.received, second.processed, second.unfinished, second.ended) == (5, 5, 0, "frames")


def test_summaries_are_json(bundle: Bundle, near_far_folder: Path) -> None:
    summary, sink = _live(bundle, str(near_far_folder))
    value = json.loads(json.dumps(summary.to_json()))
    assert value["accuracy"]["fraction"] == 1.0
    assert value["accuracy"]["by_label"] == {"far": [4, 4], "near": [4, 4]}
    assert (value["engine"]["provider"], value["camera"]["kind"]) == ("CPUExecutionProvider", "folder")
    first = json.loads(json.dumps(sink.results[0].to_json()))
    assert (first["label"], first["correct"], first["roi"]) == ("far", True, [0, 0, 64, 48])
    assert first["stages"].keys() == {"wait_ms", "read_ms", "queue_ms", "frame_ms", "infer_ms", "publish_ms"}


def test_an_empty_run_has_a_summary(bundle: Bundle, near_far_folder: Path) -> None:
    summary, _ = _live(bundle, str(near_far_folder), num_frames=0)
    assert (summary.processed, summary.latency_ms, summary.gate_mean, summary.stages_ms) == (0, None, None, {})


def test_the_gestures_recording_with_its_regions(
    tmp_path: Path, gestures_recording: Path, gestures_regions: Path
) -> None:
    labels = ("call", "dislike", "like", "ok", "one", "palm", "peace", "rock", "stop", "three")
    bundle = make_toy_bundle(tmp_path / "ten", labels=labels)
    summary, sink = _live(bundle, str(gestures_recording), region=parse_region(str(gestures_regions)))
    assert (summary.received, summary.processed, summary.dropped, summary.stale) == (50, 50, 0, 0)
    assert [result.expected for result in sink.results] == [label for label in labels for _ in range(5)]
    assert summary.accuracy is not None
    assert (summary.accuracy.scored, summary.accuracy.unscored) == (50, 0)


def test_a_live_run_loads_no_torch(bundle: Bundle, near_far_folder: Path, small_recording: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from edgefuse.bundle import open_bundle
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.recording.record import record
from edgefuse_runtime.regions.region import parse_region
from edgefuse_runtime.sinks.lines import LinesSink
from edgefuse_runtime.sinks.terminal import TableSink
for source in ({str(near_far_folder)!r}, {str(small_recording)!r}):
    with open_engine(open_bundle(Path({str(bundle.folder)!r}))) as engine, open_camera(source) as camera:
        run_live(engine=engine, camera=camera, region=parse_region("center"), sinks=[LinesSink(sys.stdout)], num_frames=2)
print(*(name for name in ("torch", "torchvision", "onnx", "matplotlib", "sklearn") if name in sys.modules), sep=",")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""
    assert "2 results" in done.stdout


def test_an_unreadable_description_is_refused(bundle: Bundle, near_far_folder: Path) -> None:
    write_description(near_far_folder, depth_unit_m=5.0)
    with pytest.raises(UserError, match="depth unit 5.0"):
        _live(bundle, str(near_far_folder))
