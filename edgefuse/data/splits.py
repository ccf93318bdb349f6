"""Splits by instance, never by frame: frames of one take are nearly the same picture.

Instance folders of one name under several classes are one group (one take of one person or scene).
Owns which samples stand on which side; training and evaluation import it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np
from numpy.typing import NDArray

from edgefuse.data.folder import Dataset
from edgefuse.errors import UserError, require


@dataclass(frozen=True, kw_only=True)
class Split:
    """Indices into a data set's samples. No group stands on two sides."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def matching(dataset: Dataset, patterns: Sequence[str]) -> list[int]:
    """Indices of the samples whose instance (or class/instance) matches one of the glob `patterns`.

    Raises:
        UserError: a pattern matches nothing; a few instances are named.
    """
    names = [(sample.instance, f"{dataset.labels[sample.label]}/{sample.instance}") for sample in dataset.samples]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for pair in names for name in pair):
            some = sorted({instance for instance, _ in names})[:8]
            raise UserError(
                f"no instance matches {pattern!r}; there are {', '.join(some)}{' ...' if len(some) == 8 else ''}"
            )
    return [i for i, pair in enumerate(names) if any(fnmatch(name, pattern) for pattern in patterns for name in pair)]


def split(
    dataset: Dataset,
    *,
    exclude: Sequence[str] = (),
    test_share: float = 0.0,
    validation_share: float = 0.15,
    seed: int = 0,
) -> Split:
    """Divide a data set by group.

    Args:
        exclude: glob patterns of instances that are held out for testing. A group goes as a whole: what matches in
            one class takes along the instances of the same name in the others, unless the pattern names the class.
        test_share, validation_share: share of the samples to hold out besides, 0 to 0.5, by group and stratified by
            class; what is held out is the nearest of a half, a third, a quarter and so on that whole groups allow.

    Raises:
        UserError: fewer than two classes, too few groups, or a class with no training sample (named).
    """
    if len(dataset.labels) < 2:
        raise UserError(
            f"the data has one class only ({', '.join(dataset.labels) or 'none'}): a classifier needs two or more class folders"
        )
    excluded = set(matching(dataset, exclude)) if exclude else set()
    rest = [i for i in range(len(dataset.samples)) if i not in excluded]
    rest, test = _hold_out(dataset, rest, share=test_share, seed=seed, what="test")
    train, validation = _hold_out(dataset, rest, share=validation_share, seed=seed + 1, what="validation")
    present = {dataset.samples[i].label for i in train}
    lacking = [label for number, label in enumerate(dataset.labels) if number not in present]
    if lacking:
        raise UserError(
            f"no training sample is left of {', '.join(lacking)}: record more instances, hold fewer out, or use --validation-share 0"
        )
    return Split(train=tuple(train), validation=tuple(validation), test=tuple(sorted([*excluded, *test])))


def _hold_out(
    dataset: Dataset, indices: list[int], *, share: float, seed: int, what: str
) -> tuple[list[int], list[int]]:
    """Take about `share` of the samples away, by whole groups."""
    if not 0.0 <= share <= 0.5:
        raise UserError(f"the {what} share is {share}: 0 to 0.5 was expected")
    if share == 0.0:
        return indices, []
    model_selection = require("sklearn.model_selection", extra="train")
    labels = np.array([dataset.samples[i].label for i in indices])
    groups = shuffled_groups([dataset.samples[i].instance for i in indices], seed=seed)
    num_groups = len(set(groups.tolist()))
    num_folds = min(max(2, round(1 / share)), num_groups)
    if num_groups < 2:
        raise UserError(
            f"there is {num_groups} group of instances to take {what} samples from, two or more were expected: "
            f"record another take, or use --{what}-share 0"
        )
    folds = model_selection.StratifiedGroupKFold(n_splits=num_folds)
    with warnings.catch_warnings():
        # A class may have fewer takes than there are folds: then a fold lacks it, which is no reason to speak.
        warnings.simplefilter("ignore", UserWarning)
        candidates = list(folds.split(np.zeros(len(indices)), labels, groups))
    # The first fold that leaves every class something to learn from; scikit-learn balances shares, not presence.
    classes = set(labels.tolist())
    kept, held = next((pair for pair in candidates if set(labels[pair[0]].tolist()) == classes), candidates[0])
    return [indices[i] for i in kept], [indices[i] for i in held]


def shuffled_groups(names: Sequence[str], *, seed: int) -> NDArray[np.int64]:
    """A number for each sample's group, int64 [n]; `seed` decides which group gets which.

    For `StratifiedGroupKFold` without its own shuffling, which scikit-learn before 1.8 does to the groups' class counts and not
    to the groups: where all groups are alike, no seed changes a fold there. It divides equal groups in the order of their
    numbers, and this is the order that scikit-learn 1.8 and newer shuffle them into by the same seed.
    """
    _, positions = np.unique(np.array(names), return_inverse=True)
    order = np.arange(positions.max(initial=-1) + 1)
    np.random.RandomState(seed).shuffle(order)
    return np.argsort(order)[positions]
