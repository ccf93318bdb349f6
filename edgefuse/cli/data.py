"""edgefuse data"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefuse.cli.options import Force

app = typer.Typer(help="Data sets: make the built-in one.", no_args_is_help=True)


@app.callback()
def _group() -> None: ...


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="The data set folder to make.")],
    num_pairs: Annotated[int, typer.Option("--pairs", min=8, help="How many pairs.")] = 1000,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Side of the pictures in pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: as many as cores.")] = None,
    force: Force = False,
) -> None:
    """Render table-top objects that neither colour nor depth alone can tell apart."""
    from edgefuse.cli.progress import counting, say
    from edgefuse.data.folder import DATASET_NAME
    from edgefuse.data.synth import write_dataset
    from edgefuse.files import refuse_existing

    refuse_existing(out, force=force, marker=DATASET_NAME)
    with counting("rendering", unit="pairs") as on_progress:
        write_dataset(out, num_pairs=num_pairs, size=size, seed=seed, num_workers=workers, on_progress=on_progress)
    say(f"data set: {out}; next: edgefuse train {out} --out RUN")
