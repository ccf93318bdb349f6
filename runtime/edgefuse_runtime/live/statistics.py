"""Statistics of a live run, in bounded memory: timings, accuracy, sensor states, clipped depth, and warnings about them."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgefuse.answers import UNKNOWN
from edgefuse.contract import DEPTH_UNIT_M, Clipped, InputContract, clipped, codes_from_bytes
from edgefuse_runtime.camera import Camera, Counters
from edgefuse_runtime.decisions.events import Decided
from edgefuse_runtime.engines.engine import NOT_FINITE, Engine
from edgefuse_runtime.frame_times import STAGES, utc
from edgefuse_runtime.regions.default_region import ChosenRegion
from edgefuse_runtime.regions.region import RegionSource
from edgefuse_runtime.results import Ending, LiveSummary, Result, Score
from edgefuse_runtime.sensor_health import ALL_OK

_log = logging.getLogger(__name__)

MAX_SAMPLES = 100_000
"""Number of timings retained for the percentiles, the newest ones: about an hour at 30 frames/s."""

CLIPPED_EVERY = 8
"""Every n-th frame is checked for depth out of the model's range."""
MIN_CHECKS = 3
"""Number of these checks before a warning is logged."""
MAX_SKEWED = 0.05
"""Maximum fraction of skewed pairs without a warning."""


class Clipping:
    """Fraction of the measured depth in the framed regions that is out of the contract's range, from a sample of the frames."""

    def __init__(self, contract: InputContract) -> None:
        self._contract = contract
        self._num_frames = 0
        self.num_checks = 0
        self._sums = np.zeros(2)

    def add(self, depth: NDArray[np.uint8]) -> None:
        """Add a framed depth image, uint8 [S, S, 2] of the contract's bytes; takes about 0.03 ms in every eighth frame."""
        if self._num_frames % CLIPPED_EVERY == 0:
            codes = codes_from_bytes(depth)
            near_m, far_m = self._contract.near_m, self._contract.far_m
            self._sums += clipped(codes, depth_unit_m=DEPTH_UNIT_M, near_m=near_m, far_m=far_m)
            self.num_checks += 1
        self._num_frames += 1

    def mean(self) -> Clipped | None:
        """Mean over the checks so far; None before the first."""
        return Clipped(*(self._sums / self.num_checks).tolist()) if self.num_checks else None

    def warning(self) -> str | None:
        """One line if too much is out of range, else None."""
        found = self.mean()
        return None if found is None else found.warning(near_m=self._contract.near_m, far_m=self._contract.far_m)


class _Timings:
    """The newest timings of each stage, in a fixed amount of memory."""

    NAMES = ("latency_ms", "age_ms", *STAGES.values())

    def __init__(self) -> None:
        self._values = np.empty((MAX_SAMPLES, len(self.NAMES)), np.float32)  # pages use memory when they are written
        self._num_added = 0

    def add(self, result: Result) -> None:
        """Add those of one result."""
        age_ms = result.age_ms
        row = (result.latency_ms, np.nan if age_ms is None else age_ms, *result.stages)
        self._values[self._num_added % MAX_SAMPLES] = row
        self._num_added += 1

    def percentiles(self, name: str) -> dict[str, float] | None:
        """p50, p95, p99 and max in milliseconds; None without values."""
        samples = self._values[: min(self._num_added, MAX_SAMPLES), self.NAMES.index(name)]
        samples = samples[~np.isnan(samples)].astype(np.float64)
        if not len(samples):
            return None
        p50, p95, p99 = np.percentile(samples, [50, 95, 99])
        return {
            name: round(float(x), 4) for name, x in (("p50", p50), ("p95", p95), ("p99", p99), ("max", samples.max()))
        }


