"""Protocols on several people: who is trained on and who is tested, the configuration file, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edgefuse.app.main import build_app
from edgefuse.data.dataset import Dataset, scan, write_pair
from edgefuse.data.splits import Split
from edgefuse.errors import UserError
from edgefuse_benchmarks.people.protocols import Protocol, fold_names, protocol_folds, read_config
from people_data import PERSON, people_data


@pytest.fixture(scope="module")
def three_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes; a has four sequences, b and c have three; three frames each."""
    root = tmp_path_factory.mktemp("people") / "set"
    rng = np.random.default_rng(1)
    for kind in ("red_near", "blue_far"):
        for sequence in ("a_1", "a_2", "a_3", "a_4", "b_1", "b_2", "b_3", "c_1", "c_2", "c_3"):
            for number in range(3):
                rgb = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
                rgb[8:20, 8:20, 0 if kind == "red_near" else 2] = 220
                depth = np.full((32, 32), 1500, np.uint16)
                depth[8:20, 8:20] = 600 if kind == "red_near" else 1200
                write_pair(root / kind / sequence, f"frame_{number}", rgb, depth)
    return root


def sequences(dataset: Dataset, indices: tuple[int, ...]) -> set[str]:
    return {dataset.samples[i].sequence for i in indices}


def people(dataset: Dataset, parts: Split) -> tuple[str, str]:
    """People trained on, and people tested."""
    both = ({s[0] for s in sequences(dataset, side)} for side in ((*parts.train, *parts.validation), parts.test))
    return tuple("".join(sorted(side)) for side in both)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("leave-one-out", [("bc", "a"), ("ac", "b"), ("ab", "c")]),
        ("one-to-another", [("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"), ("c", "a"), ("c", "b")]),
        ("sequences", [("a", "a")] * 4 + [("b", "b")] * 3 + [("c", "c")] * 3),
    ],
)
def test_each_split_trains_and_tests_the_right_people(
    three_people: Path, protocol: Protocol, expected: list[tuple[str, str]]
) -> None:
    dataset = scan([three_people])
    folds = protocol_folds(dataset, protocol=protocol, person=PERSON, validation_fraction=0.3)
    assert [people(dataset, parts) for parts in folds.splits] == expected
    assert len(fold_names(dataset, protocol=protocol, person=PERSON)) == len(expected) and not folds.num_leaking
    for parts in folds.splits:
        train, validation, test = (sequences(dataset, side) for side in (parts.train, parts.validation, parts.test))
        assert train and validation and not train & validation and not (train | validation) & test


def test_names_of_splits(three_people: Path) -> None:
    dataset = scan([three_people])
    assert fold_names(dataset, protocol="leave-one-out", person=PERSON)[0] == "b, c to a"
    assert fold_names(dataset, protocol="sequences", person=PERSON)[0] == "a: a_1"


def test_one_person_cannot_be_left_out(three_people: Path) -> None:
    dataset = scan([three_people])
    alone = dataset.subset([i for i, sample in enumerate(dataset.samples) if sample.sequence[0] == "a"])
    with pytest.raises(UserError, match=r"one person \(a\): leave-one-out needs two or more; .*sequences"):
        protocol_folds(alone, protocol="leave-one-out", person=PERSON, validation_fraction=0)
    single = dataset.subset([i for i, sample in enumerate(dataset.samples) if sample.sequence == "a_1"])
    with pytest.raises(UserError, match=r"a has a single sequence \(a_1\)"):
        protocol_folds(single, protocol="sequences", person=PERSON, validation_fraction=0)


def test_settings_of_a_protocol_replace_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    shared = {"person": PERSON, "recipe": "small_rgbd", "variants": ["rgb-small"], "seeds": [0, 1]}
    path.write_text(json.dumps({**shared, "protocols": {"sequences": {"seeds": [7], "corruptions_every": 2}}}))
    assert read_config(path, "leave-one-out").seeds == (0, 1)
    own = read_config(path, "sequences")
    assert own.seeds == (7,) and own.corruptions_every == 2 and own.variants == ("rgb-small",)
    path.write_text(json.dumps({**shared, "epochs": 3}))
    with pytest.raises(UserError, match=r"unknown settings \(epochs\)"):
        read_config(path, "sequences")
    path.write_text(json.dumps({**shared, "seeds": []}))
    with pytest.raises(UserError, match="has no seeds for sequences"):
        read_config(path, "sequences")


