"""edgefuse evaluate; `edgefuse explain` uses its functions to open models and data."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgefuse.console.options import (
    MAX_SEED,
    AdaptiveThreshold,
    AsJson,
    DataFolders,
    EngineWord,
    Force,
    NumThreads,
    OnlySequences,
    SkipBad,
)
from edgefuse.console.usage import checked_png
from edgefuse.io.files import real_path

if TYPE_CHECKING:
    from edgefuse.app.open_model import OpenModel
    from edgefuse.data.dataset import RgbdDataset
    from edgefuse.evaluation.corruption_benchmark import Row
    from edgefuse.evaluation.metrics import Condition, Scores


def evaluate(  # long: each option is a parameter
    model: Annotated[
        Path, typer.Argument(help="A bundle (runs on the same engine as live) or a run (runs in PyTorch).")
    ],
    data: DataFolders,
    only: OnlySequences = None,
    corruptions: Annotated[
        bool,
        typer.Option(
            "--corruptions", help="Also score with a failing sensor: dark, frozen, noisy, shifted, missing ..."
        ),
    ] = False,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="With --corruptions: another bundle or run to compare with MODEL. Repeatable."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="With --corruptions: PNG file for a plot of accuracy against severity.")
    ] = None,
    reliability: Annotated[
        Path | None,
        typer.Option(help="Without --corruptions: PNG file for a reliability diagram, accuracy against confidence."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="With --corruptions: output folder for report.md, report.csv, report.json and report.png."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_SEED, help="With --corruptions: random seed for the corruptions. Default: 0."),
    ] = None,
    force: Force = False,
    file: Annotated[
        str | None,
        typer.Option(
            help="With a bundle: its file to evaluate, such as model.fp16.onnx. Default: model.onnx; with --engine tensorrt, "
            "rtx or openvino, the same as live."
        ),
    ] = None,
    engine: EngineWord = "auto",
    threads: NumThreads = None,
    adaptive: AdaptiveThreshold = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Score a model on a data set: accuracy, recall by class and calibration, with both sensors and with either one missing."""
    from edgefuse.errors import require
    from edgefuse.evaluation.corruption_benchmark import REPORT_JSON
    from edgefuse.io.files import refuse_existing
    from edgefuse.io.json_files import dumps

    if not corruptions:
        for option, value in (("--against", against), ("--plot", plot), ("--out", out), ("--seed", seed)):
            if value is not None and value != []:
                raise typer.BadParameter("it needs --corruptions", param_hint=option)
    alone = {"--file": file is not None, "--reliability": reliability is not None, "--adaptive": adaptive is not None}
    for option, is_given in alone.items():
        if corruptions and is_given:
            raise typer.BadParameter("it does not go with --corruptions", param_hint=option)
    plot = checked_png(plot, option="--plot", force=force, data=data)
    reliability = checked_png(reliability, option="--reliability", force=force, data=data)
    if out is not None:
        refuse_existing(out, force=force, marker=REPORT_JSON, contents=("report.*",))
    if plot is not None or out is not None or reliability is not None:
        require("matplotlib", extra="train")  # for the plot at the end
    rgbd = load_dataset(data, only=only, skip_bad=skip_bad)
    if corruptions:
        models = [model, *(against or ())]
        _evaluate_corruptions(
            models, rgbd, seed=seed or 0, plot=plot, out=out, engine=engine, threads=threads, as_json=as_json
        )
        return
    from edgefuse.app.open_model import COMPUTES_IN_FP32, open_model, sequences_trained_on
    from edgefuse.evaluation.metrics import CHANGES, CONDITIONS, answers_under, score
    from edgefuse.evaluation.metrics import reliability as bins_of
    from edgefuse.evaluation.reliability_plot import plot_reliability
    from edgefuse.io.text import say

    with open_model(model, num_threads=threads, file=file, engine=engine, adaptive=adaptive) as opened:
        if opened.name.endswith(COMPUTES_IN_FP32):
            say(
                "note: FP16 files are computed in FP32 on a CPU, so FP16 rounding is not measured here; python -m "
                "edgefuse_benchmarks.suites.precision RUN BUNDLE DATA --out FOLDER measures it with a reference that rounds"
            )
        changes = {str(name): CHANGES[name] for name in CONDITIONS}
        answers = answers_under(opened.predictor, rgbd, contract=opened.contract, labels=opened.labels, changes=changes)
    scores = {name: score(*answers[name], opened.labels) for name in CONDITIONS}
    warn_of_training_pairs(opened, rgbd)
    if as_json:
        report = {
            "answered_by": opened.name,
            "engine": opened.engine,
            "data_digest": rgbd.dataset.digest,
            "num_left_out": rgbd.dataset.num_left_out,
            "sequences_trained_on": sequences_trained_on(opened, rgbd),
            "conditions": {name: value.to_json() for name, value in scores.items()},
        }
        typer.echo(dumps(report))
    else:
        _print_scores(scores, opened.name)
    if reliability is not None:
        bins = {name: bins_of(found.probabilities, found.truth)._asdict() for name, found in answers.items()}
        plot_reliability(bins, reliability, title=f"{opened.name}, {len(rgbd.rgb)} pairs")
        say(f"plot: {reliability}")


