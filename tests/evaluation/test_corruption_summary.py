"""Expected accuracy under failure probability, and the area under the ROC curve of the gate, on tables made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgefuse.evaluation.corruption_benchmark import Row
from edgefuse.evaluation.corruption_summary import area_under_roc, middle_severities, summarise
from edgefuse.evaluation.metrics import Scores


def row(corruption: str, severity: float, accuracy: float, gates: list[float]) -> Row:
    scores = Scores(
        num_samples=2,
        accuracy=accuracy,
        recall={},
        expected_calibration_error=0,
        mean_gate=float(np.mean(gates)),
        confusion=[[1, 0], [0, 1]],
    )
    return Row(corruption=corruption, severity=severity, unit="", scores=scores, gates=np.array(gates, np.float32))


ROWS = (
    row("clean", 0, 0.9, [0.5, 0.5]),
    row("no_rgb", 1, 0.8, [0.9, 0.9]),
    row("no_depth", 1, 0.6, [0.1, 0.1]),
    row("dark_rgb", 4, 0.7, [0.8, 0.3]),
    row("dark_rgb", 8, 0.5, [0.0, 0.0]),
    row("depth_shift", 4, 0.9, [0.2, 0.6]),
    row("foreign_rgb", 1, 0.2, [0.05, 0.05]),
)


def test_expected_accuracy() -> None:
    found = summarise(ROWS)
    assert found.missing[0.1] == pytest.approx(0.81 * 0.9 + 0.09 * 0.8 + 0.09 * 0.6 + 0.01 * 0.5)
    rgb, depth = (0.8 + (0.7 + 0.5) / 2 + 0.2) / 3, (0.6 + 0.9) / 2
    assert found.any_corruption[0.2] == pytest.approx(0.6 * 0.9 + 0.2 * rgb + 0.2 * depth)


def test_the_gate_finds_the_failing_sensor_at_middle_severities() -> None:
    found = summarise(ROWS)
    # RGB: 0.9 0.9 0.8 0.3 (not dark by 8 stops), depth: 0.1 0.1 0.2 0.6
    assert found.gate_auc_visible == pytest.approx((4 + 4 + 4 + 3) / 16)
    assert found.gate_auc == pytest.approx(15 / 24)
    assert middle_severities("dark_rgb") == (4, 5) and middle_severities("depth_holes") == (0.5,)


def test_area_under_roc_counts_ties_half() -> None:
    assert area_under_roc(np.array([1.0]), np.array([1.0])) == 0.5
    assert area_under_roc(np.array([1.0, 0.0]), np.array([0.0])) == 0.75
