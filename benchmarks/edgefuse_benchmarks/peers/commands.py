"""edgefuse bench peers"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefuse.console.options import AsJson, BundleFolder, CameraSpec
from edgefuse_benchmarks.bench_command import Out, Quick, check_out, finish


def peers(
    bundle: BundleFolder,
    camera: CameraSpec = "synthetic",
    run: Annotated[
        Path | None, typer.Option(help="The run that the bundle was exported from, to measure PyTorch too.")
    ] = None,
    quick: Quick = False,
    out: Out = Path("bench-results"),
    as_json: AsJson = False,
) -> None:
    """Time complete frame to probabilities: edgefuse, and the same network as users serve it with other libraries."""
    check_out(out)
    from edgefuse.console.progress import counting
    from edgefuse_benchmarks.peers.bench import PLAN, QUICK_PLAN, bench_peers

    with counting("opening", unit="ways") as progress:
        report = bench_peers(
            bundle,
            camera=camera,
            run_folder=run,
            with_slow=not quick,
            plan=QUICK_PLAN if quick else PLAN,
            progress=progress,
        )
    finish(report, out=out, as_json=as_json)
