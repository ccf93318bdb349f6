"""The live loop: for each frame the region, the engine, and a result to every sink; then a summary."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

from edgefuse.bundle import open_bundle
from edgefuse.console import interrupts
from edgefuse.degraded_mode import DegradedMode
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Camera, Frame, frames
from edgefuse_runtime.capture.capture import Mode, patience_s
from edgefuse_runtime.decisions.events import event_detail
from edgefuse_runtime.decisions.over_time import DecisionConfig, parse_agreement
from edgefuse_runtime.engines.cpu import usable_cores
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.live.decider import Decider, EngineFailedError, PreparedFrame
from edgefuse_runtime.live.endings import ending_after, signals_ignored
from edgefuse_runtime.live.opening import open_live, opened_bus, waits_for_reader
from edgefuse_runtime.live.overlap import run_overlapped
from edgefuse_runtime.live.statistics import Clipping, Statistics
from edgefuse_runtime.live.systemd import Systemd
from edgefuse_runtime.predict import EngineRun
from edgefuse_runtime.regions.default_region import ChosenRegion
from edgefuse_runtime.regions.region import RegionSource, parse_regions
from edgefuse_runtime.results import Ending, LiveSummary, Result
from edgefuse_runtime.sinks.bus import SinkBus
from edgefuse_runtime.sinks.sink import Sink

MAX_ENGINE_ERRORS = 3
"""A frame that the engine fails to classify is left out; after this many in a row, the run ends."""

_log = logging.getLogger(__name__)


def run_live(  # long: a public function, with documentation for each parameter
    *,
    engine: Engine,
    camera: Camera,
    region: RegionSource | None = None,
    degraded_mode: DegradedMode | None = None,
    sinks: Sequence[Sink] | SinkBus = (),
    num_frames: int | None = None,
    stop: threading.Event | None = None,
    service: Systemd | None = None,
    decisions: DecisionConfig | None = None,
) -> LiveSummary:
    """Classify the frames of `camera` until its stream ends, `num_frames` were read, `stop` is set, or Ctrl-C.

    A sink that is slow or fails neither delays nor ends the run (`edgefuse_runtime.sinks.bus`); the run ends when the readers of
    all sinks have closed them. May be called in any thread. Only the main thread receives Ctrl-C; further ones are ignored while
    the summary is written. Each warning is logged once, when its condition is first met.

    Args:
        engine, camera: opened and closed by the caller.
        sinks: opened and closed here, or open; each is called in a thread of its own.
        region: the region source; None = the camera's own region if it has one, otherwise the whole image. The summary reports a
            `ChosenRegion`.
        degraded_mode: whether to predict or abstain if a sensor is missing, from the bundle's manifest; None = abstain.
        num_frames: frames to read.
        stop: set it in another thread or a signal handler to end the run.
        service: notifies systemd.
        decisions: minimum confidence, average and agreement of frames; None = the default.

    Returns:
        The summary, which the sinks also receive.

    Raises:
        UserError: a sink cannot be opened, the camera or the engine failed (the sinks have received the summary), or the camera's
            alignment differs from the engine's contract.
    """
    _check_align(engine, camera)
    service = service if service is not None else Systemd(camera, environment={})
    with opened_bus(sinks, camera) as bus:
        statistics = Statistics(engine.contract, camera.counters, region=region)
        decider = Decider(engine, region, degraded_mode, camera.counters, statistics.clipping, decisions=decisions)
        stream = frames(
            camera, num_frames=num_frames, stop=stop, patience_s=patience_s(camera), on_timeout=service.waiting
        )
        bus.event("started", "the run started", **_facts(engine, camera, region))
        steps = _Steps(decider, statistics, bus, service)
        # A camera drops what arrives during an engine run: only its newest frame is worth framing.
        is_overlapped = waits_for_reader(camera) and usable_cores() > 1
        ended, failure = _classify_all(map(decider.prepare, stream), steps, is_overlapped=is_overlapped)
        with signals_ignored():
            service.stopping()
            if ended == "end of stream":
                ended = _ending(stop=stop, reached=statistics.num_seen == num_frames)
            summary = statistics.summary(camera, engine=engine, ended=ended, failure=failure)
            bus.drain(hurry=summary.was_interrupted)
            summary = replace(summary, sinks=bus.counts())
            bus.finish(summary)
    if failure is not None:
        raise failure
    return replace(summary, sinks=bus.counts())


def _facts(engine: Engine, camera: Camera, region: RegionSource | None) -> dict[str, object]:
    described = region.to_json() if isinstance(region, ChosenRegion) else None
    contract = engine.contract
    model = {"labels": list(engine.labels), "near_m": contract.near_m, "far_m": contract.far_m}
    return {"engine": engine.description, "model": model, "camera": camera.description, "region": described}


def live(  # long: a public function, with documentation for each parameter
    bundle: str | Path,
    *,
    camera: str = "realsense",
    roi: str | Sequence[str] | None = None,
    engine: str = "auto",
    file: str | None = None,
    num_threads: int | None = None,
    adaptive: float | None = None,
    num_frames: int | None = None,
    real_time: bool = True,
    capture: Mode = "process",
    min_confidence: float = 0.0,
    smooth: float = 1.0,
    agree: str | tuple[int, int] = (3, 5),
) -> Iterator[Result]:
    """Yield a result for each frame of a camera, with several regions one for each. If the caller is too slow, older frames are dropped.

    A camera, or a recording in real time, keeps only the newest frame for the caller; dropped frames are counted in `dropped` of
    the next result. A folder and the synthetic camera wait for the caller and drop nothing.

    Camera and engine are opened when the first result is requested. They are closed when the stream ends, when the generator is
    closed or garbage-collected (such as after `break` in a `for` loop), on errors, and at program exit. Use it in one thread.

    Args:
        bundle: the folder made by `edgefuse export`.
        camera: "realsense", "realsense:SERIAL", a recording (.db3, .bag), a data set folder, or "synthetic".
        roi: as `edgefuse live --roi`: "x,y,w,h", "center", "nearest", "nearest:3", "whole" or a regions file, or several fixed ones; None =
            the region of the training data. If "nearest" finds no object, the result has the label "none" and no region. Frames that a
            regions file does not have yield no result.
        engine, file, num_threads, adaptive: see `edgefuse.Classifier`.
        num_frames: frames to read, at least 1; None = until the stream ends.
        real_time: play a recording at its recorded rate, and drop the frames that the caller misses; False = every frame.
        capture: "process": read a RealSense camera or recording in a process of its own, which can be ended if a call of librealsense
            hangs; "thread": in a thread, which uses less memory.
        min_confidence: a class whose probability is lower is answered with "unknown".
        smooth: frames over which the probabilities of a region are averaged; 1 = none.
        agree: (N, M), or "N/M": an object's answer is decided when at least N of its last M frames have it; `result.events` has these decisions.

    Raises:
        EdgefuseError: a value is out of range, the bundle or camera is missing, the recording is damaged, or the engine failed.

    Example:
        >>> import edgefuse
        >>> for result in edgefuse.live("bundles/mugs", camera="synthetic", num_frames=2):
        ...     print(result.frame, result.label)
        1 red_mug
        2 red_mug
    """
    opened = open_bundle(Path(bundle))
    given = None if roi is None else parse_regions([roi] if isinstance(roi, str) else roi)
    if num_frames is not None and num_frames < 1:
        raise UserError(f"num_frames is {num_frames}: 1 or more, or None, was expected")
    num_agree, num_of = parse_agreement(agree)
    decisions = DecisionConfig(min_confidence=min_confidence, smooth=smooth, agree=num_agree, of=num_of)
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            # Otherwise a suspended generator would be closed during interpreter shutdown, where librealsense terminates the
            # process ("terminate called without an active exception").
            atexit.register(stack.close)
            stack.callback(atexit.unregister, stack.close)
        opened_live = stack.enter_context(
            open_live(
                opened,
                camera=camera,
                region=given,
                engine=engine,
                file=file,
                num_threads=num_threads,
                adaptive=adaptive,
                real_time=real_time,
                capture=capture,
            )
        )
        source = opened_live.camera
        decider = Decider(
            opened_live.engine,
            opened_live.region,
            opened.manifest.degraded_mode,
            source.counters,
            Clipping(opened.manifest.contract),
            decisions=decisions,
        )
        since_ns = time.perf_counter_ns()
        for frame in frames(source, num_frames=num_frames, patience_s=patience_s(source)):
            try:
                prepared = decider.prepare(frame)
                results = decider.finish(prepared, decider.infer(prepared), since_ns=since_ns)
            except EngineFailedError as failed:
                raise failed.error from None
            yield from results or ()
            since_ns = time.perf_counter_ns()


def _check_align(engine: Engine, camera: Camera) -> None:
    if camera.align != engine.contract.align:
        raise UserError(
            f"the camera's pairs are aligned to {camera.align}, but the bundle's contract requires {engine.contract.align}: "
            f"open the camera with align={engine.contract.align!r}"
        )


class _NoOutputLeftError(Exception):
    """The readers of all sinks have closed them."""


class _Steps:
    """What is done with each prepared frame."""

    def __init__(self, decider: Decider, statistics: Statistics, bus: SinkBus, service: Systemd) -> None:
        self._decider, self._statistics, self._bus, self._service = decider, statistics, bus, service
        self._last_ns, self._num_errors = time.perf_counter_ns(), 0
        # A signal must not come between a result that the sinks have and the count of its frame.
        self._together: Callable[[], AbstractContextManager[None]] = nullcontext if bus.may_wait else interrupts.held

    def infer(self, prepared: PreparedFrame) -> list[EngineRun] | EngineFailedError:
        """Run the engine."""
        try:
            return self._decider.infer(prepared)
        except EngineFailedError as failed:
            return failed

    def complete(self, prepared: PreparedFrame, runs: list[EngineRun] | EngineFailedError) -> None:
        """Decide, count, and pass the results to the sinks."""
        if isinstance(runs, EngineFailedError):
            self._num_errors += 1
            self._report(runs, prepared.frame)
            if self._num_errors == MAX_ENGINE_ERRORS:
                raise runs.error
            return
        self._num_errors = 0
        results = self._decider.finish(prepared, runs, since_ns=self._last_ns)
        with self._together():
            for result in results or ():
                self._bus.publish(result, prepared.frame)
                for event in result.events:
                    self._bus.event(event.event, event.message, **event_detail(event))
            self._statistics.add(results)
        self._service.processed()
        if self._bus.all_closed:
            raise _NoOutputLeftError
        self._last_ns = time.perf_counter_ns()

    def _report(self, failed: EngineFailedError, frame: Frame) -> None:
        reason = str(failed.error) or type(failed.error).__name__
        message = f"the engine failed for frame {frame.name}: {reason}"
        _log.warning("%s", message)
        self._statistics.add_engine_error(reason)
        self._bus.event("engine", message, frame=frame.color_number, error=reason)


def _classify_all(
    stream: Iterator[PreparedFrame], steps: _Steps, *, is_overlapped: bool
) -> tuple[Ending, Exception | None]:
    """Classify each frame. Returns why the run ended, and the error if there was one, to raise after the summary."""
    try:
        if is_overlapped:
            run_overlapped(stream, steps.infer, steps.complete)
        else:
            for prepared in stream:
                steps.complete(prepared, steps.infer(prepared))
    except _NoOutputLeftError:
        return "no output left", None
    except KeyboardInterrupt as interrupt:
        return ending_after(interrupt), None
    except Exception as error:
        return ending_after(error), error
    return "end of stream", None


def _ending(*, stop: threading.Event | None, reached: bool) -> Ending:
    if stop is not None and stop.is_set():
        return "stopped"
    return "frames" if reached else "end of stream"
