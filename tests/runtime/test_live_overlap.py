"""Frames of a source that drops none are read and framed during the engine run before: order, threads, errors, and the same results."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_live_loop import Keep

from edgefuse.app.signals import ended_by_signals
from edgefuse.bundle import Bundle
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.cpu import usable_cores
from edgefuse_runtime.engines.engine import Decision
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.live.overlap import run_overlapped
from edgefuse_runtime.results import LiveSummary, Result

needs_two_cores = pytest.mark.skipif(usable_cores() < 2, reason="live frames ahead with two cores or more")


class Log:
    """Items 0, 1, 2, ... that note what was done with them, and in which thread."""

    def __init__(self, num_items: int, *, fails_at: int | None = None) -> None:
        self._num_items, self._fails_at = num_items, fails_at
        self.fetched: list[int] = []
        self.completed: list[tuple[int, int]] = []
        self.threads: dict[str, set[int]] = {"fetch": set(), "work": set(), "complete": set()}

    def items(self) -> Iterator[int]:
        for item in range(self._num_items):
            self.threads["fetch"].add(threading.get_ident())
            if item == self._fails_at:
                raise ValueError("no such item")
            self.fetched.append(item)
            yield item

    def work(self, item: int) -> int:
        self.threads["work"].add(threading.get_ident())
        return 10 * item

    def complete(self, item: int, output: int) -> None:
        self.threads["complete"].add(threading.get_ident())
        self.completed.append((item, output))


def _until(condition: Any) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s, "the threads wait for each other"
        time.sleep(0.001)


@pytest.mark.parametrize("num_items", [0, 1, 2, 3, 20])
def test_everything_but_the_work_is_done_in_one_other_thread(num_items: int) -> None:
    log = Log(num_items)
    run_overlapped(log.items(), log.work, log.complete)
    assert log.completed == [(item, 10 * item) for item in range(num_items)]
    if num_items:
        assert log.threads["work"] == {threading.get_ident()}
        assert log.threads["fetch"] == log.threads["complete"] != log.threads["work"]
        assert len(log.threads["fetch"]) == 1


def test_during_the_work_the_next_item_is_fetched_and_the_last_one_completed_but_no_more() -> None:
    log = Log(10)

    def work(item: int) -> int:
        _until(lambda: len(log.fetched) == min(item + 2, 10) and len(log.completed) == item)
        time.sleep(0.005)
        assert len(log.fetched) == min(item + 2, 10)
        return log.work(item)

    run_overlapped(log.items(), work, log.complete)
    assert len(log.completed) == 10


@pytest.mark.parametrize("fails_at", [0, 1, 2, 5])
def test_an_error_of_the_items_comes_after_the_items_before_it(fails_at: int) -> None:
    log = Log(10, fails_at=fails_at)
    with pytest.raises(ValueError, match="no such item"):
        run_overlapped(log.items(), log.work, log.complete)
    assert [item for item, _ in log.completed] == list(range(fails_at))


@pytest.mark.parametrize("fails_at", [0, 4, 9])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("step", ["work", "complete"])
def test_after_an_error_of_another_step_nothing_is_fetched_any_more(
    fails_at: int, error: type[BaseException], step: str
) -> None:
    log = Log(10)

    def work(item: int) -> int:
        if step == "work" and item == fails_at:
            raise error("in work")
        return log.work(item)

    def complete(item: int, output: int) -> None:
        if step == "complete" and item == fails_at:
            raise error("in complete")
        log.complete(item, output)

    with pytest.raises(error, match=f"in {step}"):
        run_overlapped(log.items(), work, complete)
    num_fetched = len(log.fetched)
    assert [item for item, _ in log.completed] == list(range(fails_at))
    assert fails_at < num_fetched <= fails_at + 3
    time.sleep(0.02)
    assert len(log.fetched) == num_fetched and "live" not in {thread.name for thread in threading.enumerate()}


def test_ctrl_c_does_not_wait_for_a_call_that_hangs() -> None:
    log, goes_on = Log(10), threading.Event()

    def work(item: int) -> int:
        if item == 1:
            raise KeyboardInterrupt
        return item

    started_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_overlapped(log.items(), work, lambda item, output: goes_on.wait(10) and None)
    took_s = time.monotonic() - started_s
    goes_on.set()
    _until(lambda: "live" not in {thread.name for thread in threading.enumerate()})
    assert took_s < 5 and len(log.fetched) == 2  # nothing is fetched any more


# In live


@contextmanager
def _one_core() -> Iterator[None]:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


class Acting:
    """An engine that calls a function with the number of each run, from 1, before it."""

    def __init__(self, engine: Any, act: Callable[[int], None]) -> None:
        self._engine, self._act, self._num_runs = engine, act, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, rgb: Any, depth: Any) -> Decision:
        self._num_runs += 1
        self._act(self._num_runs)
        return self._engine.run(rgb, depth)  # type: ignore[no-any-return]


def _play(bundle: Bundle, recording: Path, *, real_time: bool = False) -> tuple[LiveSummary, list[Result]]:
    """With an engine that takes longer than reading and framing."""
    sink = Keep()
    with open_engine(bundle) as engine, open_camera(str(recording), real_time=real_time) as camera:
        slow = Acting(engine, lambda run: time.sleep(0.02))
        return run_live(engine=slow, camera=camera, sinks=[sink]), sink.results  # type: ignore[arg-type]


def _overlaps(results: list[Result]) -> list[bool]:
    """Whether each frame but the first one was framed before the engine run of the one before ended."""
    return [now.times.framed_ns < last.times.engine_end_ns for last, now in pairwise(results)]


@needs_two_cores
def test_frames_are_framed_ahead_with_the_same_results_as_one_after_the_other(
    bundle: Bundle, small_recording: Path
) -> None:
    with _one_core():
        alone, expected = _play(bundle, small_recording)
    summary, results = _play(bundle, small_recording)
    assert not any(_overlaps(expected)) and np.mean(_overlaps(results)) > 0.5
    assert [(r.frame, r.label, r.top, r.valid_depth, r.dropped, r.stale) for r in results] == [
        (r.frame, r.label, r.top, r.valid_depth, r.dropped, r.stale) for r in expected
    ]
    counts = ("received", "processed", "dropped", "stale", "unfinished", "ended")
    assert [getattr(summary, name) for name in counts] == [getattr(alone, name) for name in counts]
    for last, now in pairwise(results):
        assert last.times.engine_end_ns <= now.times.engine_start_ns
        assert last.times.published_ns <= now.times.published_ns
    total_s = sum(result.latency_ms + result.stages.wait_ms for result in expected) / 1e3
    assert total_s <= alone.elapsed_s + 0.001


def test_a_recording_in_real_time_is_not_framed_ahead(bundle: Bundle, small_recording: Path) -> None:
    _, results = _play(bundle, small_recording, real_time=True)
    assert len(results) > 2 and not any(_overlaps(results))


@pytest.mark.parametrize(("number", "ended"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "interrupted")])
def test_a_signal_that_the_engine_swallows_ends_the_run(number: signal.Signals, ended: str, bundle: Bundle) -> None:
    def swallow(run: int) -> None:
        if run == 4:
            try:
                os.kill(os.getpid(), number)
                time.sleep(1)
            except KeyboardInterrupt:
                pass

    with ended_by_signals(), open_engine(bundle) as engine, open_camera("synthetic") as camera:
        summary = run_live(engine=Acting(engine, swallow), camera=camera, num_frames=50)  # type: ignore[arg-type]
    assert summary.ended == ended and 4 <= summary.processed <= 6
    assert summary.received == summary.processed + summary.unfinished


@pytest.mark.parametrize("begins", [True, False])
def test_ctrl_c_while_the_thread_starts_is_ctrl_c(begins: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining a thread that had not started was an error of its own, and live ended as failed."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if begins:
            start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    log = Log(3)
    with pytest.raises(KeyboardInterrupt):
        run_overlapped(log.items(), lambda item: item, lambda item, output: None)
    assert not [thread for thread in threading.enumerate() if thread.name == "live"]
