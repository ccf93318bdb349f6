"""From a frame to its results, in three steps: regions, framing and sensor states; the engine; decisions over time."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

from edgefuse import framing
from edgefuse.answers import NONE, shown_label
from edgefuse.degraded_mode import DegradedMode
from edgefuse_runtime.camera import Counters, Frame
from edgefuse_runtime.decisions.consensus import Seen
from edgefuse_runtime.decisions.events import ObjectEvent
from edgefuse_runtime.decisions.over_time import DecisionConfig, DecisionsOverTime
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.frame_times import FrameTimes
from edgefuse_runtime.live.statistics import Clipping
from edgefuse_runtime.predict import EngineRun, FramedRegion, Prediction, predictions_of, run_engine
from edgefuse_runtime.regions.region import DefaultRegion, Region, RegionSource, most_regions
from edgefuse_runtime.results import Result
from edgefuse_runtime.sensor_health import ALL_OK, SensorHealthMonitor, SensorStates, valid_fraction

TOP_CLASSES = 5

_log = logging.getLogger(__name__)


class EngineFailedError(Exception):
    """The engine did not classify a frame; `error` is the reason."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class PreparedFrame(NamedTuple):
    """A frame and its regions as model input. Valid until the second `Decider.prepare` after its own.

    Attributes:
        regions: those of the frame; None if it is not to be classified.
        framed: the same as model input.
        valid_depth: of each region, see `Result`.
        sensors: state of the sensors in the whole image, for a frame in which no object was found.
        dequeued_ns, framed_ns: see `FrameTimes`.
        dropped, stale: the camera's counts up to this frame.
    """

    frame: Frame
    regions: Sequence[Region] | None
    framed: Sequence[FramedRegion]
    valid_depth: Sequence[float]
    sensors: SensorStates
    dequeued_ns: int
    framed_ns: int
    dropped: int
    stale: int


