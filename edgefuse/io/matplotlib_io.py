"""Matplotlib figures without a display, written atomically. Used by training, benchmarks and the demo."""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgefuse.errors import require
from edgefuse.io.files import file_replaced
from edgefuse.io.text import printable

MAX_NAMED = 60
"""Up to this many classes are labelled in a plot. More labels would be unreadable and make the image too large."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
"""Blue, vermillion, green, purple and black: colour-blind people can tell them apart. A panel has no more lines than this.

Source: Okabe and Ito, "Color Universal Design", 2008.
"""

GREY = "0.45"
"""Of reference lines, and of what is no rival of the coloured lines."""

MAX_TEXT = 120
"""Longer lines of a plot are shortened, so that long names do not widen the image."""

MAX_SIDE_IN = 60.0


def new_figure(*, width_in: float, height_in: float, extra: str = "train") -> Any:
    """A figure without a display and without matplotlib's global state.

    Args:
        extra: the extra of edgefuse to name in the error if matplotlib is missing.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    require("matplotlib", extra=extra)
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG atomically. Texts in it are not parsed as formulas."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar in a class name is not a formula
        lines = printable(text.get_text(), keep="\n").split("\n")
        text.set_text("\n".join(shortened(line, most=MAX_TEXT) for line in lines))
    figure.set_size_inches(*(min(float(side), MAX_SIDE_IN) for side in figure.get_size_inches()))
    with warnings.catch_warnings(), file_replaced(path) as temporary:
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)  # drawn as a box
        figure.savefig(temporary, dpi=120, bbox_inches="tight")


def label_lines(axes: Any, *, fontsize: float = 9) -> None:
    """Write each line's label beside its right end in its colour, in place of a legend; labels that would overlap are moved apart.

    Call it last: with the final limits and scale.
    """
    axes.get_ylim()  # matplotlib scales axes late
    to_axes = axes.transData - axes.transAxes
    line_height = 1.2 * fontsize * axes.figure.dpi / 72 / axes.get_window_extent().height
    named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    ends = sorted(
        (float(to_axes.transform((1, line.get_ydata()[-1]))[1]), line.get_label(), line.get_color()) for line in named
    )
    heights = [height for height, _, _ in ends]
    gaps = [(low.count("\n") + high.count("\n") + 2) / 2 * line_height for (_, low, _), (_, high, _) in pairwise(ends)]
    for _ in range(100):
        for number, gap in enumerate(gaps):
            low, high = heights[number : number + 2]
            half = max(0.0, low + gap - high) / 2
            heights[number : number + 2] = low - half, high + half
    for height, (_, name, colour) in zip(heights, ends, strict=True):
        axes.annotate(
            shortened(name),
            (1, height),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            color=colour,
            fontsize=fontsize,
            va="center",
        )


def draw_chance(axes: Any, num_classes: int) -> None:
    """A dotted line in an axis of accuracies in percent: what guessing one of the classes gives."""
    axes.axhline(100 / num_classes, color=GREY, linestyle=":", linewidth=1.2)
    axes.annotate(
        "chance",
        (0.01, 100 / num_classes),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        color=GREY,
        fontsize=8,
    )


def shortened(text: str, *, most: int = 30) -> str:
    """`text`, or its beginning and end if it is longer than `most` characters."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"
