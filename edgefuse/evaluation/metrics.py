"""Metrics of a classifier: accuracy, recall and calibration, with both sensors and with one missing.

Works on any `Predictor` (torch model, ONNX Runtime, ...); needs only NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import InputContract, Outputs
from edgefuse.data.dataset import RgbdDataset
from edgefuse.errors import UserError
from edgefuse.framing import fit
from edgefuse.io.text import some_of
from edgefuse.progress import Progress, no_progress

Condition = Literal["both", "no_rgb", "no_depth"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)


class Predictor(Protocol):
    """Classifies a framed batch: rgb uint8 [N, S, S, 3], depth uint8 [N, S, S, 2] -> the model's outputs."""

    def __call__(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8], /) -> Outputs: ...


class Change(Protocol):
    """A modification of framed pairs before prediction; it does not modify its arguments.

    rgb uint8 [n, S, S, 3], depth uint8 [n, S, S, 2], and the positions of the pairs in the data set.
    """

    def __call__(
        self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8], positions: range, /
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]: ...


class Answers(NamedTuple):
    """Outputs of a predictor for N pairs: probabilities [N, C], gate [N, d]; and the true class numbers [N]."""

    probabilities: NDArray[np.float32]
    gate: NDArray[np.float32]
    truth: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Metrics of one condition.

    Attributes:
        accuracy: fraction of correct top-1 predictions, 0..1.
        recall: by class; None for a class without samples.
        expected_calibration_error: `expected_calibration_error` with 15 bins.
        mean_gate: mean of the gate over samples and features; 0 = RGB, 1 = depth.
        confusion: counts [C][C], rows = true class, columns = predicted class.
    """

    num_samples: int
    accuracy: float
    recall: dict[str, float | None]
    expected_calibration_error: float
    mean_gate: float
    confusion: list[list[int]]

    def to_json(self) -> dict[str, Any]:
        """The metrics as a JSON object."""
        return dict(vars(self))


def expected_calibration_error(
    probabilities: NDArray[np.float32], truth: NDArray[np.int64], *, num_bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equal bins of confidence, weighted by the number of samples.

    Source: Guo et al., "On Calibration of Modern Neural Networks", equation 3.

    Args:
        probabilities: float [N, C], rows sum to 1.
        truth: int [N], class numbers.
    """
    found = reliability(probabilities, truth, num_bins=num_bins)
    gaps = np.abs(np.array(found.accuracy) - np.array(found.confidence))
    return float((gaps * found.num_samples).sum() / len(truth))


class Reliability(NamedTuple):
    """Confidence and accuracy in equal bins of confidence; bins without samples are left out.

    Attributes:
        confidence, accuracy: mean of each bin, 0..1.
        num_samples: samples in each bin.
    """

    confidence: list[float]
    accuracy: list[float]
    num_samples: list[int]


