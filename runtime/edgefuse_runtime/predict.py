"""From framed regions to predictions: batching, missing sensors, and the only code that runs an engine for a prediction.

`edgefuse.Classifier` calls `predict`, the live loop its two parts; evaluation and the benchmarks call `predict_framed`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse.answers import answer_of, shown_label
from edgefuse.contract import Outputs
from edgefuse.degraded_mode import DegradedMode
from edgefuse.errors import UserError
from edgefuse.framing import Framed, Roi
from edgefuse_runtime.engines.engine import NOT_FINITE, Decision, Engine
from edgefuse_runtime.sensor_health import SensorStates, masked, sensor_warning

NO_REGION = "no object was found to classify"
AnsweredBy = Literal["depth", "full"]
MAX_PAIRS_IN_ONE_RUN = 32
"""Limit for files with a dynamic batch: memory grows with the batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The prediction for one region of one RGB-D pair.

    Attributes:
        label: the most likely class; "unknown" if its probability is below the minimum confidence; "none" if it is the background, or if
            no object was found. None = no decision; `warning` has the reason.
        scores: float32 [C], the model's probabilities in the order of `labels`; None if they are not finite, or nothing was
            classified.
        labels: class names in the order of the model's outputs.
        gate: mean of the gate; 0 = all from RGB, 1 = all from depth. None without a gate, or if it is not finite.
        nearest_m: distance of the nearest surface in the region, in metres, clipped to the contract's depth range. None without a
            depth measurement, if it is not finite, or if the bundle is older than this output.
        sensors: state of each sensor in the region. The model gets zeros for a sensor that is not "ok".
        roi: the classified region, in pixels of the image; None if no object was found.
        frame_ms: milliseconds for finding this region, cropping, resizing, and checking the sensors.
        infer_ms: milliseconds of the engine run. Regions of one run have the same value: the duration of the complete run, not
            divided by the number of regions.
        done_ns: when the run ended (time.perf_counter_ns).
        adaptive: with adaptive computing, what answered: "depth" alone or the "full" model; else None.

    Example:
        >>> import edgefuse
        >>> with edgefuse.Classifier("bundles/mugs") as classifier:
        ...     without_depth = classifier(rgb, np.zeros_like(depth))
        >>> print(without_depth.label, without_depth.sensors.depth)
        None missing
        >>> without_depth.warning
        'depth is missing: no decision'
    """

    label: str | None
    scores: NDArray[np.float32] | None = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)
    gate: float | None
    sensors: SensorStates
    roi: Roi | None
    frame_ms: float
    infer_ms: float
    done_ns: int = field(repr=False)
    nearest_m: float | None = None
    adaptive: AnsweredBy | None = None

    @property
    def probability(self) -> float | None:
        """Probability of the most likely class, 0 to 1; None without a decision or an object."""
        return None if self.label is None or self.scores is None else max(self.scores.tolist())

    @property
    def probabilities(self) -> dict[str, float]:
        """Class name -> probability, the most likely first, the background as "none"; empty without a finite output."""
        return dict(self.top(len(self.labels)))

    def top(self, num_classes: int) -> tuple[tuple[str, float], ...]:
        """The most likely classes with their probabilities, best first, the background as "none"; empty without a finite output."""
        if self.scores is None:
            return ()
        scores = self.scores.tolist()  # NumPy takes longer for few classes
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:num_classes]
        return tuple((shown_label(self.labels[i]), scores[i]) for i in order)

    def smoothed(self, scores: NDArray[np.float32], *, min_confidence: float) -> Prediction:
        """The same with other probabilities, such as an average over frames; where there is no decision, none is made."""
        label = None if self.label is None else answer_of(scores, self.labels, min_confidence=min_confidence)
        return replace(self, scores=scores, label=label)

    @property
    def warning(self) -> str:
        """What is wrong with the sensors or the model's output, and the consequence; empty if nothing is."""
        if self.roi is None:
            return NO_REGION
        if self.scores is None:
            return f"{NOT_FINITE}: no decision"
        return sensor_warning(self.sensors, is_decided=self.label is not None)


class FramedRegion(NamedTuple):
    """A region as model input.

    Attributes:
        framed: the output of `edgefuse.framing.fit`, with zeros for a sensor that is not "ok".
        sensors: state of each sensor.
        roi: the region, in pixels of the image.
        frame_ms: milliseconds spent on it so far.
    """

    framed: Framed
    sensors: SensorStates
    roi: Roi
    frame_ms: float

    @classmethod
    def of(cls, framed: Framed, sensors: SensorStates, *, roi: Roi, started_ns: int) -> FramedRegion:
        """Mask the sensors that are not "ok". `started_ns`: when the work on the region began (time.perf_counter_ns)."""
        framed = masked(framed, sensors)
        return cls(framed, sensors, roi, (time.perf_counter_ns() - started_ns) / 1e6)


