"""edgefuse export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgefuse.cli.options import AsJson, Force
from edgefuse.fallback import Answer

_ANSWERS: dict[str | None, Answer] = {"label": "label", "no-decision": "no_decision"}


def export(  # long: each option is a parameter
    run: Annotated[Path, typer.Argument(help="A run, as edgefuse train leaves it.")],
    out: Annotated[Path, typer.Option(help="The bundle folder to make.")],
    trt: Annotated[
        bool, typer.Option("--trt", help="Then build the TensorRT engine, as edgefuse build BUNDLE does.")
    ] = False,
    without_rgb: Annotated[
        Literal["label", "no-decision"] | None,
        typer.Option(help="What live reports while RGB is dead. Default: by the run's held-out accuracy without it."),
    ] = None,
    without_depth: Annotated[
        Literal["label", "no-decision"] | None,
        typer.Option(help="What live reports while depth is dead. Default: by the run's held-out accuracy without it."),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Export a run to a bundle: an ONNX file that carries its input contract, checked against the torch model.

    Where its answers differ from the model's, no bundle is written.
    """
    from edgefuse.cli.build import build_and_say, check_build
    from edgefuse.errors import require

    if trt:
        check_build()
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        require(package, extra="runtime" if package == "onnxruntime" else "export")
    from edgefuse.cli.progress import say
    from edgefuse_export.export import export_run

    summary = export_run(run, out, force=force, no_rgb=_ANSWERS.get(without_rgb), no_depth=_ANSWERS.get(without_depth))
    fallback = summary.bundle.manifest.fallback
    if as_json:
        import json

        typer.echo(json.dumps({"bundle": str(out), "parity": summary.parity.to_json(), "fallback": fallback.to_json()}))
    say(f"{summary.parity.candidate} against {summary.parity.reference}:")
    say(f"  {'input':<24}{'samples':>8}{'max |dp|':>12}{'flips':>7}{'max |dgate|':>13}")
    for case in summary.parity.cases:
        say(
            f"  {case.name:<24}{case.num_samples:>8}{case.max_probability_difference:>12.1e}{case.top1_flips:>7}"
            f"{case.max_gate_difference:>13.1e}"
        )
    for name, sensor in (("no_rgb", "RGB"), ("no_depth", "depth")):
        answer = "the label and a warning" if getattr(fallback, name) == "label" else "no decision"
        say(f"with {sensor} dead live reports {answer}: {fallback.reason[name]}")
    if trt:
        build_and_say(out)
        return
    say(f"bundle: {out}; next: edgefuse live {out} --camera realsense")
