from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgefuse.contract import InputContract, codes_from_bytes
from edgefuse.data.dataset import load, scan, write_pair
from edgefuse.evaluation.corruption_benchmark import Row
from edgefuse.evaluation.explain import (
    Explanation,
    _dots,
    changed_conditions,
    choose_examples,
    depth_contributions,
    explain,
    masked_rgb,
)
from edgefuse.evaluation.metrics import Answers, Scores
from edgefuse.io.matplotlib_io import new_figure

LABELS = ("blue_near", "red_far", "red_near")


def two_classes(*probabilities: float) -> np.ndarray:
    """Probabilities [N, 2] from those of the first class."""
    p = np.array(probabilities, np.float32)
    return np.stack([p, 1 - p], axis=1)


def test_the_contribution_is_the_decrease_of_log_odds() -> None:
    both = two_classes(0.9, 0.9, 0.9, 0.9)
    no_rgb = two_classes(0.9, 0.5, 0.5, 0.95)
    no_depth = two_classes(0.5, 0.9, 0.5, 0.9)
    fractions = depth_contributions(both, no_rgb, no_depth)
    np.testing.assert_allclose(fractions[:3], [1, 0, 0.5], atol=1e-6)
    assert np.isnan(fractions[3])  # neither sensor has support
    uneven = depth_contributions(two_classes(0.9), two_classes(0.75), two_classes(0.5))
    fall_rgb, fall_depth = np.log(9) - np.log(3), np.log(9)
    assert uneven[0] == pytest.approx(fall_depth / (fall_depth + fall_rgb), abs=1e-5)


def test_certain_predictions_have_finite_contributions() -> None:
    assert depth_contributions(two_classes(1.0), two_classes(0.0), two_classes(0.0))[0] == pytest.approx(0.5)


def test_examples_come_from_every_class_and_sequence_without_near_duplicates(tmp_path: Path) -> None:
    """Three classes of four sequences with five frames; only the last frame of a sequence differs."""
    rng = np.random.default_rng(0)
    for label in "abc":
        for sequence in range(4):
            image, other = rng.integers(0, 256, (2, 24, 24, 3), np.uint8)
            for frame in range(5):
                rgb = other if frame == 4 else image
                write_pair(tmp_path / label / f"s{sequence}", str(frame), rgb, np.full((24, 24), 900, np.uint16))
    rgbd = load(scan([tmp_path]))
    samples = rgbd.dataset.samples
    truth = np.array([sample.label for sample in samples])
    probabilities = np.full((60, 3), 0.1, np.float32)
    probabilities[np.arange(60), truth] = np.linspace(0.5, 0.8, 60)
    gate = np.zeros((60, 1), np.float32)

    def sequences(chosen: list[int]) -> set[tuple[int, str]]:
        return {(samples[i].label, samples[i].sequence) for i in chosen}

    right = choose_examples(Answers(probabilities, gate, truth), rgbd, count=12)
    assert len(right) == 12 and len(sequences(right)) == 12
    everything = choose_examples(Answers(probabilities, gate, truth), rgbd, count=60)
    assert len(everything) == 24 and len(sequences(everything)) == 12  # two of each sequence differ

    probabilities[[3, 34]] = [[0.05, 0.05, 0.9], [0.9, 0.05, 0.05]]  # two wrong predictions
    some_wrong = choose_examples(Answers(probabilities, gate, truth), rgbd, count=12)
    assert some_wrong[-2:] == [3, 34] and np.bincount(truth[some_wrong[:-2]]).tolist() == [4, 3, 3]
    assert len(sequences(some_wrong)) == 11  # the first class has four sequences, and one is shown as wrong
    everything_wrong = np.roll(probabilities, 1, axis=1)
    wrong = choose_examples(Answers(everything_wrong, gate, truth), rgbd, count=12)
    assert set(wrong[:-6]) == {3, 34} and len(sequences(wrong[-6:])) == 6


