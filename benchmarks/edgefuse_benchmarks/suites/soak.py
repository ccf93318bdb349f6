"""The soak: `live` at full speed with faults at random, then what it survived, lost and left behind.

The service is the real one (capture process, engine, loop, sinks). A control run with a planted leak shows that the checks find one.
"""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from edgefuse.bundle import Bundle
from edgefuse.progress import Progress, no_progress
from edgefuse_benchmarks.suites import soak_camera
from edgefuse_benchmarks.suites.soak_camera import CAMERA_FAULTS, LOSSES, CameraFault, Requests
from edgefuse_benchmarks.suites.soak_faults import (
    NUM_NAN,
    SINK_FAULTS,
    CountingSink,
    Fault,
    FaultThread,
    FaultyEngine,
    FaultySink,
    LeakingSink,
    SinkFault,
)
from edgefuse_benchmarks.suites.soak_memory import MemoryLog, Resources
from edgefuse_runtime.camera import Frame
from edgefuse_runtime.capture.capture import Capture
from edgefuse_runtime.capture.source import Source
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.results import LiveSummary
from edgefuse_runtime.sinks.json_lines import JsonlSink
from edgefuse_runtime.sinks.recorder import RecorderSink
from edgefuse_runtime.sinks.sink import Sink
from edgefuse_runtime.sinks.trace import TraceSink

MAX_GROWTH_MB = 5.0
KILLED, NAN, ENGINE_FAILS = "capture process is killed", "output is NaN", "engine fails"
OTHER_FAULTS = (KILLED, NAN, ENGINE_FAILS)
"""Faults that are not requested from the camera or a sink."""
RESULTS_AFTER = 5
"""The service works again when this many results have arrived."""
CALM_S = 1.0
RECORDED_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class SoakPlan:
    """A run.

    Attributes:
        seconds: duration, without the recovery from the last faults.
        seed: of the order and the times of the faults; which frame they meet is left to chance.
        pauses_s: shortest and longest time between two faults of the camera, and between two of a sink.
        leaks: with a sink that leaks memory, a file and a segment of shared memory, and without faults that stop the camera: it leaks
            all the time.
    """

    seconds: float
    seed: int = 0
    pauses_s: tuple[float, float] = (0.2, 2.0)
    leaks: bool = False

    @property
    def warmup_s(self) -> float:
        """The memory is not compared before."""
        return min(10.0, self.seconds / 5)

    @property
    def window_s(self) -> float:
        """The first and the last minute; of a short run, its first and last quarter."""
        return min(60.0, self.seconds / 4)


