"""The option --roi: its declaration and parser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.errors import UserError

if TYPE_CHECKING:
    from edgefuse_runtime.regions.region import RegionSource

RegionSpec = Annotated[
    str | None,
    typer.Option(
        "--roi",
        help="Region to use: whole (image), x,y,w,h in pixels, center, nearest (the closest compact object), or FILE.json with a "
        "region per frame number. Default: whole for record; for live the region of the model's training data.",
    ),
]
RegionSpecs = Annotated[
    list[str] | None,
    typer.Option(
        "--roi",
        help="Region to classify: whole (image), x,y,w,h in pixels, center, nearest (the closest compact object, which is followed), "
        "nearest:3 (the three closest), or FILE.json with a region per frame number. Repeatable for several fixed regions. Default: the "
        "region of the model's training data.",
    ),
]


def parsed_region(*roi: str) -> RegionSource:
    """Parse the values of `--roi` to a source of regions.

    Raises:
        typer.BadParameter: the value is invalid.
    """
    from edgefuse_runtime.regions.region import (
        parse_regions,
    )  # imported here: it loads OpenCV, which --help does not need

    try:
        return parse_regions(roi)
    except UserError as error:
        raise typer.BadParameter(str(error), param_hint="--roi") from error
