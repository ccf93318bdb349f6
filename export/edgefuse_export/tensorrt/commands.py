"""edgefuse build"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.console.options import AsJson, BundleFolder

if TYPE_CHECKING:
    from edgefuse_export.tensorrt.build import BuildOptions, BuildSummary


def build(
    bundle: BundleFolder,
    precision: Annotated[str, typer.Option(help="fp16, int8 or fp32.")] = "fp16",
    workspace_mib: Annotated[
        int,
        typer.Option(
            min=1, max=1 << 20, help="Most scratch memory of one layer, in MiB. Less where GPU memory is short."
        ),
    ] = 1024,
    optimization_level: Annotated[
        int, typer.Option(min=0, max=5, help="0: quick to build. 5: quick to run, if it finds something.")
    ] = 3,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Pairs in one run. Default: as the bundle was exported, 1 where its batch is dynamic."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build even if the bundle has the engine already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build a TensorRT engine of a bundle for the GPU and the TensorRT of this machine.

    It is kept in BUNDLE/engines and built again only when something it depends on has changed. An engine that does not run
    in its precision, or gives other answers than the bundle, is not kept.
    """
    from edgefuse_export.tensorrt.build import PRECISIONS, BuildOptions

    if precision not in PRECISIONS:
        raise typer.BadParameter(f"{precision!r} is none of {', '.join(PRECISIONS)}", param_hint="--precision")
    options = BuildOptions(
        precision=precision,
        workspace_mib=workspace_mib,
        optimization_level=optimization_level,
        batch_size=batch,
        force=force,
    )
    summary = build_and_say(bundle, options)
    if as_json:
        from edgefuse.io.json_files import dumps

        typer.echo(dumps({"bundle": str(bundle), **summary_json(summary)}))


def check_build() -> None:
    """Find out before a long export whether this machine can build at all."""
    from edgefuse_export.tensorrt.build import check_machine

    check_machine()


def build_and_say(bundle: Path, options: BuildOptions | None = None) -> BuildSummary:
    """Build with progress, and say what came of it; `edgefuse export --trt` ends with this.

    Args:
        options: default: FP16 and TensorRT's own settings.
    """
    from edgefuse.console.progress import counting
    from edgefuse.io.text import quoted, say
    from edgefuse_export.tensorrt.build import BuildOptions, build_engine

    options = BuildOptions() if options is None else options
    with counting(f"building {options.precision}", unit="%") as progress:
        summary = build_engine(bundle, options, progress=progress)
    details = summary.record.details
    layers = ", ".join(f"{number} {kind}" for kind, number in details["layers"].items())
    if not summary.built:
        say(f"engine: {bundle / summary.record.name} is up to date (--force builds it again); layers: {layers}")
        return summary
    say(f"layers: {layers}; built in {details['build_s']} s")
    for case in details["parity"]["cases"]:
        say(
            f"  {case['name']:<24}{case['num_samples']:>8}{case['max_probability_difference']:>12.1e}{case['top1_flips']:>7}"
        )
    say(f"engine: {bundle / summary.record.name}; next: edgefuse live {quoted(bundle)} --camera realsense")
    return summary


def summary_json(summary: BuildSummary) -> dict[str, object]:
    """What a script reads: the record of the engine, and whether it was built now."""
    return {"built": summary.built, "reason": summary.reason, "engine": summary.record.to_json()}


def lint_onnx(
    files: Annotated[list[Path], typer.Argument(help="ONNX files; of a bundle or from anywhere else.")],
    as_json: AsJson = False,
) -> None:
    """Ask, offline, whether TensorRT's ONNX parser would take a file: operators, types, shapes, uint8 inputs, outputs.

    It compares with the parser's own lists and builds nothing; a bundle's file is held against its manifest, too. Exit code 1
    when any file would be refused.
    """
    from edgefuse.bundle import check_file_in_bundle
    from edgefuse.io.json_files import dumps
    from edgefuse.io.text import write_line
    from edgefuse_export.tensorrt.lint import check_file

    for file in files:
        check_file_in_bundle(file)
    found = {str(file): check_file(file) for file in files}
    if as_json:
        typer.echo(dumps({name: readiness.to_json() for name, readiness in found.items()}))
    else:
        for name, readiness in found.items():
            verdict = f"{len(readiness.problems)} problem(s)" if readiness.problems else "ready"
            if readiness.open_batch and not readiness.problems:
                verdict = "ready, once its batch is fixed"
            write_line(f"{name}: {verdict}, by {readiness.against}; TensorRT itself was not asked", sys.stdout)
            for line in (*map(str, readiness.problems), *(f"note: {note}" for note in readiness.notes)):
                write_line(f"  {line}", sys.stdout)
    if any(readiness.problems for readiness in found.values()):
        raise typer.Exit(1)
