"""Plots of a training: curves and confusion matrix, as PNG files; no display needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgefuse.io.matplotlib_io import COLOURS, MAX_NAMED, draw_chance, label_lines, new_figure, save_figure, shortened
from edgefuse.training.loop import EpochResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def plot_training(history: Sequence[EpochResult], path: Path, *, title: str, loss: str, num_classes: int) -> None:
    """Loss and accuracy over the epochs, on training and validation pairs.

    Args:
        loss: axis label of the training loss; see `loss_in_words`.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(width_in=10, height_in=3.6)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    epochs = [result.epoch + 1 for result in history]
    for axes, name, scale in ((loss_axes, "loss", 1), (accuracy_axes, "accuracy", 100)):
        for part, label, colour in (
            ("train", "training\n(augmented)", COLOURS[0]),
            ("validation", "validation", COLOURS[1]),
        ):
            values = [getattr(result, f"{part}_{name}") for result in history]
            if None not in values:
                axes.plot(epochs, [scale * value for value in values], marker=".", color=colour, label=label)
        axes.set(xlabel="epoch", xlim=(0.5, len(history) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    accuracy_axes.set(ylabel="accuracy, %", ylim=(0, 102))
    loss_axes.set(ylabel=loss)
    draw_chance(accuracy_axes, num_classes)
    label_lines(loss_axes)
    label_lines(accuracy_axes)
    figure.suptitle(title)
    save_figure(figure, path)


def loss_in_words(*, has_auxiliary_heads: bool, label_smoothing: float) -> str:
    """The terms of the training loss, as an axis label."""
    words = "cross-entropy" + (", 3 heads" if has_auxiliary_heads else "")
    return f"{words}\n(label smoothing {label_smoothing:g})" if label_smoothing else words


def plot_confusion(confusion: Sequence[Sequence[int]], labels: Sequence[str], path: Path, *, title: str) -> None:
    """Confusion matrix [C][C] of counts, rows = true, columns = predicted; each cell has its percentage of the row.

    With up to 20 classes the cells also have counts; with more than `MAX_NAMED` there are no numbers and no names except those of the
    most frequent mistakes.
    """
    import numpy as np

    counts = np.array(confusion)
    totals = counts.sum(axis=1, keepdims=True)
    percent = 100 * counts / np.maximum(totals, 1)
    has_names, has_counts = len(labels) <= MAX_NAMED, len(labels) <= 20
    side_in = max(3.0, (0.55 if has_counts else 0.28) * len(labels)) + 2 if has_names else 10.0
    figure = new_figure(width_in=side_in, height_in=side_in)
    axes = figure.subplots()
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    axes.set_title(title, fontsize=11)
    if has_names:
        names = [shortened(label) for label in labels]
        axes.set_xticks(range(len(labels)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(labels)), [f"{name} ({n})" for name, n in zip(names, totals[:, 0], strict=True)])
        unit = "% of the row, and pairs" if has_counts else "% of the row"
        axes.set(xlabel=f"predicted class (in the cells: {unit})", ylabel="true class (pairs)")
        for row, column in np.argwhere(counts):
            fraction = f"{percent[row, column]:.0f}"
            text = f"{fraction}%\n{counts[row, column]}" if has_counts else fraction
            colour = "white" if percent[row, column] > 50 else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9 if has_counts else 7)
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
