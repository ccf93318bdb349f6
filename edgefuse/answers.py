"""Answers other than a class: no object, and an object that is none of the classes.

`BACKGROUND` is the name of a class in data sets, runs and bundles; `NONE` and `UNKNOWN` are only in outputs and have no class number.
Standard library and NumPy only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgefuse.io.text import printable

BACKGROUND = "_background"
"""The class of pairs without an object to classify, such as an empty belt or a hand. It is trained like any other."""
NONE = "none"
"""The answer for the class `BACKGROUND`, and for a frame in which no object was found."""
UNKNOWN = "unknown"
"""The answer for an object whose most likely class is less probable than the minimum confidence."""


def answer_of(probabilities: NDArray[np.float32], labels: tuple[str, ...], *, min_confidence: float = 0.0) -> str:
    """The most likely class; `NONE` if that is the background; `UNKNOWN` if it is less probable than `min_confidence`.

    Args:
        probabilities: float [C], finite.

    Example:
        >>> import numpy as np
        >>> answer_of(np.array([0.5, 0.3, 0.2], np.float32), ("mug", "bottle", "_background"), min_confidence=0.6)
        'unknown'
    """
    best = int(probabilities.argmax())
    if labels[best] == BACKGROUND:
        return NONE
    return labels[best] if probabilities[best] >= min_confidence else UNKNOWN


def confidence(probabilities: NDArray[np.float32], labels: tuple[str, ...]) -> NDArray[np.float32]:
    """The largest minimum confidence with which each of n pairs is still answered with a class, [n]; 0 for the background.

    Args:
        probabilities: float [n, C].
    """
    best = probabilities.max(axis=1)
    if BACKGROUND in labels:
        best = np.where(probabilities.argmax(axis=1) == labels.index(BACKGROUND), 0, best)
    return np.asarray(best, np.float32)


def shown_label(label: str) -> str:
    """The name of a class in outputs: `NONE` for the background."""
    return NONE if label == BACKGROUND else label


def labels_problem(labels: tuple[str, ...]) -> str | None:
    """Why these cannot be the classes of a model, as text: there are none, or one is empty or occurs twice; None if they can."""
    if not labels:
        return "there are none"
    if any(not label.strip() for label in labels):
        return f"label {next(i for i, label in enumerate(labels) if not label.strip())} is empty"
    seen: set[str] = set()
    twice = next((label for label in labels if label in seen or seen.add(label)), None)  # type: ignore[func-returns-value]
    return None if twice is None else f"{printable(twice)!r} occurs twice"
