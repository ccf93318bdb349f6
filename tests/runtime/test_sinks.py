"""Text lines, JSON lines and the terminal's table."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from runtime_scenes import RESULT, TIMES

from edgefuse.bundle import Bundle
from edgefuse.errors import UserError
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.sinks.bus import SinkBus
from edgefuse_runtime.sinks.json_lines import JsonlSink
from edgefuse_runtime.sinks.lines import OBJECT_EVENTS, LinesSink, line_of
from edgefuse_runtime.sinks.sink import Sink
from edgefuse_runtime.sinks.terminal import TableSink


def _run(bundle: Bundle, folder: Path, sink: Sink) -> None:
    with open_engine(bundle) as engine, open_camera(str(folder)) as camera:
        run_live(engine=engine, camera=camera, sinks=[sink])


def test_a_result_has_the_times_of_the_frame() -> None:
    value = RESULT.to_json()
    assert (value["kind"], value["schema"], value["time"]) == ("result", 1, "2026-11-26T07:08:09.123Z")
    assert (value["sensor_ms"], value["sensor_clock"], value["age_ms"]) == (1_795_676_889_081.8, "hardware", None)
    assert value["since_arrival_ms"] == {
        "ready": 0.2,
        "dequeued": 0.25,
        "framed": 0.55,
        "engine_start": 0.56,
        "engine_end": 4.06,
        "published": 4.25,
    }
    assert value["latency_ms"] == pytest.approx(sum(value["stages"].values()) - value["stages"]["wait_ms"]) == 4.25
    assert dataclasses.replace(RESULT, times=dataclasses.replace(TIMES, sensor_clock="global")).age_ms == 41.2


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, ["frame     37  palm", "0.93", "gate 0.41", "4.25 ms", "dropped 2", "stale 1"]),
        ({"expected": "palm"}, ["stale 1  right"]),
        ({"expected": "stop"}, ["wrong, it is stop"]),
        ({"times": dataclasses.replace(TIMES, sensor_clock="global")}, ["age   41.2 ms"]),
        ({"nearest_m": 0.6243}, ["gate 0.41  0.62 m    4.25 ms"]),
        ({"nearest_m": None}, ["gate 0.41       -    4.25 ms"]),
    ],
)
def test_a_line_has_the_main_values(changes: dict[str, object], parts: list[str]) -> None:
    line = line_of(dataclasses.replace(RESULT, **changes))
    assert "\n" not in line
    assert [part for part in parts if part not in line] == []


def test_lines_and_summary(bundle: Bundle, near_far_folder: Path) -> None:
    stream = io.StringIO()
    _run(bundle, near_far_folder, LinesSink(stream))
    lines = stream.getvalue().splitlines()
    assert sum(line.startswith("frame ") for line in lines) == 8
    assert lines[8].startswith("8 results in ")
    assert lines[9].startswith("received 8 = processed 8 + dropped 0 + stale 0")
    assert "accuracy 1.000 (8 of 8)" in lines


def test_json_lines_are_complete_objects_with_a_summary_last(
    bundle: Bundle, near_far_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    _run(bundle, near_far_folder, JsonlSink(path))
    values = [json.loads(line) for line in path.read_text().splitlines()]
    kinds = [value["kind"] for value in values if value.get("event") not in OBJECT_EVENTS]
    assert kinds == ["event"] + ["result"] * 8 + ["summary"]
    assert [value["frame"] for value in values if value["kind"] == "result"] == list(range(1, 9))
    placed = [value for value in values[1:-1] if value.get("event") != "left"]
    order = [value["detail"]["frame"] if value["kind"] == "event" else value["frame"] for value in placed]
    assert order == sorted(order)  # an event follows the result that it comes from
    assert values[-1]["processed"] == 8


def test_each_line_is_written_immediately(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with JsonlSink(path) as sink:
        for index in range(3):
            sink.result(dataclasses.replace(RESULT, index=index), None)
            assert json.loads(path.read_text().splitlines()[-1])["index"] == index


def indices(path: Path) -> list[int]:
    return [json.loads(line)["index"] for line in path.read_text().splitlines()]


def write(path: Path, *numbers: int, **options: Any) -> None:
    with JsonlSink(path, **options) as sink:
        for number in numbers:
            sink.result(dataclasses.replace(RESULT, index=number), None)


def test_a_log_is_continued_and_begun_again_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("")
    write(path, 1, 2)
    write(path, 3)
    assert indices(path) == [1, 2, 3]
    write(path, 4, force=True)
    assert indices(path) == [4]


def test_a_line_torn_by_a_power_cut_does_not_damage_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, 1)
    path.write_bytes(path.read_bytes() + b'{"kind": "res')
    write(path, 2)
    first, torn, last = path.read_text().splitlines()
    assert (json.loads(first)["index"], torn, json.loads(last)["index"]) == (1, '{"kind": "res', 2)
    path.write_bytes(bytes(4096))  # the file system kept the size, but not the bytes
    write(path, 3)
    assert json.loads(path.read_bytes().splitlines()[-1])["index"] == 3


def test_a_log_is_rotated_by_size_and_keeps_the_newest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size) or fsync(handle))
    path = tmp_path / "log.jsonl"
    with JsonlSink(path, max_mb=1, num_kept=2) as sink:
        for number in range(10):
            sink.result(dataclasses.replace(RESULT, index=number, name="x" * 400_000), None)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.jsonl", "log.jsonl.1", "log.jsonl.2"]
    assert [indices(path.with_name(f"log.jsonl{end}")) for end in (".2", ".1", "")] == [[4, 5], [6, 7], [8, 9]]
    assert len([size for size in synced if size > 800_000]) == 5
    write(path, 10, max_mb=1, num_kept=2)
    assert indices(path) == [8, 9, 10]


def test_a_file_of_the_user_is_not_rotated_away(tmp_path: Path) -> None:
    path, users = tmp_path / "log.jsonl", tmp_path / "log.jsonl.1"
    users.write_text("precious")
    with (
        JsonlSink(path, max_mb=1, num_kept=1) as sink,
        pytest.raises(UserError, match=r"log\.jsonl\.1 is left as it is"),
    ):
        for _ in range(3):
            sink.result(dataclasses.replace(RESULT, name="x" * 400_000), None)
    assert users.read_text() == "precious" and len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"precious\n",
        b'{"a": 1}\n',
        b'{"kind": "mug"}\n',
        b"[1]\n",
        b"\xff\x00",
        b"\n",
        b"\0\0precious",
        b"SQLite format 3\x00" + bytes(9),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_another_file_is_left_as_it_is(content: bytes, force: bool, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"log\.jsonl is left as it is"), JsonlSink(path, force=force):
        pass
    assert path.read_bytes() == content


def test_a_folder_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is left as it is"), JsonlSink(tmp_path):
        pass


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), JsonlSink(tmp_path / "file" / "log.jsonl"):
        pass


def test_a_log_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with JsonlSink(path) as first:
        first.result(RESULT, None)
        for force in (False, True):
            with pytest.raises(UserError, match="another process is writing .*log.jsonl"), JsonlSink(path, force=force):
                pass
        first.result(dataclasses.replace(RESULT, index=1), None)
    assert indices(path) == [RESULT.index, 1]


def test_a_killed_run_leaves_complete_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    code = f"""
import itertools
from pathlib import Path
from runtime_scenes import RESULT
from edgefuse_runtime.sinks.json_lines import JsonlSink
import dataclasses
with JsonlSink(Path({str(path)!r})) as sink:
    for index in itertools.count():
        sink.result(dataclasses.replace(RESULT, index=index, name="x" * 3000), None)