class Statistics:
    """Collects the data of the summary from each result. Each warning is logged once, when its condition is first met."""

    def __init__(self, contract: InputContract, counters: Counters, *, region: RegionSource | None = None) -> None:
        self._region = region if isinstance(region, ChosenRegion) else None
        self.processed = self._num_results = 0
        self.without_region = 0
        self._num_engine_errors, self._engine_error = 0, ""
        self.clipping = Clipping(contract)
        self._before = replace(counters)
        self._started_ns = time.perf_counter_ns()
        self._gate_sum = 0.0
        self._started_unix_ms = time.time() * 1e3
        self._timings = _Timings()
        self._score = Score()
        self._without_decision = self._unknown = self._not_finite = 0
        self._objects: Counter[str] = Counter()
        self._sensors: Counter[str] = Counter()
        self._adaptive: Counter[str] = Counter()
        self._warned: set[str] = set()

    @property
    def num_seen(self) -> int:
        """Frames that were classified, had no region, or failed in the engine."""
        return self.processed + self.without_region + self._num_engine_errors

    def add_engine_error(self, message: str) -> None:
        """Count a frame that the engine failed to classify."""
        self._num_engine_errors, self._engine_error = self._num_engine_errors + 1, message

    def add(self, results: Sequence[Result] | None) -> None:
        """Count the results of a frame; None = it was not to be classified."""
        for event in (event for result in results or () for event in result.events):
            if isinstance(event, Decided):
                self._objects[event.label] += 1
        regions = [result for result in results or () if result.roi is not None]
        if not regions:
            self.without_region += 1
            return
        self.processed += 1
        self._timings.add(regions[0])
        for result in regions:
            self._add(result)

    def _add(self, result: Result) -> None:
        self._num_results += 1
        self._gate_sum += result.gate_mean or 0.0
        self._unknown += result.label == UNKNOWN
        if result.adaptive is not None:
            self._adaptive[result.adaptive] += 1
        if result.sensors != ALL_OK:
            self._sensors.update(f"{name}_{state}" for name, state in result.sensors._asdict().items() if state != "ok")
        self._without_decision += result.label is None
        self._not_finite += not result.is_finite
        self._score.add(result)
        if not result.is_finite:
            self._warn_once("finite", f"{NOT_FINITE} for frame {result.name} (NaN or infinity): no decision")
        if self.clipping.num_checks == MIN_CHECKS:
            self._warn_once("clipped", self.clipping.warning())

    def _warn_once(self, what: str, line: str | None) -> None:
        if what not in self._warned:
            self._warned.add(what)
            if line is not None:
                _log.warning("%s", line)

    def summary(
        self, camera: Camera, *, engine: Engine | None, ended: Ending, failure: Exception | None
    ) -> LiveSummary:
        """The summary, at the end of the run. `engine`: None if it was not opened."""
        elapsed_s = (time.perf_counter_ns() - self._started_ns) / 1e9
        counters, before = camera.counters, self._before
        skew = _skew_warning(counters.skewed - before.skewed, counters.delivered - before.delivered)
        self._warn_once("clipped", self.clipping.warning())
        self._warn_once("skewed", skew)
        skipped = None if self._region is None else self._region.note()
        self._warn_once("regions", skipped)
        found = self.clipping.mean()
        num_finite = self._num_results - self._not_finite
        return LiveSummary(
            received=counters.received - before.received,
            processed=self.processed,
            without_region=self.without_region,
            without_decision=self._without_decision,
            num_results=self._num_results,
            unknown=self._unknown,
            objects=dict(self._objects),
            not_finite=self._not_finite,
            sensors=dict(sorted(self._sensors.items())),
            unfinished=counters.delivered - before.delivered - self.processed - self.without_region,
            dropped=counters.dropped - before.dropped,
            stale=counters.stale - before.stale,
            skewed=counters.skewed - before.skewed,
            timeouts=counters.timeouts - before.timeouts,
            clipped=None if found is None else {name: round(fraction, 4) for name, fraction in found._asdict().items()},
            elapsed_s=round(elapsed_s, 3),
            results_per_s=round(self._num_results / elapsed_s, 2) if elapsed_s > 0 else 0.0,
            latency_ms=self._timings.percentiles("latency_ms"),
            stages_ms=self._stages(),
            age_ms=self._timings.percentiles("age_ms"),
            gate_mean=round(self._gate_sum / num_finite, 6) if num_finite else None,
            accuracy=self._score.accuracy(),
            adaptive={"depth": self._adaptive["depth"], "full": self._adaptive["full"]} if self._adaptive else None,
            ended=ended,
            failure=None if failure is None else str(failure),
            warnings=(*self._warnings(), *filter(None, (skew, skipped))),
            started=utc(self._started_unix_ms),
            time=utc(time.time() * 1e3),
            engine=engine.description if engine is not None else {},
            camera=camera.description,
            region=None if self._region is None else self._region.to_json(),
        )

    def _warnings(self) -> Iterator[str]:
        for name, count in sorted(self._sensors.items()):
            sensor, _, state = name.partition("_")
            yield f"{sensor} was {state} in {count} of {self._num_results} results"
        if self._not_finite:
            yield f"{NOT_FINITE} in {self._not_finite} of {self._num_results} results"
        if self._num_engine_errors:
            yield f"the engine failed in {self._num_engine_errors} frames; the last time: {self._engine_error}"
        if line := self.clipping.warning():
            yield line

    def _stages(self) -> dict[str, dict[str, float]]:
        found = {name: self._timings.percentiles(name) for name in STAGES.values()}
        return {name: percentiles for name, percentiles in found.items() if percentiles is not None}


def _skew_warning(num_skewed: int, num_pairs: int) -> str | None:
    if num_skewed <= MAX_SKEWED * num_pairs:
        return None
    return (
        f"colour and depth are more than half a frame period apart in {num_skewed} of {num_pairs} pairs: reconnect the camera, "
        f"and update librealsense to 2.58.4 or newer (clocks wrap after 71 minutes)"
    )
