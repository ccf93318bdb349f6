"""The command edgefuse data synth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefuse.console.options import MAX_PAIRS, MAX_SEED, MAX_WORKERS, Force


def synth(
    out: Annotated[Path, typer.Argument(help="Data set folder to write.")],
    num_pairs: Annotated[int, typer.Option("--pairs", min=8, max=MAX_PAIRS, help="Number of pairs.")] = 1000,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Side of the images in pixels.")] = 128,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Random seed; the same seed gives the same files.")
    ] = 0,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_WORKERS, help="Number of processes. Default: the number of cores, at most 8."),
    ] = None,
    force: Force = False,
) -> None:
    """Render a data set of table-top objects. Neither colour nor depth alone distinguishes all of its classes."""
    from edgefuse.console.progress import counting
    from edgefuse.data.dataset import DATASET_NAME
    from edgefuse.data.description import is_made_by_command
    from edgefuse.io.files import refuse_existing
    from edgefuse.io.text import quoted, say
    from edgefuse.synth.rendered_set import write_dataset

    refuse_existing(out, force=force, marker=DATASET_NAME, is_ours=is_made_by_command)
    with counting("rendering", unit="pairs") as progress:
        write_dataset(out, num_pairs=num_pairs, size=size, seed=seed, num_workers=workers, progress=progress)
    say(f"data set: {out}; next: edgefuse train {quoted(out)} --out RUN")
