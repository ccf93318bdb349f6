"""Faults during a run of `edgefuse live`: signals in every state of the camera, a failing engine, other image sizes, a slow start."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_capture import _is_running
from test_sink_bus import Recorded, until

from edgefuse.app.signals import ended_by_signals
from edgefuse.bundle import Bundle
from edgefuse.errors import UserError
from edgefuse.framing import Roi
from edgefuse_runtime.camera import Camera, Counters, Frame
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.capture.capture import Capture
from edgefuse_runtime.capture.source import Source
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live import loop, opening
from edgefuse_runtime.live.loop import MAX_ENGINE_ERRORS, run_live
from edgefuse_runtime.live.statistics import Statistics
from edgefuse_runtime.regions.region import parse_region
from edgefuse_runtime.results import LiveSummary, Result
from logs import logged

LIVE_WITH_CAMERA = Path(__file__).with_name("live_with_camera.py")


def _is_balanced(summary: LiveSummary) -> bool:
    done = summary.processed + summary.without_region + summary.unfinished
    return summary.received == done + summary.dropped + summary.stale


# Signals


@pytest.mark.parametrize(
    ("fault", "state", "options", "code"),
    [
        ("hang open", "opening", [], 143),
        ("absent", "reconnecting", ["--wait-for-camera"], 0),
        ("none", "running", [], 0),
        ("no colour", "degraded", [], 0),
        ("silent", "running", [], 0),
        ("hang", "running", [], 0),
        ("hang with GIL", "running", [], 0),
        ("hang stop", "running", [], 0),
        ("raise", "reconnecting", [], 0),
        ("raise, hang stop", "running", [], 0),
        ("kill", "reconnecting", [], 0),
    ],
)
def test_sigterm_ends_live_in_every_state(
    fault: str, state: str, options: list[str], code: int, bundle: Bundle, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    arguments = json.dumps({"folder": str(tmp_path), "faults": [fault]})
    command = [
        sys.executable,
        str(LIVE_WITH_CAMERA),
        "FaultyCamera",
        arguments,
        str(bundle.folder),
        "--json",
        "--jsonl",
        str(log),
    ]
    path = os.pathsep.join([str(LIVE_WITH_CAMERA.parent), *sys.path])
    with subprocess.Popen(
        [*command, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        try:
            until(lambda: log.exists() and f'"state": "{state}"' in log.read_text(), limit_s=60)
            time.sleep(0.4)
            process.send_signal(signal.SIGTERM)
            sent_s = time.monotonic()
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    took_s = time.monotonic() - sent_s
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert (lines[-1]["kind"], lines[-1]["ended"], process.returncode) == ("summary", "SIGTERM", code), errors
    assert took_s < 5 and "Traceback" not in errors  # 2 s, and a busy machine
    children = [line["detail"]["camera"].get("process") for line in lines if line.get("event") == "started"]
    assert not any(_is_running(child) for child in children if child)


class Swallowing:
    """A camera whose third read swallows the exception of a signal, as compiled code may."""

    def __init__(self, camera: Camera, number: signal.Signals) -> None:
        self._number = number
        self._camera, self.align = camera, camera.align
        self.description = {**camera.description, "real_time": True}  # otherwise it is not read in the main thread

    @property
    def counters(self) -> Counters:
        return self._camera.counters

    def __enter__(self) -> Swallowing:
        self._camera.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._camera.__exit__(*error)

    def read(self, timeout_ms: int) -> Frame | None:
        if self.counters.delivered == 3:
            try:
                os.kill(os.getpid(), self._number)
                time.sleep(1)
            except KeyboardInterrupt:
                pass
        return self._camera.read(timeout_ms)


@pytest.mark.parametrize(("number", "ended"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "interrupted")])
def test_a_signal_that_compiled_code_swallows_ends_the_run(number: signal.Signals, ended: str, bundle: Bundle) -> None:
    with ended_by_signals(), open_engine(bundle) as engine, Swallowing(open_camera("synthetic"), number) as camera:
        summary = run_live(engine=engine, camera=camera, num_frames=50)
    assert (summary.ended, summary.processed) == (ended, 4)
    with open_engine(bundle) as engine, open_camera("synthetic") as other:
        assert run_live(engine=engine, camera=other, num_frames=2).ended == "frames"


def test_no_signal_comes_between_a_result_and_the_count_of_its_frame(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It left a frame unfinished whose result the outputs had."""
    add, num_frames = Statistics.add, itertools.count(1)

    def interrupted(statistics: Statistics, results: Any) -> None:
        if next(num_frames) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        add(statistics, results)

    monkeypatch.setattr(Statistics, "add", interrupted)
    monkeypatch.setattr(loop, "waits_for_reader", lambda camera: False)  # as a camera
    monkeypatch.setattr(opening, "waits_for_reader", lambda camera: False)
    sink = Recorded()
    with ended_by_signals(), open_engine(bundle) as engine, open_camera("synthetic") as camera:
        summary = run_live(engine=engine, camera=camera, sinks=[sink], num_frames=50)
    (counts,) = summary.sinks
    assert (summary.ended, summary.processed, counts.written + counts.dropped) == ("SIGTERM", 3, 3)


