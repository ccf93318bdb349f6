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
from edgefuse.measure import ParityError
from edgefuse_benchmarks.report import Report
from edgefuse_benchmarks.suites.live import LivePlan, bench_live

PLAN = LivePlan(num_results=20, measure_s=60.0, frames_of_pass=24)
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
    assert seen[-1] == (40, 40)
    return found


def test_a_recording_is_measured_in_both_paces(report: Report) -> None:
    assert [(group.scope, group.name) for group in report.groups] == [
        ("frame to result", "back to back"),
        ("frame to result", "paced"),
    ]
    back_to_back, paced = report.groups
    assert back_to_back.facts["passes"] == [19, 19]  # 24 frames, 5 of them for warm-up
    assert min(paced.facts["results_per_s"]) < 70 < max(back_to_back.facts["results_per_s"])
    for group in report.groups:
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


def test_the_paces_are_compared_frame_by_frame(report: Report) -> None:
    whole, engine = report.groups[1].ratios
    assert (whole.numerator, whole.denominator) == ("paced, frame to result", "back to back, frame to result")
    assert (engine.numerator, engine.denominator) == ("paced, infer", "back to back, infer")
    assert 2 <= whole.num_rounds <= 19


def test_all_passes_have_the_same_results(report: Report) -> None:
    assert [one["candidate"] for one in report.parity] == ["back to back, pass 2", "paced, pass 1", "paced, pass 2"]
    assert all(one["max_probability_difference"] == 0 and one["num_samples"] > 0 for one in report.parity)


def test_a_recording_has_no_age(report: Report) -> None:
    assert any("no frame age" in note for note in report.notes)
    words = json.dumps(report.to_json(), allow_nan=False)
    assert '"path": "bright.db3"' in words
    assert str(Path.cwd()) not in words


def test_a_folder_is_measured_back_to_back(bench_bundle: Path, colour_and_range: Path) -> None:
    plan = LivePlan(num_results=10_000, measure_s=0.0, frames_of_pass=30)
    report = bench_live(bench_bundle, camera=str(colour_and_range), plan=plan)
    (group,) = report.groups
    assert (group.name, group.facts["passes"]) == (
        "back to back",
        [25, 25],
    )  # the time was over, but there are always two passes
    assert any("back to back only" in note for note in report.notes)


def test_changing_results_are_not_reported(
    bench_bundle: Path, bench_recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgefuse_benchmarks.suites import live

    real, opened = live.open_camera, []

    def changing(spec: str, **options: Any) -> Any:
        """Brighter frames from the third opening on."""
        opened.append(spec)
        camera = real(spec, **options)
        if len(opened) > 2:
            read = camera.read
            camera.read = lambda timeout_ms: _brighter(read(timeout_ms))  # type: ignore[method-assign]
        return camera

    monkeypatch.setattr(live, "open_camera", changing)
    with pytest.raises(ParityError, match="back to back, pass 2 against back to back, pass 1"):
        bench_live(bench_bundle, camera=str(bench_recording), plan=PLAN)


def _brighter(frame: Any) -> Any:
    if frame is not None:
        frame.rgb[..., 0] = 255
    return frame


def test_a_camera_is_measured_at_its_own_pace_with_the_age_of_its_frames(
    bench_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgefuse_benchmarks.suites import live
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

    monkeypatch.setattr(live, "open_camera", open_software_camera)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        report = bench_live(bench_bundle, camera="realsense", plan=LivePlan(num_results=20, frames_of_pass=15))
    finally:
        done.set()
        sender.join()
    assert [(group.scope, group.name) for group in report.groups] == [
        ("frame to result", "paced"),
        ("frame age", "paced"),
    ]
    whole, (age,) = report.groups[0].series[0], report.groups[1].series
    assert np.all(age.samples_ns >= 20e6 + whole.samples_ns - 2e6)  # the two clocks of the host differ
    assert report.parity == ()
    assert any("never repeats a frame" in note for note in report.notes)
    assert not any("no frame age" in note for note in report.notes)


def _way(pace: Any, names: list[str], *, label: str = "near") -> Any:
    """One pass with these frame names; every result has the probability 0.9."""
    from edgefuse.framing import Roi
    from edgefuse_benchmarks.suites.live import _Way
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
    return _Way(pace=pace, passes=[results])


def test_passes_without_a_frame_in_common_are_not_called_equal() -> None:
    from edgefuse_benchmarks.suites.live import _compare

    reference = _way("back to back", ["1", "2", "3"])
    assert _compare([reference, _way("paced", ["2", "3"])])[1] == []
    assert "has no frame in common" in _compare([reference, _way("paced", ["4", "5"])])[1][0]
    # If frame numbers do not change, frames cannot be paired, although the names are equal.
    assert "has no frame in common" in _compare([_way("back to back", ["0"] * 9), _way("paced", ["0"] * 9)])[1][0]


def test_labels_that_flip_at_one_probability_are_not_called_equal() -> None:
    from edgefuse_benchmarks.suites.live import _compare

    ways = [_way("back to back", ["1", "2"]), _way("paced", ["1", "2"], label="far")]
    assert "2 labels flip" in _compare(ways)[1][0]


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
