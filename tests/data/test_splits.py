from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefuse.data.dataset import Dataset, Sample
from edgefuse.data.splits import labels_without_samples, split
from edgefuse.errors import UserError
from edgefuse.io.text import some_of


def dataset_of(sequences: dict[str, list[str]], frames: int = 3) -> Dataset:
    labels = tuple(sorted(sequences))
    samples = tuple(
        Sample(
            label=labels.index(label),
            sequence=sequence,
            name=f"{n}",
            rgb_path=Path(),
            depth_path=Path(),
            depth_unit_m=0.001,
        )
        for label in labels
        for sequence in sequences[label]
        for n in range(frames)
    )
    return Dataset(roots=(Path(),), labels=labels, samples=samples, align="color")


@settings(max_examples=60, deadline=None)
@given(
    num_classes=st.integers(2, 4),
    num_sequences=st.integers(4, 9),
    shared=st.booleans(),
    test_fraction=st.sampled_from([0.0, 0.2, 0.3]),
    validation_fraction=st.sampled_from([0.0, 0.15, 0.3]),
    seed=st.integers(0, 1000),
)
def test_no_group_is_on_two_sides_and_no_sample_is_lost(
    num_classes: int, num_sequences: int, shared: bool, test_fraction: float, validation_fraction: float, seed: int
) -> None:
    sequences = {
        f"c{c}": [f"t{t}" if shared else f"c{c}t{t}" for t in range(num_sequences)] for c in range(num_classes)
    }
    dataset = dataset_of(sequences)
    parts = split(dataset, test_fraction=test_fraction, validation_fraction=validation_fraction, seed=seed)
    assert sorted([*parts.train, *parts.validation, *parts.test]) == list(range(len(dataset.samples)))
    groups = dataset.groups()
    sides = [{groups[i] for i in part} for part in (parts.train, parts.validation, parts.test)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert bool(parts.test) == (test_fraction > 0) and bool(parts.validation) == (validation_fraction > 0)


def test_exclude_holds_out_by_sequence_or_by_class_and_sequence() -> None:
    dataset = dataset_of({"cup": ["s1_a", "s1_b", "s2_a"], "ball": ["s1_a", "s1_b", "s2_a"]})
    groups = dataset.groups()
    by_sequence = split(dataset, exclude=["s1_a"], validation_fraction=0)
    assert {groups[i] for i in by_sequence.test} == {"s1_a"} and len(by_sequence.test) == 6
    by_person = split(dataset, exclude=["s1_*"], validation_fraction=0)
    assert {groups[i] for i in by_person.train} == {"s2_a"}
    by_class = split(dataset, exclude=["cup/s1_a"], validation_fraction=0)
    assert len(by_class.test) == 3


def test_splits_are_the_same_for_the_same_seed() -> None:
    dataset = dataset_of({"cup": [f"a{i}" for i in range(8)], "ball": [f"b{i}" for i in range(8)]})
    assert split(dataset, test_fraction=0.25, seed=3) == split(dataset, test_fraction=0.25, seed=3)
    assert split(dataset, test_fraction=0.25, seed=3) != split(dataset, test_fraction=0.25, seed=4)


@pytest.mark.parametrize(
    ("sequences", "options", "word"),
    [
        ({"cup": ["a", "b"]}, {}, "only one class"),
        ({"cup": ["a"], "ball": ["b"]}, {"exclude": ["z*"]}, "no sequence matches 'z\\*'"),
        (
            {"cup": ["a"], "ball": ["b"]},
            {"exclude": ["a"], "validation_fraction": 0},
            "no training sample is left of cup",
        ),
        ({"cup": ["a"], "ball": ["a"]}, {"validation_fraction": 0.2}, "1 group"),
        ({"cup": ["a"], "ball": ["b"]}, {"test_fraction": 0.6}, "fraction is 0.6"),
    ],
)
def test_impossible_splits_are_refused(sequences: dict[str, list[str]], options: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match=word):
        split(dataset_of(sequences), **options)  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(
    frames=st.lists(st.lists(st.integers(1, 6), min_size=3, max_size=7), min_size=2, max_size=6),
    shared=st.booleans(),
    test_fraction=st.sampled_from([0.1, 0.25]),
    validation_fraction=st.sampled_from([0.0, 0.15]),
    seed=st.integers(0, 100),
)
def test_a_class_with_enough_groups_is_tested_and_validated(
    frames: list[list[int]], shared: bool, test_fraction: float, validation_fraction: float, seed: int
) -> None:
    samples = [
        replace(
            dataset_of({"x": ["t"]}, 1).samples[0], label=c, sequence=f"t{t}" if shared else f"c{c}t{t}", name=f"{n}"
        )
        for c, counts in enumerate(frames)
        for t, count in enumerate(counts)
        for n in range(count)
    ]
    labels = tuple(f"c{c}" for c in range(len(frames)))
    dataset = Dataset(roots=(Path(),), labels=labels, samples=tuple(samples), align="color")
    parts = split(dataset, test_fraction=test_fraction, validation_fraction=validation_fraction, seed=seed)
    assert labels_without_samples(dataset, parts.train) == []
    if not shared:  # if classes share sequences, holding out one class's sequence may hold out another's
        assert labels_without_samples(dataset, parts.test) == []
        assert not validation_fraction or labels_without_samples(dataset, parts.validation) == []


def test_a_rare_class_is_tested_as_well_as_a_frequent_one() -> None:
    dataset = dataset_of({"good": [f"g{i}" for i in range(10)], "bad": ["b0", "b1"], "once": ["o0"]})
    for seed in range(10):
        parts = split(dataset, test_fraction=0.25, seed=seed)
        assert labels_without_samples(dataset, parts.test) == ["once"]
        assert labels_without_samples(dataset, parts.validation) == [
            "bad",
            "once",
        ]  # its second sequence is needed for training
        assert 6 <= len(parts.test) <= 15


def test_many_rare_classes_are_all_tested_although_one_fold_is_too_small() -> None:
    dataset = dataset_of({f"c{c:02d}": [f"c{c}t{t}" for t in range(3)] for c in range(30)}, frames=1)
    parts = split(dataset, test_fraction=0.1, validation_fraction=0.1)
    assert (
        labels_without_samples(dataset, parts.test)
        == labels_without_samples(dataset, parts.validation)
        == labels_without_samples(dataset, parts.train)
        == []
    )


def test_sets_of_single_images_are_split_if_possible() -> None:
    """Fewer samples of a class than 1 / fraction, which scikit-learn refuses."""
    dataset = dataset_of({"a": [f"a{i}" for i in range(5)], "b": [f"b{i}" for i in range(5)]}, frames=1)
    assert len(split(dataset).validation) == 2
    two = dataset_of({"a": ["a0", "a1"], "b": ["b0", "b1"]}, frames=1)
    parts = split(two, test_fraction=0.25)
    assert len(parts.test) == 2 and parts.validation == ()
    with pytest.raises(UserError, match="is the only one of a class: record another sequence"):
        split(dataset_of({"a": ["a0"], "b": ["b0"]}, frames=1), test_fraction=0.25)


def test_long_lists_of_names_are_shortened() -> None:
    assert some_of(["a", "b"]) == "a, b" and some_of([f"c{i}" for i in range(300)]).endswith("c4 and 295 more")
