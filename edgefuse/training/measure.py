"""What a finished training is worth: its temperature, its scores on held-out pairs, and the pictures of both.

Owns what stands in `metrics.json`; `train` calls it when the last epoch has ended.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefuse.calibration import fit_temperature, negative_log_likelihood, rescale
from edgefuse.contract import InputContract
from edgefuse.data.folder import Pictures
from edgefuse.evaluation import Answers, Scores, answers_under, as_they_are, evaluate, expected_calibration_error
from edgefuse.io.json_files import write_json
from edgefuse.model.classifier import FusionClassifier
from edgefuse.training import run as run_folder
from edgefuse.training.loop import EpochResult, torch_predictor
from edgefuse.training.plots import plot_confusion, plot_training


def calibrate(
    model: FusionClassifier, held_out: dict[str, Pictures], *, contract: InputContract, labels: tuple[str, ...]
) -> dict[str, Any]:
    """Give the model the temperature that fits the validation pairs (1 where there are none); what it did on each part.

    The part that it was fitted on flatters it; "test" is the honest one.
    """
    found: dict[str, Answers] = {
        part: answers_under(
            torch_predictor(model), pictures, contract=contract, labels=labels, changes={part: as_they_are}
        )[part]
        for part, pictures in held_out.items()
    }
    fitted_on = found.get("validation")
    temperature = 1.0 if fitted_on is None else fit_temperature(fitted_on.probabilities, fitted_on.truth)
    report: dict[str, Any] = {
        "temperature": temperature,
        "fitted_on_validation_pairs": 0 if fitted_on is None else len(fitted_on.truth),
    }
    for part, answers in found.items():
        for when, value in (("before", 1.0), ("after", temperature)):
            probabilities = rescale(answers.probabilities, temperature=value)
            report.setdefault(part, {})[when] = {
                "expected_calibration_error": expected_calibration_error(probabilities, answers.truth),
                "negative_log_likelihood": negative_log_likelihood(probabilities, answers.truth),
            }
    model.temperature = temperature
    return report


def measure(
    model: FusionClassifier,
    out: Path,
    held_out: dict[str, Pictures],
    history: list[EpochResult],
    *,
    calibration: dict[str, Any],
    contract: InputContract,
    labels: tuple[str, ...],
    fusion: str,
) -> dict[str, Any]:
    """Score the run on what it was not trained on, and draw the pictures."""
    metrics: dict[str, Any] = {"history": [vars(result) for result in history], "calibration": calibration}
    scored: dict[str, Scores] = {}
    for name, pictures in held_out.items():
        scores = evaluate(torch_predictor(model), pictures, contract=contract, labels=labels)
        metrics[name] = {condition: value.to_json() for condition, value in scores.items()}
        scored[name] = scores["both"]
    write_json(out / run_folder.METRICS_NAME, metrics)
    plot_training(history, out / "training.png", title=f"{fusion}, {len(history)} epochs")
    for name in ("test", "validation"):
        if name in scored:
            title = f"{name}: {scored[name].accuracy:.1%} of {scored[name].num_samples} pairs"
            plot_confusion(scored[name].confusion, labels, out / "confusion.png", title=title)
            break
    return metrics
