"""Splits by sequence, never by frame, because the frames of one sequence are near-duplicates.

Sequence folders of one name under several classes are one group (one recording of one person or scene).
Owns the assignment of samples to the sides; training and evaluation import it.
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
    """Indices into a data set's samples. No group is on two sides."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def matching(dataset: Dataset, patterns: Sequence[str]) -> list[int]:
    """Indices of the samples whose sequence (or class/sequence) matches one of the glob `patterns`.

    Raises:
        UserError: a pattern matches nothing; some sequences are listed.
    """
    names = [(sample.sequence, f"{dataset.labels[sample.label]}/{sample.sequence}") for sample in dataset.samples]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for pair in names for name in pair):
            some = sorted({sequence for sequence, _ in names})[:8]
            raise UserError(
                f"no sequence matches {pattern!r}; there are {', '.join(some)}{' ...' if len(some) == 8 else ''}"
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
        exclude: glob patterns of sequences to hold out for testing. A group is held out as a unit: a match in one class
            includes the sequences of the same name in the other classes, unless the pattern names the class.
        test_fraction, validation_fraction: fractions of the other samples to hold out, 0 to 0.5, by `hold_out`. If there are
            test pairs and no further group can be held out, the validation part is empty.

    Raises:
        UserError: fewer than two classes, too few groups, or a class without training samples (named).
    """
    if len(dataset.labels) < 2:
        raise UserError(
            f"the data has only one class ({', '.join(dataset.labels) or 'none'}): a classifier needs two or more class folders"
        )
    for what, fraction in (("test", test_fraction), ("validation", validation_fraction)):
        if not 0.0 <= fraction <= 0.5:
            raise UserError(f"the {what} fraction is {fraction}: 0 to 0.5 was expected")
    excluded = set(matching(dataset, exclude)) if exclude else set()
    rest = [i for i in range(len(dataset.samples)) if i not in excluded]
    groups = dataset.groups()
    rest, test = hold_out(dataset, rest, groups, fraction=test_fraction, seed=seed)
    if test_fraction and not test:
        raise UserError(_nothing_to_hold_out(dataset, rest, "test"))
    train, validation = hold_out(dataset, rest, groups, fraction=validation_fraction, seed=seed + 1)
    lacking = labels_without_samples(dataset, train)
    if lacking:
        raise UserError(
            f"no training sample is left of {some_of(lacking)}: record more sequences, hold out fewer, or use --validation-fraction 0"
        )
    if validation_fraction and not validation and not test and not excluded:
        raise UserError(_nothing_to_hold_out(dataset, rest, "validation"))
    return Split(train=tuple(train), validation=tuple(validation), test=tuple(sorted([*excluded, *test])))


def labels_without_samples(dataset: Dataset, indices: Iterable[int]) -> list[str]:
    """The classes without a sample among `indices`."""
    present = {dataset.samples[i].label for i in indices}
    return [label for number, label in enumerate(dataset.labels) if number not in present]


def _nothing_to_hold_out(dataset: Dataset, indices: Sequence[int], what: str) -> str:
    num_groups = len({dataset.samples[i].sequence for i in indices})
    return (
        f"no {what} samples can be held out: each of the {num_groups} group(s) of sequences is the only one of a class: "
        f"record another sequence of each class, or use --{what}-fraction 0"
    )


def hold_out(
    dataset: Dataset, indices: Sequence[int], groups: Sequence[str] | None, *, fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Hold out about `fraction` of the samples in complete groups; returns remaining and held-out indices.

    A class with two or more groups gets both sides, if every class keeps a group to train on. A class with one group stays.
    The classes keep their proportions otherwise. The size is rounded to a half, a third, a quarter and so on: take the fold of
    `StratifiedGroupKFold` with the most classes, add the smallest groups of the classes that it lacks, and remove the last
    groups of the classes that would be left without training samples.

    Args:
        groups: the group of every sample of the data set; None = every sample is a group.
    """
    if fraction == 0.0 or not indices:
        return list(indices), []
    model_selection = require("sklearn.model_selection", extra="train")
    labels = np.array([dataset.samples[i].label for i in indices])
    names = [str(i) for i in indices] if groups is None else [groups[i] for i in indices]
    numbers = shuffled_groups(names, seed=seed)
    # scikit-learn needs a class with at least as many samples as there are folds.
    num_folds = min(max(2, round(1 / fraction)), len(set(names)), int(np.bincount(labels).max()))
    held = np.zeros(len(indices), bool)
    if num_folds > 1:
        folds = model_selection.StratifiedGroupKFold(n_splits=num_folds)
        with warnings.catch_warnings():
            # A class may have fewer groups than there are folds: then a fold lacks it, and `_with_every_class` adds it.
            warnings.simplefilter("ignore", UserWarning)
            candidates = [fold for _, fold in folds.split(np.zeros(len(indices)), labels, numbers)]
        held[max(candidates, key=lambda fold: _num_on_both_sides(labels, fold))] = True
    held = _with_every_class(labels, numbers, held)
    chosen = np.asarray(indices)
    return chosen[~held].tolist(), chosen[held].tolist()


def _num_on_both_sides(labels: NDArray[np.int64], fold: NDArray[np.int64]) -> int:
    return len(np.intersect1d(labels[fold], np.delete(labels, fold)))


def _with_every_class(
    labels: NDArray[np.int64], numbers: NDArray[np.int64], held: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The held-out samples, bool [n], with complete groups moved so that each class stays, and is held out where possible."""
    has_class = np.zeros((numbers.max() + 1, labels.max() + 1), bool)  # [group, class]
    has_class[numbers, labels] = True
    sizes = np.bincount(numbers)
    out = np.zeros(len(has_class), bool)
    out[numbers[held]] = True
    num_kept = has_class[~out].sum(axis=0)  # groups of each class
    num_groups = has_class.sum(axis=0)

    def smallest(among: NDArray[np.bool_], label: np.integer[Any]) -> list[int]:
        found = np.flatnonzero(among & has_class[:, label])
        return [int(group) for group in found[np.argsort(sizes[found], kind="stable")]]

    for label in np.flatnonzero((num_kept == 0) & (num_groups > 0)):
        if num_kept[label] == 0:  # may have been returned with an earlier class
            group = smallest(out, label)[0]
            out[group] = False
            num_kept += has_class[group]
    # The rarest class first: its groups often contain other classes too.
    for label in np.argsort(num_groups, kind="stable"):
        if num_kept[label] < num_groups[label]:  # already held out
            continue
        spare = (group for group in smallest(~out, label) if (num_kept[has_class[group]] > 1).all())
        group = next(spare, -1)
        if group >= 0:
            out[group] = True
            num_kept -= has_class[group]
    return out[numbers]


def shuffled_groups(names: Sequence[str], *, seed: int) -> NDArray[np.int64]:
    """The number of each sample's group, int64 [n]; `seed` decides the order of the groups.

    Replaces the shuffling of `StratifiedGroupKFold`, which before scikit-learn 1.8 shuffles the groups' class counts and not the
    groups: if all groups are alike, no seed changes a fold. It assigns equal groups in the order of their numbers, which is here
    the order that scikit-learn 1.8 and newer shuffle them into with the same seed.
    """
    _, positions = np.unique(np.array(names), return_inverse=True)
    order = np.arange(positions.max(initial=-1) + 1)
    np.random.RandomState(seed).shuffle(order)
    return np.argsort(order)[positions]