"""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
    deadline_s = time.monotonic() + 30
    while not (path.exists() and path.stat().st_size > 100_000) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    written = path.read_bytes()
    *lines, rest = written.split(b"\n")
    # Linux ends the write of a killed process between two pages of the file, and nowhere else.
    assert rest == b"" or len(written) % resource.getpagesize() == 0
    assert [json.loads(line)["index"] for line in lines] == list(range(len(lines)))
    with JsonlSink(path) as sink:
        sink.result(RESULT, None)
    *_, last, end = path.read_bytes().split(b"\n")
    assert json.loads(last)["index"] == RESULT.index and end == b""  # what comes next has a line of its own


def _screen(console: Console) -> str:
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def test_the_table_shows_prediction_bars_gate_and_last_results() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40, color_system=None)
    with TableSink(title="my title", console=console) as sink:
        for index in range(12):
            sink.result(
                dataclasses.replace(RESULT, index=index, frame=100 + index, expected="palm" if index % 2 else "stop"),
                None,
            )
    screen = _screen(console)
    last = screen[screen.rindex("my title") :]
    assert "palm   0.93" in last and "stop" in last
    assert "gate    RGB ─" in last and "depth  0.41" in last
    assert "depth    88% of the region measured" in last
    assert "dropped 2   stale 1" in last and "accuracy 0.500 (6 of 12)" in last
    assert [str(number) in last for number in (111, 104, 103)] == [True, True, False]
    assert "latency   4.25 ms   p50 4.25" in last


def test_the_table_survives_a_run_and_ends_with_the_summary(bundle: Bundle, near_far_folder: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40, color_system=None)
    _run(bundle, near_far_folder, TableSink(console=console))
    assert "8 results in" in _screen(console)
    assert _screen(console).rstrip().endswith("accuracy 1.000 (8 of 8)")


def test_a_table_that_cannot_be_written_fails_and_delays_nothing() -> None:
    with (
        contextlib.suppress(OSError),  # closing the file
        Path("/dev/full").open("w") as full,
        SinkBus([TableSink(console=Console(file=full, force_terminal=True))]) as bus,
    ):
        bus.publish(RESULT)
        bus.drain(hurry=True)
        (counts,) = bus.counts()
    assert (counts.state, counts.error, counts.written) == ("failed", "No space left on device", 0)


def test_the_table_waits_for_the_first_frame() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40, color_system=None)
    with TableSink(console=console):
        pass
    assert "waiting for the first frame" in _screen(console)