class EngineRun(NamedTuple):
    """What an engine returned for one batch of regions, and when the run began and ended (time.perf_counter_ns)."""

    decision: Decision
    started_ns: int
    done_ns: int


def predict(
    engine: Engine, degraded_mode: DegradedMode, regions: Sequence[FramedRegion], *, min_confidence: float = 0.0
) -> list[Prediction]:
    """Classify regions in as few engine runs as possible. Returns predictions in the order of `regions`.

    Args:
        engine: open.
        degraded_mode: whether to predict or abstain if a sensor is missing.
        min_confidence: a class whose probability is lower is answered with "unknown".
    """
    runs = run_engine(engine, regions)
    return predictions_of(runs, engine.labels, degraded_mode, regions, min_confidence=min_confidence)


def run_engine(engine: Engine, regions: Sequence[FramedRegion]) -> list[EngineRun]:
    """The engine runs of `predict`. Regions with missing sensors also run, so that they do not change the latency statistics."""
    runs = []
    for part in _runs(len(regions), engine.batch_size):
        started_ns = time.perf_counter_ns()
        rgb, depth = (_batch([region.framed[i] for region in regions[part]]) for i in (0, 1))
        decision = engine.run(rgb, depth)
        runs.append(EngineRun(decision, started_ns, time.perf_counter_ns()))
    return runs


def predictions_of(
    runs: Sequence[EngineRun],
    labels: tuple[str, ...],
    degraded_mode: DegradedMode,
    regions: Sequence[FramedRegion],
    *,
    min_confidence: float = 0.0,
) -> list[Prediction]:
    """The predictions for `regions`, from the engine runs for them; see `predict`."""
    predictions: list[Prediction] = []
    for decision, started_ns, done_ns in runs:
        from_depth = decision.from_depth
        some = regions[len(predictions) : len(predictions) + len(decision.probabilities)]
        for i, region in enumerate(some):
            scores, gate = decision.probabilities[i], _mean(decision.gate[i])
            nearest_m = 0.0 if decision.nearest_m is None else float(decision.nearest_m[i])
            is_finite = math.isfinite(sum(scores.tolist()) + gate + nearest_m)
            rgb_state, depth_state = region.sensors
            is_trusted = degraded_mode.predicts(
                rgb_is_available=rgb_state == "ok", depth_is_available=depth_state == "ok"
            )
            label = None
            if is_finite and is_trusted:
                label = answer_of(scores, labels, min_confidence=min_confidence)
            prediction = Prediction(
                label=label,
                scores=scores if is_finite else None,
                labels=labels,
                gate=gate if is_finite else None,
                sensors=region.sensors,
                roi=region.roi,
                frame_ms=region.frame_ms,
                infer_ms=(done_ns - started_ns) / 1e6,
                done_ns=done_ns,
                nearest_m=(nearest_m or None) if is_finite else None,
                adaptive=None if from_depth is None else "depth" if from_depth[i] else "full",
            )
            predictions.append(prediction)
    return predictions


def _mean(gate: NDArray[np.float32]) -> float:
    """The mean over the units of a gate, [d]; not finite if one of them is not."""
    values = gate.tolist()
    return float(sum(values) / len(values))


def _batch(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Images as a batch; a view of a single one."""
    return images[0][np.newaxis] if len(images) == 1 else np.stack(images)


def predict_framed(engine: Engine, rgb: NDArray[np.uint8], depth: NDArray[np.uint8], /) -> Outputs:
    """The model's outputs for framed pairs, without sensor checks.

    Args:
        engine: open.
        rgb, depth: uint8 [n, S, S, 3] and [n, S, S, 2] as the contract defines them, n >= 1.

    Raises:
        UserError: an output has NaN or infinity; argmax would turn these into a class.
    """
    found = [engine.run(rgb[part], depth[part]).outputs for part in _runs(len(rgb), engine.batch_size)]
    arrays = [np.concatenate(parts) for parts in zip(*found, strict=True) if parts[0] is not None]
    num_bad = int((~np.isfinite(np.concatenate(arrays, axis=1)).all(axis=1)).sum())
    if num_bad:
        file = engine.description.get("file", "the model")
        raise UserError(
            f"{file} has NaN or infinity in its output for {num_bad} of {len(rgb)} pairs: FP16 overflows, or the weights are "
            f"corrupted; check it with edgefuse lint-onnx, or export again with --precision fp32"
        )
    return Outputs(*arrays)


def _runs(num_pairs: int, batch_size: int | None) -> Iterator[slice]:
    """The pairs of each engine run."""
    step = batch_size if batch_size is not None else MAX_PAIRS_IN_ONE_RUN
    return (slice(first, first + step) for first in range(0, num_pairs, step))
