"""The live benchmark on a real recording, played by librealsense."""

from __future__ import annotations

import itertools
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefuse.errors import UserError
from edgefuse.measure import ParityError, Series
from edgefuse_benchmarks.report import Report
from edgefuse_benchmarks.suites import live_passes
from edgefuse_benchmarks.suites.live import bench_live
from edgefuse_benchmarks.suites.live_passes import LivePlan, Way, compare
from edgefuse_benchmarks.suites.live_replay import Replay, shown_frame
from edgefuse_runtime.engines.onnxruntime import OnnxRuntimeEngine

PLAN = LivePlan(num_results=20, measure_s=60.0, frames_of_pass=24, num_starts=1, num_memory_frames=100)
STAGES = ("read", "queue", "preprocess", "infer", "publish")


@pytest.fixture(scope="module")
def report(bench_bundle: Path, bench_recording: Path) -> Report:
    seen: list[tuple[int, int]] = []
    found = bench_live(
        bench_bundle,
        camera=str(bench_recording),
        roi="center",
        plan=PLAN,
        progress=lambda done, total, **_: seen.append((done, total)),
    )
    assert seen[-1] == (80, 80)
    return found


def test_a_recording_is_measured_in_both_paces(report: Report) -> None:
    assert [(group.scope, group.name) for group in report.groups] == [
        ("frame to result", "back to back, process"),
        ("frame to result", "paced, process"),
        ("frame to result", "back to back, thread"),
        ("frame to result", "paced, thread"),
        ("frame to result", "reference, paced"),
        ("engine", "reference, back to back"),
        ("cold start", "edgefuse live"),
    ]
    back_to_back, paced = report.groups[:2]
    assert back_to_back.facts["passes"] == [19, 19]  # 24 frames, 5 of them for warm-up
    assert min(paced.facts["results_per_s"]) < 70 < max(back_to_back.facts["results_per_s"])
    for group in report.groups[:4]:
        whole, *stages, wait = group.series
        assert [one.name for one in (whole, *stages, wait)] == ["frame to result", *STAGES, "wait"]
        assert len(whole.samples_ns) == sum(group.facts["passes"])
        assert whole.first_call_ns is not None
        # Stages are parts of the total, up to the rounding of their milliseconds.
        assert np.all(sum(one.samples_ns for one in stages) <= whole.samples_ns + 1000)
    assert (
        paced.series[-1].summary().p50_ns > 5e6
    )  # a frame arrives every 17 ms, and the toy bundle takes less than one


def test_the_report_has_the_engine_and_those_passed_over(report: Report) -> None:
    engine = report.parameters["engine"]
    assert engine["provider"] and isinstance(engine["passed_over"], dict)


def test_the_loop_is_compared_with_the_engine_and_the_paces_with_each_other(report: Report) -> None:
    for mode, back_to_back, paced in (("process", *report.groups[:2]), ("thread", *report.groups[2:4])):
        (rate,) = back_to_back.ratios
        assert (rate.numerator, rate.denominator) == (f"back to back, {mode}, rate", "engine, rate")
        assert 0 < rate.median < 1  # the toy bundle is much faster than the loop
        latency, engine = paced.ratios
        assert (latency.numerator, latency.denominator) == (f"paced, {mode}", "align + framing + engine")
        assert latency.median > 1 and 2 <= latency.num_rounds <= 19
        assert (engine.numerator, engine.denominator) == (f"paced, {mode}, infer", f"back to back, {mode}, infer")


def test_goals_are_in_the_notes_and_in_the_json(report: Report) -> None:
    goals = report.parameters["goals"]
    lines = [note for note in report.notes if note.startswith("goal ")]
    assert len(goals) == len(lines) == 7
    assert [goal["is_met"] for goal in goals] == [line.startswith("goal met") for line in lines]
    (start,) = report.groups[-1].series
    assert goals[-1]["measured"] == pytest.approx(start.samples_ns[0] / 1e9) and 0.1 < goals[-1]["measured"] < 60
    assert report.parameters["memory"]["num_frames"] == 100


def test_all_passes_have_the_same_results(report: Report) -> None:
    names = [
        f"{pace}, {mode}, pass {n}"
        for mode in ("process", "thread")
        for pace in ("back to back", "paced")
        for n in (1, 2)
    ]
    assert [one["candidate"] for one in report.parity] == names[1:]
    assert all(one["max_probability_difference"] == 0 and one["num_samples"] > 0 for one in report.parity)


def test_a_recording_has_no_age(report: Report) -> None:
    assert any("no frame age" in note for note in report.notes)
    words = json.dumps(report.to_json(), allow_nan=False)
    assert '"path": "bright.db3"' in words
    assert str(Path.cwd()) not in words


