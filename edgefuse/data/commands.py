"""The commands edgefuse data convert and edgefuse data check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgefuse.console.options import (
    MAX_PAIRS,
    MAX_SEED,
    AsJson,
    DataFolders,
    FarM,
    Force,
    NearM,
    Person,
    SkipBad,
    Strict,
)
from edgefuse.console.usage import checked_png

if TYPE_CHECKING:
    from edgefuse.data.check import Report


def convert(  # long: declares the options of every layout
    source: Annotated[Path, typer.Argument(help="Data in another layout.")],
    out: Annotated[Path, typer.Argument(help="Data set folder to write.")],
    layout: Annotated[str, typer.Option(help="Layout of the source: washington, bu3dfe, pairs, npy or tum.")],
    unit: Annotated[
        str | None,
        typer.Option(help="pairs, npy, tum: depth unit: m, cm, mm, um, or metres per depth code such as 0.0002."),
    ] = None,
    sequence_pattern: Annotated[
        str | None,
        typer.Option(
            help="pairs, npy without sequence folders: regular expression on the file name; its first group names the sequence."
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="tum: class of the sequence.")] = None,
    sequence: Annotated[str | None, typer.Option(help="tum: name of the sequence. Default: the folder's name.")] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_PAIRS, help="washington: number of pairs, evenly over the categories; the paper used 4500."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="washington: random seed of --samples. Default: 0.")
    ] = None,
    masked: Annotated[
        bool, typer.Option("--masked", help="washington: set everything outside the object's mask to 0.")
    ] = False,
    neutral: Annotated[bool, typer.Option("--neutral", help="bu3dfe: include the neutral faces as a class.")] = False,
    levels: Annotated[
        list[int] | None,
        typer.Option("--levels", min=1, max=4, help="bu3dfe: intensity to include. Repeatable. Default: all."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=32, max=1024, help="bu3dfe: image side in pixels. Default: 256.")
    ] = None,
    skip_bad: SkipBad = False,
    strict: Strict = False,
    force: Force = False,
) -> None:
    """Convert a data set of another layout to the folder layout."""
    from edgefuse.console.progress import counting
    from edgefuse.data.dataset import DATASET_NAME
    from edgefuse.data.description import is_made_by_command
    from edgefuse.data.layouts.convert import convert as bring
    from edgefuse.data.layouts.source import LEFT_OUT_NAME
    from edgefuse.data.pairing import MAX_LINES
    from edgefuse.io.files import refuse_existing
    from edgefuse.io.text import quoted, say

    refuse_existing(out, force=force, marker=DATASET_NAME, is_ours=is_made_by_command)
    with counting("converting", unit="pairs") as progress:
        done = bring(
            source,
            out,
            layout=layout,
            unit=unit,
            sequence_pattern=sequence_pattern,
            label=label,
            sequence=sequence,
            samples=samples,
            seed=seed,
            masked=masked,
            neutral=neutral,
            levels=levels,
            size=size,
            skip_bad=skip_bad,
            strict=strict,
            progress=progress,
        )
    for warning in done.warnings:
        say(f"warning: {warning}")
    for note in done.notes:
        say(f"note: {note}")
    for problem in done.left_out[:MAX_LINES]:
        say(f"left out: {problem}")
    if len(done.left_out) > MAX_LINES:
        say(f"left out: {len(done.left_out) - MAX_LINES} more; {out / LEFT_OUT_NAME} lists all")
    say(f"data set: {out}, {done.num_pairs} pairs; next: edgefuse data check {quoted(out)}")


def check(
    data: DataFolders,
    montage: Annotated[
        Path | None, typer.Option(help="Write a PNG with a few pairs of each class, RGB above depth.")
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="Report near-duplicates between: sequence, or an expression whose first group names the group: '^(s\\d+)_'."
        ),
    ] = "sequence",
    person: Person = None,
    near: NearM = None,
    far: FarM = None,
    strict: Strict = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Report counts, sizes, depth, near-duplicates between sequences, and bad pairs. Exit code 1 if there are bad pairs."""
    from edgefuse.console.progress import counting
    from edgefuse.contract import InputContract
    from edgefuse.data.check import check as run_check
    from edgefuse.data.montage import montage as draw
    from edgefuse.data.pairing import MARK
    from edgefuse.errors import UserError
    from edgefuse.io.json_files import dumps
    from edgefuse.io.text import say

    try:
        given: dict[str, Any] = {"near_m": near, "far_m": far}
        contract = InputContract(size=128, **{name: value for name, value in given.items() if value is not None})
    except UserError as error:
        raise typer.BadParameter(str(error), param_hint="--near, --far") from error
    montage = checked_png(montage, option="--montage", force=force, data=data, mark=MARK)
    with counting("reading", unit="pairs") as progress:
        report, dataset = run_check(
            data, by=by, person=person, near_m=contract.near_m, far_m=contract.far_m, progress=progress
        )
    if as_json:
        typer.echo(dumps(report.to_json()))
    else:
        _print_report(report)
    if montage is not None:
        draw(dataset, montage)
        say(f"montage: {montage}")
    num_warnings = len(report.warnings) + bool(report.leaks)
    if strict and num_warnings:
        say(f"error: {num_warnings} warning(s), which --strict makes errors")
    if report.problems or (strict and num_warnings):
        raise typer.Exit(1)


def _print_report(report: Report, *, most: int = 20) -> None:

    from edgefuse.contract import MAX_DEPTH_CODE
    from edgefuse.io.text import new_console, new_table, printable

    console = new_console()
    table = new_table("class", "pairs", "sequences", "pairs per sequence")
    for count in report.classes:
        numbers = sorted(count.sequences.values()) or [0]
        table.add_row(count.label, str(count.pairs), str(len(count.sequences)), f"{numbers[0]} to {numbers[-1]}")
    console.print(table)
    units = ", ".join(f"{1000 * unit_m:g} mm" for unit_m in report.depth_unit_m)
    sizes = ", ".join(f"{size} ({number})" for size, number in list(report.sizes.items())[:5])
    lines = [
        f"{report.num_pairs} pairs, {report.num_groups} groups of sequences, one depth code is {units}, aligned to {report.align}"
    ]
    lines.append(f"sizes: {sizes}{f' and {len(report.sizes) - 5} more' if len(report.sizes) > 5 else ''}")
    if report.valid_depth:
        valid = report.valid_depth
        lines.append(
            f"valid depth: {valid['mean']:.1%} of the pixels, {valid['lowest']:.1%} in the worst pair, "
            f"none at all in {valid['pairs_without']:.0f} pair(s), code {MAX_DEPTH_CODE} in {valid['at_limit']:.1%}"
        )
    if report.depth_m:
        lines.append("depth: " + ", ".join(f"{name} {value:.3f} m" for name, value in report.depth_m.items()))
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines.append(f"near-duplicates across groups: {report.num_leaking} frame(s)")
    lines += [
        f"  {leak.groups[0]} and {leak.groups[1]}: {leak.frames} frame(s), such as {leak.first} and {leak.second} ({leak.correlation:.4f})"
        for leak in report.leaks[:most]
    ]
    if len(report.leaks) > most:
        lines.append(f"  ... and {len(report.leaks) - most} more pairs of groups")
    lines.append(f"bad pairs: {report.num_bad}")
    lines += [f"  {problem}" for problem in report.problems[:most]]
    if len(report.problems) > most:
        lines.append(f"  ... and {len(report.problems) - most} more lines; --json lists all")
    for line in lines:
        console.print(printable(line), soft_wrap=True)
