"""The live loop: for each frame the region, the engine, and a result to every sink; then a summary."""

from __future__ import annotations

import atexit
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgefuse import framing
from edgefuse.bundle import Bundle, open_bundle
from edgefuse.contract import codes_from_bytes
from edgefuse.degraded_mode import DegradedMode
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Camera, Counters, Frame, frames
from edgefuse_runtime.capture import open_capture
from edgefuse_runtime.capture.capture import Mode, early_start, patience_s
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.frame_times import FrameTimes
from edgefuse_runtime.live.statistics import Clipping, Statistics
from edgefuse_runtime.live.systemd import Systemd
from edgefuse_runtime.predict import FramedRegion, Prediction, predict
from edgefuse_runtime.regions.default_region import ChosenRegion, choose_region
from edgefuse_runtime.regions.region import DefaultRegion, Region, RegionSource, parse_region
from edgefuse_runtime.results import Ending, LiveSummary, Result
from edgefuse_runtime.sensor_health import SensorHealthMonitor
from edgefuse_runtime.sinks.bus import SinkBus
from edgefuse_runtime.sinks.sink import Sink

TOP_CLASSES = 5
WAIT_FOR_SINKS_S = 5.0
"""A source that waits for the loop also waits for the sinks that want every result, but no longer than this."""


def run_live(  # long: a public function, with documentation for each parameter
    *,
    engine: Engine,
    camera: Camera,
    region: RegionSource | None = None,
    degraded_mode: DegradedMode | None = None,
    sinks: Sequence[Sink] = (),
    num_frames: int | None = None,
    stop: threading.Event | None = None,
    service: Systemd | None = None,
) -> LiveSummary:
    """Classify the frames of `camera` until its stream ends, `num_frames` were read, `stop` is set, or Ctrl-C.

    A sink that is slow or fails neither delays nor ends the run (`edgefuse_runtime.sinks.bus`); the run ends when the readers of
    all sinks have closed them. May be called in any thread. Only the main thread receives Ctrl-C; further ones are ignored while
    the summary is written. Each warning is logged once, when its condition is first met.

    Args:
        engine, camera: opened and closed by the caller.
        sinks: opened and closed here; each is called in a thread of its own.
        region: the region source; None = the camera's own region if it has one, otherwise the whole image. The summary reports a
            `ChosenRegion`.
        degraded_mode: whether to predict or abstain if a sensor is missing, from the bundle's manifest; None = abstain.
        num_frames: frames to read.
        stop: set it in another thread or a signal handler to end the run.
        service: notifies systemd.

    Returns:
        The summary, which the sinks also receive.

    Raises:
        UserError: a sink cannot be opened, the camera failed (the sinks have received the summary), or its alignment
            differs from the engine's contract.
    """
    _check_align(engine, camera)
    service = service if service is not None else Systemd(camera, environment={})
    with SinkBus(sinks, wait_s=WAIT_FOR_SINKS_S if _waits(camera) else 0.0) as bus:
        statistics = Statistics(engine, camera.counters, region=region)
        decide = _Decider(engine, region, degraded_mode, camera.counters, statistics.clipping)
        stream = frames(
            camera, num_frames=num_frames, stop=stop, patience_s=patience_s(camera), on_timeout=service.waiting
        )
        facts = _facts(engine, camera, region)
        ended, failure = _decide_all(
            stream, decide=decide, statistics=statistics, bus=bus, facts=facts, service=service
        )
        with _signals_ignored():
            service.stopping()
            if ended == "end of stream":
                ended = _ending(stop=stop, reached=statistics.num_seen == num_frames)
            summary = statistics.summary(camera, ended=ended, failure=failure)
            bus.drain(hurry=summary.was_interrupted)
            summary = replace(summary, sinks=bus.counts())
            bus.finish(summary)
    if failure is not None:
        raise failure
    return replace(summary, sinks=bus.counts())


def _waits(camera: Camera) -> bool:
    """Whether the camera's frames wait for the loop, as those of a folder do."""
    description = camera.description
    return description.get("kind") in ("folder", "synthetic", "recording") and not description.get("real_time")


