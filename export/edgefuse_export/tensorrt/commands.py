"""edgefuse build and edgefuse lint-onnx"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.console.options import AsJson, BundleFolder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgefuse_export.tensorrt.build import BuildSummary
    from edgefuse_export.tensorrt.build_options import BuildOptions
    from edgefuse_export.tensorrt.lint import Readiness

Reference = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Do not build: write the sample frames and expected outputs into DIR for trtexec and Polygraphy, and print the "
        "commands that compare. Needs no GPU. With --force, DIR is replaced if it has only files of this option.",
    ),
]

WorkspaceMib = Annotated[
    int,
    typer.Option(
        min=1, max=1 << 20, help="Limit for the scratch memory of one layer, in MiB. Lower it if GPU memory is short."
    ),
]
EngineToBuild = Annotated[
    str,
    typer.Option(
        help="tensorrt: for the GPU of this machine. rtx: TensorRT-RTX, for desktop and workstation GPUs, on any machine."
    ),
]
Targets = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="GPUS",
        help="With --engine rtx: GPUs to build for, such as sm86,sm89,sm120, or current. Default: the GPU of this machine; "
        "without one, all but sm75.",
    ),
]


def build(
    bundle: BundleFolder,
    precision: Annotated[str, typer.Option(help="fp16, int8 (kept only if faster than fp16) or fp32.")] = "fp16",
    workspace_mib: WorkspaceMib = 1024,
    optimization_level: Annotated[
        int, typer.Option(min=0, max=5, help="0: shortest build. 5: longest search for a fast engine.")
    ] = 3,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Regions in one engine run. Default: the batch of the bundle, or 1 if it is dynamic."
        ),
    ] = None,
    engine: EngineToBuild = "tensorrt",
    targets: Targets = None,
    force: Annotated[bool, typer.Option("--force", help="Build again even if the bundle has the engine.")] = False,
    reference: Reference = None,
    as_json: AsJson = False,
) -> None:
    """Build a TensorRT engine of a bundle for the GPU and the TensorRT version of this machine.

    The engine is stored in BUNDLE/engines, and built again only if something
    that it depends on has changed. An engine is discarded if it does not run
    in the requested precision, or if its outputs differ from the bundle's.
    With --engine rtx it is built for any desktop GPU, here or on another
    machine; without a GPU, live compares the outputs at its first start.
    """
    from edgefuse_export.tensorrt.build_options import ENGINES, PRECISIONS, BuildOptions

    for value, known, option in ((precision, PRECISIONS, "--precision"), (engine, ENGINES, "--engine")):
        if value not in known:
            raise typer.BadParameter(f"{value!r} is none of {', '.join(known)}", param_hint=option)
    options = BuildOptions(
        precision=precision,
        workspace_mib=workspace_mib,
        optimization_level=optimization_level,
        batch_size=batch,
        force=force,
        engine=engine,
        targets=tuple(targets.split(",")) if targets is not None else (),
    )
    if reference is not None:
        _write_reference(bundle, reference, options, as_json=as_json)
        return
    summary = build_and_report(bundle, options)
    if as_json:
        from edgefuse.io.json_files import dumps

        typer.echo(dumps({"bundle": str(bundle), **summary_json(summary)}))


def _write_reference(bundle: Path, out: Path, options: BuildOptions, *, as_json: bool) -> None:
    """Write reference data; the commands, on standard output, are a shell script."""
    if options.engine != "tensorrt":
        raise typer.BadParameter(
            "trtexec and Polygraphy run TensorRT on this machine's GPU: leave out --engine and --for",
            param_hint="--reference",
        )
    from edgefuse.io.json_files import dumps
    from edgefuse.io.text import quoted, say, write_line
    from edgefuse_export.tensorrt.reference_data import write_reference

    written = write_reference(bundle, out, options)
    say(f"{out}: {written.num_batches} batch(es) of {written.batch_size}; no engine was built. Commands that compare:")
    if as_json:
        typer.echo(dumps({**vars(written), "folder": str(out)}))
        return
    write_line(f"cd {quoted(out)}", sys.stdout)
    for runner, command in written.commands.items():
        write_line(f"\n# {runner}\n{command}", sys.stdout)


def check_build() -> None:
    """Check, before a long export, that this machine can build."""
    from edgefuse_export.tensorrt.build import check_machine

    check_machine()


def build_and_report(bundle: Path, options: BuildOptions | None = None) -> BuildSummary:
    """Build with a progress bar, and print the result; also the last step of `edgefuse export --trt`.

    Args:
        options: default: FP16 and TensorRT's default settings.
    """
    from edgefuse.console.progress import counting
    from edgefuse.io.text import say
    from edgefuse_export.tensorrt.build import build_engine
    from edgefuse_export.tensorrt.build_options import BuildOptions

    options = BuildOptions() if options is None else options
    with counting(f"building {options.precision}", unit="%") as progress:
        summary = build_engine(bundle, options, progress=progress)
    if not summary.built:
        say(f"{bundle / summary.record.name} is up to date (--force builds it again)")
    for name, text in engine_in_words(bundle, summary):
        say(f"{name:<9}{text}")
    return summary


def engine_in_words(folder: Path, summary: BuildSummary) -> list[tuple[str, str]]:
    """The rows of the printed table: name and text."""
    from edgefuse.io.text import quoted
    from edgefuse_export.tensorrt.build_options import ENGINES
    from edgefuse_export.tensorrt.inspect_engine import in_words
    from edgefuse_runtime.engines.build_command import sm_name

    record, details = summary.record, summary.record.details
    key, is_rtx = record.key, record.key.engine == "rtx"
    targets = ", ".join(map(sm_name, key.compute_capabilities))
    onnx_bytes = summary.bundle.manifest.files[record.onnx_file].num_bytes
    size = f"{record.num_bytes / 1e6:.2f} MB, {record.num_bytes / onnx_bytes:.2f} times {record.onnx_file}"
    rows = [
        ("library", f"{ENGINES[key.engine].name} {key.tensorrt_version}"),
        ("targets", targets if is_rtx else f"{targets}, {key.device_name}"),
        ("file", str(folder / record.name)),
        ("size", f"{size} ({onnx_bytes / 1e6:.2f} MB)"),
        ("parsed", in_words(details.get("parsed_layers") or {})),
    ]
    if details.get("layers"):
        rows.append(("layers", ", ".join(f"{number} {kind}" for kind, number in details["layers"].items())))
    rows.append(("built", f"in {details['build_s']} s"))
    for case in (details.get("parity") or {}).get("cases", ()):
        figures = f"{case['num_samples']:>8}{case['max_probability_difference']:>12.1e}{case['top1_flips']:>7}"
        rows.append(("outputs", f"{case['name']:<24}{figures}"))
    rows += [("note", note) for note in details.get("notes", ())]
    where = "" if details.get("parity") else "on a machine with one of these GPUs: "
    return [
        *rows,
        ("next", f"{where}edgefuse live {quoted(folder)} {'--engine rtx' if is_rtx else '--camera realsense'}"),
    ]


def summary_json(summary: BuildSummary) -> dict[str, object]:
    """The JSON result: the record of the engine, its size relative to the ONNX file, and whether it was built now."""
    record = summary.record
    ratio = record.num_bytes / summary.bundle.manifest.files[record.onnx_file].num_bytes
    return {
        "built": summary.built,
        "reason": summary.reason,
        "engine": record.to_json(),
        "times_onnx_size": round(ratio, 3),
        "int8_timing": summary.int8_timing.to_json() if summary.int8_timing else None,
    }


def lint_onnx(
    files: Annotated[list[Path], typer.Argument(help="ONNX files, in a bundle or anywhere else.")],
    as_json: AsJson = False,
) -> None:
    """Check whether TensorRT takes a file: NVIDIA's parser first, then edgefuse's own rules.

    The parser is that of tensorrt or tensorrt_rtx, if one can be imported;
    tensorrt_rtx needs no GPU. Otherwise lists of its operators are used, and
    the output says so. Nothing is built. A file of a bundle is also compared
    with its manifest. Exit code 1 if any file has problems.
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
            for line in _lint_lines(name, readiness):
                write_line(line, sys.stdout)
    if any(readiness.problems for readiness in found.values()):
        raise typer.Exit(1)


def _lint_lines(name: str, found: Readiness) -> Iterator[str]:
    """The parser's verdict, the project's rules, then the conclusion."""
    answer = "refused" if found.refusals else "accepted"
    yield f"{name}: {answer} by {found.against}" + ("; nothing was built" if found.verdict else "")
    yield from (f"  {problem}" for problem in found.refusals)
    yield f"  edgefuse's own rules: {len(found.broken_rules) or 'no'} problem{'s' * (len(found.broken_rules) > 1)}"
    yield from (f"    {problem}" for problem in found.broken_rules)
    yield from (f"  note: {note}" for note in found.notes)
    ready = "ready, once its batch is fixed" if found.open_batch else "ready"
    yield f"  {'not ready' if found.problems else ready}"
