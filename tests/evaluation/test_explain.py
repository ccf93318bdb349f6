from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgefuse.contract import InputContract, codes_from_bytes
from edgefuse.data.dataset import load, scan
from edgefuse.evaluation.explain import _bars, choose_examples, depth_contributions, explain, left_of_rgb
from edgefuse.evaluation.metrics import Answers
from edgefuse.io.matplotlib_io import new_figure

LABELS = ("blue_near", "red_far", "red_near")


def certainty(*probabilities: float) -> np.ndarray:
    """Two classes; the first one's probability."""
    p = np.array(probabilities, np.float32)
    return np.stack([p, 1 - p], axis=1)


def test_the_share_is_the_loss_of_log_odds() -> None:
    both = certainty(0.9, 0.9, 0.9, 0.9)
    no_rgb = certainty(0.9, 0.5, 0.5, 0.95)
    no_depth = certainty(0.5, 0.9, 0.5, 0.9)
    fractions = depth_contributions(both, no_rgb, no_depth)
    np.testing.assert_allclose(fractions[:3], [1, 0, 0.5], atol=1e-6)
    assert np.isnan(fractions[3])  # neither sensor's death makes it less sure
    uneven = depth_contributions(certainty(0.9), certainty(0.75), certainty(0.5))
    fall_rgb, fall_depth = np.log(9) - np.log(3), np.log(9)
    assert uneven[0] == pytest.approx(fall_depth / (fall_depth + fall_rgb), abs=1e-5)


def test_certain_answers_have_finite_shares() -> None:
    assert depth_contributions(certainty(1.0), certainty(0.0), certainty(0.0))[0] == pytest.approx(0.5)


def test_examples_show_what_went_wrong_and_every_class() -> None:
    truth = np.repeat([0, 1, 2], 10)
    probabilities = np.full((30, 3), 0.1, np.float32)
    probabilities[np.arange(30), truth] = np.linspace(0.5, 0.8, 30)
    probabilities[[3, 14]] = [0.05, 0.05, 0.9]  # two answers of the third class that are wrong
    chosen = choose_examples(Answers(probabilities, np.zeros((30, 1), np.float32), truth), count=12)
    assert len(chosen) == len(set(chosen)) == 12 and {3, 14} <= set(chosen)
    assert {int(truth[i]) for i in chosen if i not in {3, 14}} == {0, 1, 2}
    everything_wrong = np.roll(probabilities, 10, axis=0)[:, ::-1].copy()
    assert choose_examples(Answers(everything_wrong, np.zeros((30, 1), np.float32), truth), count=12)


def test_the_folder_tells_what_each_sensor_did(colour_and_range: Path, tmp_path: Path) -> None:
    """A predictor that knows blue by RGB alone, and takes near from far by depth alone."""

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

    def near_half(depth: np.ndarray) -> np.ndarray:
        """Keeps half of what is measured nearer than 0.9 m, and all where nothing is measured."""
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
    assert plain is not None and with_mask is not None and with_mask.shape[0] > 1.2 * plain.shape[0]  # a row more
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


def test_what_the_pixel_gate_leaves_out_has_the_mean_colour() -> None:
    rgb = np.full((1, 2, 2, 3), 200, np.uint8)
    kept = np.array([[[1.0, 0.0], [0.5, 1.0]]], np.float32)
    left = left_of_rgb(rgb, kept)[0]
    assert left[0, 0].tolist() == [200, 200, 200] and left[0, 1].tolist() == [124, 116, 104]
    assert left[1, 0].tolist() == [162, 158, 152]


def test_bars_tell_no_value_from_0() -> None:
    figure = new_figure(width_in=3, height_in=3)
    axes = figure.subplots()
    _bars(axes, ["a", "b", "c"], {"mean gate": [0.0, None, 0.512]})
    assert [text.get_text() for text in axes.texts] == ["0.000", "none", "0.512"]
