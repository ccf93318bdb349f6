"""Pictures of a training: its curve and its confusion matrix, as PNG files that need no display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgefuse.figures import new_figure, save_figure
from edgefuse.training.loop import EpochResult


def plot_training(history: Sequence[EpochResult], path: Path, *, title: str) -> None:
    """Loss and accuracy over the epochs."""
    figure = new_figure(width_in=8, height_in=3.4)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    epochs = [result.epoch + 1 for result in history]
    loss_axes.plot(epochs, [result.train_loss for result in history], color="tab:red")
    loss_axes.set(xlabel="epoch", ylabel="cross-entropy", title="training loss", ylim=(0, None))
    accuracy_axes.plot(epochs, [result.train_accuracy for result in history], label="training (augmented)")
    if history and history[0].validation_accuracy is not None:
        accuracy_axes.plot(epochs, [result.validation_accuracy for result in history], label="held-out instances")
    accuracy_axes.set(xlabel="epoch", ylabel="accuracy", title="accuracy", ylim=(0, 1.02))
    accuracy_axes.legend(loc="lower right")
    for axes in (loss_axes, accuracy_axes):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    save_figure(figure, path)


def plot_confusion(confusion: Sequence[Sequence[int]], labels: Sequence[str], path: Path, *, title: str) -> None:
    """Confusion matrix [C][C] of counts, rows = truth, columns = answer; colours are shares of the row."""
    import numpy as np

    counts = np.array(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side_in = max(4.0, 0.5 * len(labels) + 2)
    figure = new_figure(width_in=side_in, height_in=side_in)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="answer", ylabel="truth", title=title)
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    save_figure(figure, path)
