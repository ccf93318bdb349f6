"""Splits by instance, never by frame: frames of one take are nearly the same picture.

Instance folders of one name under several classes are one group (one take of one person or scene).
Owns which samples stand on which side; training and evaluation import it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.data.dataset import Dataset
from edgefuse.errors import UserError, require
from edgefuse.io.text import some_of


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
    names = [(sample.sequence, f"{dataset.labels[sample.label]}/{sample.sequence}") for sample in dataset.samples]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for pair in names for name in pair):
            some = sorted({sequence for sequence, _ in names})[:8]
            raise UserError(
                f"no instance matches {pattern!r}; there are {', '.join(some)}{' ...' if len(some) == 8 else ''}"
            )
    return [i for i, pair in enumerate(names) if any(fnmatch(name, pattern) for pattern in patterns for name in pair)]


def split(
    dataset: Dataset,
    *,
    exclude: Sequence[str] = (),
    test_fraction: float = 0.0,
    validation_fraction: float = 0.15,
    seed: int = 0,
) -> Split:
    """Divide a data set by group.

    Args:
        exclude: glob patterns of instances that are held out for testing. A group goes as a whole: what matches in
            one class takes along the instances of the same name in the others, unless the pattern names the class.
        test_fraction, validation_fraction: share of the samples to hold out besides, 0 to 0.5, by `hold_out`. Where there are
            test pairs and no further group can be held out, the validation part is empty.

    Raises:
        UserError: fewer than two classes, too few groups, or a class with no training sample (named).
    """
    if len(dataset.labels) < 2:
        raise UserError(
            f"the data has one class only ({', '.join(dataset.labels) or 'none'}): a classifier needs two or more class folders"
        )
    for what, fraction in (("test", test_fraction), ("validation", validation_fraction)):
        if not 0.0 <= fraction <= 0.5:
            raise UserError(f"the {what} share is {fraction}: 0 to 0.5 was expected")
    excluded = set(matching(dataset, exclude)) if exclude else set()
    rest = [i for i in range(len(dataset.samples)) if i not in excluded]
    groups = dataset.groups()
    rest, test = hold_out(dataset, rest, groups, fraction=test_fraction, seed=seed)
    if test_fraction and not test:
        raise UserError(_nothing_to_hold_out(dataset, rest, "test"))
    train, validation = hold_out(dataset, rest, groups, fraction=validation_fraction, seed=seed + 1)
    lacking = untouched(dataset, train)
    if lacking:
        raise UserError(
            f"no training sample is left of {some_of(lacking)}: record more instances, hold fewer out, or use --validation-fraction 0"
        )
    if validation_fraction and not validation and not test and not excluded:
        raise UserError(_nothing_to_hold_out(dataset, rest, "validation"))
    return Split(train=tuple(train), validation=tuple(validation), test=tuple(sorted([*excluded, *test])))


def untouched(dataset: Dataset, indices: Iterable[int]) -> list[str]:
    """The classes that have no sample among `indices`."""
    present = {dataset.samples[i].label for i in indices}
    return [label for number, label in enumerate(dataset.labels) if number not in present]


def _nothing_to_hold_out(dataset: Dataset, indices: Sequence[int], what: str) -> str:
    num_groups = len({dataset.samples[i].sequence for i in indices})
    return (
        f"no {what} samples can be held out: of the {num_groups} group(s) of instances none can be spared, because each is "
        f"the only one of a class: record another take of each class, or use --{what}-share 0"
    )


def hold_out(
    dataset: Dataset, indices: Sequence[int], groups: Sequence[str] | None, *, fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Take about `share` of the samples away, by whole groups; kept and held-out indices.

    A class with two groups or more is on both sides, wherever that leaves every class a group to learn from; a class with
    one group stays. Apart from that the classes keep their proportions, and the size is the nearest of a half, a third, a
    quarter and so on: a fold of `StratifiedGroupKFold`, the one that holds most classes, with the smallest groups of the
    classes that it lacks added, and without the last groups of the classes that it would empty.

    Args:
        groups: of every sample of the data set; None = each sample is one.
    """
    if fraction == 0.0 or not indices:
        return list(indices), []
    model_selection = require("sklearn.model_selection", extra="train")
    labels = np.array([dataset.samples[i].label for i in indices])
    names = [str(i) for i in indices] if groups is None else [groups[i] for i in indices]
    numbers = shuffled_groups(names, seed=seed)
    # scikit-learn wants a class with as many samples as there are folds.
    num_folds = min(max(2, round(1 / fraction)), len(set(names)), int(np.bincount(labels).max()))
    held = np.zeros(len(indices), bool)
    if num_folds > 1:
        folds = model_selection.StratifiedGroupKFold(n_splits=num_folds)
        with warnings.catch_warnings():
            # A class may have fewer takes than there are folds: then a fold lacks it, and `_mended` adds it.
            warnings.simplefilter("ignore", UserWarning)
            candidates = [fold for _, fold in folds.split(np.zeros(len(indices)), labels, numbers)]
        held[max(candidates, key=lambda fold: _num_on_both_sides(labels, fold))] = True
    held = _mended(labels, numbers, held)
    chosen = np.asarray(indices)
    return chosen[~held].tolist(), chosen[held].tolist()


def _num_on_both_sides(labels: NDArray[np.int64], fold: NDArray[np.int64]) -> int:
    return len(np.intersect1d(labels[fold], np.delete(labels, fold)))


def _mended(labels: NDArray[np.int64], numbers: NDArray[np.int64], held: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The held-out samples, bool [n], with whole groups moved so that each class is kept, and held out where it can be."""
    holds = np.zeros((numbers.max() + 1, labels.max() + 1), bool)  # which group has which class
    holds[numbers, labels] = True
    sizes = np.bincount(numbers)
    out = np.zeros(len(holds), bool)
    out[numbers[held]] = True
    num_kept = holds[~out].sum(axis=0)  # groups of each class
    num_groups = holds.sum(axis=0)

    def smallest(among: NDArray[np.bool_], label: np.integer[Any]) -> list[int]:
        found = np.flatnonzero(among & holds[:, label])
        return [int(group) for group in found[np.argsort(sizes[found], kind="stable")]]

    for label in np.flatnonzero((num_kept == 0) & (num_groups > 0)):
        if num_kept[label] == 0:  # an earlier class may have brought it back
            group = smallest(out, label)[0]
            out[group] = False
            num_kept += holds[group]
    # The rarest first: what it can spare, others often hold too.
    for label in np.argsort(num_groups, kind="stable"):
        if num_kept[label] < num_groups[label]:  # it is held out already
            continue
        spare = (group for group in smallest(~out, label) if (num_kept[holds[group]] > 1).all())
        group = next(spare, -1)
        if group >= 0:
            out[group] = True
            num_kept -= holds[group]
    return out[numbers]


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
