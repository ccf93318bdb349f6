"""Figures drawn by matplotlib without a display, and written whole or not at all. Training, benchmarks and the demo draw with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgefuse.errors import require
from edgefuse.files import file_replaced


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
    """Write a matplotlib figure as PNG, atomically."""
    with file_replaced(path) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
