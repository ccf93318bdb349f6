"""edgefuse bench adaptive"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefuse.console.options import MAX_THREADS, AsJson, BundleFolder, DataFolders, EngineWord, OnlySequences
from edgefuse_benchmarks.bench_command import Out, Quick, check_out, print_and_save


def adaptive(
    bundle: BundleFolder,
    data: DataFolders,
    only: OnlySequences = None,
    engine: EngineWord = "auto",
    threads: Annotated[int, typer.Option(min=1, max=MAX_THREADS, help="CPU threads of the engine.")] = 1,
    quick: Quick = False,
    out: Out = Path("bench-results"),
    as_json: AsJson = False,
) -> None:
    """Measure accuracy and mean latency of edgefuse live --adaptive for each threshold, on the test sequences of the bundle's run."""
    check_out(out)
    from edgefuse.console.progress import counting
    from edgefuse_benchmarks.adaptive.curve import PLAN, QUICK_PLAN, bench_adaptive
    from edgefuse_benchmarks.adaptive.plot import save_plot
    from edgefuse_benchmarks.report import dumps, save_json

    with counting("measuring", unit="steps") as progress:
        report = bench_adaptive(
            bundle,
            data,
            only=only or (),
            engine=engine,
            num_threads=threads,
            plan=QUICK_PLAN if quick else PLAN,
            progress=progress,
        )
    found = report.to_json()
    figures = {key: value for key, value in found.items() if key != "samples_ns"}
    print_and_save(
        lambda: typer.echo(dumps(figures) if as_json else report.to_markdown()),
        save=lambda: save_json(found, out, benchmark="adaptive"),
        plot=lambda path: save_plot(report, path),
    )
