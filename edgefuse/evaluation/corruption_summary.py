"""A table of corruptions in a few numbers: expected accuracy if sensors fail at random, and whether the gate finds the failing sensor.

Owns both definitions; `edgefuse.evaluation.corruption_benchmark` measures the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.evaluation.corruption_benchmark import CLEAN, Row
from edgefuse.evaluation.corruptions import CORRUPTIONS, Sensor, by_name

FAILURE_PROBABILITIES = (0.05, 0.1, 0.2)
NOT_VISIBLE = ("frozen_rgb", "foreign_rgb", "frozen_depth", "foreign_depth")
"""Corruptions whose image is a good one of another moment or scene: a single pair does not show which sensor is wrong."""

EXPECTED_ACCURACY_DEFINITION = (
    "Each sensor fails with probability p, independently of the other. missing: a failed sensor has no image; with both missing, the "
    "accuracy is chance, 1 / number of classes. any corruption: a failed sensor has one of its corruptions, all kinds equally likely and "
    "all severities of a kind equally likely; both failing at once is not measured, so p is then the probability of one failing alone."
)


@dataclass(frozen=True, kw_only=True)
class CorruptionSummary:
    """Figures of one model.

    Attributes:
        missing: p -> expected accuracy, if failed sensors are missing.
        any_corruption: p -> expected accuracy, if failed sensors have any corruption. See `EXPECTED_ACCURACY_DEFINITION`.
        gate_auc: area under the ROC curve of the mean gate of a pair, for "RGB is corrupted" against "depth is corrupted", at the middle
            severities of each corruption; 1 = the gate always finds the failing sensor, 0.5 = never.
        gate_auc_visible: the same without the corruptions of `NOT_VISIBLE`.
    """

    missing: dict[float, float]
    any_corruption: dict[float, float]
    gate_auc: float
    gate_auc_visible: float

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return dict(vars(self))


def summarise(rows: Sequence[Row]) -> CorruptionSummary:
    """The summary of all rows of a model, from `edgefuse.evaluation.corruption_benchmark.evaluate_corruptions`."""
    accuracy = {(row.corruption, row.severity): row.scores.accuracy for row in rows}
    clean = accuracy[CLEAN, 0.0]
    no_rgb, no_depth = accuracy["no_rgb", 1], accuracy["no_depth", 1]
    chance = 1 / len(rows[0].scores.confusion)
    failed = _mean_of_kinds(rows, "rgb") + _mean_of_kinds(rows, "depth")
    return CorruptionSummary(
        missing={
            p: (1 - p) ** 2 * clean + p * (1 - p) * (no_rgb + no_depth) + p**2 * chance for p in FAILURE_PROBABILITIES
        },
        any_corruption={p: (1 - 2 * p) * clean + p * failed for p in FAILURE_PROBABILITIES},
        gate_auc=_gate_auc(rows, leave_out=()),
        gate_auc_visible=_gate_auc(rows, leave_out=NOT_VISIBLE),
    )


def middle_severities(name: str) -> tuple[float, ...]:
    """The severity in the middle of those of a corruption, or the two in the middle."""
    severities = by_name(name).severities
    return severities[(len(severities) - 1) // 2 : len(severities) // 2 + 1]


def area_under_roc(high: NDArray[np.floating[Any]], low: NDArray[np.floating[Any]]) -> float:
    """The probability that a random value of `high` is above one of `low`; a tie counts half."""
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, side="left") + np.searchsorted(ordered, high, side="right")
    return float(below.mean() / (2 * len(low)))


def _mean_of_kinds(rows: Sequence[Row], sensor: Sensor) -> float:
    """Mean accuracy over the corruptions of a sensor, each the mean of its severities."""
    kinds = [corruption.name for corruption in CORRUPTIONS if corruption.sensor == sensor]
    found = [[row.scores.accuracy for row in rows if row.corruption == kind] for kind in kinds]
    return float(np.mean([np.mean(of_kind) for of_kind in found if of_kind]))


def _gate_auc(rows: Sequence[Row], *, leave_out: Sequence[str]) -> float:
    chosen = [
        row
        for row in rows
        if row.corruption not in (CLEAN, *leave_out) and row.severity in middle_severities(row.corruption)
    ]
    of_sensor = {
        sensor: [row.gates for row in chosen if by_name(row.corruption).sensor == sensor] for sensor in ("rgb", "depth")
    }
    if not all(of_sensor.values()):
        return float("nan")
    return area_under_roc(np.concatenate(of_sensor["rgb"]), np.concatenate(of_sensor["depth"]))
