"""Figures drawn by matplotlib without a display, and written whole or not at all. Training, benchmarks and the demo draw with it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from edgefuse.errors import require
from edgefuse.io.files import file_replaced
from edgefuse.io.text import printable


def new_figure(*, width_in: float, height_in: float, extra: str = "train") -> Any:
    """A figure that is drawn without a display and without matplotlib's global state.

    Args:
        extra: the extra of edgefuse that the message names where matplotlib is missing.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    require("matplotlib", extra=extra)
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as PNG, atomically; texts in it are shown as they are, whatever names hold."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar in a class name is no formula
        text.set_text(printable(text.get_text(), keep="\n"))
    with warnings.catch_warnings(), file_replaced(path) as temporary:
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)  # drawn as a box
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
