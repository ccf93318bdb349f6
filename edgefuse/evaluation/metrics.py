"""How good a classifier's answers are: accuracy, recall, calibration, and the same with one sensor dead.

Owns the figures; works on any `Predictor` (torch model, ONNX Runtime, ...), and needs NumPy alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import InputContract
from edgefuse.data.dataset import RgbdDataset
from edgefuse.errors import UserError
from edgefuse.framing import fit
from edgefuse.io.text import some_of
from edgefuse.progress import Progress, no_progress

Condition = Literal["both", "no_rgb", "no_depth"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)


class Predictor(Protocol):
    """Answers a framed batch: rgb uint8 [N, S, S, 3], depth uint8 [N, S, S, 2] -> probabilities [N, C], gate [N, d]."""

    def __call__(
        self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8], /
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...


class Change(Protocol):
    """What happens to framed pairs before the predictor sees them; what it is given stays as it is.

    rgb uint8 [n, S, S, 3], depth uint8 [n, S, S, 2], and where the pairs stand among the pictures.
    """

    def __call__(
        self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8], positions: range, /
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]: ...


class Answers(NamedTuple):
    """What a predictor said of N pairs: probabilities [N, C], gate [N, d], and the true class numbers [N]."""

    probabilities: NDArray[np.float32]
    gate: NDArray[np.float32]
    truth: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Figures of one condition.

    Attributes:
        accuracy: share of right top-1 answers, 0..1.
        recall: the same by class; None for a class without samples.
        expected_calibration_error: `expected_calibration_error` with 15 bins.
        mean_gate: mean of the gate over samples and features; 0 = RGB, 1 = depth.
        confusion: counts [C][C], rows = truth, columns = answer.
    """

    num_samples: int
    accuracy: float
    recall: dict[str, float | None]
    expected_calibration_error: float
    mean_gate: float
    confusion: list[list[int]]

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return dict(vars(self))


def expected_calibration_error(
    probabilities: NDArray[np.float32], truth: NDArray[np.int64], *, num_bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equal bins of confidence, weighted by their samples.

    Source: Guo et al., "On Calibration of Modern Neural Networks", equation 3.

    Args:
        probabilities: float [N, C], rows sum to 1.
        truth: int [N], class numbers.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    gap = 0.0
    for number in np.unique(bins):
        inside = bins == number
        gap += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return float(gap)


def score(
    probabilities: NDArray[np.float32], gate: NDArray[np.float32], truth: NDArray[np.int64], labels: Sequence[str]
) -> Scores:
    """The figures from answers [N, C], gates [N, d] and true class numbers [N]."""
    answers = probabilities.argmax(axis=1)
    confusion = np.zeros((len(labels), len(labels)), int)
    np.add.at(confusion, (truth, answers), 1)
    totals = confusion.sum(axis=1)
    return Scores(
        num_samples=len(truth),
        accuracy=float((answers == truth).mean()),
        recall={label: float(confusion[i, i] / totals[i]) if totals[i] else None for i, label in enumerate(labels)},
        expected_calibration_error=expected_calibration_error(probabilities, truth),
        mean_gate=float(gate.mean()),
        confusion=confusion.tolist(),
    )


def framed_batches(
    rgbd: RgbdDataset, *, contract: InputContract, batch_size: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]]:
    """The pictures as the model takes them, in order: rgb [n, S, S, 3], depth [n, S, S, 2], class numbers [n]."""
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
    """Score a predictor on pictures, as they are and with one sensor dead.

    Args:
        labels: class names in the order of the predictor's probabilities; the pictures' classes must be among them.
        conditions: "both" as they are, "no_rgb" with RGB black, "no_depth" with no depth measurement.
        batch_size: 1 for engines with a fixed batch.
        progress: called with the pairs done and their number.

    Raises:
        UserError: the data has a class that the model does not know, or another alignment than the contract.
    """
    found = answers_under(
        predictor,
        rgbd,
        contract=contract,
        labels=labels,
        changes={condition: _CHANGES[condition] for condition in conditions},
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
    """The predictor's answers on the same pictures under several changes; each pair is framed once.

    Args:
        changes: name -> what is done to the framed pairs.
        progress: called with the pairs done and their number.

    Raises:
        UserError: as `evaluate`.
    """
    refuse_unfit(rgbd, contract=contract, labels=labels)
    truth_of = class_numbers(rgbd.dataset.labels, labels)
    found: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {name: [] for name in changes}
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
        name: Answers(np.concatenate([p for p, _ in pairs]), np.concatenate([g for _, g in pairs]), truth)
        for name, pairs in found.items()
    }


def refuse_unfit(rgbd: RgbdDataset, *, contract: InputContract, labels: Sequence[str]) -> None:
    """Look whether a model can be scored on the pictures, before the work of it.

    Raises:
        UserError: the data has a class that the model does not know, or another alignment than the contract.
    """
    class_numbers(rgbd.dataset.labels, labels)
    if rgbd.dataset.align != contract.align:
        raise UserError(f"the data is aligned to {rgbd.dataset.align}, the model wants {contract.align}")


def as_they_are(
    rgb: NDArray[np.uint8], depth: NDArray[np.uint8], positions: range
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The change that is none."""
    return rgb, depth


def without_rgb(
    rgb: NDArray[np.uint8], depth: NDArray[np.uint8], positions: range
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A dead colour sensor: black."""
    return np.zeros_like(rgb), depth


def without_depth(
    rgb: NDArray[np.uint8], depth: NDArray[np.uint8], positions: range
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A dead depth sensor: no measurement anywhere."""
    return rgb, np.zeros_like(depth)


_CHANGES: dict[Condition, Change] = {"both": as_they_are, "no_rgb": without_rgb, "no_depth": without_depth}


def class_numbers(data_labels: Sequence[str], model_labels: Sequence[str]) -> NDArray[np.int64]:
    """The model's class number of each class of the data.

    Raises:
        UserError: the data has a class that the model does not know.
    """
    unknown = [label for label in data_labels if label not in model_labels]
    if unknown:
        raise UserError(
            f"the data has classes that the model does not know: {some_of(unknown)}; it knows {some_of(model_labels)}"
        )
    return np.array([list(model_labels).index(label) for label in data_labels])