# Engine


class Failing:
    """An engine that fails in some of its runs."""

    def __init__(self, engine: Any, fails: Callable[[int], bool]) -> None:
        self._engine, self._fails, self.num_runs = engine, fails, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Any:
        self.num_runs += 1
        if self._fails(self.num_runs):
            raise UserError("the GPU was busy")
        return self._engine.run(rgb, depth)


def test_an_engine_that_fails_once_or_twice_costs_these_frames(bundle: Bundle, near_far_folder: Path) -> None:
    sink = Recorded()
    with open_engine(bundle) as engine, open_camera(str(near_far_folder)) as camera, logged() as lines:
        failing = Failing(engine, lambda run: run in (2, 5, 6))
        summary = run_live(engine=failing, camera=camera, sinks=[sink], num_frames=8)  # type: ignore[arg-type]
    assert (summary.processed, summary.unfinished, summary.ended, summary.failure) == (5, 3, "frames", None)
    assert _is_balanced(summary) and sink.results == list(range(5))
    assert summary.warnings == ("the engine failed in 3 frames; the last time: the GPU was busy",)
    assert [event.detail for event in sink.events if event.event == "engine"] == [
        {"frame": number, "error": "the GPU was busy"} for number in (2, 5, 6)
    ]
    assert len([line for line in lines if "the GPU was busy" in line]) == 3


def test_an_engine_that_always_fails_ends_the_run_with_its_error(bundle: Bundle, near_far_folder: Path) -> None:
    sink = Recorded()
    with open_engine(bundle) as engine, open_camera(str(near_far_folder)) as camera:
        failing = Failing(engine, lambda run: run > 2)
        with pytest.raises(UserError, match="the GPU was busy"):
            run_live(engine=failing, camera=camera, sinks=[sink])  # type: ignore[arg-type]
    (summary,) = sink.summaries
    assert (summary.ended, summary.failure, summary.processed) == ("failed", "the GPU was busy", 2)
    assert MAX_ENGINE_ERRORS <= summary.unfinished <= MAX_ENGINE_ERRORS + 2 and _is_balanced(summary)


# Images


def test_a_region_in_pixels_is_scaled_with_the_image(bundle: Bundle, tmp_path: Path) -> None:
    class Regions(Recorded):
        def result(self, result: Result, frame: Any) -> None:
            super().result(result, frame)
            self.frames[-1] = (frame.depth.shape[0], result.roi)

    sink, arguments = Regions(wants_images=True), {"folder": str(tmp_path), "faults": ["other size"]}
    source = Source(factory="capture_cameras:FaultyCamera", arguments=arguments, is_live=True)
    with open_engine(bundle) as engine, Capture(source, align="color") as camera, logged() as lines:
        region = parse_region("20,10,12,20")
        summary = run_live(engine=engine, camera=camera, region=region, sinks=[sink], num_frames=20)
    assert set(sink.frames) == {(32, Roi(20, 10, 12, 20)), (16, Roi(10, 5, 6, 10))}
    assert _is_balanced(summary) and summary.processed == 20
    (line,) = [line for line in lines if "pixels" in line]
    assert line == "warning: the images have 16x16 pixels now, not 32x32: the region is 10,5,6,10"


# Start


def test_the_first_result_needs_less_than_two_seconds_of_the_cpu(bundle: Bundle) -> None:
    """Imports included. The time of the processor, because the machine may be busy."""

    def used_s() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before_s = used_s()
    command = [sys.executable, "-c", "from edgefuse.app.main import main; main()", "live", str(bundle.folder)]
    subprocess.run([*command, "--camera", "synthetic", "--frames", "1"], check=True, capture_output=True)
    assert 0.1 < used_s() - before_s < 2.0
