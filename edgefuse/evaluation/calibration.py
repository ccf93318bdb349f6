"""Temperature scaling: one number that matches the confidence of a model to its accuracy. Owns the fit, which needs SciPy.

The logits are divided by the temperature before the softmax, so the order of the classes and every prediction stay the same.
Source: Guo et al., "On Calibration of Modern Neural Networks", section 4.2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import require

PRIOR_SIGMA = 0.5
COLDEST, HOTTEST = 0.1, 10.0
"""Limits of the temperature. Beyond them the model would be useless or perfect, which no finite data proves."""


def rescale(probabilities: NDArray[np.float32], *, temperature: float) -> NDArray[np.float32]:
    """Convert probabilities [N, C] from temperature 1 to another temperature.

    Their logarithms are the logits up to a constant per row, which softmax ignores.
    """
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)).astype(np.float64) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def negative_log_likelihood(probabilities: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """Mean of -ln p of the true class, in nats; probabilities [N, C], truth [N]."""
    chosen = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean())


def fit_temperature(probabilities: NDArray[np.float32], truth: NDArray[np.int64]) -> float:
    """The most likely temperature on held-out samples, between `COLDEST` and `HOTTEST`.

    ln T has a normal prior with mean 0 and standard deviation `PRIOR_SIGMA`: if all predictions are correct, the likelihood alone
    would lead to temperature 0. With many samples the prior is negligible.

    Args:
        probabilities: float [N, C] at temperature 1, of samples that were not trained on.
        truth: int [N], class numbers.

    Returns:
        The temperature; 1.0 without samples.
    """
    num_samples = len(truth)
    if num_samples == 0:
        return 1.0
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)).astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        top = scaled.max(axis=1)
        log_sum = top + np.log(np.exp(scaled - top[:, np.newaxis]).sum(axis=1))
        likelihood_loss = float((log_sum - scaled[np.arange(num_samples), truth]).sum())
        return likelihood_loss + 0.5 * (log_temperature / PRIOR_SIGMA) ** 2

    optimize = require("scipy.optimize", extra="train")
    bounds = (math.log(COLDEST), math.log(HOTTEST))
    return math.exp(optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x)