@dataclass(frozen=True, kw_only=True)
class SoakRun:
    """What a run has shown.

    Attributes:
        first_mb, last_mb: private memory of this process and of the capture process in the first and last period; None = not measured.
        shared_mb: most shared memory at any time.
        wrong_counts: reads after which the counters of the camera did not add up.
        is_complete: the sink without faults got every result, in order.
    """

    plan: SoakPlan
    summary: LiveSummary
    faults: tuple[Fault, ...]
    first_mb: tuple[float, float | None]
    last_mb: tuple[float, float | None]
    shared_mb: float
    before: Resources
    after: Resources
    wrong_counts: int
    is_complete: bool

    @property
    def growth_mb(self) -> float:
        """Growth of the memory of all processes; one that has shrunk does not hide another."""
        pairs = zip(self.first_mb, self.last_mb, strict=True)
        return sum(max(last - first, 0.0) for first, last in pairs if first is not None and last is not None)

    def problems(self) -> tuple[str, ...]:
        """What is wrong, one line each."""
        return tuple(self._problems())

    def _problems(self) -> Iterator[str]:
        one = self.summary
        parts = one.processed + one.dropped + one.stale + one.without_region + one.unfinished
        if one.received != parts or self.wrong_counts:
            yield f"received {one.received}, accounted for {parts}; wrong after {self.wrong_counts} reads"
        if not one.processed or not self.is_complete:
            yield f"the sink without faults did not get each of the {one.processed} results in order"
        for sink in one.sinks:
            if sink.written + sink.dropped != one.processed:
                yield f"{Path(sink.name).name}: written {sink.written} + dropped {sink.dropped}, {one.processed} results"
            if sink.state != "open":
                yield f"{Path(sink.name).name} is {sink.state} at the end: {sink.error}"
        for fault in self.faults:
            if fault.recovery_s is None:
                yield f"{fault.kind} at {fault.at_s:.1f} s was not survived"
        if self.growth_mb >= MAX_GROWTH_MB:
            yield f"memory grew by {self.growth_mb:.1f} MB, less than {MAX_GROWTH_MB:g} was expected"
        for name, count in asdict(self.after).items():
            if count > getattr(self.before, name):
                yield f"{name}: {count} after the run, {getattr(self.before, name)} before"

    def survived(self) -> dict[str, list[float]]:
        """Kind of fault -> the times until the service had recovered."""
        found: dict[str, list[float]] = defaultdict(list)
        for fault in self.faults:
            if fault.recovery_s is not None:
                found[fault.kind].append(fault.recovery_s)
        return dict(sorted(found.items()))

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        keys = ("received", "processed", "dropped", "stale", "without_region", "unfinished", "not_finite", "sensors")
        more = ("elapsed_s", "results_per_s", "latency_ms", "stages_ms")
        sinks = [{**asdict(sink), "name": Path(sink.name).name} for sink in self.summary.sinks]
        return {
            "plan": asdict(self.plan),
            "frames": {key: getattr(self.summary, key) for key in (*keys, *more)},
            "sinks": sinks,
            "faults": [asdict(fault) for fault in self.faults],
            "memory_mb": {"first": self.first_mb, "last": self.last_mb, "growth": self.growth_mb},
            "shared_memory_mb": self.shared_mb,
            "before": asdict(self.before),
            "after": asdict(self.after),
            "problems": list(self.problems()),
        }


class _CheckedCapture(Capture):
    """Checks the counters after every read."""

    num_wrong = 0

    def read(self, timeout_ms: int) -> Frame | None:
        frame = super().read(timeout_ms)
        counters = self.counters
        self.num_wrong += counters.received != counters.delivered + counters.dropped + counters.stale
        return frame


@dataclass(kw_only=True)
class _Service:
    """The parts of the service under test, and how to break them."""

    camera: _CheckedCapture
    engine: FaultyEngine
    requests: Requests
    faulty: list[FaultySink]
    counting: CountingSink = field(default_factory=CountingSink)
    num_sink_faults: int = 0

    def begin_camera_fault(self, kind: str) -> Callable[[], bool]:
        """A fault of the camera or the engine. Returns whether the service works again."""
        losses = self._num_losses()
        is_loss = kind in LOSSES or kind == KILLED
        if kind == KILLED:
            self._kill()
        elif kind == NAN:
            self.engine.num_nan = NUM_NAN
        elif kind == ENGINE_FAILS:
            self.engine.num_errors = 1
        else:
            self.requests.request(cast("CameraFault", kind))
        results: list[int] = []

        def has_recovered() -> bool:
            if self.requests.is_pending or self.engine.is_faulty or (is_loss and self._num_losses() == losses):
                return False
            if self.camera.state.name != "running":
                results.clear()
                return False
            results.append(self.counting.num_finite)
            return results[-1] >= results[0] + RESULTS_AFTER

        return has_recovered

    def begin_sink_fault(self, kind: str) -> Callable[[], bool]:
        """A fault of one of the sinks, in turn."""
        sink = self.faulty[self.num_sink_faults % len(self.faulty)]
        self.num_sink_faults += 1
        sink.begin(cast("SinkFault", kind))
        results: list[int] = []

        def has_recovered() -> bool:
            if sink.is_faulty:
                return False
            results.append(sink.num_written)
            return results[-1] >= results[0] + RESULTS_AFTER

        return has_recovered

    def _num_losses(self) -> int:
        return int(self.camera.description["capture"]["losses"])

    def _kill(self) -> None:
        """Kill the capture process. The camera works when a fault begins, so it is the present one."""
        os.kill(int(self.camera.description["process"]), signal.SIGKILL)


