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


def parsed_region(roi: str | None) -> RegionSource:
    """Parse `--roi` to a source of regions.

    Raises:
        typer.BadParameter: the value is invalid.
    """
    from edgefuse_runtime.regions.region import (
        parse_region,
    )  # imported here: it loads OpenCV, which --help does not need

    try:
        return parse_region(roi)
    except UserError as error:
        raise typer.BadParameter(str(error), param_hint="--roi") from error
