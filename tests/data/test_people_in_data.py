"""What the data of one person lacks, as `edgefuse train --person` and `edgefuse data check --person` report it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edgefuse.app.main import build_app
from edgefuse.contract import Clipped
from edgefuse.data.check import check
from edgefuse.data.dataset import load, scan
from edgefuse.data.people import class_warnings, one_person_warning, people_of, short_sequences_note
from edgefuse.data.sensor_coverage import Sensed, group_warnings, missing_by_group
from edgefuse.data.splits import Split
from edgefuse.errors import UserError
from edgefuse.training.preflight import warnings_before
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.trainer import train
from people_data import PERSON, people_data

WITH_PERSON = TrainConfig(person=PERSON, validation_fraction=0.0)


def test_one_person_is_a_warning_that_says_what_the_figures_mean() -> None:
    assert one_person_warning(["a", "b"], tested=["c"]) == []
    (same,) = one_person_warning(["a", "a"], tested=["a"])
    assert (
        same.startswith("only one person (a) to train on: the held-out pairs are of the same person") and "64%" in same
    )
    (other,) = one_person_warning(["a"], tested=["b"])
    assert "same person" not in other and "expect less on people other than a" in other
    (nothing,) = one_person_warning(["a"], tested=[])
    assert "no other person is tested" in nothing
    (unsplit,) = one_person_warning(["a"], tested=None)
    assert "will be of that person" in unsplit


def test_people_without_a_class_are_named_with_it(tmp_path: Path) -> None:
    dataset = scan([people_data(tmp_path / "d", lacks=[("c", "blue_far"), ("a", "red_near")])])
    (text,) = class_warnings(dataset, people_of(dataset, person=PERSON))
    assert text.startswith("2 of 3 people lack a class (a has no pair of red_near, c has no pair of blue_far): ")
    complete = scan([people_data(tmp_path / "complete")])
    assert class_warnings(complete, people_of(complete, person=PERSON)) == []


def test_a_person_without_depth_is_named_once(tmp_path: Path) -> None:
    rgbd = load(scan([people_data(tmp_path / "d", no_depth="b")]))
    every = range(len(rgbd.rgb))
    people = people_of(rgbd.dataset, person=PERSON)
    (text,) = group_warnings(rgbd, every, people, what="people")
    assert text.startswith("depth is missing") and "in 18 of 18 checked pairs of 1 of 3 people (b), first " in text
    assert "b_0/frame_0_depth.png" in text and "with RGB alone" in text
    assert group_warnings(rgbd, every, people, what="people", modalities=("rgb",)) == []
    parts = Split(train=tuple(every), validation=(), test=())
    assert warnings_before(rgbd, parts, config=WITH_PERSON) == [text]  # not its sequences too
    (by_sequence,) = warnings_before(rgbd, parts, config=TrainConfig(validation_fraction=0.0))
    assert "3 of 9 sequences (b_0, b_1, b_2)" in by_sequence


def test_a_sequence_of_four_pairs_is_checked_among_many(tmp_path: Path) -> None:
    """With so many sequences, three pairs of each are checked."""
    people = "abcdefghijklmnopqrstuvwxyz"
    rgbd = load(scan([people_data(tmp_path / "d", people=people, num_sequences=3, num_frames=2, no_depth="b")]))
    assert len({*rgbd.dataset.groups()}) == 78  # of two classes, so of four pairs
    (text,) = group_warnings(rgbd, range(len(rgbd.rgb)), rgbd.dataset.groups(), what="sequences")
    assert "in 9 of 9 checked pairs of 3 of 78 sequences (b_0, b_1, b_2)" in text


def test_a_held_out_person_without_depth_is_reported(tmp_path: Path) -> None:
    rgbd = load(scan([people_data(tmp_path / "d", no_depth="c")]))
    of_c = [i for i, sample in enumerate(rgbd.dataset.samples) if sample.sequence[0] == "c"]
    train = tuple(i for i in range(len(rgbd.rgb)) if i not in of_c)
    (text,) = warnings_before(rgbd, Split(train=train, validation=(), test=tuple(of_c)), config=WITH_PERSON)
    assert "1 of 3 people (c)" in text


def test_depth_that_everyone_lacks_is_a_warning_about_classes_only(tmp_path: Path) -> None:
    rgbd = load(scan([people_data(tmp_path / "d", no_depth="abc")]))
    parts = Split(train=tuple(range(len(rgbd.rgb))), validation=(), test=())
    (text,) = warnings_before(rgbd, parts, config=WITH_PERSON)
    assert "2 of 2 classes" in text


@pytest.mark.parametrize(("num_missing", "num_pairs", "warned"), [(9, 10, 1), (8, 10, 0), (2, 2, 0), (3, 3, 1)])
def test_nearly_all_of_at_least_three_pairs(num_missing: int, num_pairs: int, warned: int, tmp_path: Path) -> None:
    """Of one person; as many pairs of another person have everything."""
    root = people_data(tmp_path / "d", people="ab", num_sequences=1, num_frames=10)
    whole = scan([root])
    of_person = {name: [i for i, s in enumerate(whole.samples) if s.sequence[0] == name] for name in "ab"}
    dataset = whole.subset([*of_person["a"][:num_pairs], *of_person["b"]])
    rng = np.random.default_rng(0)
    lacking = {int(i) for i in rng.permutation(num_pairs)[:num_missing]}
    found = [
        Sensed(missing=frozenset(["depth"] if i in lacking else []), num_measured=1, outside=Clipped(0.0, 0.0))
        for i in range(len(dataset.samples))
    ]
    people = people_of(dataset, person=PERSON)
    assert len(missing_by_group(dataset, found, people, what="people")) == warned


def test_short_sequences_are_a_note(tmp_path: Path) -> None:
    note = short_sequences_note(scan([people_data(tmp_path / "two", num_frames=2)]))
    assert note.startswith(
        "18 of 18 sequences have 2 pairs or fewer (blue_far/a_0, blue_far/a_1, blue_far/a_2 and 15 more)"
    )
    assert short_sequences_note(scan([people_data(tmp_path / "three", num_frames=3)])) == ""
    report, _ = check([tmp_path / "two"])
    others = [one for one in report.notes if one != note]
    assert len(report.notes) == 2 and note not in report.warnings
    assert len(others) == 1 and others[0].startswith("no class _background: ")


def test_data_check_prints_them(tmp_path: Path) -> None:
    root = people_data(tmp_path / "d", lacks=[("c", "blue_far")], no_depth="b")
    arguments = ["data", "check", str(root), "--person", PERSON]
    output = CliRunner().invoke(build_app("data"), arguments, catch_exceptions=False).output
    assert "warning: 1 of 3 people lack a class (c has no pair of blue_far)" in output
    assert "checked pairs of 1 of 3 people (b)" in output and "sequences (b_0" not in output
    one = people_data(tmp_path / "one", people="a")
    assert (
        "warning: only one person (a)"
        in CliRunner().invoke(build_app("data"), [*arguments[:2], str(one), *arguments[3:]]).output
    )


def test_an_expression_that_does_not_fit_names_the_option(tmp_path: Path) -> None:
    root = people_data(tmp_path / "d", people="a")
    for person, words in (
        ("(", "is not a regular expression"),
        ("a", "has no group"),
        ("sequence", "has no group"),  # a word of --by
        ("^(q)", "finds no group in 3 "),
    ):
        with pytest.raises(UserError, match="--person ") as caught:
            check([root], person=person)
        assert words in str(caught.value) and "--by" not in str(caught.value)


def test_a_wrong_expression_is_refused_before_the_images_are_read(tmp_path: Path) -> None:
    root = people_data(tmp_path / "d")
    next(root.rglob("*_rgb.png")).write_bytes(b"not an image")
    for expression, words in (("^(nobody", "regular expression"), ("^(nobody)", "nobody")):
        with pytest.raises(UserError, match=words) as caught:
            train([root], tmp_path / "run", config=TrainConfig(person=expression))
        assert "not an image" not in str(caught.value) and "_rgb.png" not in str(caught.value)