def test_a_folder_is_measured_back_to_back(bench_bundle: Path, colour_and_range: Path) -> None:
    plan = LivePlan(num_results=10_000, measure_s=0.0, frames_of_pass=30, num_starts=1, num_memory_frames=100)
    report = bench_live(bench_bundle, camera=str(colour_and_range), plan=plan)
    group, start = report.groups
    assert start.scope == "cold start"
    assert (group.name, group.facts["passes"]) == (
        "back to back",
        [25, 25],
    )  # the time was over, but there are always two passes
    assert any("back to back only" in note for note in report.notes)


def test_changing_results_are_not_reported(
    bench_bundle: Path, bench_recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = live_passes._camera, []

    def changing(way: Way, *arguments: Any, **options: Any) -> Any:
        """Brighter frames from the sixth pass on."""
        opened.append(way.name)
        camera = real(way, *arguments, **options)
        if len(opened) > 5:
            read = camera.read
            camera.read = lambda timeout_ms: _brighter(read(timeout_ms))  # type: ignore[method-assign]
        return camera

    monkeypatch.setattr(live_passes, "_camera", changing)
    with pytest.raises(ParityError, match="paced, process, pass 2 against back to back, process, pass 1"):
        bench_live(bench_bundle, camera=str(bench_recording), plan=PLAN)


def _brighter(frame: Any) -> Any:
    if frame is not None:
        frame.rgb[..., 0] = 255
    return frame


def test_a_camera_is_measured_at_its_own_pace_with_the_age_of_its_frames(  # long: with the camera's sender
    bench_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgefuse_benchmarks.suites import live, live_memory
    from edgefuse_runtime.cameras.realsense import Profile, RealSense
    from edgefuse_runtime.cameras.software_device import SoftwareCamera

    sources: list[SoftwareCamera] = []
    done = threading.Event()

    def open_software_camera(spec: str, **options: Any) -> RealSense:
        sources.append(SoftwareCamera(width=64, height=48, domain="global_time"))
        return RealSense(device=sources[-1].device, profiles=[Profile(64, 48, 64, 48, 30)], warmup_frames=0)

    def send() -> None:
        """Different images, captured 20 ms ago."""
        for number in itertools.count(1):
            if done.wait(0.01):
                return
            if sources:
                then_ms = time.time() * 1e3 - 20
                image = np.full((48, 64, 3), 7 * number % 256, np.uint8)
                sources[-1].send_depth(np.full((48, 64), 900, np.uint16), number=number, timestamp_ms=then_ms)
                sources[-1].send_color(image, number=number, timestamp_ms=then_ms)

    for module, name in ((live, "open_camera"), (live_memory, "open_camera"), (live_passes, "open_capture")):
        monkeypatch.setattr(module, name, open_software_camera)
    start = Series(
        name="start to first result", turns_ns=np.array([[10**9]])
    )  # there is no camera on USB to start with
    monkeypatch.setattr(live, "first_results", lambda *_, **__: start)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        report = bench_live(
            bench_bundle, camera="realsense", plan=LivePlan(num_results=20, frames_of_pass=15, num_memory_frames=100)
        )
    finally:
        done.set()
        sender.join()
    assert [(group.scope, group.name) for group in report.groups] == [
        ("frame to result", "paced, process"),
        ("frame to result", "paced, thread"),
        ("frame age", "paced, process"),
        ("frame age", "paced, thread"),
        ("cold start", "edgefuse live"),
    ]
    whole, (age,) = report.groups[0].series[0], report.groups[2].series
    assert np.all(age.samples_ns >= 20e6 + whole.samples_ns - 2e6)  # the two clocks of the host differ
    assert report.parity == ()
    assert any("never repeats a frame" in note for note in report.notes)
    assert not any("no frame age" in note for note in report.notes)


def _way(pace: Any, names: list[str], *, label: str = "near") -> Any:
    """One pass with these frame names; every result has the probability 0.9."""
    from edgefuse.framing import Roi
    from edgefuse_runtime.frame_times import FrameTimes
    from edgefuse_runtime.results import Result

    points = ("waiting", "arrival", "ready", "dequeued", "framed", "engine_start", "engine_end", "published")
    times = FrameTimes(**{f"{point}_ns": n * 10**6 for n, point in enumerate(points)}, published_unix_ms=0.0)
    results = [
        Result(
            index=i,
            frame=i,
            name=name,
            label=label,
            probability=0.9,
            top=((label, 0.9),),
            gate_mean=0.5,
            expected=None,
            roi=Roi(0, 0, 9, 9),
            times=times,
            dropped=0,
            stale=0,
        )
        for i, name in enumerate(names)
    ]
    return Way(pace=pace, passes=[results])


def test_passes_without_a_frame_in_common_are_not_called_equal() -> None:
    reference = _way("back to back", ["1", "2", "3"])
    assert compare([reference, _way("paced", ["2", "3"])])[1] == []
    assert "has no frame in common" in compare([reference, _way("paced", ["4", "5"])])[1][0]
    # If frame numbers do not change, frames cannot be paired, although the names are equal.
    assert "has no frame in common" in compare([_way("back to back", ["0"] * 9), _way("paced", ["0"] * 9)])[1][0]


def test_labels_that_flip_at_one_probability_are_not_called_equal() -> None:
    ways = [_way("back to back", ["1", "2"]), _way("paced", ["1", "2"], label="far")]
    assert "2 labels flip" in compare(ways)[1][0]


def test_an_engine_with_nan_outputs_is_not_measured(
    bench_recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import toy_bundle

    monkeypatch.setattr(toy_bundle, "SHARPNESS", float("inf"))
    broken = toy_bundle.make_toy_bundle(tmp_path / "broken")
    with pytest.raises(UserError, match="have NaN or infinite values"):
        bench_live(broken.folder, camera=str(bench_recording), plan=PLAN)


def test_a_damaged_recording_is_not_measured(bench_bundle: Path, bench_recording: Path, tmp_path: Path) -> None:
    data = bytearray(bench_recording.read_bytes())
    data[data.rindex(b"IDAT") + 20] ^= 0xFF
    (tmp_path / "d.db3").write_bytes(data)
    with pytest.raises(UserError, match="is damaged: stopped after"):
        bench_live(bench_bundle, camera=str(tmp_path / "d.db3"), plan=PLAN)


def test_too_few_frames_are_reported(bench_bundle: Path, bench_recording: Path) -> None:
    with pytest.raises(UserError, match="gave 7 results"):
        bench_live(bench_bundle, camera=str(bench_recording), plan=LivePlan(num_results=5, frames_of_pass=7))


def test_a_pace_above_the_engine_drops_frames_and_says_how_many(
    bench_bundle: Path, colour_and_range: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxRuntimeEngine.run

    def slow(self: OnnxRuntimeEngine, *pair: Any) -> Any:
        time.sleep(0.02)
        return run(self, *pair)

    monkeypatch.setattr(OnnxRuntimeEngine, "run", slow)
    plan = LivePlan(num_results=40, measure_s=0.0, frames_of_pass=20, num_starts=1, num_memory_frames=100)
    report = bench_live(bench_bundle, camera=str(colour_and_range), pace_hz=200, engine="cpu", plan=plan)
    *ways, start = report.groups
    names = ["back to back, process", "paced at 200 Hz, process", "back to back, thread", "paced at 200 Hz, thread"]
    assert [group.name for group in ways] == names and start.scope == "cold start"
    assert [sum(group.facts["dropped"]) > 0 for group in ways] == [False, True, False, True]
    for group in ways:
        counts = zip(*(group.facts[name] for name in ("received", "processed", "dropped", "stale")), strict=True)
        assert all(received >= processed + dropped + stale for received, processed, dropped, stale in counts)
    (note,) = (note for note in report.notes if "DROPPED" in note)
    dropped, received = (sum(ways[1].facts[name]) for name in ("dropped", "received"))
    assert f"paced at 200 Hz, process: {dropped} of {received};" in note


def test_a_pace_below_the_engine_is_kept(bench_bundle: Path, colour_and_range: Path) -> None:
    plan = LivePlan(num_results=20, measure_s=0.0, frames_of_pass=12, num_starts=1, num_memory_frames=100)
    report = bench_live(bench_bundle, camera=str(colour_and_range), pace_hz=8, plan=plan)
    paced = report.groups[1]
    assert paced.name == "paced at 8 Hz, process"
    assert sum(paced.facts["dropped"]) <= 1  # a machine that is busy with other tests may sleep through a frame
    assert all(6 < rate < 10 for rate in paced.facts["results_per_s"])
    with pytest.raises(UserError, match="--pace 20 with a camera, which has a rate of its own"):
        bench_live(bench_bundle, camera="realsense", pace_hz=20)


def test_missed_frames_are_not_made_up_for_and_a_read_ends_at_its_timeout(colour_and_range: Path) -> None:
    with Replay(spec=str(colour_and_range), align="color", pace_hz=20) as camera:
        assert camera.read(1000) is not None
        assert camera.read(10) is None  # due after 50 ms
        time.sleep(0.3)
        assert camera.read(0) is not None and camera.read(0) is None
        names = [frame.name for _ in range(30) if (frame := camera.read(1000)) is not None]
    assert shown_frame(names[-1]) == shown_frame(names[-1].partition("@")[0]) != names[-1]
