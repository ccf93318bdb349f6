from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefuse.data.folder import Dataset, Sample
from edgefuse.data.splits import split
from edgefuse.errors import UserError


def dataset_of(takes: dict[str, list[str]], frames: int = 3) -> Dataset:
    labels = tuple(sorted(takes))
    samples = tuple(
        Sample(
            label=labels.index(label),
            instance=take,
            name=f"{n}",
            rgb_path=Path(),
            depth_path=Path(),
            depth_unit_m=0.001,
        )
        for label in labels
        for take in takes[label]
        for n in range(frames)
    )
    return Dataset(roots=(Path(),), labels=labels, samples=samples, align="color")


@settings(max_examples=60, deadline=None)
@given(
    num_classes=st.integers(2, 4),
    num_takes=st.integers(4, 9),
    shared=st.booleans(),
    test_share=st.sampled_from([0.0, 0.2, 0.3]),
    validation_share=st.sampled_from([0.0, 0.15, 0.3]),
    seed=st.integers(0, 1000),
)
def test_no_group_stands_on_two_sides_and_nothing_is_lost(
    num_classes: int, num_takes: int, shared: bool, test_share: float, validation_share: float, seed: int
) -> None:
    takes = {f"c{c}": [f"t{t}" if shared else f"c{c}t{t}" for t in range(num_takes)] for c in range(num_classes)}
    dataset = dataset_of(takes)
    parts = split(dataset, test_share=test_share, validation_share=validation_share, seed=seed)
    assert sorted([*parts.train, *parts.validation, *parts.test]) == list(range(len(dataset.samples)))
    groups = dataset.groups()
    sides = [{groups[i] for i in part} for part in (parts.train, parts.validation, parts.test)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert bool(parts.test) == (test_share > 0) and bool(parts.validation) == (validation_share > 0)


def test_exclude_holds_out_by_instance_or_by_class_and_instance() -> None:
    dataset = dataset_of({"cup": ["s1_a", "s1_b", "s2_a"], "ball": ["s1_a", "s1_b", "s2_a"]})
    groups = dataset.groups()
    by_instance = split(dataset, exclude=["s1_a"], validation_share=0)
    assert {groups[i] for i in by_instance.test} == {"s1_a"} and len(by_instance.test) == 6
    by_person = split(dataset, exclude=["s1_*"], validation_share=0)
    assert {groups[i] for i in by_person.train} == {"s2_a"}
    by_class = split(dataset, exclude=["cup/s1_a"], validation_share=0)
    assert len(by_class.test) == 3


def test_splits_are_the_same_for_the_same_seed() -> None:
    dataset = dataset_of({"cup": [f"a{i}" for i in range(8)], "ball": [f"b{i}" for i in range(8)]})
    assert split(dataset, test_share=0.25, seed=3) == split(dataset, test_share=0.25, seed=3)
    assert split(dataset, test_share=0.25, seed=3) != split(dataset, test_share=0.25, seed=4)


@pytest.mark.parametrize(
    ("takes", "options", "word"),
    [
        ({"cup": ["a", "b"]}, {}, "one class only"),
        ({"cup": ["a"], "ball": ["b"]}, {"exclude": ["z*"]}, "no instance matches 'z\\*'"),
        ({"cup": ["a"], "ball": ["b"]}, {"exclude": ["a"], "validation_share": 0}, "no training sample is left of cup"),
        ({"cup": ["a"], "ball": ["a"]}, {"validation_share": 0.2}, "1 group"),
        ({"cup": ["a"], "ball": ["b"]}, {"test_share": 0.6}, "share is 0.6"),
    ],
)
def test_impossible_splits_are_refused(takes: dict[str, list[str]], options: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match=word):
        split(dataset_of(takes), **options)  # type: ignore[arg-type]
