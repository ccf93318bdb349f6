"""edgefuse bench core, engine, preprocess, live, soak, train, energy, learning, unknown and all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefuse.console.options import (
    MAX_EPOCHS,
    MAX_PAIRS,
    MAX_SEED,
    AsJson,
    BatchSize,
    BundleFolder,
    CameraSpec,
    DataFolders,
    EngineWord,
    NumThreads,
    SetValues,
    Size,
    finite,
)
from edgefuse_benchmarks.bench_command import Out, Quick, check_out, finish
from edgefuse_runtime.regions.option import RegionSpec, parsed_region


def core(
    d: Annotated[
        str | None, typer.Option("--d", help="Feature widths, such as 128,512. Default: 128,256,512,1024,2048.")
    ] = None,
    batch: Annotated[str | None, typer.Option("--batch", help="Pairs of a call, such as 1,8,32. Default: 1.")] = None,
    quick: Quick = False,
    out: Out = Path("bench-results"),
    as_json: AsJson = False,
) -> None:
    """Time gate, fusion and fully connected layers only, for every fusion: PyTorch, ONNX Runtime, OpenVINO, and a GPU if there is one."""
    widths, batches = _whole_numbers(d, option="--d"), _whole_numbers(batch, option="--batch")
    check_out(out)
    from edgefuse.console.progress import counting
    from edgefuse_benchmarks.suites.core import PLAN, QUICK_PLAN, QUICK_WIDTHS, WIDTHS, bench_core

    with counting("measuring", unit="widths") as progress:
        report = bench_core(
            widths=widths or (QUICK_WIDTHS if quick else WIDTHS),
            batches=batches or (1,),
            plan=QUICK_PLAN if quick else PLAN,
            progress=progress,
        )
    finish(report, out=out, as_json=as_json)


def engine(
    bundle: BundleFolder,
    camera: CameraSpec = "synthetic",
    threads: Annotated[str | None, typer.Option(help="Thread counts, such as 1,4. Default: 1 and all cores.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="The run that the bundle was exported from, to measure PyTorch too.")
    ] = None,
    remember: Annotated[
        bool,
        typer.Option("--remember", help="Keep the times in the bundle: --engine auto then runs what was fastest here."),
    ] = False,
    minutes: Annotated[
        int,
        typer.Option(
            min=0,
            max=1440,
            help="Also run the engines in turns for N minutes, and report median, clocks and temperatures of each minute, and whether the "
            "order of the engines changed.",
        ),
    ] = 0,
    quick: Quick = False,
    out: Out = Path("bench-results"),
    as_json: AsJson = False,
) -> None:
    """Time the CPU engines of a bundle: on cropped pairs, on complete frames, from a cold start, after a pause, and over minutes."""
    counts = _whole_numbers(threads, option="--threads")
    check_out(out)
    from edgefuse.console.progress import counting
    from edgefuse.io.text import say
    from edgefuse_benchmarks.suites import engine as suite

    say(f"measuring {bundle}")
    with counting() as progress:
        report = suite.bench_engine(
            bundle,
            camera=camera,
            threads=counts,
            run_folder=run,
            plan=suite.QUICK_PLAN if quick else suite.PLAN,
            num_starts=suite.QUICK_NUM_STARTS if quick else suite.NUM_STARTS,
            num_pauses=0 if quick else suite.NUM_PAUSES,
            minutes=minutes,
            remember=remember,
            progress=progress,
        )
    finish(report, out=out, as_json=as_json)


def live(
    bundle: BundleFolder,
    camera: CameraSpec,
    roi: RegionSpec = None,
    engine: EngineWord = "auto",
    threads: NumThreads = None,
    pace: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=1000,
            callback=finite,
            help="Frames a second instead of the recording's own rate, also for a folder or synthetic. Frames that come too fast are dropped "
            "and counted.",
        ),
    ] = None,
    quick: Quick = False,
    out: Out = Path("bench-results"),
    as_json: AsJson = False,
) -> None:
    """Time frame to result, by stage: a recording back to back and at its own rate, or a camera at its rate."""
    from edgefuse.console.messages import muted
    from edgefuse.console.progress import counting
    from edgefuse_benchmarks.suites.live import bench_live
    from edgefuse_benchmarks.suites.live_passes import PLAN, QUICK_PLAN

    if roi is not None:
        parsed_region(roi)
    check_out(out)
    with muted("edgefuse_runtime.live"), counting("measuring", unit="results") as progress:
        report = bench_live(
            bundle,
            camera=camera,
            roi=roi,
            engine=engine,
            num_threads=threads,
            pace_hz=pace,
            plan=QUICK_PLAN if quick else PLAN,
            progress=progress,
        )
    finish(report, out=out, as_json=as_json)


def soak(
    bundle: BundleFolder,
    minutes: Annotated[
        float, typer.Option(min=0.1, max=60 * 24 * 30, callback=finite, help="Duration, without the control run.")
    ] = 10,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_SEED, help="Random seed of the faults. Default: a new one, which is printed."),
    ] = None,
    out: Out = Path("bench-results"),
) -> None:
    """Run live at full speed with random faults, and check recovery, counters, memory and files. Exit code 1 if a check fails.

    Then a control run with a planted leak, which the same checks must find.
    """
    import random

    from edgefuse.console.messages import muted
    from edgefuse.console.progress import counting
    from edgefuse.io.text import say
    from edgefuse_benchmarks.suites.soak_report import bench_soak, save_soak

    check_out(out)
    chosen = seed if seed is not None else random.randrange(1_000_000)
    say(f"seed: {chosen}")
    with muted("edgefuse_runtime"), counting("soaking", unit="s") as progress:
        report = bench_soak(bundle, minutes=minutes, seed=chosen, progress=progress)
    typer.echo(report.to_markdown())
    say(f"result: {save_soak(report, out)}")
    if report.problems():
        raise typer.Exit(1)


def train(
    data: DataFolders,
    recipe: Annotated[str, typer.Option(help="As for edgefuse train.")] = "small_rgbd",
    rgb_weights: Annotated[str | None, typer.Option(help="As for edgefuse train.")] = None,
    batch_size: BatchSize = None,
    size: Size = None,
    quick: Quick = False,
    out: Out = Path("bench-results"),
    as_json: AsJson = False,
) -> None:
    """Time a training step with and without mixed precision, the preparation of a batch, and an epoch; on a GPU if there is one."""
    from edgefuse.errors import require

    require("torch", extra="train")
    check_out(out)
    from edgefuse.training.recipe import recipe_with_options
    from edgefuse_benchmarks.suites.train import PLAN, QUICK_PLAN, bench_train

    config = recipe_with_options(recipe, rgb_weights=rgb_weights, batch_size=batch_size, size=size)
    report = bench_train(data, config=config, plan=QUICK_PLAN if quick else PLAN)
    finish(report, out=out, as_json=as_json)


def preprocess(
    bundle: BundleFolder,
    camera: CameraSpec = "synthetic",
    quick: Quick = False,
    out: Out = Path("bench-results"),
    as_json: AsJson = False,
) -> None:
    """Time the crop and resize of a raw pair to the inputs of the network, against the usual OpenCV and NumPy code."""
    check_out(out)
    from edgefuse_benchmarks.suites.preprocess import PLAN, QUICK_PLAN, bench_preprocess

    report = bench_preprocess(bundle, camera=camera, plan=QUICK_PLAN if quick else PLAN)
    finish(report, out=out, as_json=as_json)


def energy(
    bundle: BundleFolder,
    camera: CameraSpec = "synthetic",
    engine: EngineWord = "auto",
    threads: NumThreads = None,
    quick: Quick = False,
    out: Out = Path("bench-results"),
    as_json: AsJson = False,
) -> None:
    """Measure millijoules per result, above the idle machine and with it: Jetson rails, NVIDIA's counter, or RAPL."""
    check_out(out)
    from edgefuse.console.progress import counting
    from edgefuse_benchmarks.suites.energy import PLAN, QUICK_PLAN, bench_energy

    with counting("measuring", unit="rounds") as progress:
        report = bench_energy(
            bundle,
            camera=camera,
            engine=engine,
            num_threads=threads,
            plan=QUICK_PLAN if quick else PLAN,
            progress=progress,
        )
    finish(report, out=out, as_json=as_json)


