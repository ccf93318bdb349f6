"""What a live run publishes: a `Result` for each frame, an `Event` now and then, one `LiveSummary`; with their JSON forms."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgefuse.answers import UNKNOWN
from edgefuse.framing import Roi
from edgefuse_runtime.decisions.events import ObjectEvent
from edgefuse_runtime.engines.engine import NOT_FINITE
from edgefuse_runtime.frame_times import FrameTimes, StageTimes, utc
from edgefuse_runtime.predict import AnsweredBy
from edgefuse_runtime.sensor_health import ALL_OK, SensorStates, sensor_warning

Ending = Literal["end of stream", "frames", "stopped", "interrupted", "SIGTERM", "SIGHUP", "no output left", "failed"]

SCHEMA = 1
"""Version of the JSON forms. It increases when a field changes its meaning or is removed, not when one is added."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result for one frame.

    Attributes:
        index: 0, 1, 2, ... over the results of a run.
        frame: frame number of the colour stream.
        label: the most likely class; "unknown" if its probability is below the minimum confidence; "none" if it is the background, or if no
            object was found; None = no decision, because a sensor is missing or frozen and the bundle's degraded mode is to abstain, or
            because the model's output is not finite.
        probability: of the most likely class, averaged over frames with `--smooth`; None without a decision or an object.
        top: the most likely classes, best first, with their probabilities; empty without a decision.
        gate_mean: mean of the gate; 0 = all from RGB, 1 = all from depth; None if it is not finite.
        valid_depth: fraction of the region's pixels that have a depth measurement, 0 to 1.
        nearest_m: distance of the nearest surface in the region, in metres, clipped to the contract's depth range; None without a
            depth measurement, if the output is not finite, or if the bundle is older than this output.
        expected: the true class, if the source provides it.
        is_known: whether `expected` is a class of the model; otherwise the result is neither right nor wrong.
        times: when the frame passed each point from the sensor to the sinks.
        dropped, stale: the camera's counts so far.
        skew_ms: time between the two images; None if they have no common clock, or one of them is missing.
        sensors: state of each sensor.
        is_finite: whether the model's output has no NaN and no infinity.
        roi: the region; None if no object was found.
        region: number of the region: its position in `--roi`, or with `nearest` the number of the object that is followed; None if no
            object was found.
        is_first: whether it is the first result of its frame, of several regions.
        object, decided: the object in the region and the answer decided for it, as in the events; None before these.
        adaptive: with `--adaptive`, what answered: "depth" alone or the "full" model; else None.
        events: the events of this frame; in the first result of a frame also those of regions that are not there any more.
    """

    index: int
    frame: int
    name: str
    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...]
    gate_mean: float | None
    expected: str | None
    roi: Roi | None
    times: FrameTimes
    dropped: int
    stale: int
    valid_depth: float | None = None
    sensors: SensorStates = ALL_OK
    skew_ms: float | None = None
    is_known: bool = True
    is_finite: bool = True
    nearest_m: float | None = None
    region: int | None = 0
    is_first: bool = True
    object: int | None = None
    decided: str | None = None
    adaptive: AnsweredBy | None = None
    events: tuple[ObjectEvent, ...] = ()

    @property
    def stages(self) -> StageTimes:
        """Duration of each processing stage."""
        return self.times.stages

    @property
    def latency_ms(self) -> float:
        """From the frame's arrival in this process to the publication of the result, without the wait for the frame."""
        return self.times.latency_ms

    @property
    def age_ms(self) -> float | None:
        """From the sensor's timestamp to the publication; None unless the camera's clock is the host's."""
        return self.times.age_ms

    @property
    def gate(self) -> float | None:
        """`gate_mean`."""
        return self.gate_mean

    @property
    def probabilities(self) -> dict[str, float]:
        """Class name -> probability, for the classes of `top`, the most likely first."""
        return dict(self.top)

    @property
    def correct(self) -> bool | None:
        """Whether `label` equals `expected`; None without an expected class of the model, without a decision, or for "unknown"."""
        if self.expected is None or not self.is_known or self.label in (None, UNKNOWN):
            return None
        return self.label == self.expected

    @property
    def warning(self) -> str:
        """What is wrong with the sensors or the model's output, and the consequence for this result; empty if nothing is."""
        if not self.is_finite:
            return f"{NOT_FINITE}: no decision"
        return sensor_warning(self.sensors, is_decided=self.label is not None)

    def to_json(self) -> dict[str, Any]:
        """A JSON object, which docs/live.md describes."""
        return {
            "kind": "result",
            "schema": SCHEMA,
            **self.times.to_json(),
            "index": self.index,
            "frame": self.frame,
            "name": self.name,
            "label": self.label,
            "probability": self.probability,
            "top": [list(item) for item in self.top],
            "gate_mean": self.gate_mean,
            "nearest_m": self.nearest_m,
            "valid_depth": self.valid_depth,
            "expected": self.expected,
            "correct": self.correct,
            "is_known": self.is_known,
            "is_finite": self.is_finite,
            "roi": None if self.roi is None else list(self.roi),
            "region": self.region,
            "object": self.object,
            "decided": self.decided,
            "adaptive": self.adaptive,
            "sensors": self.sensors._asdict(),
            "warning": self.warning,
            "latency_ms": self.latency_ms,
            "age_ms": self.age_ms,
            "stages": self.stages._asdict(),
            "dropped": self.dropped,
            "stale": self.stale,
            "skew_ms": self.skew_ms,
        }


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something other than a result that happened in a run.

    Attributes:
        event: "started" (detail: bundle's engine, camera, region), "camera" (detail: `CaptureState.detail()`), "engine" (detail: frame,
            error), "sink" (detail: a `SinkCounts`), or "appeared", "decided" or "left" (detail: the fields of
            `edgefuse_runtime.decisions.events`).
        message: one line for people.
        unix_ms: when, in milliseconds since 1970.
        detail: JSON values.
    """

    event: str
    message: str
    unix_ms: float
    detail: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        time = utc(self.unix_ms)
        return {"kind": "event", "schema": SCHEMA, "time": time, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class SinkCounts:
    """What became of the results that were passed to one sink: passed = written + dropped, once the run has ended.

    Attributes:
        name: of the sink, such as "results.jsonl".
        state: "open"; "failed": closed after an error, and no result was written since; "closed": its reader has gone; "hangs": it did not
            return in time, and was abandoned at the end of the run.
        written: results that it has taken.
        dropped: results that it has not: replaced by newer ones while it was busy, or lost while it had failed.
        errors: calls that failed.
        restarts: how often it was opened again after an error.
        error: the last error; empty if there was none.
    """

    name: str
    state: Literal["open", "failed", "closed", "hangs"]
    written: int
    dropped: int
    errors: int
    restarts: int
    error: str


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How often the prediction was correct.

    Attributes:
        scored: results with a decision, whose expected class the model has.
        correct: the correct ones of these.
        unscored: results whose expected class the model does not have.
        unknown: those classes, sorted.
        abstained: results without a decision or with "unknown", whose expected class the model has.
        by_label: class -> (correct, scored).
    """

    scored: int
    correct: int
    unscored: int
    unknown: tuple[str, ...]
    abstained: int
    by_label: dict[str, tuple[int, int]]

    @property
    def fraction(self) -> float | None:
        """correct / scored; None if nothing was scored."""
        return self.correct / self.scored if self.scored else None


