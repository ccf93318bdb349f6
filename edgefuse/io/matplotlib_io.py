"""Matplotlib figures without a display, written atomically. Used by training, benchmarks and the demo."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from edgefuse.errors import require
from edgefuse.io.files import file_replaced
from edgefuse.io.text import printable

MAX_NAMED = 40
"""Up to this many classes are labelled in a plot. More labels would be unreadable and make the image too large."""

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


def shortened(text: str, *, most: int = 30) -> str:
    """`text`, or its beginning and end if it is longer than `most` characters."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"
