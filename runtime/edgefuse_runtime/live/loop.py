"""The live loop: a frame, its region, the engine, a result to every sink; and a summary in the end.

Owns the order of things; the command line, the demo and the benchmarks call `run_live`.
"""

from __future__ import annotations

import atexit
import logging
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from edgefuse import framing
from edgefuse.bundle import open_bundle
from edgefuse.degraded_mode import DegradedMode
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Camera, Counters, Frame, frames
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.live.statistics import Clipping, Statistics
from edgefuse_runtime.predict import FramedRegion, predict
from edgefuse_runtime.regions.default_region import choose_region
from edgefuse_runtime.regions.region import DefaultRegion, Region, RegionSource, parse_region
from edgefuse_runtime.results import Ending, LiveSummary, Result, StageTimes
from edgefuse_runtime.sensor_health import SensorHealthMonitor
from edgefuse_runtime.sinks.sink import Outputs, Sink

TOP_CLASSES = 5

_log = logging.getLogger(__name__)


def run_live(
    *,
    engine: Engine,
    camera: Camera,
    region: RegionSource | None = None,
    degraded_mode: DegradedMode | None = None,
    sinks: Sequence[Sink] = (),
    num_frames: int | None = None,
    stop: threading.Event | None = None,
) -> LiveSummary:
    """Decide about the frames of `camera` until its stream ends, `num_frames` were read, `stop` is set, or Ctrl-C.

    A sink that fails is given nothing more and the run goes on, as long as another one is left. May be called in any thread;
    Ctrl-C reaches the main thread alone, and a second one is ignored while the summary is written.

    Warnings are logged, each once, when they are first known.

    Args:
        engine, camera, sinks: opened by the caller, who also closes them.
        region: where to look; None = what the camera knows, or the whole picture. A `ChosenRegion` is told of in the summary.
        fallback: what to report while a sensor is dead, from the bundle's manifest; None = no decision.
        num_frames: frames to read.
        stop: set it from another thread or a signal handler to end the run.

    Returns:
        The summary; sinks have it too.

    Raises:
        UserError: the camera is aligned otherwise than the engine's contract says, or failed; the sinks have the summary.
    """
    _check_align(engine, camera)
    statistics = Statistics(engine, camera.counters, region=region)
    decide = _Decider(engine, region, degraded_mode, camera.counters, statistics.clipping)
    outputs = Outputs(sinks)
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


def live(  # long: what may be asked for, and its words
    bundle: str | Path,
    *,
    camera: str = "realsense",
    roi: str | None = None,
    engine: str = "auto",
    file: str | None = None,
    num_threads: int | None = None,
    num_frames: int | None = None,
    real_time: bool = True,
) -> Iterator[Result]:
    """Yield a result for every frame that a camera gives while the caller keeps up; the newest frame wins otherwise.

    A camera and a recording in real time keep one frame for the caller, the newest; what it missed is counted in the next result's
    `dropped`. A folder and the synthetic camera wait for the caller and drop nothing.

    Nothing is opened before the first result is asked for. Camera and engine are closed when the stream ends, when the generator
    is closed or forgotten (a `for` loop that is left forgets it), on errors, and when the program ends. Use it in one thread.

    Args:
        bundle: the folder that `edgefuse export` made.
        camera: "realsense", "realsense:SERIAL", a recording (.db3, .bag), a data set folder, or "synthetic".
        roi: as `edgefuse live --roi`: "x,y,w,h", "center", "nearest", "whole" or a regions file; None = as the training data
            was cropped. Frames in which nothing is found give no result.
        engine, file, num_threads: see `edgefuse.Classifier`.
        num_frames: frames to read; None = until the stream ends.
        real_time: play a recording at its own pace, and drop what the caller misses; False = every frame.

    Raises:
        EdgefuseError: no bundle, no camera, a damaged recording, or an engine that failed.

    Example:
        >>> import edgefuse
        >>> for result in edgefuse.live("bundles/mugs", camera="synthetic", num_frames=2):
        ...     print(result.frame, result.label)
        1 red_mug
        2 blue_mug
    """
    from edgefuse_runtime.cameras import open_camera

    opened = open_bundle(Path(bundle))
    given = None if roi is None else parse_region(roi)
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            # A generator that still waits when the program ends would be closed while the interpreter is taken down, which
            # ends the process in librealsense ("terminate called without an active exception").
            atexit.register(stack.close)
            stack.callback(atexit.unregister, stack.close)
        runner = stack.enter_context(open_engine(opened, file=file, engine=engine, num_threads=num_threads))
        source = stack.enter_context(open_camera(camera, align=opened.manifest.contract.align, real_time=real_time))
        region = choose_region(given, trained_on=opened.manifest.region, camera=source)
        for note in region.notes:
            _log.warning("%s", note)
        decide = _Decider(
            runner, region, opened.manifest.degraded_mode, source.counters, Clipping(opened.manifest.contract)
        )
        index, since_ns = 0, time.perf_counter_ns()
        for frame in frames(source, num_frames=num_frames):
            result = decide(frame, index=index, since_ns=since_ns)
            if result is not None:
                index += 1
                yield result
            since_ns = time.perf_counter_ns()


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
        degraded_mode: DegradedMode | None,
        counters: Counters,
        clipping: Clipping,
    ) -> None:
        self._engine, self._counters, self._clipping = engine, counters, clipping
        self._find = find if find is not None else DefaultRegion()
        self._degraded_mode = degraded_mode if degraded_mode is not None else DegradedMode()
        self._monitor = SensorHealthMonitor()

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
        sensors = self._monitor(frame, framed, roi=region.roi)
        shown = FramedRegion.of(framed, sensors, roi=region.roi, started_ns=region_started_ns)
        (found,) = predict(engine, self._degraded_mode, [shown])
        if sensors.depth == "ok":
            self._clipping.look(framed.depth)
        expected = _expected(region, frame)
        most_likely = found.top(TOP_CLASSES) if found.label is not None else ()
        return Result(
            index=index,
            frame=frame.color_number,
            name=frame.name,
            label=found.label,
            probability=None if found.probability is None else round(found.probability, 6),
            top=tuple((label, round(probability, 6)) for label, probability in most_likely),
            gate_mean=None if found.gate is None else round(found.gate, 6),
            expected=expected,
            is_known=expected is None or expected in engine.labels,
            roi=region.roi,
            stages=StageTimes(
                wait_ms=_ms(max(frame.arrival_ns - since_ns, 0)),
                read_ms=_ms(frame.ready_ns - frame.arrival_ns),
                frame_ms=round(found.frame_ms, 4),
                infer_ms=round(found.infer_ms, 4),
            ),
            latency_ms=_ms(found.done_ns - frame.arrival_ns),
            age_ms=round(time.time() * 1e3 - frame.timestamp_ms, 3) if frame.timestamp_domain == "global" else None,
            dropped=self._counters.dropped,
            stale=self._counters.stale,
            sensors=sensors,
            is_finite=found.scores is not None,
        )


def _expected(region: Region, frame: Frame) -> str | None:
    return region.label if region.label is not None else frame.label


def _ms(duration_ns: int) -> float:
    return round(duration_ns / 1e6, 4)
