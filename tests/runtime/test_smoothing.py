"""The exponential average of log probabilities, and when it begins again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgefuse_runtime.decisions.over_time import DecisionConfig, DecisionsOverTime
from edgefuse_runtime.decisions.smoothing import Smoother

MUG, BOTTLE = np.array([0.8, 0.15, 0.05], np.float32), np.array([0.1, 0.85, 0.05], np.float32)


def test_one_frame_does_not_change_the_answer_and_two_do() -> None:
    smoother = Smoother(9)
    for _ in range(20):
        smoother(MUG)
    assert smoother(BOTTLE).argmax() == 0
    assert smoother(MUG).argmax() == 0
    smoother(BOTTLE)
    assert smoother(BOTTLE) == pytest.approx(BOTTLE, abs=1e-6)  # it begins again, without a trace of the mug


def test_two_outliers_of_different_classes_are_no_change() -> None:
    smoother = Smoother(9)
    for _ in range(20):
        smoother(MUG)
    smoother(BOTTLE)
    assert smoother(np.array([0.1, 0.05, 0.85], np.float32)).argmax() == 0


def test_the_newest_frame_has_its_weight() -> None:
    smoother = Smoother(3)  # weight 1/2: the geometric mean
    smoother(MUG)
    expected = np.sqrt(MUG * np.array([0.6, 0.3, 0.1]))
    assert smoother(np.array([0.6, 0.3, 0.1], np.float32)) == pytest.approx(expected / expected.sum(), abs=1e-6)


def test_a_span_of_one_is_no_average() -> None:
    decisions = DecisionsOverTime(DecisionConfig(smooth=1))
    decisions.smoothed(0, MUG)
    assert decisions.smoothed(0, BOTTLE) is BOTTLE


ROWS = hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(4)), elements=st.floats(0, 1, width=32))


@given(ROWS, st.floats(1.01, 50))
@settings(deadline=None)
def test_an_average_is_a_distribution_between_its_frames(rows: np.ndarray, span: float) -> None:
    smoother = Smoother(span)
    rows = (rows + 1e-3) / (rows + 1e-3).sum(axis=1, keepdims=True)
    for row in rows.astype(np.float32):
        found = smoother(row)
        assert found.dtype == np.float32 and np.isfinite(found).all()
        assert found.sum() == pytest.approx(1, abs=1e-5)
    ratios = np.log(rows[:, :1] / rows[:, 1:])  # of log odds, the average is linear
    odds = np.log(found[0] / found[1:])
    assert (odds >= ratios.min(axis=0) - 1e-3).all() and (odds <= ratios.max(axis=0) + 1e-3).all()


@given(ROWS)
@settings(deadline=None)
def test_equal_frames_stay_as_they_are(rows: np.ndarray) -> None:
    row = ((rows[0] + 1e-3) / (rows[0] + 1e-3).sum()).astype(np.float32)
    smoother = Smoother(7)
    for _ in range(5):
        found = smoother(row)
    assert found == pytest.approx(row, abs=1e-5)
