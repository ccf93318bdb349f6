"""Checks of option values; a failure is wrong usage, exit code 2."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import typer

from edgefuse.errors import UserError
from edgefuse.io.files import real_path


def checked_png(
    path: Path | None, *, option: str, force: bool = False, data: Sequence[Path] = (), mark: str | None = None
) -> Path | None:
    """Check, before any work, that an image can be written.

    Args:
        force: overwrite an existing file.
        data: data sets: no file is written among their images, and no file in them is replaced except one with `mark`.

    Raises:
        typer.BadParameter: the name does not end in .png, is a folder, must not be replaced, or cannot be written.
    """
    from edgefuse.io.files import check_writable
    from edgefuse.io.images import has_mark

    if path is None:
        return None
    problem = None
    inside = [depth for root in data for depth in _levels_below(path, root)]
    if path.suffix.lower() != ".png":
        problem = f"{path} was given: a name that ends in .png was expected"
    elif path.is_dir():
        problem = f"{path} is a folder: the name of a file was expected"
    elif inside and os.path.lexists(path) and not (mark and has_mark(path, mark)):
        problem = f"{path} belongs to the data set and is never replaced: choose another name"
    elif inside and max(inside) > 1:
        problem = f"{path} is inside the data set and would count as one of its images: choose another name"
    elif os.path.lexists(path) and not force:
        problem = f"{path} exists already: choose another name, or add --force to replace it"
    if problem is None:
        try:
            check_writable(path)
        except UserError as error:
            problem = str(error)
    if problem:
        raise typer.BadParameter(problem, param_hint=option)
    return path


def _levels_below(path: Path, root: Path) -> list[int]:
    """The number of path components from `root` to `path`, by name and with links resolved; empty if it is outside."""
    places = ((path.absolute(), root.absolute()), (real_path(path), real_path(root)))
    return [len(place.relative_to(top).parts) for place, top in places if place.is_relative_to(top)]
