"""From framed regions to predictions: what a missing sensor means, batches, and the one place that runs an engine for a prediction.

`edgefuse.Classifier` and the live loop call `predict`; evaluation and the benchmarks give framed batches to `predict_framed`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse.degraded_mode import DegradedMode
from edgefuse.errors import UserError
from edgefuse.framing import Framed, Roi
from edgefuse_runtime.engines.engine import NOT_FINITE, Decision, Engine
from edgefuse_runtime.sensor_health import SensorStates, sensor_warning, shown

NO_REGION = "no object was found to classify"
MAX_PAIRS_IN_ONE_RUN = 32
"""Where a file takes any number: the memory that a run needs grows with it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The answer for one region of one RGB-D pair.

    Attributes:
        label: the most likely class. None = no decision; `warning` says why.
        scores: float32 [C], the model's probabilities in the order of `labels`; None where they are not finite, or nothing
            was classified.
        labels: class names in the order of the model's outputs.
        gate: mean of the gate; 0 = all from RGB, 1 = all from depth. None where there is none, or it is not finite.
        sensors: state of each sensor in the region: "ok", or why the model was given nothing of it.
        roi: the region that was classified, in pixels of the image; None where no object was found.
        frame_ms: milliseconds for finding this region, cropping, resizing, and looking at the sensors.
        infer_ms: milliseconds of the engine run that this answer is from. Regions of one run have the same value: it is the time
            of the whole run, not divided by the number of regions.
        done_ns: when the run's answers were there (time.perf_counter_ns).

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

    @property
    def probability(self) -> float | None:
        """Probability of `label`, 0 to 1; None without a decision."""
        return None if self.label is None or self.scores is None else float(self.scores.max())

    @property
    def probabilities(self) -> dict[str, float]:
        """Class name -> probability, the most likely first; empty where there is no finite answer."""
        return dict(self.top(len(self.labels)))

    def top(self, num_classes: int) -> tuple[tuple[str, float], ...]:
        """The most likely classes with their probabilities, best first; none where there is no finite answer."""
        if self.scores is None:
            return ()
        order = np.argsort(-self.scores, kind="stable")[:num_classes]
        return tuple((self.labels[i], float(self.scores[i])) for i in order)

    @property
    def warning(self) -> str:
        """What is wrong with the sensors or the answer, and what that means; empty where nothing is."""
        if self.roi is None:
            return f"{NO_REGION}: no decision"
        if self.scores is None:
            return f"{NOT_FINITE}: no decision"
        return sensor_warning(self.sensors, is_decided=self.label is not None)


class FramedRegion(NamedTuple):
    """A region as the model is given it.

    Attributes:
        framed: what `edgefuse.framing.fit` made of the region; a sensor that is not "ok" as black, or as no measurement.
        sensors: state of each sensor.
        roi: the region, in pixels of the image.
        frame_ms: milliseconds that the work on it took so far.
    """

    framed: Framed
    sensors: SensorStates
    roi: Roi
    frame_ms: float

    @classmethod
    def of(cls, framed: Framed, sensors: SensorStates, *, roi: Roi, started_ns: int) -> FramedRegion:
        """Hide the sensors that are not "ok". `started_ns`: when the work on the region began (time.perf_counter_ns)."""
        framed = shown(framed, sensors)
        return cls(framed, sensors, roi, (time.perf_counter_ns() - started_ns) / 1e6)


def predict(engine: Engine, degraded_mode: DegradedMode, regions: Sequence[FramedRegion]) -> list[Prediction]:
    """Classify regions, in their order, in as few engine runs as the engine allows.

    Args:
        engine: open.
        degraded_mode: what is reported while a sensor is missing.
    """
    predictions = []
    for part in _runs(len(regions), engine.batch_size):
        some = regions[part]
        started_ns = time.perf_counter_ns()
        # Missing sensors do not keep a region from the engine, so that they do not change the figures of latency.
        rgb, depth = (np.stack([region.framed[i] for region in some]) for i in (0, 1))
        decision = engine.run(rgb, depth)
        done_ns = time.perf_counter_ns()
        for i, region in enumerate(some):
            one = Decision(probabilities=decision.probabilities[i : i + 1], gate=decision.gate[i : i + 1])
            scores = one.probabilities[0] if one.is_finite else None
            rgb_state, depth_state = region.sensors
            is_trusted = degraded_mode.predicts(
                rgb_is_available=rgb_state == "ok", depth_is_available=depth_state == "ok"
            )
            prediction = Prediction(
                label=engine.labels[int(scores.argmax())] if scores is not None and is_trusted else None,
                scores=scores,
                labels=engine.labels,
                gate=float(one.gate.mean()) if one.is_finite else None,
                sensors=region.sensors,
                roi=region.roi,
                frame_ms=region.frame_ms,
                infer_ms=(done_ns - started_ns) / 1e6,
                done_ns=done_ns,
            )
            predictions.append(prediction)
    return predictions


def predict_framed(
    engine: Engine, rgb: NDArray[np.uint8], depth: NDArray[np.uint8], /
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities [n, C] and gate [n, d] of framed pairs, as the model gives them: no sensor is looked at.

    Args:
        engine: open.
        rgb, depth: uint8 [n, S, S, 3] and [n, S, S, 2], any n from 1, as the contract says.

    Raises:
        UserError: an answer has NaN or infinity in it, which would be taken for the first class.
    """
    decisions = [engine.run(rgb[part], depth[part]) for part in _runs(len(rgb), engine.batch_size)]
    probabilities = np.concatenate([decision.probabilities for decision in decisions])
    gate = np.concatenate([decision.gate for decision in decisions])
    num_bad = int((~(np.isfinite(probabilities).all(axis=1) & np.isfinite(gate).all(axis=1))).sum())
    if num_bad:
        file = engine.description.get("file", "the model")
        raise UserError(
            f"{file} answered NaN or infinity for {num_bad} of {len(rgb)} pairs: half precision overflows, or the "
            f"weights are spoilt; check it with edgefuse check-onnx, or export again with --precision fp32"
        )
    return probabilities, gate


def _runs(num_pairs: int, batch_size: int | None) -> Iterator[slice]:
    """Which pairs go into which run of the engine."""
    step = batch_size if batch_size is not None else MAX_PAIRS_IN_ONE_RUN
    return (slice(first, first + step) for first in range(0, num_pairs, step))
