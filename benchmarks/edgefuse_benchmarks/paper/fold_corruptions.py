"""Scores of the model of one fold under every corruption, as fields of the fold's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefuse.data.dataset import RgbdDataset
from edgefuse.evaluation.corruption_benchmark import evaluate_corruptions
from edgefuse.evaluation.corruption_summary import summarise
from edgefuse.training.fold_frozen_batchnorm import for_prediction
from edgefuse.training.loop import best_device, torch_predictor
from edgefuse.training.run import open_run


def score_under_corruptions(run: Path, tested: RgbdDataset) -> dict[str, Any]:
    """The rows of a run on these pairs ("corruptions"), and their summary ("corruption_summary")."""
    opened = open_run(run)
    model = opened.build_model().to(best_device())
    with for_prediction(model):
        rows = evaluate_corruptions(
            torch_predictor(model), tested, contract=opened.model_config.contract, labels=opened.labels
        )
    return {"corruptions": [row.to_json() for row in rows], "corruption_summary": summarise(rows).to_json()}