def all_suites(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="Bundle made by edgefuse export. Default: demo/bundle, with the recording of make demo."),
    ] = None,
    camera: Annotated[str | None, typer.Option(help="As for edgefuse bench live. Default: synthetic.")] = None,
    roi: RegionSpec = None,
    data: Annotated[Path | None, typer.Option(help="Data set for the training. Default: a rendered one.")] = None,
    quick: Quick = False,
    out: Out = Path("bench-results"),
) -> None:
    """Run core, engine, preprocess, live, train, peers and energy into a new folder, and make the HTML report.

    Exit codes: 0 all have a result, 1 at least one failed; the others and the report are kept.
    """
    if roi is not None:
        parsed_region(roi)
    check_out(out)
    from dataclasses import replace

    from edgefuse.console.messages import muted
    from edgefuse.console.progress import counting
    from edgefuse.io.text import say
    from edgefuse_benchmarks.suites.all_suites import Inputs, bench_all, demo_inputs

    inputs = Inputs(bundle=bundle) if bundle is not None else demo_inputs()
    if camera is not None:
        inputs = replace(inputs, camera=camera, roi=roi)
    inputs = replace(inputs, roi=roi or inputs.roi, data=data or inputs.data)
    with muted("edgefuse_runtime.live"), counting("measuring", unit="benchmarks") as progress:
        results = bench_all(inputs, out=out, quick=quick, progress=progress)
    for name, seconds in results.seconds.items():
        say(f"{name}: {seconds:.0f} s")
    for name, reason in results.failed.items():
        say(f"{name} failed: {reason}")
    say(f"results: {results.folder}; report: {results.page}")
    if results.failed:
        raise typer.Exit(1)


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
    """Measure the accuracy of every fusion on the built-in data set, with both sensors and with either one missing."""
    from edgefuse.errors import require
    from edgefuse.io.text import say

    require("torch", extra="train")
    check_out(out)
    from edgefuse.console.messages import muted
    from edgefuse_benchmarks.suites.learning import bench_learning, save_learning

    with muted("edgefuse.training"):
        report = bench_learning(seeds=range(seeds), num_pairs=pairs, epochs=epochs)
    typer.echo(report.to_markdown())
    path = save_learning(report, out)
    say(f"result: {path} and {path.with_suffix('.json')}")


