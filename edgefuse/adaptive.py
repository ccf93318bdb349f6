"""Adaptive computing: pairs that depth alone answers, because its probability is high enough, and the complete model for all others.

Owns the names of the two files that a model is divided into, the manifest's field `adaptive`, and the curve of accuracy over thresholds.

    adaptive_depth.onnx   depth -> probabilities of the depth head, nearest_m, depth features
    adaptive_rest.onnx    RGB, depth, nearest_m, depth features -> the outputs of the complete model
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse.io.json_files import check_fields

DEPTH_FILE = "adaptive_depth.onnx"
REST_FILE = "adaptive_rest.onnx"
FILES = (DEPTH_FILE, REST_FILE)
FEATURES = "depth_features"
"""The output of the first file that is an input of the second, beside the distance of the nearest surface."""

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
MAX_LOSS = 0.005
"""Largest loss of accuracy of a threshold that `Adaptive.suggested` returns."""

_POINT = {"threshold": float, "from_depth": float, "accuracy": float}
_FIGURES = {"temperature": float, "num_pairs": int, "accuracy": float, "depth_accuracy": float}


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """What one threshold gives: the fraction of the pairs that depth alone answers, and the accuracy over all pairs, 0 to 1."""

    threshold: float
    from_depth: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """The manifest's field: how the depth head was calibrated, and what it gives on the validation pairs.

    Attributes:
        temperature: of the depth head, fitted on augmented validation pairs.
        num_pairs: number of validation pairs.
        accuracy, depth_accuracy: of the complete model and of the depth head alone, on these pairs.
        curve: in the order of the thresholds.
    """

    temperature: float
    num_pairs: int
    accuracy: float
    depth_accuracy: float
    curve: tuple[CurvePoint, ...]

    @property
    def suggested(self) -> CurvePoint | None:
        """The lowest threshold that, as each higher one, loses at most `MAX_LOSS`, and lets depth answer at all; None if there is none."""
        found = None
        for point in reversed(self.curve):
            if point.accuracy < self.accuracy - MAX_LOSS:
                break
            found = point
        return found if found is not None and found.from_depth > 0 else None

    def to_json(self) -> dict[str, Any]:
        """The manifest's field."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Adaptive | None:
        """The inverse of `to_json`. None, as in bundles without the two files, gives None.

        Raises:
            UserError: a field is missing or has the wrong type.
        """
        if value is None:
            return None
        check_fields(value, {**_FIGURES, "curve": [_POINT]}, what="it", where="adaptive")
        curve = tuple(CurvePoint(**{name: point[name] for name in _POINT}) for point in value["curve"])
        return cls(**{name: value[name] for name in _FIGURES}, curve=curve)


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that no probability reaches, or that every one does.

    Raises:
        UserError: it is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise UserError(f"the threshold of --adaptive is {threshold:g}: a probability above 0, at most 1, was expected")


def is_confident(probabilities: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Which pairs depth alone answers: the largest of the probabilities [n, C] of the depth head is at least the threshold; NaN is not."""
    return np.asarray(probabilities.max(axis=1) >= threshold)


def curve_of(
    depth: NDArray[np.float32],
    full: NDArray[np.float32],
    truth: NDArray[np.int64],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> tuple[CurvePoint, ...]:
    """The curve from the probabilities [n, C] of the depth head and of the complete model for the same pairs, and their classes [n]."""
    points = []
    for threshold in thresholds:
        from_depth = is_confident(depth, threshold)
        answers = np.where(from_depth, depth.argmax(axis=1), full.argmax(axis=1))
        points.append(
            CurvePoint(
                threshold=threshold,
                from_depth=float(from_depth.mean()),
                accuracy=float((answers == truth).mean()),
            )
        )
    return tuple(points)
