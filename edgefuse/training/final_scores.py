"""Results of a finished training: the temperatures, the scores on held-out pairs, and their plots.

Owns the contents of `metrics.json`; `train` calls it after the last epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import DEPTH_UNIT_M, InputContract, codes_from_bytes
from edgefuse.data.augmentation import Augmentation, augment
from edgefuse.data.dataset import RgbdDataset
from edgefuse.data.splits import labels_without_samples
from edgefuse.evaluation.calibration import fit_temperature, negative_log_likelihood, rescale
from edgefuse.evaluation.metrics import (
    CHANGES,
    CONDITIONS,
    Change,
    Condition,
    answers_under,
    expected_calibration_error,
    reliability,
    score,
)
from edgefuse.evaluation.reliability_plot import plot_reliability
from edgefuse.io.text import some_of
from edgefuse.model.classifier import FusionClassifier
from edgefuse.training.loop import EpochResult, torch_predictor
from edgefuse.training.plots import plot_confusion, plot_training

NUM_PASSES = 2
"""Augmented versions of each validation pair that the temperatures are fitted on. Temperatures of the pairs as they are would be too low
for other people and places, where the model is right less often."""


class Temperatures(NamedTuple):
    """The temperature of each sensor state; None = that of `both`, for a model of one sensor."""

    both: float
    no_rgb: float | None
    no_depth: float | None

    def of(self, condition: Condition) -> float:
        """The temperature in a condition."""
        found: float | None = getattr(self, condition)
        return self.both if found is None else found


def fit_temperatures(
    model: FusionClassifier,
    validation: RgbdDataset | None,
    *,
    contract: InputContract,
    labels: tuple[str, ...],
    augmentation: Augmentation,
    depth_window_m: float,
    seed: int,
) -> Temperatures:
    """Fit the temperature of each sensor state on augmented validation pairs; 1 without any."""
    if validation is None:
        return Temperatures(1.0, None, None)
    has_both = model.rgb_features is not None and model.depth_features is not None
    conditions: tuple[Condition, ...] = CONDITIONS if has_both else ("both",)
    augmented = replace(augmentation, background=0.0, rgb_dropout=0.0, depth_dropout=0.0)
    changes: dict[str, Change] = {
        f"{condition} {number}": partial(
            _augmented,
            missing=CHANGES[condition],
            augmentation=augmented,
            depth_window_m=depth_window_m,
            seed=(seed, number),
        )
        for condition in conditions
        for number in range(NUM_PASSES)
    }
    found = answers_under(torch_predictor(model), validation, contract=contract, labels=labels, changes=changes)
    fitted: dict[str, float] = {}
    for condition in conditions:
        answers = [found[f"{condition} {number}"] for number in range(NUM_PASSES)]
        probabilities = np.concatenate([one.probabilities for one in answers])
        fitted[condition] = fit_temperature(probabilities, np.concatenate([one.truth for one in answers]))
    return Temperatures(fitted["both"], fitted.get("no_rgb"), fitted.get("no_depth"))


def _augmented(
    rgb: NDArray[np.uint8],
    depth: NDArray[np.uint8],
    positions: range,
    *,
    missing: Change,
    augmentation: Augmentation,
    depth_window_m: float,
    seed: tuple[int, ...],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Framed pairs, augmented, then without the missing sensor: an `edgefuse.evaluation.metrics.Change`."""
    framed = [
        augment(
            image,
            codes,
            size=len(image),
            depth_unit_m=DEPTH_UNIT_M,
            augmentation=augmentation,
            rng=np.random.default_rng((*seed, position)),
            depth_window_m=depth_window_m,
        )
        for image, codes, position in zip(rgb, codes_from_bytes(depth), positions, strict=True)
    ]
    return missing(np.stack([one.rgb for one in framed]), np.stack([one.depth for one in framed]), positions)


def measure(
    model: FusionClassifier,
    held_out: dict[str, RgbdDataset],
    history: Sequence[EpochResult],
    *,
    temperatures: Temperatures,
    contract: InputContract,
    labels: tuple[str, ...],
) -> dict[str, Any]:
    """Score the model on held-out pairs: the contents of `metrics.json`.

    "calibration" has calibration error and likelihood before (temperature 1) and after, at the top with both sensors. Figures on
    "validation" are optimistic, because the temperatures were fitted there; figures on "test" are not. "untested_classes" and
    "unvalidated_classes" list the classes without a pair in that part.

    Args:
        model: with temperature 1.
    """
    validation = held_out.get("validation")
    calibration: dict[str, Any] = {
        "temperature": temperatures.both,
        "temperature_no_rgb": temperatures.no_rgb,
        "temperature_no_depth": temperatures.no_depth,
        "fitted_on_validation_pairs": 0 if validation is None else len(validation.rgb),
    }
    metrics: dict[str, Any] = {"history": [vars(result) for result in history], "calibration": calibration}
    for part, rgbd in held_out.items():
        changes: dict[str, Change] = {name: CHANGES[name] for name in CONDITIONS}
        found = answers_under(torch_predictor(model), rgbd, contract=contract, labels=labels, changes=changes)
        changed: dict[str, Any] = {}
        metrics[part] = {}
        metrics.setdefault("reliability", {})[part] = {}
        for condition in CONDITIONS:
            answers = found[condition]
            after = rescale(answers.probabilities, temperature=temperatures.of(condition))
            changed[condition] = {
                "before": _calibration(rescale(answers.probabilities, temperature=1.0), answers.truth),
                "after": _calibration(after, answers.truth),
            }
            metrics[part][condition] = score(after, answers.gate, answers.truth, labels).to_json()
            metrics["reliability"][part][condition] = reliability(after, answers.truth)._asdict()
        calibration[part] = {**changed.pop("both"), **changed}
        metrics[_LACKING[part]] = labels_without_samples(rgbd.dataset, range(len(rgbd.dataset.samples)))
    return metrics


def _calibration(probabilities: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, float]:
    return {
        "expected_calibration_error": expected_calibration_error(probabilities, truth),
        "negative_log_likelihood": negative_log_likelihood(probabilities, truth),
    }


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
    """Draw `training.png`, and `confusion.png` and `reliability.png` of the test pairs, or of the validation pairs without any."""
    plot_training(history, out / "training.png", title=title, loss=loss, num_classes=len(labels))
    for part in ("test", "validation"):
        if part in metrics:
            scores = metrics[part]["both"]
            counted = f"{part}: {scores['accuracy']:.1%} of {scores['num_samples']} pairs correct"
            subtitle = counted + classes_without_pairs(metrics, part)
            plot_confusion(scores["confusion"], labels, out / "confusion.png", title=f"{title}\n{subtitle}")
            plot_reliability(metrics["reliability"][part], out / "reliability.png", title=f"{title}\n{part} pairs")
            break
