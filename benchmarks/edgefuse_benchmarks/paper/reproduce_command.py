"""edgefuse reproduce"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgefuse.console.options import MAX_EPOCHS, MAX_SEED, AsJson, BatchSize, Epochs, Force, Size, SkipBad
from edgefuse_benchmarks.paper.commands import Jobs, Weights


def reproduce(  # long: each option is a parameter
    dataset: Annotated[Literal["washington", "bu3dfe"], typer.Argument(help="The data set.")],
    tree: Annotated[Path, typer.Argument(help="Folder of the data set in its original layout; it is only read.")],
    out: Annotated[
        Path, typer.Option(help="Folder for data, folds and report. The same command with the same folder resumes.")
    ],
    table: Annotated[
        int | None, typer.Option(min=1, max=4, help="bu3dfe: 1. washington: 3 (10 folds, default) or 4 (5 folds).")
    ] = None,
    by: Annotated[
        Literal["frame", "sequence", "trials"] | None,
        typer.Option(
            help="Default: frame for washington (frames of one sequence are in training and test), "
            "sequence (subjects) for bu3dfe. trials: the official ones of washington."
        ),
    ] = None,
    variants: Annotated[str, typer.Option(help="Comma-separated names; or paper, for its nine rows.")] = "paper",
    epochs: Epochs = None,
    size: Size = None,
    batch_size: BatchSize = None,
    rgb_weights: Weights = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=MAX_SEED, help="Random seed of the selection and the folds; fold k trains with 1000 seed + k."
        ),
    ] = 0,
    samples: Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="washington: pairs, default 4500 as in the paper; bu3dfe: subjects, default 60.",
        ),
    ] = None,
    early_stop: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_EPOCHS, help="Stop after N epochs without a better accuracy on 15 % held out. Default: off."
        ),
    ] = None,
    jobs: Jobs = 1,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A few pairs, two folds, no pretrained weights: only tests that everything runs."),
    ] = False,
    skip_bad: SkipBad = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Reproduce a table of the paper from its data set, next to the paper's own accuracies."""
    from functools import partial

    from edgefuse.errors import require

    require("torch", extra="train")
    from edgefuse.console.progress import TrainingDisplay, counting
    from edgefuse_benchmarks.paper.commands import finish, fold_line, show_results
    from edgefuse_benchmarks.paper.reproduce import reproduce as make_table
    from edgefuse_benchmarks.paper.variants import PAPER_ROWS

    with TrainingDisplay(brief=True) as display, counting(unit="pairs") as progress:
        made = make_table(
            dataset,
            tree,
            out,
            table=table,
            by=by,
            variants=PAPER_ROWS if variants == "paper" else [name.strip() for name in variants.split(",")],
            epochs=epochs,
            size=size,
            batch_size=batch_size,
            weights=rgb_weights or (),
            seed=seed,
            samples=number_or_all(samples),
            early_stop=early_stop,
            num_jobs=jobs,
            quick=quick,
            skip_bad=skip_bad,
            force=force,
            progress=progress,
            on_done=fold_line(),
            on_found=partial(show_results, as_json=as_json),
            callback=display,
        )
    finish(made.done, made.report, made.folder)


def number_or_all(text: str | None) -> int | Literal["all"] | None:
    """The value of --samples.

    Raises:
        typer.BadParameter: neither a number above 0 nor all.
    """
    if text is None:
        return None
    if text == "all":
        return "all"
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise typer.BadParameter(
            f"{text!r}: a number from 1 to 999999999, or all, was expected", param_hint="--samples"
        )
    return int(text)
