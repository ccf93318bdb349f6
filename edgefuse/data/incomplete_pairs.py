"""Pairs with one file still missing, because `record` is moving it in, or was killed before.

Owns skipping such pairs, and completing them later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from edgefuse.io.new_files import left_behind, locked
from edgefuse.io.temporaries import remove_leftovers

RGB_SUFFIX, DEPTH_SUFFIX = "_rgb.png", "_depth.png"


def settled(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The file names of a folder without depth images whose RGB is being moved in, or was moved in after the listing."""
    present = set(names)
    alone = {
        rgb: name
        for name in names
        if name.endswith(DEPTH_SUFFIX) and (rgb := name.removesuffix(DEPTH_SUFFIX) + RGB_SUFFIX) not in present
    }
    if not alone:
        return tuple(names)
    waiting = {path.name for path in left_behind(folder)}
    arriving = {name for rgb, name in alone.items() if rgb in waiting or (folder / rgb).exists()}
    return tuple(name for name in names if name not in arriving)


def complete(folder: Path) -> int:
    """Move in the RGB images that a killed recorder left behind, and remove its temporaries; returns the number of images."""
    num_completed = 0
    for path in left_behind(folder):
        depth = folder / (path.name.removesuffix(RGB_SUFFIX) + DEPTH_SUFFIX)
        # A running recorder may have removed its temporary folder in the meantime.
        with contextlib.suppress(FileNotFoundError), locked(path.parent) as is_free:
            if is_free and path.name.endswith(RGB_SUFFIX) and depth.exists() and not (folder / path.name).exists():
                path.replace(folder / path.name)
                num_completed += 1
    remove_leftovers(folder)
    return num_completed
