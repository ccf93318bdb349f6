"""Options that are parsed by the packages below: what is wrong with them is wrong usage, exit code 2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgefuse.errors import UserError

if TYPE_CHECKING:
    from edgefuse_runtime.regions import RegionSource


def parsed_region(roi: str | None) -> RegionSource:
    """`--roi` as a source of regions.

    Raises:
        typer.BadParameter: it is none of the forms.
    """
    from edgefuse_runtime.regions import parse_region

    try:
        return parse_region(roi)
    except UserError as error:
        raise typer.BadParameter(str(error), param_hint="--roi") from error


def checked_png(path: Path | None, *, option: str) -> Path | None:
    """The picture to write, seen to be possible before the work that it shows.

    Raises:
        typer.BadParameter: the name does not end in .png, is a folder's, or lies where nothing can be written.
    """
    if path is None:
        return None
    if path.suffix.lower() != ".png":
        raise typer.BadParameter(f"{path} was given: a name that ends in .png was expected", param_hint=option)
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder: the name of a file was expected", param_hint=option)
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise typer.BadParameter(f"nothing can be written into {above}: choose another name", param_hint=option)
    return path
