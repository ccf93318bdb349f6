"""Accuracy of lower precisions, counted pair by pair, with PyTorch for FP16 because it rounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgefuse.errors import UserError
from edgefuse.evaluation.metrics import Answers
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.trainer import train
from edgefuse_benchmarks.suites.precision import compare, main
from edgefuse_export.onnx.export import export_run


def answers(*first: float, truth: tuple[int, ...]) -> Answers:
    probabilities = np.array([[p, 1 - p] for p in first], np.float32)
    return Answers(probabilities, np.zeros((len(first), 2), np.float32), np.array(truth))


def test_flips_are_paired_and_the_goal_has_two_sides() -> None:
    reference = answers(0.9, 0.9, 0.9, 0.9, truth=(0, 0, 1, 1))
    found = answers(0.1, 0.8, 0.1, 0.1, truth=(0, 0, 1, 1))
    row = compare("int8", found, reference, answered_by="x", fp32_modules=())
    assert (row.accuracy, row.num_changed, row.num_lost, row.num_gained) == (0.75, 3, 1, 2)
    assert row.points == 25.0 and row.meets_goal is False
    worse = replace(row, num_lost=5, num_gained=2, num_pairs=300)
    assert worse.points == pytest.approx(-1.0) and worse.meets_goal is True
    assert replace(worse, precision="fp16").meets_goal is False and replace(worse, precision="fp32").meets_goal is None
    assert row.max_probability_difference == pytest.approx(0.8)


@pytest.mark.slow
def test_the_command_writes_json_and_table(
    colour_and_range: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(size=32, epochs=1, batch_size=8, num_features=16, num_hidden=16)
    runs = [
        train([colour_and_range], tmp_path / name, config=replace(config, seed=seed)).folder
        for seed, name in enumerate("ab")
    ]
    export_run(runs[0], tmp_path / "bundle", precisions=("fp16", "int8"), num_calibration_frames=8)
    out = tmp_path / "out"
    main([str(runs[0]), str(tmp_path / "bundle"), str(colour_and_range), "--out", str(out)])
    (found,), (table,) = out.glob("precision-*.json"), out.glob("precision-*.md")
    value = json.loads(found.read_text())
    rows = {row["precision"]: row for row in value["rows"]}
    assert list(rows) == ["fp32", "fp16", "int8"] and rows["fp32"]["num_changed"] == 0
    assert 0 < rows["fp16"]["max_probability_difference"] < 0.02  # FP16 rounds: no difference would mean FP32
    assert "FP16" in rows["fp16"]["answered_by"] and "optimised" in rows["int8"]["answered_by"]
    assert (
        value["parity"]["model.int8.onnx"]["cases"] and value["machine"]["versions"] and value["sequences_trained_on"]
    )
    text = table.read_text()
    assert (
        "| int8 | model.int8.onnx in ONNX Runtime" in text
        and "Not held out" in text
        and text.rstrip() in capsys.readouterr().out
    )
    with pytest.raises(UserError, match="was not exported from"):
        main([str(runs[1]), str(tmp_path / "bundle"), str(colour_and_range), "--out", str(out)])
    export_run(runs[0], tmp_path / "plain")
    with pytest.raises(UserError, match="has only FP32"):
        main([str(runs[0]), str(tmp_path / "plain"), str(colour_and_range), "--out", str(out)])
