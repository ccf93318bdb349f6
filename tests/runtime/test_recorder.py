"""Recording while live runs: the files are read back; full disks, limits and failures lose no more than they must."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_scenes import RESULT, draw_pair

from edgefuse.bundle import Bundle
from edgefuse.data.dataset import write_description
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Frame, Sensor, frames
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.cameras.pyrealsense import load_pyrealsense2
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.live.options import OutputOptions
from edgefuse_runtime.results import SinkCounts
from edgefuse_runtime.sinks import bus as bus_module
from edgefuse_runtime.sinks import recorder
from edgefuse_runtime.sinks.bus import SinkBus
from edgefuse_runtime.sinks.recorder import RecorderSink
from logs import logged

BOTH = pytest.mark.parametrize("name", ["seen.db3", "data"])
RNG = np.random.default_rng(5)
START_MS = 1_795_676_889_000.0


def _frame(number: int, *, missing: tuple[Sensor, ...] = (), noise: int = 0, unit_m: float = 0.001) -> Frame:
    """Frame `number`, of 64x48; or of noise, with a side of `noise` pixels."""
    rgb, depth = draw_pair("near", brightness=number % 50)
    if noise:
        rgb = RNG.integers(0, 256, (noise, noise, 3), dtype=np.uint8)
        depth = RNG.integers(1, 65536, (noise, noise), dtype=np.uint16)
    return Frame(
        rgb=np.zeros_like(rgb) if "rgb" in missing else rgb,
        depth=np.zeros_like(depth) if "depth" in missing else depth,
        depth_unit_m=unit_m,
        align="color",
        color_number=number,
        depth_number=number + 1000,
        timestamp_ms=START_MS + 40.0 * number,
        timestamp_domain="global",
        arrival_ns=0,
        ready_ns=0,
        name=str(number),
        missing=missing,
    )


def _record(sink: RecorderSink, shown: Iterable[Frame], *, pause_s: float = 0.0) -> SinkCounts:
    """Show frames to the sink, until it fails."""
    load_pyrealsense2()  # so that it opens soon
    with SinkBus([sink], wait_s=20.0) as bus:
        bus.event("started", "the run started", camera={"kind": "test"})
        for index, frame in enumerate(shown):
            bus.publish(replace(RESULT, index=index), frame)
            time.sleep(pause_s)
            if pause_s and bus.counts()[0].errors:
                break
        bus.drain(hurry=False)
    return bus.counts()[0]


def _played(path: Path) -> list[Frame]:
    with open_camera(str(path), allow_missing=True) as camera:
        return list(frames(camera))


@BOTH
def test_what_live_saw_is_read_back_bit_for_bit(
    bundle: Bundle, small_recording: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    with open_engine(bundle) as engine, open_camera(str(small_recording)) as camera:
        summary = run_live(engine=engine, camera=camera, sinks=[RecorderSink(path)])
        described = camera.description
    assert [(sink.written, sink.dropped, sink.state) for sink in summary.sinks] == [(30, 0, "open")]
    before, after = _played(small_recording), _played(path)
    assert len(before) == len(after) == 30
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(old.rgb, new.rgb) and np.array_equal(old.depth, new.depth)
        if name == "seen.db3":
            assert (old.color_number, old.timestamp_ms) == (new.color_number, new.timestamp_ms)
    if name == "data":
        assert described["kind"] in (path / "dataset.json").read_text()
        assert after[0].label == "unlabelled"


def test_a_recording_keeps_numbers_times_and_the_unit(tmp_path: Path) -> None:
    counts = _record(RecorderSink(tmp_path / "a.db3"), [_frame(n, unit_m=0.0005) for n in range(7, 19)])
    assert (counts.written, counts.dropped) == (12, 0)
    played = _played(tmp_path / "a.db3")
    assert [(frame.color_number, frame.depth_number) for frame in played] == [(n, n) for n in range(7, 19)]
    assert [frame.timestamp_ms for frame in played] == [START_MS + 40.0 * n for n in range(7, 19)]
    assert played[0].depth_unit_m == pytest.approx(0.0005)


def test_a_missing_sensor_is_missing_in_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "a.db3"
    _record(RecorderSink(path), [_frame(n, missing=("rgb",) if 10 <= n < 40 else ()) for n in range(1, 51)])
    played = _played(path)
    assert any(frame.missing == ("rgb",) for frame in played)
    assert all(frame.missing in ((), ("rgb",)) for frame in played)
    assert played[0].missing == () and played[-1].missing == ()


@BOTH
def test_a_second_run_adds_and_overwrites_nothing(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    _record(RecorderSink(path), [_frame(n) for n in range(1, 5)])
    before = {file: file.read_bytes() for file in path.glob("*/*/*")} if name == "data" else {path: path.read_bytes()}
    _record(RecorderSink(path), [_frame(n) for n in range(1, 8)])
    assert before and all(file.read_bytes() == data for file, data in before.items())
    later = path if name == "data" else tmp_path / "seen-2.db3"
    assert len(_played(later)) == (4 + 7 if name == "data" else 7)


def test_two_runs_that_begin_at_once_have_a_file_each(tmp_path: Path) -> None:
    path = tmp_path / "a.db3"
    with RecorderSink(path) as first, RecorderSink(path) as second:
        begun = [sink._begin(_frame(1)) for sink in (first, second)]
        assert sorted(file.name for file in tmp_path.iterdir()) == ["a-2.db3", "a.db3"]
        for recording in begun:
            recording.close()
    assert list(tmp_path.iterdir()) == []  # nothing was recorded


def test_another_size_begins_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "PAIRS_OF_FILE", 6)
    shown = [*(_frame(n) for n in range(1, 9)), *(_frame(n, noise=40) for n in range(9, 13))]
    assert _record(RecorderSink(tmp_path / "a.db3"), shown).written == 12
    played = [_played(tmp_path / name) for name in ("a.db3", "a-2.db3", "a-3.db3")]
    assert [[frame.color_number for frame in one] for one in played] == [[*range(1, 7)], [7, 8], [*range(9, 13)]]
    assert played[2][0].depth.shape == (40, 40)


@BOTH
def test_the_limit_stops_the_recording_and_is_reported(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    # librealsense has pairs in memory, so it is not given all at once.
    counts = _record(RecorderSink(path, max_mb=1), (_frame(n, noise=200) for n in range(1, 400)), pause_s=0.03)
    assert counts.state == "failed" and counts.dropped > 0 and 4 <= counts.written < 300
    assert "--record-mb" in counts.error
    assert len(_played(path)) == counts.written
    # The next run also counts what is there.
    again = _record(RecorderSink(path, max_mb=1), [_frame(1)])
    assert (again.written, again.state) == (0, "failed")


@BOTH
def test_space_that_others_need_is_left_and_recording_goes_on_when_there_is_more(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(bus_module, "LONGEST_PAUSE_S", 0.05)
    sink = RecorderSink(tmp_path / name, min_free_mb=10**9)
    with logged() as lines, SinkBus([sink]) as bus:
        bus.publish(RESULT, _frame(1))
        until_s = time.monotonic() + 20
        while not bus.counts()[0].errors and time.monotonic() < until_s:
            time.sleep(0.01)
        assert "No space left on device" in bus.counts()[0].error
        sink._min_free_bytes = 0
        for number in range(2, 2000):
            bus.publish(RESULT, _frame(number))
            time.sleep(0.01)
            if bus.counts()[0].written >= 5:
                break
        bus.drain(hurry=False)
    counts = bus.counts()[0]
    assert counts.state == "open" and counts.restarts >= 1 and counts.dropped >= 1
    assert len(_played(tmp_path / name)) == counts.written
    assert len([line for line in lines if "failed" in line]) == 1 and "works again" in lines[-1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_leaves_complete_pairs(small_disk: Path) -> None:
    counts = _record(RecorderSink(small_disk / "data", min_free_mb=0), [_frame(n, noise=200) for n in range(1, 41)])
    assert "No space left on device" in counts.error and counts.state == "failed"
    assert 0 < len(_played(small_disk / "data")) < 40


def test_a_full_disk_under_librealsense_is_noticed(small_disk: Path) -> None:
    with logged() as lines:
        counts = _record(
            RecorderSink(small_disk / "a.db3", min_free_mb=0), [_frame(n, noise=200) for n in range(1, 41)]
        )
    assert counts.written == 40  # librealsense reports nothing
    assert any("lacks" in line and "of 40 pairs" in line for line in lines)


def test_a_recorder_that_is_too_slow_delays_nothing(tmp_path: Path) -> None:
    started_s = time.monotonic()
    shown = [_frame(n, noise=1000) for n in range(1, 5)] * 15
    drawn_s = time.monotonic()
    with SinkBus([RecorderSink(tmp_path / "data")]) as bus:
        for frame in shown:
            bus.publish(RESULT, frame)
        published_s = time.monotonic()
        bus.drain(hurry=False)
    counts = bus.counts()[0]
    assert published_s - drawn_s < 1.0 and started_s < drawn_s
    assert counts.dropped > 0 and counts.written + counts.dropped == 60
    assert len(_played(tmp_path / "data")) == counts.written


def test_what_the_user_must_correct_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    write_description(tmp_path / "cropped", depth_unit_m=0.001, region="nearest")
    for name, words in (("file", "FILE.db3, or the folder"), ("a.bag", "FILE.db3"), ("cropped", "region nearest")):
        with pytest.raises(UserError, match=words), SinkBus([RecorderSink(tmp_path / name)]):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cropped", "file"]


@pytest.mark.parametrize("option", ["record", "collect", "trace", "rerun"])
def test_only_json_lines_go_to_standard_output(option: str) -> None:
    given: dict[str, Any] = {option: Path("-") if option != "rerun" else "-"}
    with pytest.raises(UserError, match=f"--{option} - : a name was expected; only --jsonl"):
        OutputOptions(**given).sinks()


def test_the_command_records(bundle: Bundle, small_recording: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from edgefuse.app.main import main; main()", "live", str(bundle.folder)]
    command += ["--camera", str(small_recording), "--record", str(tmp_path / "seen.db3"), "--record-mb", "9", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert [(sink["written"], sink["dropped"]) for sink in json.loads(done.stdout)["sinks"]][1] == (30, 0)
    assert len(_played(tmp_path / "seen.db3")) == 30
