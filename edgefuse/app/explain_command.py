"""edgefuse explain"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgefuse.app.evaluate_command import load_dataset, warn_of_training_pairs
from edgefuse.app.open_model import open_model
from edgefuse.console.options import MAX_SEED, AsJson, DataFolders, Force, NumThreads, OnlySequences, SkipBad
from edgefuse.io.files import real_path

if TYPE_CHECKING:
    from edgefuse.evaluation.explain import Explanation

DEFINITIONS = "docs/failing-sensors.md#definitions"


def explain(  # long: each option is a parameter
    model: Annotated[
        Path, typer.Argument(help="A bundle (runs on the same engine as live) or a run (runs in PyTorch).")
    ],
    data: DataFolders,
    out: Annotated[Path, typer.Option(help="Output folder for explain.json, gate.png and examples.png.")],
    only: OnlySequences = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Random seed for the corruptions.")] = 0,
    threads: NumThreads = None,
    force: Force = False,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Show how a model uses its sensors: gate by class and corruption, contribution of each sensor, examples."""
    from edgefuse.console.progress import counting
    from edgefuse.evaluation import explain as explanations
    from edgefuse.io.files import refuse_existing
    from edgefuse.io.json_files import dumps
    from edgefuse.io.text import say

    contents = (explanations.EXAMPLES_NAME, explanations.GATE_PLOT_NAME)
    refuse_existing(out, force=force, marker=explanations.EXPLANATION_NAME, contents=contents)
    rgbd = load_dataset(data, only=only, skip_bad=skip_bad)

    def show(explanation: Explanation) -> None:
        """Print the results before the files are written, which may fail."""
        if as_json:
            typer.echo(dumps(explanation.to_json()))
        else:
            _print_explanation(explanation)

    with (
        open_model(model, num_threads=threads) as opened,
        counting("corruptions", unit="pairs") as progress,
    ):
        explanations.explain(
            opened.predictor,
            rgbd,
            out,
            contract=opened.contract,
            labels=opened.labels,
            title=f"{real_path(model).name}, {len(rgbd.rgb)} pairs, predicted by {opened.name}",
            seed=seed,
            pixel_gate=opened.pixel_gate,
            progress=progress,
            on_found=show,
        )
    warn_of_training_pairs(opened, rgbd)
    if opened.fusion == "spatial" and opened.pixel_gate is None:
        say("note: exported files do not output the pixel gate; to see which pixels it keeps: edgefuse explain RUN")
    say(f"explanation: {out} (explain.json, gate.png, examples.png)")


def _print_explanation(explanation: Explanation) -> None:
    from edgefuse.io.text import new_console, new_table

    found = explanation.to_json()
    table = new_table(title=f"{found['num_pairs']} pairs, both sensors available; gate: 0 RGB, 1 depth")
    headings = ["", "pairs", "mean gate", "from RGB", "from depth", "from neither"]
    for heading in [*headings, *(["RGB kept"] if found["all"]["mean_kept_area"] is not None else [])]:
        table.add_column(heading, justify="right" if heading else "left")
    for label, group in found["by_class"].items():
        table.add_row(label, *_cells(group))
    table.add_section()
    table.add_row("all", *_cells(found["all"]))
    console = new_console()
    console.print(table)
    console.print(f"definitions: {DEFINITIONS}", style="dim", soft_wrap=True)


def _cells(group: dict[str, Any]) -> list[str]:
    fractions = [group["rgb_contribution"], group["depth_contribution"]]
    return [
        str(group["num_pairs"]),
        f"{group['mean_gate']:.2f}",
        *("-" if fraction is None else f"{fraction:.0%}" for fraction in fractions),
        str(group["num_pairs_without_share"]),
        *([] if group["mean_kept_area"] is None else [f"{group['mean_kept_area']:.0%}"]),
    ]
