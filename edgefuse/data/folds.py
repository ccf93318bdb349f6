"""Cross-validation folds: by frame, by sequence, by a part of the sequence's name, or by official trials.

Owns the rules for valid folds; cross-validation imports it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgefuse.data.dataset import Dataset
from edgefuse.data.layouts.washington import trial_splits
from edgefuse.data.splits import Split, hold_out, labels_without_samples, shuffled_groups
from edgefuse.errors import UserError, require
from edgefuse.io.text import some_of

BY_FRAME = "frame"
BY_SEQUENCE = "sequence"
BY_TRIALS = "trials"
_OLD_VALUES = {"instance": BY_SEQUENCE}
"""Values of older versions, as in finished cross-validations."""

_Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Splits that test each sample at most once.

    Attributes:
        by: "frame", "sequence", "trials", an expression, or the name of ready-made splits.
        num_leaking: folds with frames of one sequence on both sides, so that near-duplicates of training frames are tested.
        notes: remarks on the folds, such as a class that a fold does not test.
    """

    by: str
    splits: tuple[Split, ...]
    num_leaking: int
    notes: tuple[str, ...] = ()


def make_folds(dataset: Dataset, *, num_folds: int, by: str, seed: int = 0, validation_fraction: float = 0.0) -> Folds:
    """Divide a data set into folds, each class spread over them as evenly as the groups allow.

    Args:
        by: "frame", "sequence", "trials" (the official ones of a converted Washington set, regardless of `num_folds`), or an
            expression whose first group, searched in the sequence's name, is the group: `^(s\\d+)_` for the person of "s1_clip02".
        validation_fraction: fraction of each fold's training side to hold out by the same groups; for early stopping.

    Raises:
        UserError: an invalid expression, fewer groups than folds, or see `folds_of_splits`.
    """
    if num_folds < 2:
        raise UserError(f"the number of folds is {num_folds}: 2 or more were expected")
    if not 0.0 <= validation_fraction < 0.9:
        raise UserError(f"the validation fraction is {validation_fraction}: 0 to 0.9 was expected")
    by = _OLD_VALUES.get(by, by)
    groups = None if by == BY_FRAME else group_names(dataset, by=by)
    if by == BY_TRIALS:
        sides = [(np.array(trial.train), np.array(trial.test)) for trial in trial_splits(dataset)]
    else:
        sides = _divide(dataset, np.arange(len(dataset.samples)), groups, num_folds=num_folds, seed=seed)
    splits = list[Split]()
    for kept, test in sides:
        train, validation = hold_out(dataset, _as_tuple(kept), groups, fraction=validation_fraction, seed=seed + 1)
        if validation_fraction and not validation:
            raise UserError(
                f"fold {len(splits) + 1} has only {'one pair' if groups is None else 'one group'} of each class for training and "
                "validation: use fewer folds, record more sequences, or turn early stopping off"
            )
        splits.append(Split(train=tuple(train), validation=tuple(validation), test=_as_tuple(test)))
    return folds_of_splits(dataset, splits, by=by)


def group_names(dataset: Dataset, *, by: str, option: str = "--by") -> list[str]:
    """The group of each sample: its sequence, or what the expression's first group matches in the sequence's name.

    Args:
        option: what the user gave the expression with, for messages.

    Raises:
        UserError: not a regular expression, no group in it, or sequences that it does not match (some are listed).
    """
    sequences = dataset.groups()
    if option == "--by" and by in (BY_SEQUENCE, BY_TRIALS):
        return sequences
    try:
        expression = re.compile(by)
    except re.error as error:
        others = "frame, sequence, trials or " if option == "--by" else ""
        raise UserError(
            f"{option} {by!r} is not a regular expression ({error}): {others}an expression was expected"
        ) from error
    if expression.groups < 1:
        raise UserError(f"{option} {by!r} has no group: one in parentheses was expected, such as '^(s\\d+)_'")
    found = {sequence: expression.search(sequence) for sequence in sequences}
    unnamed = sorted(sequence for sequence, match in found.items() if match is None or not match.group(1))
    if unnamed:
        some = ", ".join(unnamed[:5]) + (" ..." if len(unnamed) > 5 else "")
        raise UserError(f"{option} {by!r} finds no group in {len(unnamed)} sequence name(s): {some}")
    return [match.group(1) for sequence in sequences if (match := found[sequence]) is not None]


