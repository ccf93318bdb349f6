"""Exponential average of the probabilities of one region over the frames, which begins again when the object changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST = 1e-6
"""Smaller probabilities count as this one, so that a single frame cannot rule a class out."""
CHANGED_AFTER = 2
"""The average begins again when this many frames in a row agree on another class than the average."""


class Smoother:
    """Averages log probabilities: the newest frame has the weight 2 / (span + 1), so about `span` frames count.

    The order of the classes of the average is that of a product of experts: a class that is likely in every frame wins over one that is very
    likely in some frames and very unlikely in others.
    """

    def __init__(self, span: float) -> None:
        """Choose the span in frames."""
        assert span > 1
        self._weight = 2 / (span + 1)
        self._mean: NDArray[np.float64] | None = None
        self._others: list[int] = []

    def __call__(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """The average, with the next frame's probabilities [C], which are finite; it sums to 1."""
        logs = np.log(np.maximum(probabilities, LEAST).astype(np.float64))
        if self._mean is None or self._has_changed(int(logs.argmax())):
            self._mean = logs
        else:
            self._mean = self._mean + self._weight * (logs - self._mean)
        powers = np.exp(self._mean - self._mean.max())
        return np.asarray(powers / powers.sum(), np.float32)

    def _has_changed(self, newest: int) -> bool:
        """Whether the newest frames agree on another class than the average."""
        assert self._mean is not None
        if newest == int(self._mean.argmax()):
            self._others = []
            return False
        self._others = [*self._others, newest][-CHANGED_AFTER:]
        has_changed = len(self._others) == CHANGED_AFTER and len(set(self._others)) == 1
        if has_changed:
            self._others = []
        return has_changed