def _facts(engine: Engine, camera: Camera, region: RegionSource | None) -> dict[str, object]:
    described = region.to_json() if isinstance(region, ChosenRegion) else None
    return {"engine": engine.description, "camera": camera.description, "region": described}


@contextmanager
def open_live(
    bundle: Bundle,
    *,
    camera: str,
    region: RegionSource | None,
    engine: str = "auto",
    file: str | None = None,
    num_threads: int | None = None,
    real_time: bool = True,
    capture: Mode = "process",
) -> Iterator[tuple[Engine, Camera, ChosenRegion]]:
    """Open a bundle's engine and a camera, and choose the region; notes and warnings about it are logged.

    Args:
        region: the user's; None = as the training data was cropped.
        camera, engine, file, num_threads, real_time, capture: see `live`.
    """
    manifest = bundle.manifest
    source = open_capture(camera, align=manifest.contract.align, real_time=real_time, mode=capture)
    with (
        early_start(source),
        open_engine(bundle, file=file, engine=engine, num_threads=num_threads) as runner,
        source,
    ):
        chosen = choose_region(region, trained_on=manifest.region, camera=source)
        chosen.log_notes()
        yield runner, source, chosen


def live(  # long: a public function, with documentation for each parameter
    bundle: str | Path,
    *,
    camera: str = "realsense",
    roi: str | None = None,
    engine: str = "auto",
    file: str | None = None,
    num_threads: int | None = None,
    num_frames: int | None = None,
    real_time: bool = True,
    capture: Mode = "process",
) -> Iterator[Result]:
    """Yield a result for each frame of a camera. If the caller is too slow, older frames are dropped.

    A camera, or a recording in real time, keeps only the newest frame for the caller; dropped frames are counted in `dropped` of
    the next result. A folder and the synthetic camera wait for the caller and drop nothing.

    Camera and engine are opened when the first result is requested. They are closed when the stream ends, when the generator is
    closed or garbage-collected (such as after `break` in a `for` loop), on errors, and at program exit. Use it in one thread.

    Args:
        bundle: the folder made by `edgefuse export`.
        camera: "realsense", "realsense:SERIAL", a recording (.db3, .bag), a data set folder, or "synthetic".
        roi: as `edgefuse live --roi`: "x,y,w,h", "center", "nearest", "whole" or a regions file; None = the region of the training
            data. Frames in which no region is found yield no result.
        engine, file, num_threads: see `edgefuse.Classifier`.
        num_frames: frames to read; None = until the stream ends.
        real_time: play a recording at its recorded rate, and drop the frames that the caller misses; False = every frame.
        capture: "process": read a RealSense camera or recording in a process of its own, which can be ended if a call of librealsense
            hangs; "thread": in a thread, which uses less memory.

    Raises:
        EdgefuseError: the bundle or camera is missing, the recording is damaged, or the engine failed.

    Example:
        >>> import edgefuse
        >>> for result in edgefuse.live("bundles/mugs", camera="synthetic", num_frames=2):
        ...     print(result.frame, result.label)
        1 red_mug
        2 red_mug
    """
    opened = open_bundle(Path(bundle))
    given = None if roi is None else parse_region(roi)
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            # Otherwise a suspended generator would be closed during interpreter shutdown, where librealsense terminates the
            # process ("terminate called without an active exception").
            atexit.register(stack.close)
            stack.callback(atexit.unregister, stack.close)
        runner, source, region = stack.enter_context(
            open_live(
                opened,
                camera=camera,
                region=given,
                engine=engine,
                file=file,
                num_threads=num_threads,
                real_time=real_time,
                capture=capture,
            )
        )
        decide = _Decider(
            runner, region, opened.manifest.degraded_mode, source.counters, Clipping(opened.manifest.contract)
        )
        index, since_ns = 0, time.perf_counter_ns()
        for frame in frames(source, num_frames=num_frames, patience_s=patience_s(source)):
            result = decide(frame, index=index, since_ns=since_ns)
            if result is not None:
                index += 1
                yield result
            since_ns = time.perf_counter_ns()


def _check_align(engine: Engine, camera: Camera) -> None:
    if camera.align != engine.contract.align:
        raise UserError(
            f"the camera's pairs are aligned to {camera.align}, but the bundle's contract requires {engine.contract.align}: "
            f"open the camera with align={engine.contract.align!r}"
        )