class Score:
    """Counts correct predictions, for the summary and the live view."""

    def __init__(self) -> None:
        self._scored: Counter[str] = Counter()
        self._correct: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()
        self._abstained = 0

    def add(self, result: Result) -> None:
        """Count one result."""
        if result.expected is None:
            return
        if not result.is_known:
            self._unknown[result.expected] += 1
        elif result.correct is None:
            self._abstained += 1
        else:
            self._scored[result.expected] += 1
            self._correct[result.expected] += result.correct

    def accuracy(self) -> Accuracy | None:
        """The counts so far; None if no result had an expected class."""
        if not self._scored and not self._unknown and not self._abstained:
            return None
        return Accuracy(
            scored=self._scored.total(),
            correct=self._correct.total(),
            unscored=self._unknown.total(),
            unknown=tuple(sorted(self._unknown)),
            abstained=self._abstained,
            by_label={label: (self._correct[label], self._scored[label]) for label in sorted(self._scored)},
        )


@dataclass(frozen=True, kw_only=True)
class LiveSummary:
    """The summary of a live run: received = processed + without_region + unfinished + dropped + stale.

    Attributes:
        received: pairs that the camera captured, according to its frame numbers.
        processed: frames with a classified region.
        num_results: classified regions; more than `processed` with several regions in a frame.
        without_region: frames in which the region source found no region.
        objects: answer -> number of objects for which it was decided, as in the events.
        without_decision: results without a label; part of `num_results`.
        unknown: results with "unknown"; part of `num_results`.
        not_finite: those of them whose model output had NaN or infinity.
        sensors: "rgb_missing", "rgb_frozen", "depth_missing", "depth_frozen" -> number of results; without zeros.
        unfinished: frames that were read but have no result, because the engine failed, or because the run ended early: 0 or 1, for a
            source that drops no frames up to 3.
        dropped, stale, skewed, timeouts: see `edgefuse_runtime.camera.Counters`.
        clipped: "nearer" and "farther": fractions of the measured depth out of the model's range, averaged over the sampled
            frames; None if no frame was sampled.
        latency_ms: p50, p95, p99, max; None without results.
        stages_ms: stage -> the same.
        age_ms: as latency_ms, for frames of a camera whose clock is the host's.
        gate_mean: mean over the results.
        accuracy: None if no result had an expected class.
        adaptive: with `--adaptive`, the number of results by what answered, "depth" alone or the "full" model; else None.
        ended: why the run ended.
        failure: the error that ended it, or None.
        warnings: one line each.
        sinks: counts of each sink.
        started, time: start and end of the run, ISO 8601 in UTC.
        region: "roi" (a value of `--roi`) and "from" (its origin); None if the caller passed no `ChosenRegion`.
    """

    received: int
    processed: int
    without_region: int
    without_decision: int
    not_finite: int
    sensors: dict[str, int]
    unfinished: int
    dropped: int
    stale: int
    skewed: int
    timeouts: int
    clipped: dict[str, float] | None
    elapsed_s: float
    results_per_s: float
    latency_ms: dict[str, float] | None
    stages_ms: dict[str, dict[str, float]]
    age_ms: dict[str, float] | None
    gate_mean: float | None
    accuracy: Accuracy | None
    ended: Ending
    failure: str | None
    warnings: tuple[str, ...]
    started: str
    time: str
    engine: dict[str, Any]
    camera: dict[str, Any]
    region: dict[str, str] | None = None
    sinks: tuple[SinkCounts, ...] = ()
    num_results: int = 0
    unknown: int = 0
    objects: dict[str, int] = field(default_factory=dict)
    adaptive: dict[str, int] | None = None

    @property
    def was_interrupted(self) -> bool:
        """Whether Ctrl-C or a signal ended the run."""
        return self.ended in ("interrupted", "SIGTERM", "SIGHUP")

    @property
    def failed_sinks(self) -> tuple[str, ...]:
        """The sinks that did not work at the end of the run, with the reason; each has lost results."""
        return tuple(f"{sink.name}: {sink.error or sink.state}" for sink in self.sinks if sink.state != "open")

    def to_json(self) -> dict[str, Any]:
        """A JSON object, which docs/live.md describes."""
        value = {"kind": "summary", "schema": SCHEMA, **asdict(self), "failed_sinks": list(self.failed_sinks)}
        if self.accuracy is not None:
            value["accuracy"] |= {"fraction": self.accuracy.fraction, "unknown": list(self.accuracy.unknown)}
            value["accuracy"]["by_label"] = {label: list(counts) for label, counts in self.accuracy.by_label.items()}
        return value
