"""Sinks that are slow, hang, fail or lose their reader: counted, opened again, and no trouble for the others or the run."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from runtime_scenes import RESULT

from edgefuse.bundle import Bundle
from edgefuse.errors import UserError
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sinks import bus as bus_module
from edgefuse_runtime.sinks.bus import SinkBus
from edgefuse_runtime.sinks.json_lines import JsonlSink
from edgefuse_runtime.sinks.lines import OBJECT_EVENTS
from edgefuse_runtime.sinks.sink import ReaderClosedError, SinkInfo
from logs import logged

LIVE = [sys.executable, "-c", "from edgefuse.app.main import main; main()", "live"]


class Recorded:
    """A sink that keeps what it gets; `act` is called with each result, `opening` when it is opened."""

    def __init__(
        self,
        name: str = "recorded",
        *,
        queue_size: int = 100,
        wants_images: bool = False,
        is_display: bool = False,
        act: Callable[[Result], object] = lambda result: None,
        opening: Callable[[], object] = lambda: None,
    ) -> None:
        self.info = SinkInfo(name=name, queue_size=queue_size, wants_images=wants_images, is_display=is_display)
        self.results: list[int] = []
        self.frames: list[Any] = []
        self.events: list[Event] = []
        self.summaries: list[LiveSummary] = []
        self.num_opened = self.num_closed = 0
        self._act, self._opening = act, opening

    def __enter__(self) -> Recorded:
        self.num_opened += 1
        self._opening()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.num_closed += 1

    def result(self, result: Result, frame: Any) -> None:
        self._act(result)
        self.results.append(result.index)
        self.frames.append(frame)

    def event(self, event: Event) -> None:
        self.events.append(event)

    def summary(self, summary: LiveSummary) -> None:
        self.summaries.append(summary)


class Faults:
    """Raises an OSError for as long as it is on."""

    def __init__(self) -> None:
        self.is_on = False

    def __call__(self, *_: object) -> None:
        if self.is_on:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(bus_module, "LONGEST_PAUSE_S", 0.05)


def publish(bus: SinkBus, *numbers: int) -> None:
    for number in numbers:
        bus.publish(dataclasses.replace(RESULT, index=number))


def until(condition: Callable[[], bool], *, limit_s: float = 20) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.005)


def summary_of(bundle: Bundle) -> LiveSummary:
    with open_engine(bundle) as engine, open_camera("synthetic") as camera:
        return run_live(engine=engine, camera=camera, num_frames=0)


def test_every_sink_gets_everything_in_order_in_a_thread_of_its_own(bundle: Bundle) -> None:
    threads: set[int] = set()
    sinks = [Recorded(str(n), act=lambda _: threads.add(threading.get_ident())) for n in range(3)]
    summary = summary_of(bundle)
    with SinkBus(sinks) as bus:
        bus.event("started", "it started")
        publish(bus, *range(50))
        bus.drain(hurry=False)
        bus.finish(summary)
    for sink in sinks:
        assert sink.results == list(range(50)) and sink.frames == [None] * 50
        assert ([event.event for event in sink.events], sink.summaries) == (["started"], [summary])
        assert (sink.num_opened, sink.num_closed) == (1, 1)
    assert len(threads) == 3 and threading.get_ident() not in threads
    assert [(one.written, one.dropped, one.errors, one.state) for one in bus.counts()] == [(50, 0, 0, "open")] * 3


def test_only_a_sink_that_wants_images_gets_the_frame() -> None:
    with_images, without, frame = Recorded(wants_images=True), Recorded(), object()
    with SinkBus([with_images, without]) as bus:
        bus.publish(RESULT, frame)  # type: ignore[arg-type]
        bus.drain(hurry=False)
    assert with_images.frames[0] is frame and without.frames == [None]


def test_a_sink_that_hangs_delays_nothing_and_is_abandoned() -> None:
    release = threading.Event()
    hanging, newest = Recorded("hanging", act=lambda _: release.wait(30)), Recorded("other")
    started_s = time.monotonic()
    with SinkBus([hanging, newest]) as bus:
        publish(bus, *range(300))
        published_s = time.monotonic()
        bus.drain(hurry=True)
        counts = bus.counts()
    ended_s = time.monotonic()
    assert published_s - started_s < 0.5 and ended_s - published_s < 2
    assert (counts[0].state, counts[0].written, counts[0].dropped) == ("hangs", 0, 300)
    assert counts[1].written + counts[1].dropped == 300 and newest.results[-1] == 299
    release.set()


@pytest.mark.parametrize(("hurry", "state"), [(True, "open"), (False, "hangs")])
def test_a_display_that_is_busy_when_a_signal_ends_the_run_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, hurry: bool, state: str
) -> None:
    """On a busy machine, the page did not take its last frames in half a second, and live exited with 1 after SIGTERM."""
    monkeypatch.setattr(bus_module, "DRAIN_TIMEOUT_S", 0.2)
    monkeypatch.setattr(bus_module, "HURRY_TIMEOUT_S", 0.2)
    release = threading.Event()
    with SinkBus([Recorded("page", is_display=True, act=lambda _: release.wait(30))]) as bus:
        publish(bus, 0, 1)
        bus.drain(hurry=hurry)
        counts = bus.counts()[0]
        assert (counts.state, counts.written, counts.dropped) == (state, 0, 2)  # no result is uncounted
        release.set()


def test_a_sink_of_the_present_state_gets_the_newest_result() -> None:
    gate = threading.Semaphore(0)
    slow = Recorded("slow", queue_size=1, act=lambda _: gate.acquire())
    with SinkBus([slow]) as bus:
        publish(bus, 0)
        until(lambda: bus.counts()[0].written == 0 and not bus._workers[0]._results)
        publish(bus, *range(1, 10))
        gate.release(2)
        bus.drain(hurry=False)
    assert slow.results == [0, 9]
    assert (bus.counts()[0].written, bus.counts()[0].dropped) == (2, 8)


def test_a_source_that_waits_waits_for_a_slow_sink_but_not_for_one_that_hangs() -> None:
    slow = Recorded("slow", queue_size=2, act=lambda _: time.sleep(0.01))
    release = threading.Event()
    hanging = Recorded("hanging", queue_size=2, act=lambda _: release.wait(30))
    started_s = time.monotonic()
    with SinkBus([slow, hanging], wait_s=0.3) as bus:
        publish(bus, *range(30))
        bus.drain(hurry=True)
    assert slow.results == list(range(30))
    assert bus.counts()[1].state == "hangs" and time.monotonic() - started_s < 3
    release.set()


def test_a_sink_that_fails_is_opened_again_and_loses_nothing_that_fits_the_queue() -> None:
    faults = Faults()
    failing, other = Recorded("/disk/log", act=faults), Recorded("other")
    with logged() as messages, SinkBus([failing, other]) as bus:
        publish(bus, 0, 1)
        until(lambda: failing.results == [0, 1])
        faults.is_on = True
        publish(bus, *range(2, 20))
        until(lambda: bus.counts()[0].errors > 3)
        assert bus.counts()[0].state == "failed" and other.results == list(range(20))
        faults.is_on = False
        until(lambda: failing.results == list(range(20)))
        bus.drain(hurry=False)
    counts = bus.counts()[0]
    assert (counts.state, counts.written, counts.dropped, counts.error) == ("open", 20, 0, "No space left on device")
    assert counts.restarts >= 1 and failing.num_opened == failing.num_closed == counts.restarts + 1
    assert [line.split(" (")[0].split(";")[0] for line in messages] == [
        "warning: /disk/log failed",
        "/disk/log works again",
    ]
    assert [event.detail["state"] for event in other.events if event.event == "sink"] == ["failed", "open"]


def test_an_event_that_could_not_be_written_is_written_later() -> None:
    class FailingEvents(Recorded):
        def event(self, event: Event) -> None:
            faults()
            super().event(event)

    faults, sink = Faults(), FailingEvents()
    with SinkBus([sink]) as bus:
        faults.is_on = True
        bus.event("camera", "first")
        until(lambda: bus.counts()[0].errors > 1)
        bus.event("camera", "second")
        faults.is_on = False
        until(lambda: len(sink.events) == 3)
    assert [event.message.split()[0] for event in sink.events] == ["first", "recorded", "second"]


def test_an_error_of_one_result_loses_that_result_only() -> None:
    def refuse_three(result: Result) -> None:
        if result.index == 3:
            raise ValueError("three")

    sink = Recorded(act=refuse_three)
    with SinkBus([sink]) as bus:
        publish(bus, *range(6))
        until(lambda: sink.results == [0, 1, 2, 4, 5])
        bus.drain(hurry=False)
    assert (bus.counts()[0].written, bus.counts()[0].dropped, bus.counts()[0].error) == (5, 1, "three")


def test_the_summary_is_written_by_a_sink_that_can_again(bundle: Bundle) -> None:
    faults, summary = Faults(), summary_of(bundle)
    sink = Recorded(act=faults)
    with SinkBus([sink]) as bus:
        faults.is_on = True
        publish(bus, 0)
        until(lambda: bus.counts()[0].errors > 0)
        bus.drain(hurry=False)
        assert (bus.counts()[0].state, bus.counts()[0].dropped) == ("failed", 1)
        faults.is_on = False
        bus.finish(summary)
    assert sink.summaries == [summary] and sink.num_opened > 1
    assert (bus.counts()[0].state, bus.counts()[0].error) == ("failed", "No space left on device")  # a result was lost


def test_a_sink_that_cannot_be_opened_later_is_tried_again_but_a_refusal_stops_the_start() -> None:
    def refuse() -> None:
        raise UserError("port 80 is taken: choose another")

    faults = Faults()
    faults.is_on = True
    late, other = Recorded("broker", opening=faults), Recorded("other")
    with SinkBus([late]) as bus:
        publish(bus, 0)
        until(lambda: late.num_opened > 2)
        faults.is_on = False
        until(lambda: late.results == [0])
    with pytest.raises(UserError, match="port 80"), SinkBus([other, Recorded(opening=refuse)]):
        pass
    assert (other.num_opened, other.num_closed) == (1, 1)


def test_the_run_ends_when_all_readers_have_gone(bundle: Bundle) -> None:
    def gone(result: Result) -> None:
        raise ReaderClosedError("gone")

    with open_engine(bundle) as engine, open_camera("synthetic") as camera:
        summary = run_live(engine=engine, camera=camera, sinks=[Recorded(act=gone)])
        assert summary.ended == "no output left" and summary.failed_sinks == ("recorded: gone",)
        both = run_live(engine=engine, camera=camera, sinks=[Recorded(act=gone), Recorded()], num_frames=9)
    assert (both.ended, both.processed, [sink.state for sink in both.sinks]) == ("frames", 9, ["closed", "open"])


def test_a_full_disk_that_is_emptied_loses_no_lines(tmp_path: Path) -> None:
    """/dev/full in place of the log, and then the log again."""
    path, target = tmp_path / "log.jsonl", tmp_path / "link.jsonl"
    target.symlink_to("/dev/full")
    sink = JsonlSink(target)
    with SinkBus([sink]) as bus:
        publish(bus, *range(5))
        until(lambda: bus.counts()[0].errors > 1)
        target.unlink()
        target.symlink_to(path)
        sink._log._path = path
        until(lambda: path.exists() and len(path.read_text().splitlines()) >= 5)
        bus.drain(hurry=False)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["index"] for line in lines if line["kind"] == "result"] == list(range(5))


def test_a_reader_that_never_reads_neither_blocks_the_log_nor_the_end(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, bytes(4000))
    arguments = [str(bundle.folder), "--camera", "synthetic", "--jsonl", str(log)]
    with subprocess.Popen([*LIVE, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: log.exists() and log.read_text().count('"kind": "result"') > 5)
            process.send_signal(signal.SIGTERM)
            sent_s = time.monotonic()
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    took_s = time.monotonic() - sent_s
    os.close(reading)
    os.close(writing)
    last = json.loads(log.read_text().splitlines()[-1])
    assert (last["kind"], last["ended"], process.returncode) == ("summary", "SIGTERM", 1), errors
    assert took_s < 5 and "Traceback" not in errors and "Fatal" not in errors  # 2 s, and a busy machine
    output, log_counts = last["sinks"]
    assert (output["name"], output["state"]) == ("standard output", "hangs")
    assert output["written"] + output["dropped"] == last["processed"] > output["written"]
    assert (log_counts["written"], log_counts["dropped"]) == (last["processed"], 0)


def test_a_restarted_service_continues_its_log_and_a_second_one_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    arguments = [str(bundle.folder), "--camera", "synthetic", "--json", "--jsonl", str(log)]
    for _ in range(2):
        with subprocess.Popen([*LIVE, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            size = log.stat().st_size if log.exists() else 0
            try:
                until(lambda size=size: log.exists() and log.stat().st_size > size + 3_000)  # type: ignore[misc]
                second = subprocess.run([*LIVE, *arguments, "--frames", "2"], capture_output=True, text=True)
            finally:
                process.kill()
    assert second.returncode == 1 and f"another process is writing {log}" in second.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    events = [line["event"] for line in lines if line["kind"] == "event"]
    assert [event for event in events if event not in OBJECT_EVENTS] == ["started", "started"]
    runs = [line["index"] for line in lines if line["kind"] == "result"]
    assert runs.count(0) == 2 and all(line["time"] and "sensor_clock" in line for line in lines if "index" in line)


def test_json_lines_on_standard_output(bundle: Bundle, near_far_folder: Path, tmp_path: Path) -> None:
    arguments = [str(bundle.folder), "--camera", str(near_far_folder), "--jsonl", "-"]
    done = subprocess.run([*LIVE, *arguments], capture_output=True, text=True, cwd=tmp_path)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [line["kind"] for line in lines if line.get("event") not in OBJECT_EVENTS]
    assert (kinds, done.returncode) == (["event"] + ["result"] * 8 + ["summary"], 0)
    assert not (tmp_path / "-").exists()
    both = subprocess.run([*LIVE, *arguments, "--json"], capture_output=True, text=True)
    assert both.returncode == 1 and "use one of them" in both.stderr


def test_stats_end_with_percentiles_of_each_stage(bundle: Bundle, near_far_folder: Path) -> None:
    arguments = [str(bundle.folder), "--camera", str(near_far_folder), "--stats"]
    done = subprocess.run([*LIVE, *arguments], capture_output=True, text=True)
    rows = {line[:20].strip(): line[20:].split() for line in done.stdout.splitlines()[8:]}
    assert rows["ms"] == ["p50", "p95", "p99", "max"]
    for name in ("wait", "read", "queue", "preprocess", "infer", "publish", "arrival to result"):
        p50, p95, p99, most = map(float, rows[name])
        assert 0 <= p50 <= p95 <= p99 <= most
    assert float(rows["arrival to result"][3]) > float(rows["infer"][0]) > 0
    assert rows["standard output"][:2] == ["8", "0"] and rows["frame age"][0] == "unknown:"
