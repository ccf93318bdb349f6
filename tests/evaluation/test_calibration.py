from __future__ import annotations

import numpy as np
import pytest

from edgefuse.evaluation.calibration import COLDEST, fit_temperature, negative_log_likelihood, rescale
from edgefuse.evaluation.metrics import expected_calibration_error


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def overconfident(*, scale: float, num_samples: int = 4000, num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits scaled by `scale`, and true classes sampled from the unscaled logits."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((num_samples, num_classes))
    truth = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # sampled from the softmax of the logits
    return softmax(scale * logits), truth


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_the_scale_is_found_and_removed(scale: float) -> None:
    probabilities, truth = overconfident(scale=scale)
    temperature = fit_temperature(probabilities, truth)
    assert temperature == pytest.approx(scale, rel=0.08)
    mended = rescale(probabilities, temperature=temperature)
    assert expected_calibration_error(mended, truth) < 0.03
    if scale != 1.0:
        assert expected_calibration_error(probabilities, truth) > 0.1
        assert negative_log_likelihood(mended, truth) < negative_log_likelihood(probabilities, truth)


def test_the_order_of_the_classes_is_unchanged() -> None:
    probabilities, _ = overconfident(scale=1.0, num_samples=50)
    for temperature in (0.3, 5.0):
        mended = rescale(probabilities, temperature=temperature)
        np.testing.assert_array_equal(np.argsort(mended, axis=1), np.argsort(probabilities, axis=1))
        np.testing.assert_allclose(mended.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(rescale(probabilities, temperature=1.0), probabilities, atol=1e-6)


def test_a_few_correct_predictions_do_not_prove_certainty() -> None:
    probabilities = np.full((20, 3), 0.02, np.float32)
    probabilities[:, 0] = 0.96
    truth = np.zeros(20, int)
    temperature = fit_temperature(probabilities, truth)
    assert 2 * COLDEST < temperature < 1
    assert rescale(probabilities, temperature=temperature)[0, 0] < 0.999
    # Many more of them do.
    many = fit_temperature(np.repeat(probabilities, 500, axis=0), np.zeros(10000, int))
    assert many < temperature


def test_underflow_and_no_samples_are_harmless() -> None:
    sure = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], np.float32)
    temperature = fit_temperature(sure, np.array([0, 0, 1]))
    assert np.isfinite(rescale(sure, temperature=temperature)).all() and temperature > 1
    assert fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, int)) == 1.0
