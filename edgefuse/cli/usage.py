"""Options that are parsed by the packages below: what is wrong with them is wrong usage, exit code 2."""

from __future__ import annotations

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
