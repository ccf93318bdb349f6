"""edgefuse export"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgefuse.console.options import MAX_PAIRS, AsJson, Force
from edgefuse.degraded_mode import Action

if TYPE_CHECKING:
    from edgefuse.adaptive import Adaptive
    from edgefuse.evaluation.compare_outputs import ParityReport
    from edgefuse_export.onnx.export import ExportSummary
    from edgefuse_export.onnx.torch_to_onnx import Batch

MODEL_PRECISIONS = ("fp32", "fp16", "int8")


def export(  # long: each option is a parameter
    run: Annotated[Path, typer.Argument(help="Run folder, written by edgefuse train.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to create.")],
    trt: Annotated[
        bool,
        typer.Option("--trt", help="Also build the TensorRT engine of the FP16 file, as edgefuse build BUNDLE does."),
    ] = False,
    precision: Annotated[
        str,
        typer.Option(
            help="Files to write: fp32, fp16, int8. FP32 is always written; INT8 is calibrated on the run's training data."
        ),
    ] = "fp32,fp16",
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option(
            help="Modules that stay in FP32 in the FP16 and INT8 files: a glob such as 'core.head.*'. Repeatable."
        ),
    ] = None,
    calibration_frames: Annotated[
        int, typer.Option(help="Number of training frames for the INT8 calibration.", min=1, max=MAX_PAIRS)
    ] = 128,
    batch: Annotated[
        str,
        typer.Option(
            metavar="N|dynamic",
            help="Regions in one engine run, for Classifier.batch. dynamic: any number. N: always N, so one region takes as long as N.",
        ),
    ] = "1",
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive",
            help="Also write the model in two files, so that edgefuse live --adaptive T can answer from depth alone. Calibrated on the run's "
            "validation pairs.",
        ),
    ] = False,
    without_rgb: Annotated[
        Action | None,
        typer.Option(
            help="What live reports without RGB. Default: chosen from the run's held-out accuracy without it."
        ),
    ] = None,
    without_depth: Annotated[
        Action | None,
        typer.Option(
            help="What live reports without depth. Default: chosen from the run's held-out accuracy without it."
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print the comparison with the PyTorch model for each kind of input.")
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Export a run to a bundle: ONNX files with their input contract, compared with the PyTorch model.

    If the outputs of a file differ from those of the model, or TensorRT does not support it, no bundle is written.
    """
    from edgefuse.errors import require
    from edgefuse_export.tensorrt.commands import build_and_report, check_build, summary_json

    if trt:
        check_build()  # before minutes of exporting
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        require(package, extra="runtime" if package == "onnxruntime" else "export")
    precisions = _precisions(precision)
    if trt and "fp16" not in precisions:
        precisions = (*precisions, "fp16")
    if keep_fp32 and not {"fp16", "int8"}.intersection(precisions):
        raise typer.BadParameter("this requires --precision with fp16 or int8", param_hint="--keep-fp32")
    from edgefuse.console.progress import counting
    from edgefuse.io.text import quoted, say
    from edgefuse_export.onnx.export import export_run

    with counting() as progress:
        summary = export_run(
            run,
            out,
            precisions=precisions,
            keep_fp32=tuple(keep_fp32 or ()),
            num_calibration_frames=calibration_frames,
            batch=_batch(batch),
            adaptive=adaptive,
            force=force,
            no_rgb=without_rgb,
            no_depth=without_depth,
            progress=progress,
        )
    manifest = summary.bundle.manifest
    if verbose:
        _print_comparisons(summary)
    for name, sensor in (("no_rgb", "RGB"), ("no_depth", "depth")):
        action = "predicts, with a warning" if getattr(manifest.degraded_mode, name) == "predict" else "abstains"
        say(f"without {sensor} live {action}: {manifest.degraded_mode.reason[name]}")
    if manifest.adaptive is not None:
        say(_adaptive_line(manifest.adaptive))
    built = build_and_report(out) if trt else None
    if as_json:
        from edgefuse.io.json_files import dumps

        report = {"bundle": str(out), "parity": manifest.parity, "degraded_mode": manifest.degraded_mode.to_json()}
        report |= {} if manifest.adaptive is None else {"adaptive": manifest.adaptive.to_json()}
        typer.echo(dumps(report if built is None else {**report, **summary_json(built)}))
    if built is None:
        say(f"bundle: {out}; next: edgefuse live {quoted(out)} --camera realsense")


def _adaptive_line(found: Adaptive) -> str:
    """What the suggested threshold gives, or that there is none."""
    from edgefuse.adaptive import MAX_LOSS

    where = f"on {found.num_pairs} validation pairs (complete model: {found.accuracy:.1%})"
    point = found.suggested
    if point is None:
        return f"adaptive: every threshold with which depth answers any pair loses more than {MAX_LOSS:.1%} {where}"
    return (
        f"adaptive: edgefuse live --adaptive {point.threshold:g} answers {point.from_depth:.0%} from depth alone, with an accuracy of "
        f"{point.accuracy:.1%} {where}"
    )


def _precisions(text: str) -> tuple[str, ...]:
    found = tuple(word.strip().lower() for word in text.split(",") if word.strip())
    unknown = [word for word in found if word not in MODEL_PRECISIONS]
    if unknown or not found:
        raise typer.BadParameter(
            f"got {text!r}: some of {','.join(MODEL_PRECISIONS)} were expected", param_hint="--precision"
        )
    return found


def _batch(text: str) -> Batch:
    from edgefuse_export.onnx.torch_to_onnx import MAX_BATCH

    if text == "dynamic":
        return "dynamic"
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:6]) <= MAX_BATCH):
        raise typer.BadParameter(f"got {text!r}: 1 to {MAX_BATCH}, or dynamic, was expected", param_hint="--batch")
    return int(text)


def _print_comparisons(summary: ExportSummary) -> None:
    """Print the tables of comparisons to standard error, because standard output is for the JSON result."""
    from edgefuse.io.text import new_console
    from edgefuse_export.onnx.activation_statistics import describe

    console = new_console(sys.stderr)
    for reports in summary.reports.values():
        for report in reports:
            console.print(_table(report))
            if report.activations:
                console.print(f"  {describe(report.activations)}")


def _table(report: ParityReport) -> Any:
    from rich.box import SIMPLE

    from edgefuse.io.text import new_table

    table = new_table(
        title=f"{report.candidate}\nagainst {report.reference}",
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("input", no_wrap=True)
    for heading in ("frames", "|dp|", "p99 |dp|", "flips", "near-\nties", "|dgate|", "dist.\nmm"):
        table.add_column(heading, justify="right", no_wrap=True)
    for case in (*report.cases, report.together):
        table.add_row(
            case.name,
            str(case.num_samples),
            f"{case.max_probability_difference:.1e}",
            f"{case.p99_probability_difference:.1e}",
            str(case.top1_flips),
            str(case.near_tie_flips),
            f"{case.max_gate_difference:.1e}",
            "" if case.max_nearest_difference_m is None else f"{1000 * case.max_nearest_difference_m:.2f}",
        )
    limits = report.tolerance
    p99 = limits.probability if limits.p99_probability is None else limits.p99_probability
    table.add_section()
    flips = str(limits.num_flips(report.together.num_samples))
    allowed = (
        f"{limits.probability:.1e}",
        f"{p99:.1e}",
        flips,
        "",
        f"{limits.gate:.1e}",
        f"{1000 * limits.nearest_m:.2f}",
    )
    table.add_row("allowed", "", *allowed)
    return table
