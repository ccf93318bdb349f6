"""The live loop: a frame, its region, the engine, a result to every sink; and a summary in the end.

Owns the order of things; the command line, the demo and the benchmarks call `run_live`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgefuse import framing
from edgefuse.errors import UserError
from edgefuse.fallback import Fallback
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.frames import Camera, Counters, Frame, frames
from edgefuse_runtime.health import SensorStates, Watch, shown
from edgefuse_runtime.regions import Known, Region, RegionSource
from edgefuse_runtime.results import Ending, LiveSummary, Result, StageTimes
from edgefuse_runtime.sinks import Outputs, Sink
from edgefuse_runtime.statistics import Clipping, Statistics

TOP_CLASSES = 5


def run_live(
    *,
    engine: Engine,
    camera: Camera,
    region: RegionSource | None = None,
    fallback: Fallback | None = None,
    sinks: Sequence[Sink] = (),
    num_frames: int | None = None,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> LiveSummary:
    """Decide about the frames of `camera` until its stream ends, `num_frames` were read, `stop` is set, or Ctrl-C.

    A sink that fails is given nothing more and the run goes on, as long as another one is left. May be called in any thread;
    Ctrl-C reaches the main thread alone, and a second one is ignored while the summary is written.

    Args:
        engine, camera, sinks: opened by the caller, who also closes them.
        region: where to look; None = what the camera knows, or the whole picture. A `ChosenRegion` is told of in the summary.
        fallback: what to report while a sensor is dead, from the bundle's manifest; None = no decision.
        num_frames: frames to read.
        stop: set it from another thread or a signal handler to end the run.
        say: takes a warning, each once, when it is first known.

    Returns:
        The summary; sinks have it too.

    Raises:
        UserError: the camera is aligned otherwise than the engine's contract says, or failed; the sinks have the summary.
    """
    _check_align(engine, camera)
    statistics = Statistics(engine, camera.counters, say, region=region)
    decide = _Decider(engine, region, fallback, camera.counters, statistics.clipping)
    outputs = Outputs(sinks, say)
    ended, failure = _decide_all(
        frames(camera, num_frames=num_frames, stop=stop), decide=decide, statistics=statistics, outputs=outputs
    )
    with _undisturbed():
        if ended == "end of stream":
            ended = _ending(stop=stop, reached=statistics.num_seen == num_frames)
        summary = statistics.summary(camera, ended=ended, failure=failure, failed_sinks=outputs.failed)
        outputs.give_summary(summary)
    if failure is not None:
        raise failure
    return replace(summary, failed_sinks=tuple(outputs.failed))


def _check_align(engine: Engine, camera: Camera) -> None:
    if camera.align != engine.contract.align:
        raise UserError(
            f"the camera's pairs are aligned to {camera.align}, the bundle's contract says {engine.contract.align}: "
            f"open the camera with align={engine.contract.align!r}"
        )


def _decide_all(
    stream: Iterable[Frame], *, decide: _Decider, statistics: Statistics, outputs: Outputs
) -> tuple[Ending, Exception | None]:
    """Decide about each frame; why it ended, and the error where that was one: it has to wait for the summary."""
    last_ns = time.perf_counter_ns()
    try:
        for frame in stream:
            result = decide(frame, index=statistics.processed, since_ns=last_ns)
            if result is None:
                statistics.without_region += 1
            else:
                statistics.add(result)
                outputs.give_result(result)
            if outputs.are_all_gone:
                return "no output left", None
            last_ns = time.perf_counter_ns()
    except KeyboardInterrupt as interrupt:
        return _SIGNALS.get(str(interrupt), "interrupted"), None
    except Exception as error:
        return "failed", error
    return "end of stream", None


_SIGNALS: dict[str, Ending] = {"SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP"}
"""What the command line's signal handler puts into its KeyboardInterrupt."""


def _ending(*, stop: threading.Event | None, reached: bool) -> Ending:
    if stop is not None and stop.is_set():
        return "stopped"
    return "frames" if reached else "end of stream"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore the signals that end a run while it is being ended; other threads have none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handlers = {number: handler for number, handler in before.items() if handler is not None}
    for number in handlers:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Decider:
    """From a frame to its result: where to look, whether the sensors live, what the model says, what of it is reported."""

    def __init__(
        self,
        engine: Engine,
        find: RegionSource | None,
        fallback: Fallback | None,
        counters: Counters,
        clipping: Clipping,
    ) -> None:
        self._engine, self._counters, self._clipping = engine, counters, clipping
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
        if sensors.depth == "ok":
            self._clipping.look(framed.depth)
        # The engine runs in any case, so that the death of a sensor does not change the figures of latency.
        is_finite, expected = decision.is_finite, _expected(region, frame)
        top = self._top(decision.probabilities[0], sensors) if is_finite else ()
        return Result(
            index=index,
            frame=frame.color_number,
            name=frame.name,
            label=top[0][0] if top else None,
            probability=top[0][1] if top else None,
            top=top,
            gate_mean=round(float(decision.gate.mean()), 6) if is_finite else None,
            expected=expected,
            is_known=expected is None or expected in engine.labels,
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
            is_finite=is_finite,
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
