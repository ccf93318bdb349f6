"""Labels that are probably wrong, as cleanlab's Datalab finds them from a model's probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError, require


def label_issues(labels: Sequence[int], scores: Sequence[NDArray[np.float32]]) -> dict[int, float]:
    """Index of each pair whose label is probably wrong, and Datalab's score: 0 = certainly wrong, 1 = certainly right.

    Args:
        labels: class number of each pair.
        scores: [C], the model's probabilities of each pair. They should be of a model that was not trained with the pair.

    Raises:
        UserError: fewer than two classes have pairs.
        MissingPackageError: cleanlab is not installed.
    """
    require("datasets", extra="curate")
    cleanlab = require("cleanlab", extra="curate")
    present = np.unique(np.asarray(labels, int))
    if len(present) < 2:
        raise UserError("pairs of two or more of the model's classes were expected")
    # Datalab expects every class to occur.
    chosen = np.stack(scores)[:, present].astype(np.float64)
    chosen = (chosen + 1e-9) / (chosen + 1e-9).sum(axis=1, keepdims=True)
    numbers = np.searchsorted(present, labels)
    lab = cleanlab.Datalab(data={"label": numbers.tolist()}, label_name="label", task="classification", verbosity=0)
    lab.find_issues(pred_probs=chosen, issue_types={"label": {}})
    table = lab.get_issues("label")
    return {int(place): float(table["label_score"][place]) for place in np.flatnonzero(table["is_label_issue"])}
