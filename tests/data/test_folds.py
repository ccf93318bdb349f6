"""Folds: no group is on both sides, each sample is tested once, and impossible divisions are refused with the reason."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgefuse.data.dataset import Dataset, Sample
from edgefuse.data.folds import Folds, folds_of_splits, group_names, make_folds
from edgefuse.data.splits import Split
from edgefuse.errors import UserError


def dataset_of(sequences: list[tuple[str, str, int]]) -> Dataset:
    """A data set in memory only, from (label, sequence, frames)."""
    labels = tuple(sorted({label for label, _, _ in sequences}))
    samples = tuple(
        Sample(
            label=labels.index(label),
            sequence=sequence,
            name=f"frame_{number}",
            rgb_path=Path(f"{label}/{sequence}/{number}_rgb.png"),
            depth_path=Path(f"{label}/{sequence}/{number}_depth.png"),
            depth_unit_m=0.001,
        )
        for label, sequence, num_frames in sequences
        for number in range(num_frames)
    )
    return Dataset(roots=(Path(),), labels=labels, samples=samples, align="color")


PEOPLE = dataset_of(
    [(label, f"s{person}_clip{clip}", 3) for label in "ab" for person in range(1, 5) for clip in (1, 2)]
)


def samples_tested(folds: Folds) -> list[int]:
    return sorted(i for parts in folds.splits for i in parts.test)


@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(st.lists(st.integers(1, 5), min_size=2, max_size=9), min_size=2, max_size=5),
    num_folds=st.integers(2, 6),
    fraction=st.sampled_from([0.0, 0.15, 0.4]),
    shared_names=st.booleans(),
    seed=st.integers(0, 50),
)
def test_no_sequence_is_on_two_sides(
    frames: list[list[int]], num_folds: int, fraction: float, shared_names: bool, seed: int
) -> None:
    sequences = [
        (f"c{c}", f"take{t}" if shared_names else f"c{c}_{t}", count)
        for c, counts in enumerate(frames)
        for t, count in enumerate(counts)
    ]
    dataset = dataset_of(sequences)
    try:
        folds = make_folds(dataset, num_folds=num_folds, by="sequence", seed=seed, validation_fraction=fraction)
    except UserError as error:  # an untrained class, or too few groups: other tests check these errors
        assert any(word in str(error) for word in ("no training pair", "use fewer folds"))
        assume(False)
    sequences = dataset.groups()
    assert len(folds.splits) == num_folds and folds.num_leaking == 0
    assert samples_tested(folds) == list(range(len(sequences)))
    for parts in folds.splits:
        sides = [parts.train, parts.validation, parts.test]
        assert sorted(i for side in sides for i in side) == list(range(len(sequences)))
        names = [{sequences[i] for i in side} for side in sides]
        assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])
        assert {dataset.samples[i].label for i in parts.train} == set(range(len(dataset.labels)))
        assert bool(parts.validation) == bool(fraction)


def test_an_expression_names_the_person() -> None:
    folds = make_folds(PEOPLE, num_folds=4, by=r"^(s\d+)_")
    people = group_names(PEOPLE, by=r"^(s\d+)_")
    for parts in folds.splits:
        assert len({people[i] for i in parts.test}) == 1 and not {people[i] for i in parts.test} & {
            people[i] for i in parts.train
        }
    assert folds.num_leaking == 0 and samples_tested(folds) == list(range(48))


def test_folds_by_frame_leak_and_report_it() -> None:
    folds = make_folds(PEOPLE, num_folds=3, by="frame")
    assert folds.num_leaking == 3 and samples_tested(folds) == list(range(48))
    for parts in folds.splits:
        assert sum(PEOPLE.samples[i].label for i in parts.test) == 8  # stratified: half of the 16


def test_the_seed_decides() -> None:
    a, again, other = (make_folds(PEOPLE, num_folds=4, by="sequence", seed=seed) for seed in (1, 1, 2))
    assert a == again and a != other
    assert all(first.test != second.test for first, second in pairwise(a.splits))


def test_the_folds_of_a_seed_are_the_same_with_every_scikit_learn() -> None:
    """The folds of scikit-learn 1.8 and newer. Version 1.7 gives the same folds for every seed if all groups are alike."""
    tested = [
        sorted({PEOPLE.samples[i].sequence for i in parts.test})
        for parts in make_folds(PEOPLE, num_folds=4, by="sequence", seed=1).splits
    ]
    assert tested == [
        ["s1_clip1", "s4_clip2"],
        ["s2_clip1", "s3_clip1"],
        ["s1_clip2", "s2_clip2"],
        ["s3_clip2", "s4_clip1"],
    ]


@pytest.mark.parametrize(
    ("num_folds", "by", "words"),
    [
        (5, r"^(s\d+)_", r"4 group\(s\) \(s1, s2, s3, s4\) for 5 folds"),
        (9, "sequence", r"8 group\(s\)"),
        (25, "frame", "no class has 25 pairs"),
        (1, "sequence", "2 or more"),
        (2, r"^s\d+_", "has no group"),
        (2, r"^(s\d", "not a regular expression"),
        (2, r"^(s[12])_", r"no group in 4 sequence name\(s\): s3_clip1"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(num_folds: int, by: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_folds(PEOPLE, num_folds=num_folds, by=by)


def test_a_class_that_a_fold_would_not_train_is_named() -> None:
    dataset = dataset_of([("cup", "t1", 4), ("cup", "t2", 4), ("rare", "t3", 4), ("cup", "t4", 4)])
    with pytest.raises(UserError, match=r"fold \d has no training pair of rare"):
        make_folds(dataset, num_folds=2, by="sequence")


def test_validation_samples_need_a_group_of_their_own() -> None:
    dataset = dataset_of([(label, sequence, 3) for label in "ab" for sequence in ("t1", "t2")])
    with pytest.raises(UserError, match=r"has only one group of each class for training and validation"):
        make_folds(dataset, num_folds=2, by="sequence", validation_fraction=0.15)
    for parts in make_folds(dataset, num_folds=2, by="frame", validation_fraction=0.15).splits:
        assert len(parts.validation) == 2 and len(parts.train) == 4


def test_ready_made_splits_may_divide_a_sequence_only_by_frame() -> None:
    first = {i for i, sample in enumerate(PEOPLE.samples) if sample.sequence == "s1_clip1"}
    torn = min(first)
    rest = tuple(i for i in range(48) if i not in first)
    clean = Split(train=rest, validation=(), test=tuple(sorted(first)))
    assert folds_of_splits(PEOPLE, [clean], by="trials").num_leaking == 0
    leaking = Split(train=(*rest, torn), validation=(), test=tuple(sorted(first - {torn})))
    watched = Split(train=rest, validation=(torn,), test=leaking.test)
    for parts in (leaking, watched):
        with pytest.raises(UserError, match="fold 1 has frames of 1 sequence.* such as s1_clip1"):
            folds_of_splits(PEOPLE, [parts], by="trials")
        assert folds_of_splits(PEOPLE, [parts], by="frame").num_leaking == 1


def test_a_class_that_a_fold_does_not_test_is_noted() -> None:
    dataset = dataset_of([(label, f"{label}{t}", 2) for label, count in (("a", 4), ("b", 2)) for t in range(count)])
    folds = make_folds(dataset, num_folds=3, by="sequence")
    assert any("tests no pair of b" in note for note in folds.notes)


def test_classes_that_folds_do_not_test_are_one_line() -> None:
    dataset = dataset_of(
        [(label, f"{label}{sequence}", 2) for label in "abc" for sequence in range(5)]
        + [("rare", "r0", 2), ("rare", "r1", 2)]
    )
    folds = make_folds(dataset, num_folds=5, by="sequence")
    (note,) = folds.notes
    assert note.startswith("3 folds have classes without a test pair: fold ") and note.endswith("tests no pair of rare")


def test_validation_pairs_include_every_class_with_enough_groups() -> None:
    dataset = dataset_of(
        [("often", f"o{sequence}", 4) for sequence in range(12)]
        + [("rare", f"r{sequence}", 2) for sequence in range(4)]
    )
    folds = make_folds(dataset, num_folds=4, by="sequence", validation_fraction=0.1)
    for parts in folds.splits:
        assert {dataset.samples[i].label for i in parts.validation} == {0, 1}
