"""edgefuse data browse"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefuse.console.options import EngineWord, NumThreads


def browse(
    data: Annotated[
        list[Path], typer.Argument(help="Data sets in any layout, or collections of edgefuse live --collect.")
    ],
    web: Annotated[
        str,
        typer.Option(
            metavar="[HOST:]PORT",
            help="Address of the page; other machines need a token in the environment variable EDGEFUSE_TOKEN.",
        ),
    ] = "127.0.0.1:8080",
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle whose answers are shown: sort by loss, filter by answer.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Layout of the data: folder, washington, bu3dfe, pairs, npy or tum; all but folder are read-only. Default: what the "
            "names of the files indicate."
        ),
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="pairs, npy, tum: depth unit: m, cm, mm, um, or metres per depth code.")
    ] = None,
    engine: EngineWord = "auto",
    threads: NumThreads = None,
) -> None:
    """Look at a data set in a browser, correct labels, delete pairs, and undo that. Ends on Ctrl-C."""
    from edgefuse.io.text import say
    from edgefuse_runtime.browse.serve import browsing

    with browsing(
        data, web=web, bundle=bundle, layout=layout, unit=unit, engine=engine, num_threads=threads
    ) as browser:
        for line in browser.notes:
            say(line)
        say(f"{browser.num_pairs} pairs: {browser.url} (Ctrl-C ends it)")
        browser.wait()