def unknown(  # long: each option is a parameter
    data: Annotated[
        list[Path] | None, typer.Argument(help="Data set folders. Default: the built-in data set, new for every seed.")
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS,CLASS",
            help="Classes that are not trained on. Repeatable: one training each. Default for the built-in data set: each object with its "
            "photograph.",
        ),
    ] = None,
    background: Annotated[
        str | None, typer.Option(metavar="CLASS,CLASS", help="Classes that are trained as the background.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Sequences held out for testing, such as 's1_*'. Repeatable.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="As in edgefuse train. Default: that of the demo.")] = None,
    values: SetValues = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Number of seeds.")] = 3,
    pairs: Annotated[int, typer.Option(min=48, max=MAX_PAIRS, help="Rendered pairs per seed.")] = 1000,
    out: Out = Path("bench-results"),
) -> None:
    """Measure how many objects of other classes are refused as unknown if 95 % of the objects of known classes are kept."""
    from dataclasses import replace

    from edgefuse.errors import require
    from edgefuse.io.text import say

    require("torch", extra="train")
    if data and not leave_out:
        raise typer.BadParameter("it is needed for given data", param_hint="--leave-out")
    check_out(out)
    from edgefuse.console.messages import muted
    from edgefuse.synth.rendered_set import LABELS
    from edgefuse.training.recipe import demo_rgbd, recipe_with_options, with_values
    from edgefuse_benchmarks.suites.unknown import bench_unknown

    config = demo_rgbd() if recipe is None else recipe_with_options(recipe)
    config = with_values(replace(config, exclude=tuple(exclude or ())), values or ())
    objects = [(name, f"{name}_photo") for name in LABELS if f"{name}_photo" in LABELS]
    with muted("edgefuse.training"):
        report = bench_unknown(
            data or (),
            left_out=[tuple(words.split(",")) for words in leave_out] if leave_out else objects,
            background=tuple(background.split(",")) if background else (),
            config=config,
            seeds=range(seeds),
            num_pairs=pairs,
        )
    typer.echo(report.to_markdown())
    path = report.save(out)
    say(f"result: {path} and {path.with_suffix('.json')}")
