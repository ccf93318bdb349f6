"""`edgefuse.Classifier`: from one RGB-D pair to predictions.

It finds and crops the regions and checks the sensors; `edgefuse_runtime.predict` runs the engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgefuse import framing
from edgefuse.answers import NONE
from edgefuse.bundle import Bundle, open_bundle
from edgefuse.contract import DEPTH_UNIT_M, InputContract, Outputs
from edgefuse.errors import UserError
from edgefuse.framing import ANY_CROP, WHOLE, Roi
from edgefuse_runtime.camera import Frame
from edgefuse_runtime.decisions.over_time import check_min_confidence
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.predict import FramedRegion, Prediction, predict, predict_framed
from edgefuse_runtime.regions.region import RegionSource, parse_region
from edgefuse_runtime.sensor_health import ALL_OK, states_in

RoiLike = Roi | tuple[int, int, int, int]

_log = logging.getLogger(__name__)


class Classifier:
    """Classifies RGB-D pairs with a bundle. The constructor reads the manifest; `with` loads the engine.

    Use it only in the thread that opened it.

    Example:
        >>> import edgefuse
        >>> with edgefuse.Classifier("bundles/mugs") as classifier:
        ...     prediction = classifier(rgb, depth, depth_unit_m=0.001)
        ...     print(f"{prediction.label} {prediction.probability:.2f}")
        red_mug 0.97
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        engine: str = "auto",
        file: str | None = None,
        num_threads: int | None = None,
        min_confidence: float = 0.0,
        adaptive: float | None = None,
    ) -> None:
        """Read the bundle's manifest.

        Args:
            bundle: the folder made by `edgefuse export`.
            engine: "tensorrt", "rtx", "cuda", "openvino" or "cpu": that engine or an error; "auto": the first of them that works on
                this machine. "openvino:bf16" and "openvino:int8" choose the precision.
            file: an ONNX file of the bundle, such as "model.int8.onnx"; None = the best for the engine.
            num_threads: CPU threads of the engine; None = one per core.
            min_confidence: a class whose probability is lower is answered with "unknown".
            adaptive: answer from depth alone where its probability is at least this, above 0 and at most 1; needs a bundle exported
                with `--adaptive`, and an engine of the CPU. None = the complete model for every pair.

        Raises:
            EdgefuseError: the bundle is missing or damaged, the engine or file is unknown, `min_confidence` is not from 0 to 1, or
                `adaptive` is out of range or does not work with the bundle or engine.
        """
        check_min_confidence(min_confidence)
        self._min_confidence = min_confidence
        self.bundle: Bundle = open_bundle(Path(bundle))
        self._engine: Engine = open_engine(
            self.bundle, file=file, engine=engine, num_threads=num_threads, adaptive=adaptive
        )
        self._is_open = self._has_warned = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the model's outputs."""
        return self.bundle.manifest.labels

    @property
    def contract(self) -> InputContract:
        """The definition of the model's inputs: size, depth range, alignment."""
        return self.bundle.manifest.contract

    @property
    def engine(self) -> dict[str, Any]:
        """The engine, its file and settings, as JSON values; complete while it is open."""
        return self._engine.description

    @property
    def batch_size(self) -> int | None:
        """Maximum number of regions in one engine run; None = any number, run in parts of 32. See `edgefuse export --batch`."""
        return self._engine.batch_size

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
            depth_unit_m: metres per depth code; 0.001 for most RealSense cameras, 0.0001 for a D405.
            roi: (x, y, w, h) in pixels, extended to the square around it; "whole" for the complete image; None = the region of the
                training data (`record --roi`), or the complete image if it was not cropped.

        Raises:
            EdgefuseError: wrong type or shape of an array, a region outside the image, or an engine failure.
            RuntimeError: the classifier is not open: use it inside `with`.
        """
        self._check_open()
        started_ns = time.perf_counter_ns()
        region = self._framed(rgb, depth, depth_unit_m, roi)
        if region is None:
            return self._no_object(started_ns)
        return self._predict([region])[0]

    def batch(
        self,
        rgb: NDArray[np.uint8],
        depth: NDArray[np.uint16],
        *,
        rois: Sequence[RoiLike | Literal["whole"] | None],
        depth_unit_m: float = DEPTH_UNIT_M,
    ) -> list[Prediction]:
        """Classify several regions of one pair. Returns predictions in the order of `rois`.

        A bundle exported with `--batch N` or `--batch dynamic` runs up to `batch_size` regions in one engine run; any other bundle
        runs one region at a time. All regions are cropped first.

        Args:
            rois: each as `roi` of `__call__`; may be empty.

        Raises:
            EdgefuseError: as `__call__`; the message for a region begins with its index: "rois[2]: ...".

        Example:
            >>> import edgefuse
            >>> with edgefuse.Classifier("bundles/mugs") as classifier:
            ...     left, right = classifier.batch(rgb, depth, rois=[(0, 0, 240, 240), (400, 0, 240, 240)])
            >>> left.label, right.label
            ('blue_mug', 'red_mug')
        """
        self._check_open()
        framing.check_pair(rgb, depth, depth_unit_m)
        regions: list[FramedRegion | Prediction] = []
        for number, roi in enumerate(rois):
            started_ns = time.perf_counter_ns()
            try:
                region = self._framed(rgb, depth, depth_unit_m, roi)
            except UserError as error:
                raise UserError(f"rois[{number}]: {error}") from error
            regions.append(self._no_object(started_ns) if region is None else region)
        found = [region for region in regions if isinstance(region, FramedRegion)]
        predictions = iter(self._predict(found))
        return [next(predictions) if isinstance(region, FramedRegion) else region for region in regions]

    def predict_framed(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8], /) -> Outputs:
        """The model's outputs for a framed batch, for evaluation: see `edgefuse_runtime.predict.predict_framed`."""
        self._check_open()
        return predict_framed(self._engine, rgb, depth)

    def _predict(self, regions: Sequence[FramedRegion]) -> list[Prediction]:
        return predict(self._engine, self.bundle.manifest.degraded_mode, regions, min_confidence=self._min_confidence)

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("the classifier is not open: use it inside `with`")

    def _framed(
        self, rgb: NDArray[np.uint8], depth: NDArray[np.uint16], depth_unit_m: float, roi: RoiLike | str | None
    ) -> FramedRegion | None:
        """The region as model input; None if no object was found."""
        started_ns = time.perf_counter_ns()
        region = self._roi(rgb, depth, depth_unit_m, roi)
        if region is None:
            return None
        framed = framing.fit(rgb, depth, size=self.contract.size, roi=region, depth_unit_m=depth_unit_m)
        sensors = states_in(framed, roi=region, shape=depth.shape)
        return FramedRegion.of(framed, sensors, roi=region, started_ns=started_ns)

    def _region(self) -> RegionSource:
        """The default region: that of the training data. A new source for each pair, because pairs are independent."""
        word = self.bundle.manifest.region
        if word == ANY_CROP and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "%s was trained on crops of the object: give roi=(x, y, w, h), or cropped images",
                self.bundle.folder,
            )
        return parse_region(WHOLE if word in (None, ANY_CROP) else word)

    def _roi(
        self, rgb: NDArray[np.uint8], depth: NDArray[np.uint16], depth_unit_m: float, roi: RoiLike | str | None
    ) -> Roi | None:
        framing.check_pair(rgb, depth, depth_unit_m)
        if roi is None:
            found = self._region()(_frame(rgb, depth, depth_unit_m, self.contract))
            return found[0].roi if found else None
        if isinstance(roi, str):
            if roi != WHOLE:
                raise UserError(f"the region is {roi!r}: (x, y, w, h) in pixels, or {WHOLE!r}, was expected")
            return Roi(0, 0, depth.shape[1], depth.shape[0])
        try:
            x, y, w, h = roi
            return Roi(*(int(value) for value in (x, y, w, h)))
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"the region is {roi!r}: (x, y, w, h) in pixels was expected") from error

    def _no_object(self, started_ns: int) -> Prediction:
        done_ns = time.perf_counter_ns()
        return Prediction(
            label=NONE,
            scores=None,
            labels=self.labels,
            gate=None,
            sensors=ALL_OK,
            roi=None,
            frame_ms=(done_ns - started_ns) / 1e6,
            infer_ms=0.0,
            done_ns=done_ns,
        )


def _frame(rgb: NDArray[np.uint8], depth: NDArray[np.uint16], depth_unit_m: float, contract: InputContract) -> Frame:
    """The pair as the input of a region source."""
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
