"""What live says about a frame, and about a run: plain values with their JSON forms.

Owns `Result` and `LiveSummary`; the live loop makes them, sinks and benchmarks read them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgefuse.framing import Roi
from edgefuse_runtime.health import ALL_OK, SensorStates

Ending = Literal["end of stream", "frames", "stopped", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Where the time of one frame went, in milliseconds.

    Attributes:
        wait_ms: waiting for the frame, since the result before it (since the start for the first).
        read_ms: aligning and copying it, or reading its files.
        frame_ms: finding the region, cropping and resizing.
        infer_ms: the engine.
    """

    wait_ms: float
    read_ms: float
    frame_ms: float
    infer_ms: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """The answer for one frame.

    Attributes:
        index: 0, 1, 2, ... over the results of a run.
        frame: the colour stream's frame number.
        label: the most likely class; None = no decision, because a sensor is not alive and the bundle's fallback says so.
        probability: of `label`.
        top: the most likely classes, best first, with their probabilities; empty without a decision.
        gate_mean: mean of the gate; 0 = all from RGB, 1 = all from depth.
        expected: the class that the source says, where it does.
        latency_ms: from the frame's arrival in this process to the decision; waiting is not in it.
        age_ms: from the sensor's time to the decision, where the camera's clock is the host's.
        dropped, stale: the camera's counts so far.
        sensors: whether each sensor is alive.
    """

    index: int
    frame: int
    name: str
    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...]
    gate_mean: float
    expected: str | None
    roi: Roi
    stages: StageTimes
    latency_ms: float
    age_ms: float | None
    dropped: int
    stale: int
    sensors: SensorStates = ALL_OK

    @property
    def correct(self) -> bool | None:
        """Whether `label` is what was expected; None where nothing was, or nothing was decided."""
        return None if self.expected is None or self.label is None else self.label == self.expected

    @property
    def warning(self) -> str:
        """What is wrong with the sensors and what that means for this result; empty where both are alive."""
        ill = [f"{name} is {state}" for name, state in self.sensors._asdict().items() if state != "ok"]
        if not ill:
            return ""
        means = "no decision" if self.label is None else "decided without it"
        return f"{' and '.join(ill)}: {means}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            **asdict(self),
            "roi": list(self.roi),
            "top": [list(item) for item in self.top],
            "correct": self.correct,
            "sensors": self.sensors._asdict(),
        }


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How often the answer was the expected one.

    Attributes:
        scored: results with a decision and an expected class that the model knows.
        correct: those that were right.
        unscored: results whose expected class the model does not know.
        abstained: results without a decision where the model knows the expected class.
        by_label: class -> (correct, scored).
    """

    scored: int
    correct: int
    unscored: int
    abstained: int
    by_label: dict[str, tuple[int, int]]

    @property
    def share(self) -> float | None:
        """correct / scored; None when nothing was scored."""
        return self.correct / self.scored if self.scored else None


@dataclass(frozen=True, kw_only=True)
class LiveSummary:
    """What a live run did: received = processed + without_region + unfinished + dropped + stale.

    Attributes:
        received: pairs that the camera made, told by its frame numbers.
        processed: results given.
        without_region: frames in which the region source found nothing to look at.
        without_decision: results, counted in `processed`, without a label because a sensor was not alive.
        sensors: "rgb_dead", "rgb_frozen", "depth_dead", "depth_frozen" -> results; those that never occurred are not there.
        unfinished: frames read and not decided, because the run was interrupted (0 or 1).
        dropped, stale, timeouts: see `edgefuse_runtime.frames.Counters`.
        latency_ms: p50, p95, p99, max; None without results.
        stages_ms: stage -> p50 and p99.
        age_ms: as latency_ms, for frames whose camera's clock is the host's.
        gate_mean: mean over the results.
        accuracy: None when no class was expected anywhere.
        ended: why the run ended.
        region: "roi" (a word of `--roi`) and "from" (who chose it); None where the caller did not say.
    """

    received: int
    processed: int
    without_region: int
    without_decision: int
    sensors: dict[str, int]
    unfinished: int
    dropped: int
    stale: int
    timeouts: int
    elapsed_s: float
    results_per_s: float
    latency_ms: dict[str, float] | None
    stages_ms: dict[str, dict[str, float]]
    age_ms: dict[str, float] | None
    gate_mean: float | None
    accuracy: Accuracy | None
    ended: Ending
    engine: dict[str, Any]
    camera: dict[str, Any]
    region: dict[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        value = asdict(self)
        if self.accuracy is not None:
            value["accuracy"] |= {"share": self.accuracy.share}
            value["accuracy"]["by_label"] = {label: list(counts) for label, counts in self.accuracy.by_label.items()}
        return value
