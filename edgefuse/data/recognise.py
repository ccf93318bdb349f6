"""Whose tree a folder looks like, by the names of a few files: for messages that say what to do with it.

Owns the telling names of the layouts that are not the folder layout; no picture is read.
"""

from __future__ import annotations

from pathlib import Path

TITLES = {"washington": "the Washington RGB-D Object Dataset", "bu3dfe": "BU-3DFE"}
"""`--layout` of `edgefuse data convert` -> the data set's name."""
_TELLING = {
    "washington": ("*/*/*_depthcrop.png", "rgbd-dataset*/*/*/*_depthcrop.png"),
    "bu3dfe": ("*/*_F3D.wrl", "*/*_f3d.wrl"),
}


def recognised(root: Path) -> str | None:
    """The layout that the names below `root` speak of; None where they speak of none."""
    for layout, patterns in _TELLING.items():
        if any(next(root.glob(pattern), None) is not None for pattern in patterns):
            return layout
    return None


def other_layout(root: Path, *, expected: str | None = None) -> str:
    """The end of a message on a folder that has no pairs of the `expected` layout (None = the folder layout), or ""."""
    layout = recognised(root)
    if layout in (None, expected):
        return ""
    command = (
        f"edgefuse data convert {root} OUT --layout {layout}" if expected is None else f"give {layout} for {expected}"
    )
    return f"; it looks like {TITLES[layout]}: {command}"