def test_the_command_writes_tables_and_resumes(three_people: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    tiny = ["size=32", "epochs=1", "batch_size=8", "num_features=8", "validation_fraction=0.3"]
    variants = ["spatial-small", "depth-scratch"]
    settings = {"person": PERSON, "recipe": "small_rgbd", "variants": variants, "seeds": [0, 1], "set": tiny}
    config.write_text(json.dumps({**settings, "corruptions_every": 3}))
    out = tmp_path / "out"
    options = ["--protocol", "leave-one-out", "--config", str(config), "--out", str(out)]
    arguments = ["bench", "people", str(three_people), *options]
    first = CliRunner().invoke(build_app("bench"), arguments, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["folds"] == ["b, c to a", "a, c to b", "a, b to c"] and len(summary["results"]) == 2 * 2 * 3
    for result in summary["results"]:
        assert result["accuracy"] == result["scores"]["both"]["accuracy"] and len(result["corruptions"]) > 40
        assert 0 <= result["corruption_summary"]["missing"]["0.1"] <= 1
    lines = (out / "summary.md").read_text().splitlines()
    assert any(line.startswith("| spatial-small | ") and line.count("±") == 6 for line in lines)
    assert any(line.startswith("| no depth | ") for line in lines)
    again = CliRunner().invoke(build_app("bench"), arguments, catch_exceptions=False)
    assert again.exit_code == 0 and "accuracy" not in again.output


def bench(root: Path, tmp_path: Path, protocol: Protocol, *, variant: str = "spatial-small") -> tuple[str, Path]:
    """The output of a command with one epoch and one seed, and its folder."""
    config, out = tmp_path / "config.json", tmp_path / "out"
    tiny = ["size=32", "epochs=1", "batch_size=8", "num_features=8", "validation_fraction=0.3"]
    settings = {"person": PERSON, "recipe": "small_rgbd", "variants": [variant], "seeds": [0], "set": tiny}
    config.write_text(json.dumps({**settings, "corruptions_every": 2}))
    options = ["--protocol", protocol, "--config", str(config), "--out", str(out)]
    done = CliRunner().invoke(build_app("bench"), ["bench", "people", str(root), *options])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output, out


def test_one_person_has_sequences_only_and_a_note(tmp_path: Path) -> None:
    root = people_data(tmp_path / "d", people="a")
    for protocol in ("leave-one-out", "one-to-another"):
        with pytest.raises(UserError, match=rf"one person \(a\): {protocol} needs two or more"):
            bench(root, tmp_path, protocol)  # type: ignore[arg-type]
    output, out = bench(root, tmp_path, "sequences")
    assert output.index("note: only one person (a) to train on") < output.index("1 of 3: fold 1")
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["results"]) == 3 and "do not hold for other people" in summary["notes"][0]
    settings = json.loads((out / "seed0/folds/spatial-small.fold01.json").read_text())["settings"]
    assert "person" not in settings  # or folds of older versions would be trained again
    assert "- Note: only one person (a)" in (out / "summary.md").read_text()


def test_a_class_that_one_person_lacks_is_named(tmp_path: Path) -> None:
    root = people_data(tmp_path / "d", people="ac", lacks=[("c", "blue_far")])
    with pytest.raises(UserError, match="one-to-another, c to a: no pair of blue_far to train on; record it"):
        bench(root, tmp_path, "one-to-another")
    with pytest.raises(UserError, match="sequences, c: c_0: no pair of blue_far to train on"):
        bench(root, tmp_path, "sequences")
    three = people_data(tmp_path / "three", lacks=[("c", "blue_far")])
    output, out = bench(three, tmp_path, "leave-one-out")
    assert "note: 1 of 3 people lack a class (c has no pair of blue_far)" in output
    assert "note: fold 3 tests no pair of blue_far" in output
    assert json.loads((out / "summary.json").read_text())["results"][2]["scores"]["both"]["recall"]["blue_far"] is None


def test_sequences_of_two_frames_are_scored_with_a_note(tmp_path: Path) -> None:
    root = people_data(tmp_path / "d", people="ab", num_sequences=2, num_frames=2)
    output, out = bench(root, tmp_path, "one-to-another")
    assert "note: 8 of 8 sequences have 2 pairs or fewer" in output
    results = json.loads((out / "summary.json").read_text())["results"]
    assert [result["num_test"] for result in results] == [8, 8] and len(results[0]["corruptions"]) > 40


def test_splits_without_validation_pairs_are_a_note(tmp_path: Path) -> None:
    dataset = scan([people_data(tmp_path / "d", people="ab", num_sequences=1)])
    folds = protocol_folds(dataset, protocol="one-to-another", person=PERSON, validation_fraction=0.3)
    assert folds.notes[0].startswith("2 of 2 splits have no validation pairs")
    assert not protocol_folds(dataset, protocol="one-to-another", person=PERSON, validation_fraction=0).notes


@pytest.mark.parametrize("variant", ["spatial-small", "depth-scratch"])
def test_a_person_without_depth_is_scored_with_a_note(variant: str, tmp_path: Path) -> None:
    """Also where a model learns from this person alone."""
    root = people_data(tmp_path / "d", people="ab", no_depth="b")
    output, out = bench(root, tmp_path, "one-to-another", variant=variant)
    assert "checked pairs of 1 of 2 people (b)" in output and output.index("note: depth") < output.index("1 of 2: fold")
    results = json.loads((out / "summary.json").read_text())["results"]
    assert all(0 <= result["accuracy"] <= 1 for result in results) and len(results) == 2


def test_an_expression_that_does_not_fit_names_the_configuration(three_people: Path) -> None:
    with pytest.raises(UserError, match=r"^the configuration's person '\^\(q\)' finds no group in \d+ sequence"):
        protocol_folds(scan([three_people]), protocol="sequences", person="^(q)", validation_fraction=0)
