"""Results of a finished training: the temperature, the scores on held-out pairs, and their plots.

Owns the contents of `metrics.json`; `train` calls it after the last epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgefuse.contract import InputContract
from edgefuse.data.dataset import RgbdDataset
from edgefuse.data.splits import labels_without_samples
from edgefuse.evaluation.calibration import fit_temperature, negative_log_likelihood, rescale
from edgefuse.evaluation.metrics import Answers, answers_under, as_they_are, evaluate, expected_calibration_error
from edgefuse.io.text import some_of
from edgefuse.model.classifier import FusionClassifier
from edgefuse.training.loop import EpochResult, torch_predictor
from edgefuse.training.plots import plot_confusion, plot_training


def calibrate(
    model: FusionClassifier, held_out: dict[str, RgbdDataset], *, contract: InputContract, labels: tuple[str, ...]
) -> dict[str, Any]:
    """Fit the temperature of the model on the validation pairs (1 without any), and report its effect on each part.

    Figures on validation are optimistic, because it was fitted there; figures on "test" are not.
    """
    found: dict[str, Answers] = {
        part: answers_under(
            torch_predictor(model), rgbd, contract=contract, labels=labels, changes={part: as_they_are}
        )[part]
        for part, rgbd in held_out.items()
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
    held_out: dict[str, RgbdDataset],
    history: list[EpochResult],
    *,
    calibration: dict[str, Any],
    contract: InputContract,
    labels: tuple[str, ...],
) -> dict[str, Any]:
    """Score the model on held-out pairs: the contents of `metrics.json`.

    "untested_classes" and "unvalidated_classes" list the classes without a pair in that part.
    """
    metrics: dict[str, Any] = {"history": [vars(result) for result in history], "calibration": calibration}
    for name, rgbd in held_out.items():
        scores = evaluate(torch_predictor(model), rgbd, contract=contract, labels=labels)
        metrics[name] = {condition: value.to_json() for condition, value in scores.items()}
        metrics[_LACKING[name]] = labels_without_samples(rgbd.dataset, range(len(rgbd.dataset.samples)))
    return metrics


_LACKING = {"test": "untested_classes", "validation": "unvalidated_classes"}


def classes_without_pairs(metrics: Mapping[str, Any], part: str) -> str:
    """A suffix that names the classes missing in a part, such as "; no pair of bad, worse"; empty if there are none."""
    lacking = metrics.get(_LACKING[part]) or []
    return f"; no pair of {some_of(lacking)}" if lacking else ""


def plot_metrics(
    metrics: Mapping[str, Any],
    history: Sequence[EpochResult],
    out: Path,
    *,
    labels: tuple[str, ...],
    title: str,
    loss: str,
) -> None:
    """Draw `training.png`, and `confusion.png` of the test pairs, or of the validation pairs if there are no test pairs."""
    plot_training(history, out / "training.png", title=title, loss=loss, num_classes=len(labels))
    for part in ("test", "validation"):
        if part in metrics:
            scores = metrics[part]["both"]
            counted = f"{part}: {scores['accuracy']:.1%} of {scores['num_samples']} pairs correct"
            subtitle = counted + classes_without_pairs(metrics, part)
            plot_confusion(scores["confusion"], labels, out / "confusion.png", title=f"{title}\n{subtitle}")
            break
