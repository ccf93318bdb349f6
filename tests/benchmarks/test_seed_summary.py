"""The table over protocols and seeds, from fold results in the format of crossval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgefuse.errors import UserError
from edgefuse_benchmarks.paper.seed_summary import main, markdown, read_seed_summary


def write_fold(folder: Path, *, variant: str, fold: int, seed: int, num_test: int, accuracy: float) -> None:
    (folder / "folds").mkdir(parents=True, exist_ok=True)
    value = {
        "variant": variant,
        "fold": fold,
        "accuracy": accuracy,
        "accuracy_no_rgb": accuracy / 2,
        "accuracy_no_depth": accuracy / 4,
        "num_test": num_test,
        "settings": {"seed": seed + fold - 1},
        "commit": "abc",
    }
    (folder / "folds" / f"{variant}.fold{fold:02d}.json").write_text(json.dumps(value))


@pytest.fixture
def folders(tmp_path: Path) -> list[tuple[str, Path]]:
    """Two seeds with the folds in another order, as folds depend on the seed."""
    for seed in (0, 1):
        for gain, variant in ((0.0, "rgb-small"), (-0.1, "depth-scratch"), (0.1, "naive-small"), (0.2, "gated-small")):
            people = [(40, 0.4), (60, 0.6)]
            for fold, (num_test, base) in enumerate(people if seed == 0 else people[::-1], start=1):
                accuracy = base + gain + (0.02 * seed if variant == "gated-small" else 0)
                write_fold(
                    tmp_path / f"p{seed}", variant=variant, fold=fold, seed=seed, num_test=num_test, accuracy=accuracy
                )
            for fold, base in ((1, 0.5), (2, 0.7)):
                write_fold(
                    tmp_path / f"c{seed}", variant=variant, fold=fold, seed=seed, num_test=50, accuracy=base + gain
                )
    return [(name, tmp_path / f"{name[0]}{seed}") for seed in (0, 1) for name in ("people", "clips")]


def test_folds_with_equally_many_test_pairs_are_one_protocol(folders: list[tuple[str, Path]]) -> None:
    found = read_seed_summary(folders)
    assert sorted(found.names) == ["clips, 50 test pairs", "people, 40 test pairs", "people, 60 test pairs"]
    column = {name: found.accuracy["rgb-small"]["accuracy"][:, i].tolist() for i, name in enumerate(found.names)}
    assert column["people, 40 test pairs"] == pytest.approx([0.4, 0.4])
    assert column["people, 60 test pairs"] == pytest.approx([0.6, 0.6])
    assert column["clips, 50 test pairs"] == pytest.approx([0.6, 0.6])
    assert found.means("rgb-small", "accuracy_no_rgb") == pytest.approx([0.8 / 3, 0.8 / 3])


def test_the_margins_are_paired_by_seed(folders: list[tuple[str, Path]]) -> None:
    text = markdown(read_seed_summary(folders))
    assert "the better single sensor is rgb-small" in text and "Commit: abc." in text
    assert "- gated-small - rgb-small: +20.7 (minimum +20.0, maximum +21.3)" in text
    assert "- gated-small - naive-small: +10.7" in text and "- naive-small - naive-small" not in text


def test_a_stored_seed_takes_precedence_over_the_seed_of_the_fold(folders: list[tuple[str, Path]]) -> None:
    for _, folder in folders:
        for path in folder.glob("folds/*.json"):
            value = json.loads(path.read_text())
            seed = int(folder.name[1:])
            value["settings"] = {"seed": 1000 * seed + value["fold"], "crossval_seed": seed}
            path.write_text(json.dumps(value))
    found = read_seed_summary(folders)
    assert found.seeds == (0, 1) and found.accuracy["rgb-small"]["accuracy"].shape == (2, 3)


def test_a_gap_is_named(folders: list[tuple[str, Path]]) -> None:
    next(folders[0][1].glob("folds/gated*01.json")).unlink()
    with pytest.raises(UserError, match=r"gated-small has no fold of 'people, 40 test pairs' with seed 0"):
        read_seed_summary(folders)


def test_a_variant_may_lack_a_protocol(folders: list[tuple[str, Path]]) -> None:
    for name, folder in folders:
        for path in folder.glob("folds/gated*.json") if name == "clips" else ():
            path.unlink()
    found = read_seed_summary(folders)
    assert found.means("gated-small") == pytest.approx([0.7, 0.72])
    text = markdown(found)
    row = next(line for line in text.splitlines() if line.startswith("| gated-small |"))
    assert row.count("| - |") == 1
    assert "- gated-small - naive-small: +11.0 (minimum +10.0, maximum +12.0), over people, " in text
    assert "NaN" not in json.dumps(found.to_json()) and "null" in json.dumps(found.to_json())


def test_wrong_arguments_are_reported_with_the_expected_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="NAME=FOLDER"):
        main([str(tmp_path / "out.md"), "people"])
    with pytest.raises(UserError, match="no finished folds"):
        main([str(tmp_path / "out.md"), f"people={tmp_path}"])


def test_the_table_and_every_figure_are_written(folders: list[tuple[str, Path]], tmp_path: Path) -> None:
    main([str(tmp_path / "out.md"), *(f"{name}={folder}" for name, folder in folders)])
    assert (tmp_path / "out.md").read_text() == markdown(read_seed_summary(folders))
    value = json.loads((tmp_path / "out.json").read_text())
    assert value["seeds"] == [0, 1] and len(value["accuracy_by_seed_and_protocol"]["gated-small"]["accuracy"][1]) == 3
    assert value["first_folds"]["people"]["rgb-small"] == {"seed": 0}