def _decide_all(
    stream: Iterable[Frame],
    *,
    decide: _Decider,
    statistics: Statistics,
    bus: SinkBus,
    facts: dict[str, object],
    service: Systemd,
) -> tuple[Ending, Exception | None]:
    """Classify each frame. Returns why the run ended, and the error if there was one, to raise after the summary."""
    last_ns = time.perf_counter_ns()
    try:
        bus.event("started", "the run started", **facts)
        for frame in stream:
            result = decide(frame, index=statistics.processed, since_ns=last_ns)
            if result is None:
                statistics.without_region += 1
            else:
                statistics.add(result)
                bus.publish(result, frame)
            service.processed()
            if bus.all_closed:
                return "no output left", None
            last_ns = time.perf_counter_ns()
    except KeyboardInterrupt as interrupt:
        return _SIGNALS.get(str(interrupt), "interrupted"), None
    except Exception as error:
        return "failed", error
    return "end of stream", None


_SIGNALS: dict[str, Ending] = {"SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP"}
"""Messages of the KeyboardInterrupt that the command line's signal handler raises."""


def _ending(*, stop: threading.Event | None, reached: bool) -> Ending:
    if stop is not None and stop.is_set():
        return "stopped"
    return "frames" if reached else "end of stream"


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Ignore SIGINT, SIGTERM and SIGHUP while the summary is written. Only the main thread receives signals."""
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
    """From a frame to its result: region, sensor states, prediction, degraded mode."""

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
        """The result, or None if no region was found."""
        engine = self._engine
        dequeued_ns = time.perf_counter_ns()
        region = self._find(frame)
        if region is None:
            return None
        framed = framing.fit(
            frame.rgb, frame.depth, size=engine.contract.size, roi=region.roi, depth_unit_m=frame.depth_unit_m
        )
        sensors = self._monitor(frame, framed, roi=region.roi)
        framed_region = FramedRegion.of(framed, sensors, roi=region.roi, started_ns=dequeued_ns)
        (found,) = predict(engine, self._degraded_mode, [framed_region])
        if sensors.depth == "ok":
            self._clipping.add(framed.depth)
        expected = _expected(region, frame)
        valid_depth = np.count_nonzero(codes_from_bytes(framed.depth)) / framed.depth[..., 0].size
        most_likely = found.top(TOP_CLASSES) if found.label is not None else ()
        return Result(
            index=index,
            frame=frame.color_number,
            name=frame.name,
            label=found.label,
            probability=None if found.probability is None else round(found.probability, 6),
            top=tuple((label, round(probability, 6)) for label, probability in most_likely),
            gate_mean=None if found.gate is None else round(found.gate, 6),
            nearest_m=None if found.nearest_m is None else round(found.nearest_m, 4),
            expected=expected,
            is_known=expected is None or expected in engine.labels,
            roi=region.roi,
            times=_times(frame, found, waiting_ns=since_ns, dequeued_ns=dequeued_ns),
            dropped=self._counters.dropped,
            stale=self._counters.stale,
            skew_ms=None if frame.skew_ms is None else round(frame.skew_ms, 3),
            sensors=sensors,
            is_finite=found.scores is not None,
            valid_depth=round(valid_depth, 4),
        )


def _expected(region: Region, frame: Frame) -> str | None:
    return region.label if region.label is not None else frame.label


def _times(frame: Frame, found: Prediction, *, waiting_ns: int, dequeued_ns: int) -> FrameTimes:
    """The times of a frame whose result is published now."""
    return FrameTimes(
        waiting_ns=waiting_ns,
        arrival_ns=frame.arrival_ns,
        ready_ns=frame.ready_ns,
        dequeued_ns=dequeued_ns,
        framed_ns=dequeued_ns + round(found.frame_ms * 1e6),
        engine_start_ns=found.done_ns - round(found.infer_ms * 1e6),
        engine_end_ns=found.done_ns,
        published_ns=time.perf_counter_ns(),
        published_unix_ms=round(time.time() * 1e3, 3),
        sensor_ms=frame.timestamp_ms,
        sensor_clock=frame.timestamp_domain,
    )
