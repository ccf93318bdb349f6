"""`Recent`: the results of the last minute, and the numbers that the page shows about them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from edgefuse_runtime.frame_times import STAGES
from edgefuse_runtime.results import Result
from edgefuse_runtime.web.frames import contribution_rgb

WINDOW_S = 60
RATE_WINDOW_S = 5.0
STOPPED_AFTER_S = 1.0
"""After this time without a result the rate is 0."""
MAX_RESULTS = 60 * WINDOW_S
"""A faster source, such as a folder, has a shorter window."""
_STAGES = {stage: name for stage, name in STAGES.items() if stage != "wait"}


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """See `edgefuse_runtime.web.messages.Status`."""

    window_s: float
    results_per_s: float
    latency_ms: dict[str, float] | None
    age_ms: dict[str, float] | None
    stages_ms: dict[str, float]
    contribution_rgb: tuple[float | None, ...]
    valid_depth: float | None
    sensors_ok: dict[str, float]


class Recent:
    """Collects results. Times are those of `time.monotonic`."""

    COLUMNS = ("time_s", "index", "latency_ms", "age_ms", "contribution_rgb", "valid_depth", "rgb", "depth", *_STAGES)

    def __init__(self) -> None:
        self._rows: deque[tuple[float, ...]] = deque(maxlen=MAX_RESULTS)

    def add(self, result: Result, *, now_s: float) -> None:
        """Add a result that has arrived now."""
        stages = result.stages
        has_region = result.roi is not None  # without an object, the engine did not run
        self._rows.append(
            (
                now_s,
                result.index,
                result.latency_ms if has_region else np.nan,
                _number(result.age_ms) if has_region else np.nan,
                _number(contribution_rgb(result)),
                _number(result.valid_depth),
                float(result.sensors.rgb == "ok"),
                float(result.sensors.depth == "ok"),
                *(getattr(stages, name) if has_region else np.nan for name in _STAGES.values()),
            )
        )

    def numbers(self, *, now_s: float) -> Numbers:
        """The numbers of the last minute."""
        while self._rows and self._rows[0][0] < now_s - WINDOW_S:
            self._rows.popleft()
        rows = np.array(self._rows, np.float64).reshape(len(self._rows), len(self.COLUMNS))
        by_name = dict(zip(self.COLUMNS, rows.T, strict=True))
        means = {name: _mean(by_name[name]) for name in ("valid_depth", "rgb", "depth")}
        return Numbers(
            window_s=round(now_s - rows[0, 0], 1) if len(rows) else 0.0,
            results_per_s=_rate(by_name["time_s"], by_name["index"], now_s),
            latency_ms=_percentiles(by_name["latency_ms"]),
            age_ms=_percentiles(by_name["age_ms"]),
            stages_ms={stage: found["p50"] for stage in _STAGES if (found := _percentiles(by_name[stage])) is not None},
            contribution_rgb=_by_second(by_name["time_s"], by_name["contribution_rgb"], now_s),
            valid_depth=means["valid_depth"],
            sensors_ok={name: mean for name in ("rgb", "depth") if (mean := means[name]) is not None},
        )


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _mean(values: np.ndarray) -> float | None:
    values = values[~np.isnan(values)]
    return round(float(values.mean()), 4) if len(values) else None


def _percentiles(values: np.ndarray) -> dict[str, float] | None:
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    found = (*np.percentile(values, [50, 95, 99]), values.max())
    return {name: round(float(value), 3) for name, value in zip(("p50", "p95", "p99", "max"), found, strict=True)}


def _rate(times_s: np.ndarray, indices: np.ndarray, now_s: float) -> float:
    """Results per second. Results that this process has not seen count, too: the numbers of those that it has seen say so."""
    is_new = times_s > now_s - RATE_WINDOW_S
    if is_new.sum() < 2 or times_s[-1] < now_s - STOPPED_AFTER_S:
        return 0.0
    times_s, indices = times_s[is_new], indices[is_new]
    return round(float((indices[-1] - indices[0]) / max(times_s[-1] - times_s[0], 1e-3)), 1)


def _by_second(times_s: np.ndarray, values: np.ndarray, now_s: float) -> tuple[float | None, ...]:
    """The mean in each of the last `WINDOW_S` seconds, the oldest first."""
    is_finite = ~np.isnan(values)
    seconds = np.minimum((now_s - times_s[is_finite]).astype(int), WINDOW_S - 1)
    sums = np.bincount(seconds, weights=values[is_finite], minlength=WINDOW_S)
    counts = np.bincount(seconds, minlength=WINDOW_S)
    return tuple(
        round(float(total / count), 3) if count else None for total, count in zip(sums[::-1], counts[::-1], strict=True)
    )
