"""edgefuse crossval"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.console.options import (
    MAX_EPOCHS,
    MAX_SEED,
    MAX_WORKERS,
    AsJson,
    BatchSize,
    DataFolders,
    Epochs,
    FarM,
    Flip,
    Force,
    NearM,
    SetValues,
    Size,
    SkipBad,
)
from edgefuse.io.files import real_path

if TYPE_CHECKING:
    from edgefuse_benchmarks.paper.crossval import CrossValidation, Failure, FoldResult

Jobs = Annotated[
    int,
    typer.Option(
        min=1, max=MAX_WORKERS, help="Worker processes, one CPU thread each; the results do not depend on their number."
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--rgb-weights",
        help="imagenet (default) or none, for every torchvision backbone; or a state dict FILE, for the backbone that it fits. Repeatable.",
    ),
]


def crossval(  # long: each option is a parameter
    data: DataFolders,
    out: Annotated[
        Path, typer.Option(help="Folder for folds and report. The same command with the same folder resumes.")
    ],
    variants: Annotated[
        str,
        typer.Option(
            help="Comma-separated names <fusion>-<backbone>, such as gated-small,depth-scratch, or with a depth encoding, such as "
            "depth-scratch@log; or paper, for its nine rows."
        ),
    ] = "spatial-small,gated-small,naive-small,rgb-small,depth-scratch",
    folds: Annotated[int, typer.Option(min=2, max=1000, help="Number of folds; not used with --by trials.")] = 5,
    by: Annotated[
        str,
        typer.Option(
            help="sequence; frame (frames of one sequence are in training and test); trials (Washington's official ones); "
            "or a regular expression whose first group is the group's name: '^(s\\d+)_'."
        ),
    ] = "sequence",
    epochs: Epochs = None,
    size: Size = None,
    batch_size: BatchSize = None,
    flip: Flip = None,
    near: NearM = None,
    far: FarM = None,
    rgb_weights: Weights = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_SEED, help="Random seed of the folds; fold k trains with 1000 seed + k."),
    ] = None,
    jobs: Jobs = 1,
    early_stop: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_EPOCHS, help="Stop after N epochs without a better accuracy on 15 % held out. Default: off."
        ),
    ] = None,
    values: SetValues = None,
    skip_bad: SkipBad = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare variants on the same folds: table, plot, and a paired test of gated against naive fusion."""
    from functools import partial

    from edgefuse.errors import require

    require("torch", extra="train")
    from edgefuse.console.progress import TrainingDisplay
    from edgefuse.data.folds import BY_SEQUENCE, make_folds
    from edgefuse.training.recipe import recipe_with_options, with_values
    from edgefuse_benchmarks.paper.crossval import cross_validate
    from edgefuse_benchmarks.paper.reports import write_report
    from edgefuse_benchmarks.paper.variants import PAPER_ROWS

    config = recipe_with_options(
        epochs=epochs, size=size, batch_size=batch_size, near_m=near, far_m=far, seed=seed, flip=flip
    )
    config = with_values(config, values or ())
    validation_fraction = 0.0 if early_stop is None else config.validation_fraction
    with TrainingDisplay(brief=True) as display:
        done = cross_validate(
            data,
            out,
            variants=PAPER_ROWS if variants == "paper" else [name.strip() for name in variants.split(",")],
            folds_of=partial(
                make_folds, num_folds=folds, by=by, seed=config.seed, validation_fraction=validation_fraction
            ),
            config=config,
            weights=rgb_weights or (),
            early_stop=early_stop,
            num_jobs=jobs,
            skip_bad=skip_bad,
            force=force,
            on_done=fold_line(),
            callback=display,
        )
    command = ["edgefuse", *sys.argv[1:]]
    leak_free = f"the same command with --by {BY_SEQUENCE} and another --out"
    title = f"{', '.join(real_path(folder).name for folder in data)}, {done.num_folds} folds by {by}"
    show_results(done, as_json=as_json)
    report = write_report(done, out, title=title, command=shlex.join(command), leak_free=leak_free)
    finish(done, report, out)


def fold_line() -> Callable[[FoldResult | Failure, int, int], None]:
    """A callback that prints one line for each finished training."""
    from edgefuse.io.text import say
    from edgefuse_benchmarks.paper.crossval import Failure

    def on_done(result: FoldResult | Failure, done: int, total: int) -> None:
        where = f"{done} of {total}: fold {result.fold} of {result.variant}"
        if isinstance(result, Failure):
            say(f"{where} FAILED: {result.message}")
        else:
            say(f"{where}: accuracy {result.accuracy:.1%} of {result.num_test} pairs, {result.seconds:.0f} s")

    return on_done


def show_results(done: CrossValidation, *, as_json: bool) -> None:
    """Print the results, before the report is written, which may fail."""
    from edgefuse.io.json_files import dumps
    from edgefuse.io.text import say
    from edgefuse_benchmarks.paper.reports import mean_and_spread, paired_tests

    tests = paired_tests(done.results)
    if as_json:
        value = {
            "results": {name: [vars(result) for result in results] for name, results in done.results.items()},
            "paired_tests": [vars(test) for test in tests],
            "failures": [vars(failure) for failure in done.failures],
            "num_leaking_folds": done.num_leaking,
            "notes": list(done.notes),
        }
        typer.echo(dumps(value))
    if done.num_resumed:
        say(f"resumed: {done.num_resumed} training(s) were already finished")
    for name, results in done.results.items():
        found = mean_and_spread(results)
        mean = "-" if found is None else f"{found[0]:.1%}"
        spread = "" if found is None or found[1] is None else f" +- {found[1]:.1%}"
        say(f"{name}: {mean}{spread}, {len(results)} fold(s)")
    for test in tests:
        p = "no test: too few folds, or no spread" if test.p is None else f"p {test.p:.3f}"
        say(f"{test.variant} - {test.baseline}: {100 * test.mean_difference:+.1f} points, {p}")
    for note in done.notes:
        say(f"note: {note}")
    if done.num_leaking:
        say(
            f"note: {done.num_leaking} fold(s) have frames of the same sequence in training and test: all accuracies are too high"
        )


def finish(done: CrossValidation, report: Path, out: Path) -> None:
    """Print the path of the report, and exit with 1 if a fold failed."""
    from edgefuse.io.text import say
    from edgefuse.training.run import RUN_NAME

    say(f"report: {report} (report.csv, report.png)")
    if done.failures:
        names = ", ".join(f"{failure.variant} fold {failure.fold}" for failure in done.failures)
        has_run = any((out / "runs").glob(f"*/{RUN_NAME}"))
        checkpoints = f"; their last checkpoints are in {out / 'runs'}" if has_run else ""
        say(f"failed: {names}{checkpoints}; the same command tries them again")
        raise typer.Exit(1)