def run_soak(bundle: Bundle, plan: SoakPlan, *, progress: Progress = no_progress) -> SoakRun:
    """Run the service with faults. `progress` is called with the seconds so far, about once a second."""
    leak = LeakingSink() if plan.leaks else None
    try:
        with (
            tempfile.TemporaryDirectory(prefix="edgefuse-soak-") as folder,
            open_engine(bundle, engine="auto") as engine,
        ):
            gc.collect()
            before = Resources.now()
            run = _run(engine, plan, Path(folder), [] if leak is None else [leak], progress)
            gc.collect()
            return replace(run, before=before, after=Resources.now())
    finally:
        if leak is not None:
            leak.release()


def _run(engine: Engine, plan: SoakPlan, folder: Path, more_sinks: Sequence[Sink], progress: Progress) -> SoakRun:
    requests = Requests(folder / "requests")
    source = Source(
        factory=f"{soak_camera.__name__}:SoakCamera",
        arguments={"requests": str(folder / "requests"), "seed": plan.seed},
        is_live=True,
    )
    service = _Service(
        camera=_CheckedCapture(source, align=engine.contract.align),
        engine=FaultyEngine(engine),
        requests=requests,
        faulty=_faulty_sinks(folder),
    )
    stop = threading.Event()
    try:
        with service.camera as camera, MemoryLog(every_s=min(0.5, plan.seconds / 200)) as memory:
            started_s = time.monotonic()
            with _faults(service, plan, stop, progress) as faults:
                summary = run_live(
                    engine=service.engine,
                    camera=camera,
                    sinks=[service.counting, *service.faulty, *more_sinks],
                    stop=stop,
                )
            ended_s = time.monotonic() - CALM_S
    finally:
        requests.close()
    first_s = started_s + plan.warmup_s
    nothing = Resources(files=0, segments=0, processes=0, threads=0)
    return SoakRun(
        plan=plan,
        summary=summary,
        faults=tuple(faults),
        first_mb=memory.between(first_s, first_s + plan.window_s),
        last_mb=memory.between(ended_s - plan.window_s, ended_s),
        shared_mb=max(sample.shared for sample in memory.samples) / 1e6,
        before=nothing,
        after=nothing,
        wrong_counts=service.camera.num_wrong,
        is_complete=service.counting.is_complete and service.counting.num_results == summary.processed,
    )


def _faulty_sinks(folder: Path) -> list[FaultySink]:
    """The sinks that fail: a log that is rotated often, a trace, and a recorder.

    The recorder gets few frames: the number of those that wait to be written would change the memory by more than a leak does.
    """
    return [
        FaultySink(JsonlSink(folder / "results.jsonl", max_mb=1, num_kept=2)),
        FaultySink(TraceSink(folder / "trace.json")),
        FaultySink(RecorderSink(folder / "recorded", max_mb=1_000_000), every=RECORDED_EVERY),
    ]


@contextmanager
def _faults(service: _Service, plan: SoakPlan, stop: threading.Event, progress: Progress) -> Iterator[list[Fault]]:
    """Break the service while the block runs it; set `stop` when the time is over and it has recovered."""
    kinds = [kind for kind in (*CAMERA_FAULTS, *OTHER_FAULTS) if not plan.leaks or kind not in (*LOSSES, KILLED)]
    threads = [
        FaultThread(kinds, service.begin_camera_fault, seed=plan.seed, pauses_s=plan.pauses_s),
        FaultThread(SINK_FAULTS, service.begin_sink_fault, seed=plan.seed + 1, pauses_s=plan.pauses_s),
    ]
    has_ended = threading.Event()

    def run() -> None:
        for thread in threads:
            thread.start()
        end_s = time.monotonic() + plan.seconds
        while (left_s := end_s - time.monotonic()) > 0 and not has_ended.wait(min(left_s, 1.0)):
            progress(round(plan.seconds - max(left_s, 0)), round(plan.seconds), stage="soak")
        for thread in threads:
            thread.end()
        has_ended.wait(CALM_S)
        stop.set()

    timer = threading.Thread(target=run, name="soak")
    timer.start()
    faults: list[Fault] = []
    try:
        yield faults
    finally:
        has_ended.set()
        timer.join()
        faults += sorted((fault for thread in threads for fault in thread.faults), key=lambda fault: fault.at_s)
