"""People in a data set: who is in which sequence, and what the data of one person lacks.

A regular expression finds the person in the name of a sequence, as in `edgefuse crossval --by`. Owns the warnings about people and about
short sequences, in `data check`, training and the protocols on people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from edgefuse.data.dataset import Dataset
from edgefuse.data.folds import group_names
from edgefuse.data.splits import Split
from edgefuse.io.text import printable, some_of

SHORT_SEQUENCE = 2
"""Sequences of at most this many pairs are mentioned."""

ONE_PERSON_MEASURED = (
    "on ten hand gestures, a model that learned from one person was right in 64% of the pairs of another (69% with 40 epochs instead of "
    "12), and from two people in 77% of the pairs of a third (docs/data.md, People)"
)


def people_of(dataset: Dataset, *, person: str, option: str = "--person") -> list[str]:
    """The person of each sample: what the first group of `person` matches in the name of its sequence.

    Raises:
        UserError: not a regular expression, no group in it, or sequences that it does not match; the message begins with `option`.
    """
    return group_names(dataset, by=person, option=option)


def pairs_of_people(dataset: Dataset, parts: Split, *, person: str) -> dict[str, dict[str, int]]:
    """Person -> "train", "validation" and "test" -> number of pairs."""
    people = people_of(dataset, person=person)
    counts = {part: Counter(people[i] for i in getattr(parts, part)) for part in ("train", "validation", "test")}
    return {name: {part: count[name] for part, count in counts.items()} for name in sorted(set(people))}


def one_person_warning(people: Collection[str], *, tested: Collection[str] | None) -> list[str]:
    """A warning if a model learns from one person only.

    Args:
        people: those who are trained on.
        tested: those in held-out pairs; None = there is no split yet.
    """
    if len(set(people)) != 1:
        return []
    (name,) = set(people)
    if tested is None:
        figures = "validation and test figures will be of that person"
    elif not tested:
        figures = "no other person is tested"
    elif set(tested) == {name}:
        figures = "the held-out pairs are of the same person, so their figures do not hold for other people"
    else:
        figures = f"expect less on people other than {printable(name)} than on that person's own sequences"
    return [f"only one person ({printable(name)}) to train on: {figures}; {ONE_PERSON_MEASURED}: record more people"]


def class_warnings(dataset: Dataset, people: Sequence[str]) -> list[str]:
    """A warning that names the people without a pair of some class.

    Args:
        people: the person of each sample.
    """
    found: dict[str, set[int]] = {}
    for sample, name in zip(dataset.samples, people, strict=True):
        found.setdefault(name, set()).add(sample.label)
    every = set().union(*found.values())
    lacking = {name: [dataset.labels[label] for label in sorted(every - own)] for name, own in sorted(found.items())}
    lacking = {name: labels for name, labels in lacking.items() if labels}
    if not lacking:
        return []
    listed = some_of(
        [f"{printable(name)} has no pair of {printable(some_of(labels))}" for name, labels in lacking.items()], most=3
    )
    return [
        f"{len(lacking)} of {len(found)} people lack a class ({listed}): a model may learn the person instead of the class, and the "
        "accuracy on that person does not cover it; record every class with every person"
    ]


def short_sequences_note(dataset: Dataset) -> str:
    """A sentence about sequences of one or two pairs; empty if there are none."""
    counts = Counter(f"{dataset.labels[sample.label]}/{sample.sequence}" for sample in dataset.samples)
    short = sorted(name for name, count in counts.items() if count <= SHORT_SEQUENCE)
    if not short:
        return ""
    return (
        f"{len(short)} of {len(counts)} sequences have {SHORT_SEQUENCE} pairs or fewer ({printable(some_of(short, most=3))}): pairs of one "
        "sequence are near-duplicates, so each of these counts as one example, in training or held out"
    )
