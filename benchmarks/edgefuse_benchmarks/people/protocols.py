"""Splits of a data set of several people, by protocol, and the configuration file that says what is trained on them.

    leave-one-out     for each person: train on all others, test on this one
    one-to-another    for each ordered pair of people: train on the first, test on the second
    sequences         for each person: cross-validation over the sequences of this person alone

Choices, such as of a default, are made with `sequences`; `leave-one-out` and `one-to-another` report. Owns the splits and the file format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any, Literal, get_args

from edgefuse.data.dataset import Dataset
from edgefuse.data.folds import Folds, folds_of_splits
from edgefuse.data.people import one_person_warning, people_of
from edgefuse.data.splits import Split, hold_out, labels_without_samples
from edgefuse.errors import UserError
from edgefuse.io.json_files import Optional, read_json
from edgefuse.io.text import some_of

Protocol = Literal["leave-one-out", "one-to-another", "sequences"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

_SETTINGS = {
    "variants": Optional([str]),
    "seeds": Optional([int]),
    "set": Optional([str]),
    "corruptions_every": Optional(int),
}
_FILE = {"person": str, "recipe": str, **_SETTINGS, "protocols": Optional({str: _SETTINGS})}


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """What is trained for one protocol.

    Attributes:
        person: regular expression; its first group, searched in a sequence's name, is the person.
        recipe: name of the recipe.
        variants: as in `edgefuse crossval --variants`.
        seeds: one cross-validation each.
        values: "name=value", as in `edgefuse train --set`.
        corruptions_every: as in `edgefuse_benchmarks.paper.crossval.cross_validate`.
    """

    person: str
    recipe: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    values: tuple[str, ...]
    corruptions_every: int = 0


def read_config(path: Path, protocol: Protocol) -> ProtocolConfig:
    """The settings of a protocol: those under "protocols" in the file, else those at its top level.

    Raises:
        UserError: the file cannot be read, has unknown or missing settings, or no variant or seed.
    """
    what = f"the configuration {path}"
    found = read_json(path, what=what, spec=_FILE)
    own: dict[str, Any] = (found.get("protocols") or {}).get(protocol) or {}
    unknown = {*found} - {*_FILE} | {*own} - {*_SETTINGS} | {*(found.get("protocols") or {})} - {*PROTOCOLS}
    if unknown:
        raise UserError(f"{what} has unknown settings ({', '.join(sorted(unknown))}): {', '.join(_FILE)} were expected")
    merged: dict[str, Any] = {name: own.get(name, found.get(name)) for name in _SETTINGS}
    for name in ("variants", "seeds"):
        if not merged[name]:
            raise UserError(f"{what} has no {name} for {protocol}: a list with at least one was expected")
    return ProtocolConfig(
        person=found["person"],
        recipe=found["recipe"],
        variants=tuple(merged["variants"]),
        seeds=tuple(merged["seeds"]),
        values=tuple(merged["set"] or ()),
        corruptions_every=merged["corruptions_every"] or 0,
    )


def protocol_folds(
    dataset: Dataset, *, protocol: Protocol, person: str, validation_fraction: float, seed: int = 0
) -> Folds:
    """The splits of a protocol. Validation pairs are complete sequences of the people who are trained on.

    Raises:
        UserError: an invalid expression, fewer than two people (except for `sequences`), a person with a single sequence (for
            `sequences`), or a class that the training pairs of a split lack.
    """
    of_person: dict[str, list[int]] = {}
    for position, name in enumerate(_people(dataset, person)):
        of_person.setdefault(name, []).append(position)
    people = sorted(of_person)
    notes = one_person_warning(people, tested=people)
    if protocol != "sequences" and notes:
        raise UserError(
            f"the data has one person ({people[0]}): {protocol} needs two or more; give the folders of other people too, record them, or "
            "use --protocol sequences"
        )
    if protocol == "leave-one-out":
        sides = [
            ([p for other in people if other != left for p in of_person[other]], of_person[left]) for left in people
        ]
    elif protocol == "one-to-another":
        sides = [(of_person[learned], of_person[tested]) for learned, tested in permutations(people, 2)]
    else:
        sides = [side for name in people for side in _one_sequence_out(dataset, of_person[name], name)]
    splits = []
    for name, (learned, tested) in zip(fold_names(dataset, protocol=protocol, person=person), sides, strict=True):
        lacking = labels_without_samples(dataset, learned)
        if lacking:
            raise UserError(
                f"{protocol}, {name}: no pair of {some_of(lacking)} to train on; record {'it' if len(lacking) == 1 else 'them'} with "
                f"every person, in two sequences or more, or remove the class{'' if len(lacking) == 1 else 'es'} from the data"
            )
        train, validation = hold_out(
            dataset, sorted(learned), dataset.groups(), fraction=validation_fraction, seed=seed + 1
        )
        splits.append(Split(train=tuple(train), validation=tuple(validation), test=tuple(tested)))
    num_without = sum(not parts.validation for parts in splits)
    if validation_fraction and num_without:
        notes.append(
            f"{num_without} of {len(splits)} splits have no validation pairs, because each class has one sequence to train on: there the "
            "temperature stays 1"
        )
    folds = folds_of_splits(dataset, splits, by=protocol)
    return replace(folds, notes=(*notes, *folds.notes))


def fold_names(dataset: Dataset, *, protocol: Protocol, person: str) -> list[str]:
    """What each split of `protocol_folds` tests, in its order, such as "s1" or "s1 to s3"."""
    people = sorted(set(_people(dataset, person)))
    if protocol == "leave-one-out":
        return [f"{', '.join(other for other in people if other != left)} to {left}" for left in people]
    if protocol == "one-to-another":
        return [f"{learned} to {tested}" for learned, tested in permutations(people, 2)]
    names = zip(_people(dataset, person), dataset.groups(), strict=True)
    return [f"{name}: {sequence}" for name, sequence in sorted(set(names))]


def _people(dataset: Dataset, person: str) -> list[str]:
    return people_of(dataset, person=person, option="the configuration's person")


def _one_sequence_out(dataset: Dataset, of_person: Sequence[int], name: str) -> list[tuple[list[int], list[int]]]:
    groups = dataset.groups()
    sequences = sorted({groups[position] for position in of_person})
    if len(sequences) < 2:
        raise UserError(
            f"{name} has a single sequence ({sequences[0]}): the protocol sequences needs two or more; record another, or use "
            "--protocol leave-one-out"
        )
    return [
        ([p for p in of_person if groups[p] != held], [p for p in of_person if groups[p] == held]) for held in sequences
    ]
