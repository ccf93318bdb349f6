"""From one RGB-D pair to a prediction: region, crop, sensor states, engine, and what a missing sensor means.

The one path from pixels to a decision: `edgefuse.Classifier` is the class below, and the live loop decides by `predict`. Never
imports torch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgefuse import framing
from edgefuse.bundle import Bundle, open_bundle
from edgefuse.contract import DEPTH_UNIT_M, InputContract
from edgefuse.degraded_mode import DegradedMode
from edgefuse.errors import UserError
from edgefuse.framing import ANY_CROP, WHOLE, Framed, Roi
from edgefuse_runtime.camera import Frame
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.engine import NOT_FINITE, Engine
from edgefuse_runtime.regions.region import RegionSource, parse_region
from edgefuse_runtime.sensor_health import ALL_OK, SensorStates, sensor_warning, shown, states_in

RoiLike = Roi | tuple[int, int, int, int]

NO_REGION = "no object was found to classify"

_log = logging.getLogger(__name__)


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
        frame_ms: milliseconds for finding the region, cropping, resizing, and looking at the sensors.
        infer_ms: milliseconds in the engine.
        done_ns: when the answer was there (time.perf_counter_ns).

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


def predict(
    engine: Engine, degraded_mode: DegradedMode, framed: Framed, sensors: SensorStates, *, roi: Roi, started_ns: int
) -> Prediction:
    """Classify a framed pair.

    Args:
        engine: open.
        fallback: what is reported while a sensor is missing.
        framed: what `edgefuse.framing.fit` made of the region `roi`.
        sensors: a sensor that is not "ok" is shown to the model as black, or as without any measurement.
        started_ns: when the work on the pair began (time.perf_counter_ns).
    """
    framed = shown(framed, sensors)
    framed_ns = time.perf_counter_ns()
    # The engine runs in any case, so that a missing sensor does not change the figures of latency.
    decision = engine.run(framed.rgb[np.newaxis], framed.depth[np.newaxis])
    done_ns = time.perf_counter_ns()
    scores = decision.probabilities[0] if decision.is_finite else None
    is_trusted = degraded_mode.predicts(rgb_is_available=sensors.rgb == "ok", depth_is_available=sensors.depth == "ok")
    return Prediction(
        label=engine.labels[int(scores.argmax())] if scores is not None and is_trusted else None,
        scores=scores,
        labels=engine.labels,
        gate=float(decision.gate.mean()) if decision.is_finite else None,
        sensors=sensors,
        roi=roi,
        frame_ms=(framed_ns - started_ns) / 1e6,
        infer_ms=(done_ns - framed_ns) / 1e6,
        done_ns=done_ns,
    )


class Classifier:
    """A bundle that is ready to classify RGB-D pairs. The constructor reads the manifest; `with` loads the engine.

    It belongs to the thread that opened it.

    Example:
        >>> import edgefuse
        >>> with edgefuse.Classifier("bundles/mugs") as classifier:
        ...     prediction = classifier(rgb, depth, depth_unit_m=0.001)
        ...     print(f"{prediction.label} {prediction.probability:.2f}")
        red_mug 0.97
    """

    def __init__(
        self, bundle: str | Path, *, engine: str = "auto", file: str | None = None, num_threads: int | None = None
    ) -> None:
        """Read the bundle's manifest.

        Args:
            bundle: the folder that `edgefuse export` made.
            engine: "tensorrt", "cuda" or "cpu": that one or an error; "auto": the first of them that opens on this machine.
            file: an ONNX file of the bundle, such as "model.int8.onnx"; None = the best for the engine.
            num_threads: CPU threads of the engine; None = one for each core.

        Raises:
            EdgefuseError: no bundle there, a damaged one, or an engine or file that it does not have.
        """
        self.bundle: Bundle = open_bundle(Path(bundle))
        self._engine: Engine = open_engine(self.bundle, file=file, engine=engine, num_threads=num_threads)
        self._region = _region_of(self.bundle)
        self._is_open = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the model's outputs."""
        return self.bundle.manifest.labels

    @property
    def contract(self) -> InputContract:
        """What the model's inputs mean: size, depth range, alignment."""
        return self.bundle.manifest.contract

    @property
    def engine(self) -> dict[str, Any]:
        """Which engine and file run, as JSON values; complete while it is open."""
        return self._engine.description

    def __enter__(self) -> Classifier:
        self._engine.__enter__()
        self._is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        self._engine.__exit__(kind, error, trace)

    def __call__(
        self,
        rgb: NDArray[np.uint8],
        depth: NDArray[np.uint16],
        *,
        depth_unit_m: float = DEPTH_UNIT_M,
        roi: RoiLike | Literal["whole"] | None = None,
    ) -> Prediction:
        """Classify one region of one aligned pair.

        Args:
            rgb: uint8 [H, W, 3], RGB order (OpenCV reads BGR: `cv2.cvtColor(image, cv2.COLOR_BGR2RGB)`).
            depth: uint16 [H, W] in codes of `depth_unit_m` metres, 0 = no measurement; the same view as `rgb`.
            depth_unit_m: metres of one depth code; 0.001 for most RealSense cameras, 0.0001 for a D405.
            roi: (x, y, w, h) in pixels, widened to the square around it; "whole" for the whole image; None = as the training
                data was cropped (`record --roi`), which is the whole image where it was not.

        Raises:
            EdgefuseError: arrays of another type or shape, a region outside the image, or an engine that failed.
            RuntimeError: the classifier is not open: use it inside `with`.
        """
        if not self._is_open:
            raise RuntimeError("the classifier is not open: use it inside `with`")
        started_ns = time.perf_counter_ns()
        region = self._roi(rgb, depth, depth_unit_m, roi)
        if region is None:
            return self._nothing(started_ns)
        framed = framing.fit(rgb, depth, size=self.contract.size, roi=region, depth_unit_m=depth_unit_m)
        sensors = states_in(framed, roi=region, shape=depth.shape)
        return predict(
            self._engine, self.bundle.manifest.degraded_mode, framed, sensors, roi=region, started_ns=started_ns
        )

    def batch(
        self,
        rgb: NDArray[np.uint8],
        depth: NDArray[np.uint16],
        *,
        rois: Sequence[RoiLike],
        depth_unit_m: float = DEPTH_UNIT_M,
    ) -> list[Prediction]:
        """Classify several regions of one pair, in their order; one engine call for each. Errors are those of a call.

        Example:
            >>> import edgefuse
            >>> with edgefuse.Classifier("bundles/mugs") as classifier:
            ...     left, right = classifier.batch(rgb, depth, rois=[(0, 0, 240, 240), (400, 0, 240, 240)])
            >>> left.label, right.label
            ('blue_mug', 'red_mug')
        """
        return [self(rgb, depth, depth_unit_m=depth_unit_m, roi=roi) for roi in rois]

    def _roi(
        self, rgb: NDArray[np.uint8], depth: NDArray[np.uint16], depth_unit_m: float, roi: RoiLike | str | None
    ) -> Roi | None:
        framing.check_pair(rgb, depth, depth_unit_m)
        if roi is None:
            found = self._region(_frame(rgb, depth, depth_unit_m, self.contract))
            return None if found is None else found.roi
        if isinstance(roi, str):
            if roi != WHOLE:
                raise UserError(f"the region is {roi!r}: (x, y, w, h) in pixels, or {WHOLE!r}, was expected")
            return Roi(0, 0, depth.shape[1], depth.shape[0])
        try:
            x, y, w, h = roi
            return Roi(*(int(value) for value in (x, y, w, h)))
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"the region is {roi!r}: (x, y, w, h) in pixels was expected") from error

    def _nothing(self, started_ns: int) -> Prediction:
        done_ns = time.perf_counter_ns()
        return Prediction(
            label=None,
            scores=None,
            labels=self.labels,
            gate=None,
            sensors=ALL_OK,
            roi=None,
            frame_ms=(done_ns - started_ns) / 1e6,
            infer_ms=0.0,
            done_ns=done_ns,
        )


def _region_of(bundle: Bundle) -> RegionSource:
    word = bundle.manifest.region
    if word == ANY_CROP:
        _log.warning(
            "%s was trained on crops of the object: give roi=(x, y, w, h), or images that are crops", bundle.folder
        )
    return parse_region(WHOLE if word in (None, ANY_CROP) else word)


def _frame(rgb: NDArray[np.uint8], depth: NDArray[np.uint16], depth_unit_m: float, contract: InputContract) -> Frame:
    """The pair as region sources take it."""
    return Frame(
        rgb=rgb,
        depth=depth,
        depth_unit_m=depth_unit_m,
        align=contract.align,
        color_number=0,
        depth_number=0,
        timestamp_ms=0.0,
        timestamp_domain="none",
        arrival_ns=0,
        ready_ns=0,
        name="",
    )
