"""edgefuse record"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefuse.console.options import MAX_FRAMES, CameraSpec, Force
from edgefuse_runtime.regions.option import RegionSpec, parsed_region


def record(  # long: each option is a parameter
    out: Annotated[
        str,  # a Path would turn "" into "."
        typer.Argument(help="Data set folder. Created if it does not exist; otherwise the sequence is added."),
    ],
    label: Annotated[str, typer.Option(help="Class of the frames.")],
    camera: CameraSpec = "realsense",
    sequence: Annotated[str | None, typer.Option(help="Name of the sequence. Default: date and time.")] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, max=MAX_FRAMES, help="Pairs to record. Default: until Ctrl-C or the end.")
    ] = None,
    every: Annotated[
        int,
        typer.Option(min=1, max=MAX_FRAMES, help="Record every N-th frame: consecutive images are nearly identical."),
    ] = 1,
    roi: RegionSpec = None,
    align: Annotated[str, typer.Option(help="color: align depth to colour. depth: align colour to depth.")] = "color",
    force: Force = False,
) -> None:
    """Record labelled pairs of a camera (or a recording) as one sequence of a data set.

    Splits never divide a sequence: record several per class, with different objects, places and light.
    """
    from typing import cast

    from edgefuse.console.progress import counting
    from edgefuse.contract import Align
    from edgefuse.errors import UserError
    from edgefuse.io.text import quoted, say
    from edgefuse_runtime.capture import open_capture
    from edgefuse_runtime.recording.record import record as record_sequence

    if out.strip() in ("", "-"):  # "" from an unset variable of the shell
        raise UserError(f"the data set folder is {out!r}: a name was expected (. is the current folder)")
    if align not in ("color", "depth"):
        raise typer.BadParameter(f"{align!r} is neither color nor depth", param_hint="--align")
    region = parsed_region(roi) if roi is not None else None
    if region is not None and getattr(region, "most", 1) > 1:
        raise typer.BadParameter(f"{roi!r} is several regions, one was expected", param_hint="--roi")
    with (
        open_capture(camera, align=cast("Align", align), allow_missing=False) as source,
        counting("recording", unit="pairs") as progress,
    ):
        folder = record_sequence(
            camera=source,
            root=Path(out),
            label=label,
            sequence=sequence,
            num_frames=frames,
            region=region,
            every=every,
            force=force,
            progress=progress,
        )
    say(
        f"sequence: {folder} ({len(list(folder.glob('*_rgb.png')))} pairs); next: edgefuse train {quoted(out)} --out RUN"
    )