def _evaluate_corruptions(
    models: list[Path],
    rgbd: RgbdDataset,
    *,
    seed: int,
    plot: Path | None,
    out: Path | None,
    engine: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Score all models under all corruptions; print a table or JSON, and write plot and report."""
    import shlex
    import sys

    from edgefuse.evaluation.corruption_benchmark import plot_corruptions, write_failures
    from edgefuse.io.environment import ENGINE_PACKAGES, git_revision, git_revision_text, versions
    from edgefuse.io.json_files import dumps
    from edgefuse.io.text import say

    rows_by_model, reports = _score_under_corruptions(models, rgbd, seed=seed, engine=engine, threads=threads)
    data_names = ", ".join(real_path(root).name for root in rgbd.dataset.roots)
    title = f"{data_names}, {len(rgbd.rgb)} pairs: accuracy while a sensor fails"
    command = shlex.join(["edgefuse", *sys.argv[1:]])
    facts = {
        "seed": seed,
        "data": rgbd.dataset.digest[:12],
        "commit": git_revision_text(git_revision()),
        "answered_by": {name: f"in {report['answered_by']} at {report['size']} px" for name, report in reports.items()},
        "versions": versions(("edgefuse", "numpy", "opencv", "torch", *ENGINE_PACKAGES), only_installed=True),
    }
    if as_json:
        header = {"data_digest": rgbd.dataset.digest, "seed": seed, "command": command, "commit": facts["commit"]}
        typer.echo(dumps({**header, "versions": facts["versions"], "models": reports}))
    else:
        _print_corruptions(rows_by_model, title)
        _print_summary({name: report["summary"] for name, report in reports.items()})
    # Files come last: writing them may fail.
    if out is not None:
        report_path = write_failures(rows_by_model, out, title=title, command=command, facts=facts)
        say(f"report: {report_path} (report.csv, report.json, report.png)")
    if plot is not None:
        plot_corruptions(rows_by_model, plot, title=title)
        say(f"plot: {plot}")


def _score_under_corruptions(
    models: list[Path], rgbd: RgbdDataset, *, seed: int, engine: str, threads: int | None
) -> tuple[dict[str, tuple[Row, ...]], dict[str, dict[str, Any]]]:
    """Column name of the model -> rows; column name -> JSON report."""
    from edgefuse.app.open_model import open_model
    from edgefuse.console.progress import counting
    from edgefuse.evaluation.corruption_benchmark import evaluate_corruptions
    from edgefuse.evaluation.corruption_summary import summarise
    from edgefuse.evaluation.metrics import refuse_unfit

    rows_by_model: dict[str, tuple[Row, ...]] = {}
    reports: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        # All models are opened and checked before the first is scored, so that errors come before the work.
        opened = {
            name: stack.enter_context(open_model(model, num_threads=threads, engine=engine))
            for name, model in column_names(models).items()
        }
        for one in opened.values():
            refuse_unfit(rgbd, contract=one.contract, labels=one.labels)
        for name, one in opened.items():
            with counting(name, unit="pairs") as progress:
                rows = evaluate_corruptions(
                    one.predictor,
                    rgbd,
                    contract=one.contract,
                    labels=one.labels,
                    seed=seed,
                    progress=progress,
                )
            warn_of_training_pairs(one, rgbd, name=name)
            rows_by_model[name] = rows
            reports[name] = {
                "answered_by": one.name,
                "engine": one.engine,
                "size": one.contract.size,
                "rows": [row.to_json() for row in rows],
                "summary": summarise(rows).to_json(),
            }
    return rows_by_model, reports


def column_names(models: list[Path]) -> dict[str, Path]:
    """A name for each model: its folder name, with as many parent folders as needed to be unique.

    Raises:
        typer.BadParameter: a model is given twice.
    """
    paths = [real_path(model) for model in models]
    if len(set(paths)) < len(paths):
        raise typer.BadParameter("the same model is given twice", param_hint="--against")
    longest = max(len(path.parts) for path in paths)
    for num_parts in range(1, longest + 1):
        names = ["/".join(path.parts[-num_parts:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, models, strict=True))


def load_dataset(data: list[Path], *, only: list[str] | None, skip_bad: bool) -> RgbdDataset:
    """Load a data set, or its sequences that match `--only`."""
    from edgefuse.data.dataset import load, scan
    from edgefuse.data.splits import matching
    from edgefuse.io.text import say

    dataset = scan(data, skip_bad=skip_bad)
    if only:
        dataset = dataset.subset(matching(dataset, only))
    rgbd = load(dataset, skip_bad=skip_bad)
    for line in rgbd.dataset.left_out_lines():
        say(line)
    for warning in rgbd.dataset.warnings:
        say(f"warning: {warning}")
    return rgbd


def warn_of_training_pairs(model: OpenModel, rgbd: RgbdDataset, *, name: str = "the model") -> None:
    """Warn if the model was trained on some of these sequences, on another region, or on another depth range."""
    from edgefuse.app.open_model import sequences_trained_on
    from edgefuse.data.sensor_coverage import sensing_warnings
    from edgefuse.framing import regions_agree
    from edgefuse.io.text import say

    trained_on, given = model.training.get("data", {}).get("region"), rgbd.dataset.region
    if not regions_agree(trained_on, given):
        say(f"warning: {name} was trained on another region ({trained_on}) than these images show ({given})")
    near_m, far_m = model.contract.near_m, model.contract.far_m
    for warning in sensing_warnings(rgbd, range(len(rgbd.rgb)), near_m=near_m, far_m=far_m):
        say(f"warning: {warning}" if name == "the model" else f"warning: {name}: {warning}")
    sequences = sequences_trained_on(model, rgbd)
    if sequences:
        say(
            f"note: {name} was trained on {len(sequences)} of these sequences, such as {sequences[0]}; "
            f"select held-out ones with --only"
        )


MAX_CLASSES_SHOWN = 40


def _print_scores(scores: dict[Condition, Scores], answered_by: str) -> None:
    from edgefuse.answers import shown_label
    from edgefuse.io.text import new_console, new_table, say, some_of

    both = scores["both"]
    table = new_table(title=f"{both.num_samples} pairs, predicted by {answered_by}")
    table.add_column("")
    for name in scores:
        table.add_column(name.replace("_", " "), justify="right")
    for title, cells in (
        ("accuracy", [f"{s.accuracy:.1%}" for s in scores.values()]),
        ("expected calibration error", [f"{s.expected_calibration_error:.3f}" for s in scores.values()]),
        ("mean gate (0 RGB, 1 depth)", [f"{s.mean_gate:.2f}" for s in scores.values()]),
    ):
        table.add_row(title, *cells)
    table.add_section()
    shown = both.recall
    if len(shown) > MAX_CLASSES_SHOWN:
        worst = sorted((2.0 if recall is None else recall, label) for label, recall in shown.items())
        shown = {label: shown[label] for _, label in worst[:MAX_CLASSES_SHOWN]}
        table.caption = f"the {MAX_CLASSES_SHOWN} classes with the lowest recall of {len(both.recall)}; --json has all"
    for label in shown:
        recalls = [s.recall[label] for s in scores.values()]
        table.add_row(f"recall of {shown_label(label)}", *["-" if r is None else f"{r:.1%}" for r in recalls])
    new_console().print(table)
    lacking = [label for label, recall in both.recall.items() if recall is None]
    if lacking:
        say(
            f"note: the data has no pair of {some_of(lacking)}: these metrics do not cover {'it' if len(lacking) == 1 else 'them'}"
        )


def _print_corruptions(rows_by_model: dict[str, tuple[Row, ...]], title: str) -> None:
    from edgefuse.io.text import new_console, new_table

    table = new_table(title=title)
    table.add_column("")
    table.add_column("severity", justify="right")
    for name in rows_by_model:
        table.add_column(name, justify="right")
    previous = ""
    for number, row in enumerate(next(iter(rows_by_model.values()))):
        if row.corruption != previous:
            table.add_section()
        severity = f"{row.severity:g} {row.unit}" if row.unit else ""
        accuracies = [f"{rows[number].scores.accuracy:.1%}" for rows in rows_by_model.values()]
        title_cell = "" if row.corruption == previous else row.corruption.replace("_", " ")
        table.add_row(title_cell, severity, *accuracies)
        previous = row.corruption
    new_console().print(table)


def _print_summary(summaries: dict[str, dict[str, Any]]) -> None:
    """Expected accuracy if each sensor fails with probability p, and whether the gate finds the failing sensor."""
    from edgefuse.evaluation.corruption_summary import FAILURE_PROBABILITIES
    from edgefuse.io.text import new_console, new_table

    table = new_table(title="expected accuracy if each sensor fails with probability p")
    table.add_column("a failed sensor")
    table.add_column("p", justify="right")
    for name in summaries:
        table.add_column(name, justify="right")
    for p in FAILURE_PROBABILITIES:
        table.add_row("is missing", f"{p:g}", *[f"{summary['missing'][p]:.1%}" for summary in summaries.values()])
    table.add_section()
    for p in FAILURE_PROBABILITIES:
        table.add_row(
            "has any corruption", f"{p:g}", *[f"{summary['any_corruption'][p]:.1%}" for summary in summaries.values()]
        )
    table.add_section()
    table.add_row("gate finds it (AUC)", "", *[f"{summary['gate_auc']:.3f}" for summary in summaries.values()])
    visible = "AUC without frozen and foreign images"
    table.add_row(visible, "", *[f"{summary['gate_auc_visible']:.3f}" for summary in summaries.values()])
    new_console().print(table)