def test_the_folder_has_the_contribution_of_each_sensor(colour_and_range: Path, tmp_path: Path) -> None:
    """A predictor that recognises blue by RGB only, and near by depth only."""

    def predictor(rgb: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        redness = rgb[..., 0].max((1, 2)).astype(int) - rgb[..., 2].max((1, 2))
        is_red, is_blue = redness > 50, redness < -50
        codes = codes_from_bytes(depth).astype(int)
        is_near = ((codes > 0) & (codes < 900)).any((1, 2))
        logits = np.zeros((len(rgb), 3))
        logits[is_blue, 0] = 4
        logits[is_red & is_near, 2] = 4
        logits[is_red & ~is_near, 1] = 4
        powers = np.exp(logits)
        return (powers / powers.sum(1, keepdims=True)).astype(np.float32), np.where(is_blue, 0.1, 0.6)[:, None]

    def near_half(rgb: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Keeps half of each pixel closer than 0.9 m, and all of those without a measurement."""
        codes = codes_from_bytes(depth).astype(int)
        kept = np.where((codes > 0) & (codes < 900), 0.5, 0.0)
        kept[(codes == 0).all((1, 2))] = 1.0
        return kept.astype(np.float32)

    rgbd = load(scan([colour_and_range]))
    out = tmp_path / "seen"
    look = partial(explain, predictor, rgbd, contract=InputContract(size=40), labels=LABELS, title="toy")
    look(tmp_path / "gated", pixel_gate=near_half)
    gated = json.loads((tmp_path / "gated/explain.json").read_text())
    kept = {label: group["mean_kept_area"] for label, group in gated["by_class"].items()}
    assert kept["red_far"] == 0 and 0.03 < kept["blue_near"] < 0.2 and 0 < gated["all"]["mean_kept_area"] < 0.2
    kept_rows = {(row["corruption"], row["severity"]): row["mean_kept_area"] for row in gated["by_corruption"]}
    assert kept_rows["no_depth", 1] == 1.0 and kept_rows["no_rgb", 1] == kept_rows["clean", 0]
    assert kept_rows["clean", 0] == pytest.approx(gated["all"]["mean_kept_area"])
    assert kept_rows["depth_holes", 0.9] < kept_rows["clean", 0]

    look(out)
    plain, with_mask = (cv2.imread(str(folder / "examples.png")) for folder in (out, tmp_path / "gated"))
    assert plain is not None and with_mask is not None and with_mask.shape[0] > 1.2 * plain.shape[0]  # one more row
    found = json.loads((out / "explain.json").read_text())
    blue, near = found["by_class"]["blue_near"], found["by_class"]["red_near"]
    assert blue["rgb_contribution"] == 1.0 and blue["num_pairs"] == 20 and blue["mean_gate"] == pytest.approx(0.1)
    assert 0 < near["depth_contribution"] < 1 and near["mean_gate"] == pytest.approx(0.6)
    assert found["all"]["mean_kept_area"] is None and found["by_corruption"][0]["mean_kept_area"] is None
    assert found["all"]["num_pairs"] == 60 and "log-odds" in found["contribution_definition"]
    by_corruption = {(row["corruption"], row["severity"]): row["mean_gate"] for row in found["by_corruption"]}
    assert by_corruption["no_rgb", 1] == pytest.approx(0.6) and ("dark_rgb", 8) in by_corruption
    for name in ("gate.png", "examples.png"):
        image = cv2.imread(str(out / name))
        assert image is not None and image.std() > 10
    assert not list(tmp_path.glob(".seen*"))


def test_masked_pixels_have_the_mean_colour() -> None:
    rgb = np.full((1, 2, 2, 3), 200, np.uint8)
    kept = np.array([[[1.0, 0.0], [0.5, 1.0]]], np.float32)
    left = masked_rgb(rgb, kept)[0]
    assert left[0, 0].tolist() == [200, 200, 200] and left[0, 1].tolist() == [124, 116, 104]
    assert left[1, 0].tolist() == [162, 158, 152]


def test_the_gate_plot_distinguishes_no_value_from_0() -> None:
    axes = new_figure(width_in=3, height_in=3).subplots()
    _dots(axes, {"all": 0.25, "a": 0.0, "b": None})
    assert [text.get_text() for text in axes.texts] == ["0.25", "0.00", "none"]
    _dots(axes, {"all": None, "a": None})


def test_only_conditions_that_change_the_gate_are_shown() -> None:
    def row(corruption: str, severity: float, mean_gate: float) -> Row:
        scores = Scores(
            num_samples=1, accuracy=1, recall={}, expected_calibration_error=0, mean_gate=mean_gate, confusion=[[1]]
        )
        return Row(
            corruption=corruption, severity=severity, unit="pixels", scores=scores, gates=np.zeros(0, np.float32)
        )

    rows = (
        row("clean", 0, 0.5),
        row("blur", 1, 0.4),
        row("blur", 2, 0.45),
        row("holes", 1, 0.51),
        row("shift", 1, 0.8),
    )
    answers = Answers(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32), np.zeros(1, np.int64))
    found = Explanation(labels=("a",), answers=answers, depth_contribution=np.zeros(1), rows=rows)
    assert changed_conditions(found) == {
        "clean, 0 pixels": {"mean_gate": 0.5},
        "shift, 1 pixels": {"mean_gate": 0.8},
        "blur, 1 pixels": {"mean_gate": 0.4},
    }
    assert [*changed_conditions(found)] == ["clean, 0 pixels", "blur, 1 pixels", "shift, 1 pixels"]
    kept = replace(found, kept=np.ones(1), kept_by_row=(1.0, 1.0, 1.0, 0.7, 1.0))
    assert changed_conditions(kept)["holes, 1 pixels"] == {"mean_gate": 0.51, "mean_kept_area": 0.7}