def reliability(probabilities: NDArray[np.float32], truth: NDArray[np.int64], *, num_bins: int = 15) -> Reliability:
    """The bins of `expected_calibration_error`."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    inside = [bins == number for number in np.unique(bins)]
    return Reliability(
        confidence=[float(confidence[chosen].mean()) for chosen in inside],
        accuracy=[float(right[chosen].mean()) for chosen in inside],
        num_samples=[int(chosen.sum()) for chosen in inside],
    )


def score(
    probabilities: NDArray[np.float32], gate: NDArray[np.float32], truth: NDArray[np.int64], labels: Sequence[str]
) -> Scores:
    """Metrics from probabilities [N, C], gates [N, d] and true class numbers [N]."""
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (truth, predicted), 1)
    totals = confusion.sum(axis=1)
    return Scores(
        num_samples=len(truth),
        accuracy=float((predicted == truth).mean()),
        recall={label: float(confusion[i, i] / totals[i]) if totals[i] else None for i, label in enumerate(labels)},
        expected_calibration_error=expected_calibration_error(probabilities, truth),
        mean_gate=float(gate.mean()),
        confusion=confusion.tolist(),
    )


def framed_batches(
    rgbd: RgbdDataset, *, contract: InputContract, batch_size: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]]:
    """The images as model input, in order: rgb [n, S, S, 3], depth [n, S, S, 2], class numbers [n]."""
    samples = rgbd.dataset.samples
    for start in range(0, len(samples), batch_size):
        chosen = range(start, min(start + batch_size, len(samples)))
        framed = [
            fit(rgbd.rgb[i], rgbd.depth[i], size=contract.size, depth_unit_m=samples[i].depth_unit_m) for i in chosen
        ]
        yield (
            np.stack([pair.rgb for pair in framed]),
            np.stack([pair.depth for pair in framed]),
            np.array([samples[i].label for i in chosen]),
        )


def evaluate(
    predictor: Predictor,
    rgbd: RgbdDataset,
    *,
    contract: InputContract,
    labels: Sequence[str],
    conditions: Sequence[Condition] = CONDITIONS,
    batch_size: int = 32,
    progress: Progress = no_progress,
) -> dict[Condition, Scores]:
    """Score a predictor on a data set, with both sensors and with one missing.

    Args:
        labels: class names in the order of the predictor's probabilities; they must include all classes of the data.
        conditions: "both" = unchanged, "no_rgb" = RGB is black, "no_depth" = no depth measurement.
        batch_size: 1 for engines with a fixed batch.
        progress: called with the number of pairs done and in total.

    Raises:
        UserError: the data has a class that the model does not know, or its alignment differs from the contract.
    """
    found = answers_under(
        predictor,
        rgbd,
        contract=contract,
        labels=labels,
        changes={condition: CHANGES[condition] for condition in conditions},
        batch_size=batch_size,
        progress=progress,
    )
    return {condition: score(*found[condition], labels) for condition in conditions}


def answers_under(
    predictor: Predictor,
    rgbd: RgbdDataset,
    *,
    contract: InputContract,
    labels: Sequence[str],
    changes: Mapping[str, Change],
    batch_size: int = 32,
    progress: Progress = no_progress,
) -> dict[str, Answers]:
    """Outputs of a predictor on the same images under several changes; each pair is framed once.

    Args:
        changes: name -> modification of the framed pairs.
        progress: called with the number of pairs done and in total.

    Raises:
        UserError: as `evaluate`.
    """
    refuse_unfit(rgbd, contract=contract, labels=labels)
    truth_of = class_numbers(rgbd.dataset.labels, labels)
    found: dict[str, list[Outputs]] = {name: [] for name in changes}
    truths: list[NDArray[np.int64]] = []
    done = 0
    for rgb, depth, numbers in framed_batches(rgbd, contract=contract, batch_size=batch_size):
        positions = range(done, done + len(numbers))
        truths.append(truth_of[numbers])
        for name, change in changes.items():
            found[name].append(predictor(*change(rgb, depth, positions)))
        done = positions.stop
        progress(done, len(rgbd.rgb), stage="scoring")
    truth = np.concatenate(truths)
    return {
        name: Answers(np.concatenate([one[0] for one in batches]), np.concatenate([one[1] for one in batches]), truth)
        for name, batches in found.items()
    }


def refuse_unfit(rgbd: RgbdDataset, *, contract: InputContract, labels: Sequence[str]) -> None:
    """Check, before any work, that a model can be scored on a data set.

    Raises:
        UserError: the data has a class that the model does not know, or its alignment differs from the contract.
    """
    class_numbers(rgbd.dataset.labels, labels)
    if rgbd.dataset.align != contract.align:
        raise UserError(f"the data is aligned to {rgbd.dataset.align}, the model expects {contract.align}")


def as_they_are(
    rgb: NDArray[np.uint8], depth: NDArray[np.uint8], positions: range
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """No change."""
    return rgb, depth


def without_rgb(
    rgb: NDArray[np.uint8], depth: NDArray[np.uint8], positions: range
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Missing RGB: black."""
    return np.zeros_like(rgb), depth


def without_depth(
    rgb: NDArray[np.uint8], depth: NDArray[np.uint8], positions: range
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Missing depth: no measurement anywhere."""
    return rgb, np.zeros_like(depth)


CHANGES: dict[Condition, Change] = {"both": as_they_are, "no_rgb": without_rgb, "no_depth": without_depth}


def class_numbers(data_labels: Sequence[str], model_labels: Sequence[str]) -> NDArray[np.int64]:
    """The model's class number of each class of the data.

    Raises:
        UserError: the data has a class that the model does not know.
    """
    unknown = [label for label in data_labels if label not in model_labels]
    if unknown:
        raise UserError(
            f"the data has classes that the model does not know: {some_of(unknown)}; its classes are {some_of(model_labels)}"
        )
    return np.array([list(model_labels).index(label) for label in data_labels])
