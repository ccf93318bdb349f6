"""edgefuse bench outputs"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefuse.console.options import AsJson, BundleFolder, EngineWord, NumThreads
from edgefuse_benchmarks.bench_command import Out, check_out, finish


def outputs(
    bundle: BundleFolder,
    rounds: Annotated[int, typer.Option(min=2, max=100, help="Turns of each way; one takes 11 s.")] = 7,
    engine: EngineWord = "auto",
    threads: NumThreads = None,
    out: Out = Path("bench-results"),
    as_json: AsJson = False,
) -> None:
    """Time live without an output, with --collect, with --web, and with five viewers of its page, in turns."""
    check_out(out)
    from edgefuse.bundle import open_bundle
    from edgefuse.console.progress import counting
    from edgefuse_benchmarks.suites.outputs import OutputsPlan, bench_outputs

    with counting("measuring", unit="turns") as progress:
        report = bench_outputs(
            open_bundle(bundle),
            plan=OutputsPlan(num_rounds=rounds),
            engine=engine,
            num_threads=threads,
            progress=progress,
        )
    finish(report, out=out, as_json=as_json)
