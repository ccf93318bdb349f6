"""edgefuse bench people"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgefuse.console.options import DataFolders, Force
from edgefuse_benchmarks.paper.commands import Jobs, Weights

if TYPE_CHECKING:
    from edgefuse_benchmarks.paper.crossval import CrossValidation


def people(  # long: each option is a parameter
    data: DataFolders,
    protocol: Annotated[
        Literal["leave-one-out", "one-to-another", "sequences"],
        typer.Option(
            help="leave-one-out: train on all people but one, test on that one. one-to-another: train on one, test on one other. "
            "sequences: train and test on other sequences of the same person."
        ),
    ],
    config: Annotated[
        Path,
        typer.Option(help="JSON file: variants, seeds and recipe of each protocol, such as protocols/gestures.json."),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for folds and summary. The same command with the same folder resumes.")
    ],
    rgb_weights: Weights = None,
    jobs: Jobs = 1,
    force: Force = False,
) -> None:
    """Compare variants on data of several people: accuracy, calibration and gate on people or sequences not trained on."""
    from functools import partial

    from edgefuse.errors import require

    require("torch", extra="train")
    from edgefuse.console.progress import TrainingDisplay
    from edgefuse.data.dataset import scan
    from edgefuse.io.files import real_path
    from edgefuse.io.text import say
    from edgefuse.training.recipe import recipe_with_options, with_values
    from edgefuse_benchmarks import machine
    from edgefuse_benchmarks.paper.commands import fold_line
    from edgefuse_benchmarks.paper.crossval import cross_validate
    from edgefuse_benchmarks.people.protocols import fold_names, protocol_folds, read_config
    from edgefuse_benchmarks.people.summary import write_summary

    chosen = read_config(config, protocol)
    hardware = machine.describe()
    done: list[CrossValidation] = []
    folders: list[Path] = []
    with TrainingDisplay(brief=True) as display:
        for seed in chosen.seeds:
            recipe = with_values(recipe_with_options(chosen.recipe, seed=seed, person=chosen.person), chosen.values)
            folders.append(out / f"seed{seed}")
            done.append(
                cross_validate(
                    data,
                    folders[-1],
                    variants=chosen.variants,
                    folds_of=partial(
                        protocol_folds,
                        protocol=protocol,
                        person=chosen.person,
                        validation_fraction=recipe.validation_fraction,
                        seed=seed,
                    ),
                    config=recipe,
                    weights=rgb_weights or (),
                    corruptions_every=chosen.corruptions_every,
                    num_jobs=jobs,
                    force=force,
                    on_notes=_say_notes if not done else lambda notes: None,
                    on_done=fold_line(),
                    callback=display,
                )
            )
    failures = [failure for one in done for failure in one.failures]
    for failure in failures:
        say(f"failed: {failure.variant}, fold {failure.fold}: {failure.message}")
    names = ", ".join(real_path(folder).name for folder in data)
    path = write_summary(
        folders,
        out,
        title=f"{names}: {protocol}",
        command=shlex.join(["edgefuse", *sys.argv[1:]]),
        fold_names=fold_names(scan(data), protocol=protocol, person=chosen.person),
        notes=done[0].notes,
        facts={
            "seeds": ", ".join(map(str, chosen.seeds)),
            "machine": hardware["cpu"]["model"],
            "date": hardware["date_utc"],
        },
    )
    say(f"summary: {path} and {path.with_suffix('.json')}")
    if failures:
        raise typer.Exit(1)


def _say_notes(notes: tuple[str, ...]) -> None:
    from edgefuse.io.text import say

    for note in notes:
        say(f"note: {note}")
