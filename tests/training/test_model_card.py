"""The model card of a run: its facts are those of `run.json` and `metrics.json`, its limits follow from them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgefuse.training.model_card import MAX_CLASSES, model_card
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.run import CARD_NAME, Run, open_run
from edgefuse.training.trainer import train
from people_data import PERSON, people_data

QUICK = TrainConfig(size=32, epochs=1, batch_size=8, num_features=8, num_hidden=16, num_threads=1, person=PERSON)
SECTIONS = [
    *("What it decides", "Data", "Protocol", "Accuracy", "Calibration", "Gate", "Training", "Limits"),
    "To be filled in by the author",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two people are trained on, c is tested."""
    folder = tmp_path_factory.mktemp("card")
    config = replace(QUICK, exclude=("c_*",), validation_fraction=0.3)
    train([people_data(folder / "hands")], folder / "run", config=config)
    return open_run(folder / "run")


def card_of(run: Run) -> str:
    return (run.folder / CARD_NAME).read_text()


def made_again(run: Run, *, metrics: dict[str, object] | None = None, **info: object) -> str:
    return model_card(
        "again",
        labels=run.labels,
        model_config=run.model_config,
        info={**run.info, **info},
        metrics={**run.metrics(), **(metrics or {})},
    )


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def test_a_run_has_a_card_with_every_section_in_order(run: Run) -> None:
    assert re.findall(r"^## (.*)$", card_of(run), re.MULTILINE) == SECTIONS
    assert "- Licence of the data and of the model:" in section(card_of(run), SECTIONS[-1])
    assert card_of(run).startswith("# Model card: run\n") and str(run.folder.parent) not in card_of(run)


def test_its_figures_are_those_of_the_run(run: Run) -> None:
    card, metrics = card_of(run), run.metrics()
    test = metrics["test"]
    conditions = ("both", "no_rgb", "no_depth")
    accuracy = " | ".join(f"{test[condition]['accuracy']:.1%}" for condition in conditions)
    assert f"| **accuracy** | {accuracy} |" in section(card, "Accuracy")
    recalls = [float(row) for row in re.findall(r"^\| (?:red|blue)_\w+ \| ([\d.]+)%", card, re.MULTILINE)]
    assert len(recalls) == 2 and recalls == sorted(recalls)
    error = metrics["calibration"]["test"]["no_rgb"]["after"]["expected_calibration_error"]
    temperature = metrics["calibration"]["temperature_no_rgb"]
    assert f"| no RGB | {temperature:.2f} | {error:.3f} |" in section(card, "Calibration")
    assert f"no depth {test['no_depth']['mean_gate']:.2f}. 0 = RGB" in section(card, "Gate")


def test_it_says_who_was_trained_on_and_who_was_held_out(run: Run) -> None:
    data = section(card_of(run), "Data")
    assert run.info["data"]["people"]["c"] == {"train": 0, "validation": 0, "test": 18}
    assert "| part | pairs | sequences | a | b | c |" in data and "| test | 18 | 3 | 0 | 0 | 18 |" in data
    assert "Held out for testing by name: c_*." in section(card_of(run), "Protocol")
    assert "people who were trained on" not in section(card_of(run), "Limits")


def test_limits_follow_from_the_facts(run: Run) -> None:
    limits = section(made_again(run, data={**run.info["data"], "people": {}}), "Limits")
    assert "not trained on is not recorded" in limits
    people = {"a": {"train": 9, "validation": 3, "test": 3}, "b": {"train": 9, "validation": 0, "test": 0}}
    limits = section(made_again(run, data={**run.info["data"], "people": people}), "Limits")
    assert "All held-out pairs are of people who were trained on (a)" in limits
    limits = section(made_again(run, metrics={"untested_classes": ["red_near"]}), "Limits")
    assert "No test pair of red_near" in limits
    limits = section(made_again(run, training={**run.info["training"], "epochs": 9}), "Limits")
    assert "The training ended after 1 of 9 epochs." in limits


def test_without_test_pairs_the_validation_figures_are_called_optimistic(tmp_path: Path) -> None:
    """One person only: the warning is in the card."""
    train([people_data(tmp_path / "hands", people="a")], tmp_path / "run", config=QUICK)
    card = card_of(open_run(tmp_path / "run"))
    limits = section(card, "Limits")
    assert "no test pairs, and validation figures are optimistic" in limits
    assert "Warning before the training: only one person (a) to train on" in limits and limits.count("one person") == 2
    assert "(the same pairs, optimistic)" in section(card, "Calibration") and "- Test: none." in card


def test_with_nothing_held_out_the_accuracy_is_unknown(tmp_path: Path) -> None:
    config = replace(QUICK, validation_fraction=0.0, person=None, fusion="rgb")
    train([people_data(tmp_path / "hands", people="a")], tmp_path / "run", config=config)
    run = open_run(tmp_path / "run")
    assert "Nothing was held out: the accuracy is unknown." in card_of(run)
    assert "This fusion has no gate." in card_of(run) and "Not calibrated" in card_of(run)
    assert run.info["data"]["people"] == {} and "People: not recorded" in card_of(run)


def test_of_many_classes_the_worst_are_shown(run: Run) -> None:
    recall = {f"class{number:03d}": 1 - number / 100 for number in range(100)}
    test = {name: {**scores, "recall": recall} for name, scores in run.metrics()["test"].items()}
    accuracy = section(made_again(run, metrics={"test": test}), "Accuracy")
    assert accuracy.count("| class") == MAX_CLASSES and "class070" in accuracy and "class069" not in accuracy
    assert accuracy.index("class099") < accuracy.index("class098")
    assert "70 more classes are in `metrics.json`" in accuracy


def test_paths_of_the_data_are_not_given_away(tmp_path: Path) -> None:
    root = people_data(tmp_path / "hands", no_depth="c")
    train([root], tmp_path / "run", config=QUICK)
    run = open_run(tmp_path / "run")
    (warning,) = run.info["warnings"]
    assert str(root) in warning and str(tmp_path) not in card_of(run) and "first hands/blue_far/c_0/" in card_of(run)
    assert "training: hands: a region." in made_again(run, warnings=[f"{root}: a region"])


def test_a_run_without_a_card_opens_and_a_new_training_replaces_the_card(tmp_path: Path) -> None:
    root = people_data(tmp_path / "hands")
    train([root], tmp_path / "run", config=QUICK)
    (tmp_path / "run" / CARD_NAME).write_text("mine")
    open_run(tmp_path / "run").build_model()
    train([root], tmp_path / "run", config=QUICK, force=True)
    assert card_of(open_run(tmp_path / "run")).startswith("# Model card")
    (tmp_path / "run" / CARD_NAME).unlink()
    open_run(tmp_path / "run").copy_card(tmp_path)
    assert not (tmp_path / CARD_NAME).exists()
