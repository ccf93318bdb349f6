"""edgefuse bench core, engine, live and learning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.console.options import (
    MAX_EPOCHS,
    MAX_PAIRS,
    AsJson,
    BundleFolder,
    CameraSpec,
    EngineWord,
    NumThreads,
)
from edgefuse_runtime.regions.option import RegionSpec, parsed_region

if TYPE_CHECKING:
    from edgefuse_benchmarks.report import Report

Out = Annotated[Path, typer.Option(help="Folder for the result: a JSON file and a plot, with a new name each time.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Fewer samples, under a minute: a first impression, not for publication.")
]


def core(
    d: Annotated[
        str | None, typer.Option("--d", help="Feature widths, such as 128,512. Default: 128,256,512,1024,2048.")
    ] = None,
    quick: Quick = False,
    out: Out = Path("bench-results"),
    as_json: AsJson = False,
) -> None:
    """Time gate, fusion and fully connected layers only: gated and naive, in PyTorch and ONNX Runtime, and reading their weights."""
    widths = _whole_numbers(d, option="--d")
    _check_out(out)
    from edgefuse.console.progress import counting
    from edgefuse_benchmarks.suites.core import PLAN, QUICK_PLAN, QUICK_WIDTHS, WIDTHS, bench_core

    with counting("measuring", unit="widths") as progress:
        report = bench_core(
            widths=widths or (QUICK_WIDTHS if quick else WIDTHS),
            plan=QUICK_PLAN if quick else PLAN,
            progress=progress,
        )
    _finish(report, out=out, as_json=as_json)


def engine(
    bundle: BundleFolder,
    camera: CameraSpec = "synthetic",
    threads: Annotated[str | None, typer.Option(help="Thread counts, such as 1,4. Default: 1 and all cores.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="The run that the bundle was exported from, to measure PyTorch too.")
    ] = None,
    quick: Quick = False,
    out: Out = Path("bench-results"),
    as_json: AsJson = False,
) -> None:
    """Time a bundle's engine on framed pairs of a camera, a recording or a folder, and its cold start."""
    counts = _whole_numbers(threads, option="--threads")
    _check_out(out)
    from edgefuse.io.text import say
    from edgefuse_benchmarks.suites.engine import NUM_STARTS, PLAN, QUICK_NUM_STARTS, QUICK_PLAN, bench_engine

    say(f"measuring {bundle}")
    report = bench_engine(
        bundle,
        camera=camera,
        threads=counts,
        run_folder=run,
        plan=QUICK_PLAN if quick else PLAN,
        num_starts=QUICK_NUM_STARTS if quick else NUM_STARTS,
    )
    _finish(report, out=out, as_json=as_json)


def live(
    bundle: BundleFolder,
    camera: CameraSpec,
    roi: RegionSpec = None,
    engine: EngineWord = "auto",
    threads: NumThreads = None,
    quick: Quick = False,
    out: Out = Path("bench-results"),
    as_json: AsJson = False,
) -> None:
    """Time from frame to result, by stage: a recording back to back and at its own rate, a camera at its rate."""
    from edgefuse.console.messages import muted
    from edgefuse.console.progress import counting
    from edgefuse_benchmarks.suites.live import PLAN, QUICK_PLAN, bench_live

    parsed_region(roi)
    _check_out(out)
    with muted("edgefuse_runtime.live"), counting("measuring", unit="results") as progress:
        report = bench_live(
            bundle,
            camera=camera,
            roi=roi,
            engine=engine,
            num_threads=threads,
            plan=QUICK_PLAN if quick else PLAN,
            progress=progress,
        )
    _finish(report, out=out, as_json=as_json)


def _check_out(out: Path) -> None:
    """Check before the work that the result can be saved.

    Raises:
        UserError: it cannot.
    """
    from edgefuse.errors import UserError
    from edgefuse.io.files import check_writable

    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: a new or existing folder was expected")
    check_writable(out / "result")


def _finish(report: Report, *, out: Path, as_json: bool) -> None:
    """Print the result, save it, and plot it last, so that a failure loses nothing of the steps before."""
    from edgefuse.io.text import say
    from edgefuse_benchmarks.console import print_report
    from edgefuse_benchmarks.plots import save_plot
    from edgefuse_benchmarks.report import dumps, save

    try:
        if as_json:
            typer.echo(dumps(report.to_json(raw=False)))
        else:
            print_report(report)
    finally:  # even if standard output is closed
        path = save(report, out)
        say(f"result: {path}")
    try:
        save_plot(report, path.with_suffix(".png"))
    except Exception as error:
        say(f"no plot: {error}")


def _whole_numbers(text: str | None, *, option: str) -> tuple[int, ...]:
    """ "1,4" as (1, 4); None as ().

    Raises:
        typer.BadParameter: it is not a list of whole numbers from 1 on.
    """
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise typer.BadParameter(f"{text!r}: whole numbers such as 128,512 were expected", param_hint=option)
    return tuple(dict.fromkeys(int(word) for word in words))


def learning(
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of seeds: each has new images, a new split and new weights.")
    ] = 5,
    pairs: Annotated[int, typer.Option(min=48, max=MAX_PAIRS, help="Rendered pairs per seed.")] = 1000,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=MAX_EPOCHS, help="Training epochs. Default: as in edgefuse demo.")
    ] = None,
    out: Out = Path("bench-results"),
) -> None:
    """Accuracy of every fusion on held-out sequences of the built-in data set, with both sensors and with either one missing."""
    from edgefuse.errors import require
    from edgefuse.io.text import say

    require("torch", extra="train")
    _check_out(out)
    from edgefuse.console.messages import muted
    from edgefuse_benchmarks.suites.learning import bench_learning, save_learning

    with muted("edgefuse.training"):
        report = bench_learning(seeds=range(seeds), num_pairs=pairs, epochs=epochs)
    typer.echo(report.to_markdown())
    path = save_learning(report, out)
    say(f"result: {path} and {path.with_suffix('.json')}")
