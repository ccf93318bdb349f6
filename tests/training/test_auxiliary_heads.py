"""Auxiliary heads: training, and runs from before they existed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgefuse.data.dataset import load, scan
from edgefuse.evaluation.metrics import evaluate
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.run import open_run
from edgefuse.training.trainer import train

QUICK = TrainConfig(
    encoding="absolute",  # the classes differ by distance
    size=32,
    epochs=12,
    batch_size=8,
    num_features=32,
    num_hidden=32,
    exclude=("take3",),
    validation_fraction=0.0,
)


def test_each_head_learns_to_classify(colour_and_range: Path, tmp_path: Path) -> None:
    config = replace(QUICK, fusion="naive", aux_loss_weight=1.0, epochs=24)
    train([colour_and_range], tmp_path / "run", config=config)
    model = open_run(tmp_path / "run").build_model()
    rgbd = load(scan([colour_and_range]))
    dataset = rgbd.dataset
    rgbd = rgbd.subset([i for i, sample in enumerate(dataset.samples) if sample.sequence == "take3"])

    def recall_of(head: int) -> dict[str, float]:
        def answer(rgb: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            logits = model(torch.from_numpy(rgb), torch.from_numpy(depth), with_auxiliary_heads=True)[3 + head]
            return torch.softmax(logits, dim=1).detach().numpy(), np.zeros((len(rgb), 1), np.float32)

        contract = open_run(tmp_path / "run").model_config.contract
        return dict(evaluate(answer, rgbd, contract=contract, labels=dataset.labels)["both"].recall)

    # Three classes of colour x range: a single modality recognises one of them and has to guess between the others.
    assert recall_of(0)["blue_near"] > 0.7 and recall_of(1)["red_far"] > 0.7

    train([colour_and_range], tmp_path / "without", config=replace(config, aux_loss_weight=0.0, epochs=1))
    without = open_run(tmp_path / "without").build_model()
    assert without.core.auxiliary_heads is None


def test_a_run_from_before_auxiliary_heads_opens(colour_and_range: Path, tmp_path: Path) -> None:
    train([colour_and_range], tmp_path / "run", config=replace(QUICK, fusion="spatial", aux_loss_weight=0.0, epochs=1))
    run_json = json.loads((tmp_path / "run/run.json").read_text())
    del (
        run_json["model"]["auxiliary_heads"],
        run_json["model"]["feature_dropout"],
        run_json["files"],
        run_json["sha256"],
    )
    (tmp_path / "run/run.json").write_text(json.dumps(run_json))
    assert open_run(tmp_path / "run").build_model().core.head is not None


def test_validation_loss_and_accuracy_are_those_of_the_finished_model(colour_and_range: Path, tmp_path: Path) -> None:
    config = replace(QUICK, epochs=2, validation_fraction=0.25, aux_loss_weight=0.0, label_smoothing=0.0)
    metrics = train([colour_and_range], tmp_path / "run", config=config).metrics
    last = metrics["history"][-1]
    uncalibrated = metrics["calibration"]["validation"]["before"]
    assert last["validation_loss"] == pytest.approx(uncalibrated["negative_log_likelihood"], rel=1e-4)
    assert last["validation_accuracy"] == metrics["validation"]["both"]["accuracy"]
    other = replace(config, aux_loss_weight=2.0, label_smoothing=0.1)
    with_heads = train([colour_and_range], tmp_path / "heads", config=other).metrics
    assert with_heads["history"][0]["validation_loss"] > 3  # five cross-entropies of three classes
