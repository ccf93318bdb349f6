from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgefuse.contract import InputContract, codes_from_bytes
from edgefuse.data.dataset import load, scan
from edgefuse.errors import UserError
from edgefuse.evaluation.metrics import class_numbers, evaluate, expected_calibration_error, score


def test_calibration_error_of_known_predictions() -> None:
    # Ten predictions of confidence 0.8, seven correct: gap 0.1. Ten of 0.6, six correct: gap 0.
    confidence = np.repeat([0.8, 0.6], 10)
    probabilities = np.stack([confidence, 1 - confidence], axis=1).astype(np.float32)
    truth = np.array([0] * 7 + [1] * 3 + [0] * 6 + [1] * 4)
    assert expected_calibration_error(probabilities, truth) == pytest.approx(0.05, abs=1e-6)


def test_confident_and_correct_is_calibrated_confident_and_wrong_is_not() -> None:
    sure = np.eye(3, dtype=np.float32)
    assert expected_calibration_error(sure, np.array([0, 1, 2])) == 0
    assert expected_calibration_error(sure, np.array([1, 2, 0])) == 1


def test_scores_of_known_predictions() -> None:
    answers = np.eye(3, dtype=np.float32)[[0, 0, 1, 1]]
    scores = score(answers, np.full((4, 2), 0.25, np.float32), np.array([0, 1, 1, 1]), ["a", "b", "c"])
    assert scores.accuracy == 0.75 and scores.mean_gate == 0.25
    assert scores.recall == {"a": 1.0, "b": pytest.approx(2 / 3), "c": None}
    assert scores.confusion == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]


def test_a_missing_sensor_is_missing_for_the_predictor(colour_and_range: Path) -> None:
    """A predictor that reads colour from RGB and range from depth is correct with both, and partly with one."""
    labels = ("blue_near", "red_far", "red_near")
    batch_sizes = []

    def predictor(rgb: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch_sizes.append(len(rgb))
        is_red = rgb[..., 0].max((1, 2)) > rgb[..., 2].max((1, 2))
        codes = codes_from_bytes(depth).astype(int)
        is_near = ((codes > 0) & (codes < 900)).any((1, 2))
        number = np.where(is_red, np.where(is_near, 2, 1), 0)
        return np.eye(3, dtype=np.float32)[number], is_near[:, None].astype(np.float32)

    scores = evaluate(
        predictor, load(scan([colour_and_range])), contract=InputContract(size=40), labels=labels, batch_size=16
    )
    assert scores["both"].accuracy == 1.0
    assert scores["no_rgb"].recall == {"blue_near": 1.0, "red_far": 0.0, "red_near": 0.0}
    assert scores["no_depth"].recall == {"blue_near": 1.0, "red_far": 1.0, "red_near": 0.0}
    assert scores["both"].mean_gate == pytest.approx(2 / 3) and scores["no_depth"].mean_gate == 0
    assert max(batch_sizes) == 16


def test_classes_that_the_model_does_not_know_are_named(colour_and_range: Path) -> None:
    with pytest.raises(UserError, match="red_far"):
        class_numbers(scan([colour_and_range]).labels, ["blue_near", "red_near"])
    assert class_numbers(["b", "a"], ["a", "x", "b"]).tolist() == [2, 0]
