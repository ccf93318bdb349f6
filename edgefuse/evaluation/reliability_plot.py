"""The reliability diagram: accuracy against confidence, with both sensors and with either one missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgefuse.io.matplotlib_io import COLOURS, GREY, new_figure, save_figure


def plot_reliability(by_condition: Mapping[str, Mapping[str, Any]], path: Path, *, title: str) -> None:
    """A panel for each condition; the area of a dot is its number of pairs. On the diagonal, confidence equals accuracy.

    Args:
        by_condition: condition -> fields of `edgefuse.evaluation.metrics.Reliability`.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    figure = new_figure(width_in=3.4 * len(by_condition) + 0.6, height_in=4)
    panels = figure.subplots(1, len(by_condition), sharey=True, squeeze=False)[0]
    for panel, (condition, found), colour in zip(panels, by_condition.items(), COLOURS, strict=False):
        confidence, accuracy, counts = (np.array(found[key]) for key in ("confidence", "accuracy", "num_samples"))
        error = float((np.abs(accuracy - confidence) * counts).sum() / counts.sum())
        panel.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=0.8)
        panel.plot(100 * confidence, 100 * accuracy, color=colour, linewidth=1)
        panel.scatter(100 * confidence, 100 * accuracy, s=10 + 600 * counts / counts.sum(), color=colour, alpha=0.6)
        panel.set_title(f"{condition.replace('_', ' ')}: calibration error {error:.3f}", fontsize=10)
        panel.set(xlabel="confidence, %", xlim=(0, 102), ylim=(0, 105), aspect="equal")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy, %")
    figure.suptitle(title)
    save_figure(figure, path)
