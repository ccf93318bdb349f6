"""Text lines, JSON lines and the terminal's table."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgefuse.bundle import Bundle
from edgefuse.errors import UserError
from edgefuse.framing import Roi
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.results import Result, StageTimes
from edgefuse_runtime.sinks import sink as sinks
from edgefuse_runtime.sinks.sink import JsonlSink, LinesSink, Sink, line_of
from edgefuse_runtime.sinks.terminal import TableSink

RESULT = Result(
    index=4,
    frame=37,
    name="37",
    label="palm",
    probability=0.93,
    top=(("palm", 0.93), ("stop", 0.05)),
    gate_mean=0.41,
    expected=None,
    roi=Roi(1, 2, 3, 4),
    stages=StageTimes(wait_ms=1.0, read_ms=0.2, frame_ms=0.3, infer_ms=3.5),
    latency_ms=4.25,
    age_ms=None,
    dropped=2,
    stale=1,
)


def _run(bundle: Bundle, folder: Path, sink: Sink) -> None:
    with open_engine(bundle) as engine, open_camera(str(folder)) as camera, sink:
        run_live(engine=engine, camera=camera, sinks=[sink])


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({}, ["frame     37  palm", "0.93", "gate 0.41", "4.25 ms", "dropped 2", "stale 1"]),
        ({"expected": "palm"}, ["stale 1  right"]),
        ({"expected": "stop"}, ["wrong, it is stop"]),
        ({"age_ms": 41.2}, ["age   41.2 ms"]),
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
    assert [value["kind"] for value in values] == ["result"] * 8 + ["summary"]
    assert [value["frame"] for value in values[:8]] == list(range(1, 9))
    assert values[-1]["processed"] == 8


def test_each_line_is_written_immediately(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with JsonlSink(path) as sink:
        for index in range(3):
            sink.result(dataclasses.replace(RESULT, index=index))
            assert json.loads(path.read_text().splitlines()[-1])["index"] == index


@pytest.mark.parametrize("content", ["", "log"])
def test_a_log_is_overwritten_only_with_force(content: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("")
    if content:
        with JsonlSink(path, force=True) as sink:
            sink.result(dataclasses.replace(RESULT, label="stop"))
    before = path.read_text()
    with pytest.raises(UserError, match="exists already"), JsonlSink(path):
        pass
    assert path.read_text() == before
    with JsonlSink(path, force=True) as sink:
        sink.result(RESULT)
    assert json.loads(path.read_text())["label"] == "palm"


@pytest.mark.parametrize(
    "content",
    [
        b"precious\n",
        b'{"a": 1}\n',
        b'{"kind": "mug"}\n',
        b"[1]\n",
        b"\xff\x00",
        b"\n",
        b"SQLite format 3\x00" + bytes(9),
    ],
)
def test_another_file_is_never_overwritten(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="log.jsonl is not replaced although --force"), JsonlSink(path, force=True):
        pass
    assert path.read_bytes() == content


def test_a_folder_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "folder" / "file").mkdir(parents=True)
    with pytest.raises(UserError, match="is not replaced"), JsonlSink(tmp_path / "folder", force=True):
        pass


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), JsonlSink(tmp_path / "file" / "log.jsonl"):
        pass


def test_a_log_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with JsonlSink(path) as first:
        first.result(RESULT)
        with pytest.raises(UserError, match="another process is writing .*log.jsonl"), JsonlSink(path, force=True):
            pass
        first.result(dataclasses.replace(RESULT, index=1))
    assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == [RESULT.index, 1]
    with JsonlSink(path, force=True):
        pass
    assert path.read_text() == ""


def test_a_log_that_appears_after_the_first_check_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, check = tmp_path / "log.jsonl", sinks.refuse_existing

    def check_and_lose_the_race(*arguments: Any, **options: Any) -> None:
        check(*arguments, **options)
        path.write_text("another's")

    monkeypatch.setattr(sinks, "refuse_existing", check_and_lose_the_race)
    with pytest.raises(UserError, match="exists already"), JsonlSink(path):
        pass
    assert path.read_text() == "another's"


def test_a_killed_run_leaves_complete_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    code = f"""
import itertools
from pathlib import Path
from test_sinks import RESULT
from edgefuse_runtime.sinks.sink import JsonlSink
import dataclasses
with JsonlSink(Path({str(path)!r})) as sink:
    for index in itertools.count():
        sink.result(dataclasses.replace(RESULT, index=index, name="x" * 3000))
"""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])]),
    }
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
    deadline_s = time.monotonic() + 30
    while not (path.exists() and path.stat().st_size > 100_000) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    lines = path.read_bytes().split(b"\n")
    assert lines[-1] == b""
    assert [json.loads(line)["index"] for line in lines[:-1]] == list(range(len(lines) - 1))


def _screen(console: Console) -> str:
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def test_the_table_shows_prediction_bars_gate_and_last_results() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40, color_system=None)
    with TableSink(title="my title", console=console) as sink:
        for index in range(12):
            sink.result(
                dataclasses.replace(RESULT, index=index, frame=100 + index, expected="palm" if index % 2 else "stop")
            )
    screen = _screen(console)
    last = screen[screen.rindex("my title") :]
    assert "palm   0.93" in last and "stop" in last
    assert "gate    RGB ─" in last and "depth  0.41" in last
    assert "dropped 2   stale 1" in last and "accuracy 0.500 (6 of 12)" in last
    assert [str(number) in last for number in (111, 104, 103)] == [True, True, False]
    assert "latency   4.25 ms   p50 4.25" in last


def test_the_table_survives_a_run_and_ends_with_the_summary(bundle: Bundle, near_far_folder: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40, color_system=None)
    _run(bundle, near_far_folder, TableSink(console=console))
    assert "8 results in" in _screen(console)
    assert _screen(console).rstrip().endswith("accuracy 1.000 (8 of 8)")


def test_the_table_waits_for_the_first_frame() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40, color_system=None)
    with TableSink(console=console):
        pass
    assert "waiting for the first frame" in _screen(console)
