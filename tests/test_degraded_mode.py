"""The rule that chooses between predicting and abstaining with a sensor missing, and the manifest's field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgefuse.bundle import Manifest, open_bundle, write_manifest
from edgefuse.degraded_mode import DegradedMode, choose_degraded_mode
from edgefuse.errors import UserError
from toy_bundle import make_toy_bundle


def metrics(
    *,
    both: float,
    no_rgb: float,
    no_depth: float,
    part: str = "validation",
    by_class: tuple[int, ...] = (10, 10, 10, 10),
) -> dict[str, Any]:
    """`by_class`: pairs of each class."""
    found = {"both": both, "no_rgb": no_rgb, "no_depth": no_depth}
    more = {"num_samples": sum(by_class), "confusion": [[count, 0] for count in by_class]}
    return {part: {name: {"accuracy": value, **more} for name, value in found.items()}}


def test_predict_needs_nine_tenths_of_the_accuracy() -> None:
    chosen = choose_degraded_mode(metrics(both=0.8, no_rgb=0.72, no_depth=0.719), fusion="gated")
    assert (chosen.no_rgb, chosen.no_depth) == ("predict", "abstain")
    assert chosen.reason["no_depth"] == (
        "accuracy 71.9% without it, 80.0% with both, on 40 validation pairs; 90% of the accuracy with both is required"
    )
    assert chosen.measured == {
        "part": "validation",
        "num_pairs": 40,
        "chance": 0.25,
        "both": 0.8,
        "no_rgb": 0.72,
        "no_depth": 0.719,
    }


@pytest.mark.parametrize(
    ("accuracy", "by_class", "answer"),
    [
        (0.25, (10, 10, 10, 10), "abstain"),  # four classes, at chance
        (0.43, (100, 100, 100, 100), "abstain"),
        (0.44, (100, 100, 100, 100), "predict"),  # a quarter of the way from 25 % to 100 %
        (0.44, (5, 5, 5, 5), "abstain"),  # 20 pairs: 25 % and two standard errors of 9.7 % are 44.4 %
        (0.6, (60, 30, 10), "abstain"),  # always the most frequent class
        (0.7, (60, 30, 10), "predict"),
        (1.0, (1, 1), "abstain"),  # two pairs are too few
        (1.0, (2, 2), "predict"),
    ],
)
def test_predict_needs_more_than_chance(accuracy: float, by_class: tuple[int, ...], answer: str) -> None:
    chosen = choose_degraded_mode(
        metrics(both=accuracy, no_rgb=accuracy, no_depth=accuracy, by_class=by_class), fusion="gated"
    )
    assert (chosen.no_rgb, chosen.no_depth) == (answer, answer)
    assert ("clearly above the chance of" in chosen.reason["no_rgb"]) == (answer == "abstain")


@pytest.mark.parametrize("accuracy", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_pairs_of_one_class_cannot_be_used(accuracy: float, part: str) -> None:
    figures = metrics(both=accuracy, no_rgb=accuracy, no_depth=accuracy, part=part, by_class=(0, 12))
    chosen = choose_degraded_mode(figures, fusion="gated")
    assert (chosen.no_rgb, chosen.no_depth) == ("abstain", "abstain")
    assert chosen.reason["no_rgb"] == (
        f"all 12 {part} pairs are of one class, so there is no chance level to compare with"
    )


def test_it_is_chosen_on_validation_pairs_and_not_on_test_pairs() -> None:
    good, bad = {"both": 0.9, "no_rgb": 0.9, "no_depth": 0.9}, {"both": 0.9, "no_rgb": 0.1, "no_depth": 0.1}
    for validation, test, answer in ((good, bad, "predict"), (bad, good, "abstain")):
        chosen = choose_degraded_mode({**metrics(**validation), **metrics(**test, part="test")}, fusion="joint")
        assert (chosen.no_rgb, chosen.no_depth, chosen.measured["part"]) == (answer, answer, "validation")
        assert "test" not in chosen.reason["no_rgb"]


def test_without_validation_pairs_it_is_chosen_on_test_pairs_with_a_note() -> None:
    chosen = choose_degraded_mode(metrics(both=0.9, no_rgb=0.9, no_depth=0.9, part="test"), fusion="joint")
    assert (chosen.no_rgb, chosen.measured["part"]) == ("predict", "test")
    assert chosen.reason["no_rgb"].endswith(
        "(there are no validation pairs; choosing on the test pairs makes their accuracy optimistic)"
    )


def test_without_measurements_it_abstains() -> None:
    unmeasured = choose_degraded_mode({"history": []}, fusion="gated")
    assert (unmeasured.no_rgb, unmeasured.no_depth, unmeasured.measured) == ("abstain", "abstain", {})


def test_the_users_choice_overrides_the_rule() -> None:
    figures = metrics(both=0.9, no_rgb=0.9, no_depth=0.1)
    chosen = choose_degraded_mode(figures, fusion="naive", no_rgb="abstain", no_depth="predict")
    assert (chosen.no_rgb, chosen.no_depth) == ("abstain", "predict")
    assert chosen.reason["no_depth"] == "set at export" and chosen.measured["no_depth"] == 0.1


@pytest.mark.parametrize(("fusion", "own", "other"), [("rgb", "no_rgb", "no_depth"), ("depth", "no_depth", "no_rgb")])
def test_a_model_of_one_sensor_abstains_without_it(fusion: str, own: str, other: str) -> None:
    figures = metrics(both=0.5, no_rgb=0.5, no_depth=0.5)  # these alone would give "predict"
    chosen = choose_degraded_mode(figures, fusion=fusion)
    assert (getattr(chosen, own), getattr(chosen, other)) == ("abstain", "predict")
    assert getattr(choose_degraded_mode(figures, fusion=fusion, **{own: "abstain"}), own) == "abstain"  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"uses {fusion} only"):
        choose_degraded_mode(figures, fusion=fusion, **{own: "predict"})  # type: ignore[arg-type]


def test_without_both_sensors_it_abstains() -> None:
    bold = DegradedMode(no_rgb="predict", no_depth="predict")
    assert bold.predicts(rgb_is_available=False, depth_is_available=True) and bold.predicts(
        rgb_is_available=True, depth_is_available=False
    )
    assert not bold.predicts(rgb_is_available=False, depth_is_available=False)
    half = DegradedMode(no_rgb="predict")
    assert half.predicts(rgb_is_available=False, depth_is_available=True)
    assert not half.predicts(rgb_is_available=True, depth_is_available=False)


def test_it_is_stored_in_the_manifest_and_an_old_manifest_still_opens(tmp_path: Path) -> None:
    chosen = choose_degraded_mode(metrics(both=0.9, no_rgb=0.9, no_depth=0.1), fusion="gated")
    folder = make_toy_bundle(tmp_path / "toy", degraded_mode=chosen).folder
    assert open_bundle(folder).manifest.degraded_mode == chosen
    stored = json.loads((folder / "manifest.json").read_text())
    assert (
        stored["format"] == 1
        and stored["degraded_mode"]["no_rgb"] == "predict"
        and "0.9" in stored["degraded_mode"]["rule"]
    )
    del stored["degraded_mode"]
    (folder / "manifest.json").write_text(json.dumps(stored))
    old = open_bundle(folder).manifest
    assert old.degraded_mode == DegradedMode() and (old.degraded_mode.no_rgb, old.degraded_mode.no_depth) == (
        "abstain",
        "abstain",
    )
    write_manifest(folder, old)
    assert open_bundle(folder).manifest == old


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"no_rgb": "predict"}, "lacks the field degraded_mode.no_depth"),
        ("label", "an object was expected"),
        ({**DegradedMode().to_json(), "no_depth": "guess"}, "no_depth = 'guess'"),
        ({**DegradedMode().to_json(), "no_rgb": ["label"]}, r"no_rgb = \['label'\]"),
    ],
)
def test_an_invalid_field_is_refused(value: Any, words: str, tmp_path: Path) -> None:
    manifest = make_toy_bundle(tmp_path / "toy").manifest.to_json()
    with pytest.raises(UserError, match=words):
        Manifest.from_json({**manifest, "degraded_mode": value})
