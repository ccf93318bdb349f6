"""The option --roi of commands: its declaration, and its value as a source of regions."""

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
        help="Where to look: whole, x,y,w,h in pixels, center, nearest (the closest compact blob), or FILE.json with a region per "
        "frame number. Default: record stores whole images, live looks where the model's training data was recorded.",
    ),
]


def parsed_region(roi: str | None) -> RegionSource:
    """`--roi` as a source of regions.

    Raises:
        typer.BadParameter: it is none of the forms.
    """
    from edgefuse_runtime.regions.region import parse_region  # here: it loads OpenCV, which --help does not need

    try:
        return parse_region(roi)
    except UserError as error:
        raise typer.BadParameter(str(error), param_hint="--roi") from error