def folds_of_splits(dataset: Dataset, splits: Sequence[Split], *, by: str) -> Folds:
    """Check splits from any source, and count leaks.

    Raises:
        UserError: frames of one sequence on both sides although `by` is not "frame", an empty side, or a class without
            training samples in a fold (listed).
    """
    sequences = dataset.groups()
    unseen: dict[str, list[tuple[int, list[str]]]] = {}
    num_leaking = 0
    for number, parts in enumerate(splits, start=1):
        learned = {*parts.train, *parts.validation}
        divided = sorted({sequences[i] for i in learned} & {sequences[i] for i in parts.test})
        num_leaking += bool(divided)
        if divided and by != BY_FRAME:
            raise UserError(
                f"fold {number} has frames of {len(divided)} sequence(s) on both sides, such as {divided[0]}: "
                "only --by frame may divide sequences"
            )
        if not parts.train or not parts.test:
            raise UserError(f"fold {number} has {len(parts.train)} training pairs and {len(parts.test)} test pairs")
        lacking = labels_without_samples(dataset, parts.train)
        if lacking:
            raise UserError(
                f"fold {number} has no training pair of {some_of(lacking)}: record more sequences, use fewer folds, "
                f"or another --seed{', or turn early stopping off' if parts.validation else ''}"
            )
        for does, part in (("tests", parts.test), ("validates", parts.validation)):
            lacking = labels_without_samples(dataset, part) if part else []
            if lacking:
                unseen.setdefault(does, []).append((number, lacking))
    notes = [_note(does, found) for does, found in unseen.items()]
    return Folds(by=by, splits=tuple(splits), num_leaking=num_leaking, notes=tuple(notes))


def _note(does: str, found: Sequence[tuple[int, list[str]]]) -> str:
    """One line for all folds that lack a class."""
    number, lacking = found[0]
    first = f"fold {number} {does} no pair of {some_of(lacking)}"
    if len(found) == 1:
        return first
    return f"{len(found)} folds have classes without a {'test' if does == 'tests' else 'validation'} pair: {first}"


def _as_tuple(indices: _Indices) -> tuple[int, ...]:
    return tuple(int(i) for i in indices)


def _divide(
    dataset: Dataset,
    indices: _Indices,
    groups: list[str] | None,
    *,
    num_folds: int,
    seed: int,
) -> list[tuple[_Indices, _Indices]]:
    """Training and test indices of each fold. `groups` is over the complete data set; None = by frame."""
    selection = require("sklearn.model_selection", extra="train")
    labels = np.array([dataset.samples[i].label for i in indices])
    names = None if groups is None else [groups[i] for i in indices]
    num_groups = len(indices) if names is None else len(set(names))
    if num_groups < num_folds:
        what = "pair(s)" if names is None else f"group(s) ({', '.join(sorted(set(names)))})"
        raise UserError(
            f"there are {num_groups} {what} for {num_folds} folds: use fewer folds, or record more sequences"
        )
    if num_folds > max(np.bincount(labels)):
        raise UserError(f"no class has {num_folds} pairs, one for each fold: use fewer folds")
    if names is None:
        folds, own = selection.StratifiedKFold(n_splits=num_folds, shuffle=True, random_state=seed), None
    else:
        folds, own = selection.StratifiedGroupKFold(n_splits=num_folds), shuffled_groups(names, seed=seed)
    with warnings.catch_warnings():
        # A class with fewer members than folds is absent from some test sides: `folds_of_splits` reports it.
        warnings.simplefilter("ignore", UserWarning)
        return [(indices[kept], indices[held]) for kept, held in folds.split(np.zeros(len(indices)), labels, own)]
