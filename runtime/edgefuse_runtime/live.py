"""The live loop: a frame, its region, the engine, a result to every sink; and a summary in the end.

Owns the order of things and the measuring of each; the command line, the demo and the benchmarks call `run_live`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from edgefuse import framing
from edgefuse.errors import UserError
from edgefuse.fallback import Fallback
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.frames import Camera, Counters, Frame, frames
from edgefuse_runtime.health import SensorStates, Watch, shown
from edgefuse_runtime.region_choice import ChosenRegion
from edgefuse_runtime.regions import Known, Region, RegionSource
from edgefuse_runtime.results import Accuracy, Ending, LiveSummary, Result, StageTimes
from edgefuse_runtime.sinks import Sink

TOP_CLASSES = 5
MAX_SAMPLES = 100_000
"""Timings kept for the percentiles, newest first: about an hour at 30 frames a second, however long the run."""


def run_live(
    *,
    engine: Engine,
    camera: Camera,
    region: RegionSource | None = None,
    fallback: Fallback | None = None,
    sinks: Sequence[Sink] = (),
    num_frames: int | None = None,
    stop: threading.Event | None = None,
) -> LiveSummary:
    """Decide about the frames of `camera` until its stream ends, `num_frames` were read, `stop` is set, or Ctrl-C.

    Args:
        engine, camera, sinks: opened by the caller, who also closes them.
        region: where to look; None = what the camera knows, or the whole picture. A `ChosenRegion` is told of in the summary.
        fallback: what to report while a sensor is dead, from the bundle's manifest; None = no decision.
        num_frames: frames to read.
        stop: set it from another thread or a signal handler to end the run.

    Returns:
        The summary; sinks have it too.

    Raises:
        UserError: the camera is aligned otherwise than the engine's contract says, or failed.
    """
    if camera.align != engine.contract.align:
        raise UserError(
            f"the camera's pairs are aligned to {camera.align}, the bundle's contract says {engine.contract.align}: "
            f"open the camera with align={engine.contract.align!r}"
        )
    statistics, decide = _Statistics(engine, camera, region), _Decider(engine, region, fallback, camera.counters)
    started_ns = last_ns = time.perf_counter_ns()
    interrupted = False
    try:
        for frame in frames(camera, num_frames=num_frames, stop=stop):
            result = decide(frame, index=statistics.processed, since_ns=last_ns)
            if result is None:
                statistics.without_region += 1
            else:
                statistics.add(result)
                for sink in sinks:
                    sink.result(result)
            last_ns = time.perf_counter_ns()
    except KeyboardInterrupt:
        interrupted = True
    ended = _ending(interrupted=interrupted, stop=stop, reached=statistics.num_seen == num_frames)
    summary = statistics.summary(camera, elapsed_s=(time.perf_counter_ns() - started_ns) / 1e9, ended=ended)
    for sink in sinks:
        sink.summary(summary)
    return summary


def _ending(*, interrupted: bool, stop: threading.Event | None, reached: bool) -> Ending:
    if interrupted:
        return "interrupted"
    if stop is not None and stop.is_set():
        return "stopped"
    return "frames" if reached else "end of stream"


class _Decider:
    """From a frame to its result: where to look, whether the sensors live, what the model says, what of it is reported."""

    def __init__(
        self, engine: Engine, find: RegionSource | None, fallback: Fallback | None, counters: Counters
    ) -> None:
        self._engine, self._counters = engine, counters
        self._find = find if find is not None else Known()
        self._fallback = fallback if fallback is not None else Fallback()
        self._watch = Watch()

    def __call__(self, frame: Frame, *, index: int, since_ns: int) -> Result | None:
        """The result, or None where there is nothing to look at."""
        engine = self._engine
        region_started_ns = time.perf_counter_ns()
        region = self._find(frame)
        if region is None:
            return None
        framed = framing.fit(
            frame.rgb, frame.depth, size=engine.contract.size, roi=region.roi, depth_unit_m=frame.depth_unit_m
        )
        sensors = self._watch(frame, framed, roi=region.roi)
        framed = shown(framed, sensors)
        framed_ns = time.perf_counter_ns()
        decision = engine.run(framed.rgb[np.newaxis], framed.depth[np.newaxis])
        done_ns = time.perf_counter_ns()
        # The engine runs in any case, so that the death of a sensor does not change the figures of latency.
        top = self._top(decision.probabilities[0], sensors)
        return Result(
            index=index,
            frame=frame.color_number,
            name=frame.name,
            label=top[0][0] if top else None,
            probability=top[0][1] if top else None,
            top=top,
            gate_mean=round(float(decision.gate.mean()), 6),
            expected=_expected(region, frame),
            roi=region.roi,
            stages=StageTimes(
                wait_ms=_ms(max(frame.arrival_ns - since_ns, 0)),
                read_ms=_ms(frame.ready_ns - frame.arrival_ns),
                frame_ms=_ms(framed_ns - region_started_ns),
                infer_ms=_ms(done_ns - framed_ns),
            ),
            latency_ms=_ms(done_ns - frame.arrival_ns),
            age_ms=round(time.time() * 1e3 - frame.timestamp_ms, 3) if frame.timestamp_domain == "global" else None,
            dropped=self._counters.dropped,
            stale=self._counters.stale,
            sensors=sensors,
        )

    def _top(self, probabilities: NDArray[np.float32], sensors: SensorStates) -> tuple[tuple[str, float], ...]:
        """The most likely classes, best first; none where the fallback says "no decision"."""
        if not self._fallback.is_label(rgb_is_alive=sensors.rgb == "ok", depth_is_alive=sensors.depth == "ok"):
            return ()
        order = np.argsort(-probabilities, kind="stable")[:TOP_CLASSES]
        return tuple((self._engine.labels[i], round(float(probabilities[i]), 6)) for i in order)


def _expected(region: Region, frame: Frame) -> str | None:
    return region.label if region.label is not None else frame.label


def _ms(duration_ns: int) -> float:
    return round(duration_ns / 1e6, 4)


class _Statistics:
    """What the summary needs from each result, in bounded memory."""

    def __init__(self, engine: Engine, camera: Camera, region: RegionSource | None) -> None:
        self.region = region.to_json() if isinstance(region, ChosenRegion) else None
        self.processed = 0
        self.without_region = 0
        self._engine = engine
        self._before = replace(camera.counters)
        self._gate_sum = 0.0
        self._samples: dict[str, deque[float]] = {}
        self._scored: Counter[str] = Counter()
        self._correct: Counter[str] = Counter()
        self._unscored = self._abstained = self._without_decision = 0
        self._sensors: Counter[str] = Counter()

    @property
    def num_seen(self) -> int:
        return self.processed + self.without_region

    def add(self, result: Result) -> None:
        self.processed += 1
        self._gate_sum += result.gate_mean
        timings = {"latency_ms": result.latency_ms, "age_ms": result.age_ms, **asdict(result.stages)}
        for name, value in timings.items():
            if value is not None:
                self._samples.setdefault(name, deque(maxlen=MAX_SAMPLES)).append(value)
        self._sensors.update(f"{name}_{state}" for name, state in result.sensors._asdict().items() if state != "ok")
        self._without_decision += result.label is None
        if result.expected in self._engine.labels and result.label is None:
            self._abstained += 1
        elif result.expected in self._engine.labels:
            self._scored[result.expected] += 1
            self._correct[result.expected] += result.label == result.expected
        elif result.expected is not None:
            self._unscored += 1

    def summary(self, camera: Camera, *, elapsed_s: float, ended: Ending) -> LiveSummary:
        counters, before = camera.counters, self._before
        return LiveSummary(
            received=counters.received - before.received,
            processed=self.processed,
            without_region=self.without_region,
            without_decision=self._without_decision,
            sensors=dict(sorted(self._sensors.items())),
            unfinished=counters.delivered - before.delivered - self.num_seen,
            dropped=counters.dropped - before.dropped,
            stale=counters.stale - before.stale,
            timeouts=counters.timeouts - before.timeouts,
            elapsed_s=round(elapsed_s, 3),
            results_per_s=round(self.processed / elapsed_s, 2) if elapsed_s > 0 else 0.0,
            latency_ms=_percentiles(self._samples.get("latency_ms", ())),
            stages_ms=self._stages(),
            age_ms=_percentiles(self._samples.get("age_ms", ())),
            gate_mean=round(self._gate_sum / self.processed, 6) if self.processed else None,
            accuracy=self._accuracy(),
            ended=ended,
            engine=self._engine.description,
            camera=camera.description,
            region=self.region,
        )

    def _stages(self) -> dict[str, dict[str, float]]:
        stages = {}
        for name in ("wait_ms", "read_ms", "frame_ms", "infer_ms"):
            percentiles = _percentiles(self._samples.get(name, ()))
            if percentiles is not None:
                stages[name] = {"p50": percentiles["p50"], "p99": percentiles["p99"]}
        return stages

    def _accuracy(self) -> Accuracy | None:
        scored = self._scored.total()
        if not scored and not self._unscored and not self._abstained:
            return None
        return Accuracy(
            scored=scored,
            correct=self._correct.total(),
            unscored=self._unscored,
            abstained=self._abstained,
            by_label={label: (self._correct[label], self._scored[label]) for label in sorted(self._scored)},
        )


def _percentiles(values: Iterable[float]) -> dict[str, float] | None:
    samples = np.fromiter(values, np.float64)
    if not len(samples):
        return None
    p50, p95, p99 = np.percentile(samples, [50, 95, 99])
    return {name: round(float(x), 4) for name, x in (("p50", p50), ("p95", p95), ("p99", p99), ("max", samples.max()))}