class Decider:
    """Classifies the frames of one run, in order.

    For each frame `prepare`, `infer`, `finish`. `infer` may run in another thread, while the next frame is prepared.
    """

    def __init__(
        self,
        engine: Engine,
        find: RegionSource | None,
        degraded_mode: DegradedMode | None,
        counters: Counters,
        clipping: Clipping,
        *,
        decisions: DecisionConfig | None = None,
    ) -> None:
        """Choose the parts; None = the camera's region or the whole image, abstain, and `DecisionConfig()`."""
        self._engine, self._counters, self._clipping = engine, counters, clipping
        self._labels = engine.labels
        self._find = find if find is not None else DefaultRegion()
        self._degraded_mode = degraded_mode if degraded_mode is not None else DegradedMode()
        self._monitor = SensorHealthMonitor()
        self._decisions = DecisionsOverTime(decisions if decisions is not None else DecisionConfig())
        size, num_regions = engine.contract.size, most_regions(self._find)
        self._buffers = cycle([[framing.Buffers(size) for _ in range(num_regions)] for _ in range(2)])
        self._num_results = 0
        if note := batch_note(num_regions, engine.batch_size):
            _log.info("%s", note)

    def prepare(self, frame: Frame) -> PreparedFrame:
        """Find the regions, frame them, and check the sensors."""
        dequeued_ns = time.perf_counter_ns()
        dropped, stale = self._counters.dropped, self._counters.stale
        regions = self._find(frame)
        framed = [self._framed(frame, *pair) for pair in zip(regions or (), next(self._buffers), strict=False)]
        return PreparedFrame(
            frame=frame,
            regions=regions,
            framed=framed,
            valid_depth=[round(valid_fraction(region.framed.depth), 4) for region in framed],
            sensors=ALL_OK if regions is None or regions else self._monitor.without_region(frame),
            dequeued_ns=dequeued_ns,
            framed_ns=time.perf_counter_ns(),
            dropped=dropped,
            stale=stale,
        )

    def infer(self, prepared: PreparedFrame) -> list[EngineRun]:
        """Run the engine, in the thread that opened it.

        Raises:
            EngineFailedError: the engine failed.
        """
        try:
            return run_engine(self._engine, prepared.framed)
        except Exception as error:
            raise EngineFailedError(error) from error

    def finish(self, prepared: PreparedFrame, runs: Sequence[EngineRun], *, since_ns: int) -> list[Result] | None:
        """A result for each region; one without a region if there is no object; None if the frame is not to be classified.

        Args:
            runs: the output of `infer`.
            since_ns: when the loop began to wait for the frame.
        """
        frame, regions = prepared.frame, prepared.regions
        if regions is None:
            return None
        if not regions:
            return [self._without_object(prepared, since_ns=since_ns)]
        predictions = predictions_of(
            runs,
            self._labels,
            self._degraded_mode,
            prepared.framed,
            min_confidence=self._decisions.config.min_confidence,
        )
        found = [self._smoothed(region, one) for region, one in zip(regions, predictions, strict=True)]
        seen = [_seen(region, one) for region, one in zip(regions, found, strict=True)]
        events = self._decisions.update(seen, frame=frame.color_number)
        times = _times(
            prepared,
            waiting_ns=since_ns,
            engine_start_ns=runs[0].started_ns,
            engine_end_ns=runs[-1].done_ns,
        )
        numbers = {region.number for region in regions}
        results: list[Result] = []
        for region, valid_depth, one in zip(regions, prepared.valid_depth, found, strict=True):
            is_first = not results
            own = tuple(e for e in events if e.region == region.number or (is_first and e.region not in numbers))
            result = self._result(prepared, region, valid_depth, one, times=times, is_first=is_first, events=own)
            results.append(result)
        return results

    def _framed(self, frame: Frame, region: Region, buffers: framing.Buffers) -> FramedRegion:
        started_ns = time.perf_counter_ns()
        framed = framing.fit(
            frame.rgb,
            frame.depth,
            size=self._engine.contract.size,
            roi=region.roi,
            depth_unit_m=frame.depth_unit_m,
            out=buffers,
        )
        sensors = self._monitor(frame, framed, roi=region.roi)
        if sensors.depth == "ok":
            self._clipping.add(framed.depth)
        return FramedRegion.of(framed, sensors, roi=region.roi, started_ns=started_ns)

    def _smoothed(self, region: Region, found: Prediction) -> Prediction:
        """With the average of the last frames; a frame without a decision is not part of it."""
        if found.label is None or found.scores is None:
            return found
        scores = self._decisions.smoothed(region.number, found.scores)
        if scores is found.scores:
            return found
        return found.smoothed(scores, min_confidence=self._decisions.config.min_confidence)

    def _result(
        self,
        prepared: PreparedFrame,
        region: Region,
        valid_depth: float,
        found: Prediction,
        *,
        times: FrameTimes,
        is_first: bool,
        events: tuple[ObjectEvent, ...],
    ) -> Result:
        frame = prepared.frame
        expected = region.label if region.label is not None else frame.label
        status = self._decisions.status(region.number)
        return Result(
            index=self._next_index(),
            frame=frame.color_number,
            name=frame.name,
            label=found.label,
            probability=None if found.probability is None else round(found.probability, 6),
            top=tuple((label, round(probability, 6)) for label, probability in found.top(TOP_CLASSES))
            if found.label is not None
            else (),
            gate_mean=None if found.gate is None else round(found.gate, 6),
            nearest_m=None if found.nearest_m is None else round(found.nearest_m, 4),
            expected=None if expected is None else shown_label(expected),
            is_known=expected is None or expected in self._labels,
            roi=region.roi,
            region=region.number,
            object=status.object,
            decided=status.label,
            times=times,
            dropped=prepared.dropped,
            stale=prepared.stale,
            skew_ms=None if frame.skew_ms is None else round(frame.skew_ms, 3),
            sensors=found.sensors,
            adaptive=found.adaptive,
            is_finite=found.scores is not None,
            valid_depth=valid_depth,
            is_first=is_first,
            events=events,
        )

    def _without_object(self, prepared: PreparedFrame, *, since_ns: int) -> Result:
        """No object was found; without depth, or with depth that is frozen, none can be found, so there is no decision."""
        frame = prepared.frame
        is_blind = prepared.sensors.depth != "ok"
        events = [] if is_blind else self._decisions.update((), frame=frame.color_number)
        now_ns = time.perf_counter_ns()
        return Result(
            index=self._next_index(),
            frame=frame.color_number,
            name=frame.name,
            label=None if is_blind else NONE,
            probability=None,
            top=(),
            gate_mean=None,
            expected=None if frame.label is None else shown_label(frame.label),
            is_known=frame.label is None or frame.label in self._labels,
            roi=None,
            region=None,
            events=tuple(events),
            times=_times(prepared, waiting_ns=since_ns, engine_start_ns=now_ns, engine_end_ns=now_ns),
            dropped=prepared.dropped,
            stale=prepared.stale,
            skew_ms=None if frame.skew_ms is None else round(frame.skew_ms, 3),
            sensors=prepared.sensors,
        )

    def _next_index(self) -> int:
        self._num_results += 1
        return self._num_results - 1


def batch_note(num_regions: int, batch_size: int | None) -> str:
    """What a user should know about several regions and a bundle's batch; empty if nothing."""
    if num_regions == 1 or batch_size is None or batch_size >= num_regions:
        return ""
    num_runs = -(-num_regions // batch_size)
    return (
        f"{num_regions} regions take {num_runs} engine runs for each frame, because one run takes {batch_size}: export with --batch "
        f"{num_regions} or --batch dynamic for one run"
    )


def _seen(region: Region, found: Prediction) -> Seen:
    return Seen(
        region=region.number,
        label=found.label,
        probability=found.probability or 0.0,
        roi=region.roi,
        nearest_m=None if found.nearest_m is None else round(found.nearest_m, 4),
        is_followed=region.is_followed,
    )


def _times(prepared: PreparedFrame, *, waiting_ns: int, engine_start_ns: int, engine_end_ns: int) -> FrameTimes:
    """The times of a frame whose results are published now."""
    frame = prepared.frame
    return FrameTimes(
        waiting_ns=waiting_ns,
        arrival_ns=frame.arrival_ns,
        ready_ns=frame.ready_ns,
        dequeued_ns=prepared.dequeued_ns,
        framed_ns=prepared.framed_ns,
        engine_start_ns=engine_start_ns,
        engine_end_ns=engine_end_ns,
        published_ns=time.perf_counter_ns(),
        published_unix_ms=round(time.time() * 1e3, 3),
        sensor_ms=frame.timestamp_ms,
        sensor_clock=frame.timestamp_domain,
    )
