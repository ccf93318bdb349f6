"""Plots of a training: its curve and its confusion matrix, as PNG files that need no display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgefuse.io.matplotlib_io import MAX_NAMED, new_figure, save_figure, shortened
from edgefuse.training.loop import EpochResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def plot_training(history: Sequence[EpochResult], path: Path, *, title: str, loss: str = "cross-entropy") -> None:
    """Loss and accuracy over the epochs.

    Args:
        loss: what is minimised, in words; see `loss_in_words`.
    """
    figure = new_figure(width_in=8, height_in=3.4)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    epochs = [result.epoch + 1 for result in history]
    loss_axes.plot(epochs, [result.train_loss for result in history], color="tab:red")
    loss_axes.set(xlabel="epoch", ylabel=loss, title="training loss", ylim=(0, None))
    accuracy_axes.plot(epochs, [result.train_accuracy for result in history], label="training (augmented)")
    if history and history[0].validation_accuracy is not None:
        accuracy_axes.plot(epochs, [result.validation_accuracy for result in history], label="held-out instances")
    accuracy_axes.set(xlabel="epoch", ylabel="accuracy", title="accuracy", ylim=(0, 1.02))
    accuracy_axes.legend(loc="lower right")
    for axes in (loss_axes, accuracy_axes):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    save_figure(figure, path)


def loss_in_words(*, aux_loss_weight: float, has_auxiliary_heads: bool, label_smoothing: float) -> str:
    """What the training loss is made of."""
    smooth = f", labels smoothed by {label_smoothing:g}" if label_smoothing else ""
    if not has_auxiliary_heads:
        return f"cross-entropy{smooth}"
    weight = "" if aux_loss_weight == 1 else f"{aux_loss_weight:g} x "
    return f"sum of 3 cross-entropies{smooth}:\nfused + {weight}(RGB alone + depth alone)"


def plot_confusion(confusion: Sequence[Sequence[int]], labels: Sequence[str], path: Path, *, title: str) -> None:
    """Confusion matrix [C][C] of counts, rows = truth, columns = prediction; colours are shares of the row.

    With more than `MAX_NAMED` classes the image keeps its size: no counts and no names, but those of the most frequent mistakes.
    """
    import numpy as np

    counts = np.array(confusion)
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    has_names = len(labels) <= MAX_NAMED
    side_in = max(4.0, 0.5 * len(labels) + 2) if has_names else 10.0
    figure = new_figure(width_in=side_in, height_in=side_in)
    axes = figure.subplots()
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if has_names:
        names = [shortened(label) for label in labels]
        axes.set_xticks(range(len(labels)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), names)
        for row, column in np.argwhere(counts):
            colour = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    else:
        axes.set(xlabel=f"predicted class, by number\n{_mistakes(counts, labels)}", ylabel="true class, by number")
    save_figure(figure, path)


def _mistakes(counts: NDArray[np.int64], labels: Sequence[str], *, most: int = 5) -> str:
    import numpy as np

    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    places = [np.unravel_index(place, wrong.shape) for place in np.argsort(-wrong, axis=None, kind="stable")[:most]]
    lines = [
        f"predicted {shortened(labels[column])}, true {shortened(labels[row])}: {wrong[row, column]}"
        for row, column in places
        if wrong[row, column]
    ]
    return "\n".join(["most frequent mistakes:", *lines]) if lines else "no mistakes"
