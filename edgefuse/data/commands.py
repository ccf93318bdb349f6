"""edgefuse data convert, and edgefuse data check."""

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
    SkipBad,
    Strict,
)
from edgefuse.console.usage import checked_png

if TYPE_CHECKING:
    from edgefuse.data.check import Report


def convert(  # long: the options of every layout, declared and passed on
    source: Annotated[Path, typer.Argument(help="The data in its own layout.")],
    out: Annotated[Path, typer.Argument(help="The data set folder to make.")],
    layout: Annotated[str, typer.Option(help="washington, bu3dfe, pairs, npy or tum.")],
    unit: Annotated[
        str | None,
        typer.Option(help="Depth unit of pairs, npy, tum: m, cm, mm, um, or metres of one code such as 0.0002."),
    ] = None,
    sequence_pattern: Annotated[
        str | None,
        typer.Option(
            help="pairs, npy without sequence folders: regular expression whose first group is the sequence's name."
        ),
    ] = None,
    label: Annotated[str | None, typer.Option(help="tum: the class of the sequence.")] = None,
    sequence: Annotated[str | None, typer.Option(help="tum: name of the sequence. Default: the folder's name.")] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_PAIRS, help="washington: this many pairs, evenly over categories; the paper took 4500."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="washington: which samples. Default: 0.")
    ] = None,
    masked: Annotated[bool, typer.Option("--masked", help="washington: nothing but the object, by its mask.")] = False,
    neutral: Annotated[bool, typer.Option("--neutral", help="bu3dfe: with the neutral faces as a class.")] = False,
    levels: Annotated[
        list[int] | None, typer.Option("--levels", min=1, max=4, help="bu3dfe: an intensity to take. Repeatable.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=32, max=1024, help="bu3dfe: side in pixels. Default: 256.")] = None,
    skip_bad: SkipBad = False,
    strict: Strict = False,
    force: Force = False,
) -> None:
    """Bring a data set of another layout into the folder layout."""
    from edgefuse.console.progress import counting
    from edgefuse.data.dataset import DATASET_NAME
    from edgefuse.data.description import is_made_by_command
    from edgefuse.data.layouts.convert import convert as bring
    from edgefuse.data.layouts.source import LEFT_OUT_NAME
    from edgefuse.data.pairing import MAX_LINES
    from edgefuse.io.files import refuse_existing
    from edgefuse.io.text import quoted, say

    refuse_existing(out, force=force, marker=DATASET_NAME, is_ours=is_made_by_command)
    with counting("converting", unit="pairs") as on_progress:
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
            on_progress=on_progress,
        )
    for warning in done.warnings:
        say(f"warning: {warning}")
    for note in done.notes:
        say(f"note: {note}")
    for problem in done.left_out[:MAX_LINES]:
        say(f"left out: {problem}")
    if len(done.left_out) > MAX_LINES:
        say(f"left out: {len(done.left_out) - MAX_LINES} more; {out / LEFT_OUT_NAME} names all")
    say(f"data set: {out}, {done.num_pairs} pairs; next: edgefuse data check {quoted(out)}")


def check(
    data: DataFolders,
    montage: Annotated[
        Path | None, typer.Option(help="Write this PNG: a few pairs of each class, RGB above depth.")
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="Near-duplicates count across: instance, or an expression whose first group names the group: '^(s\\d+)_'."
        ),
    ] = "sequence",
    near: NearM = None,
    far: FarM = None,
    strict: Strict = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Report counts, sizes, depth, near-duplicates between instances, and bad pairs; exit code 1 where there are bad ones."""
    from edgefuse.console.progress import counting
    from edgefuse.contract import InputContract
    from edgefuse.data.check import check as look
    from edgefuse.data.check import montage as draw
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
    with counting("reading", unit="pairs") as on_progress:
        report, dataset = look(data, by=by, near_m=contract.near_m, far_m=contract.far_m, on_progress=on_progress)
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
    table = new_table("class", "pairs", "instances", "pairs of an instance")
    for count in report.classes:
        numbers = sorted(count.sequences.values()) or [0]
        table.add_row(count.label, str(count.pairs), str(len(count.sequences)), f"{numbers[0]} to {numbers[-1]}")
    console.print(table)
    units = ", ".join(f"{1000 * unit_m:g} mm" for unit_m in report.depth_unit_m)
    sizes = ", ".join(f"{size} ({number})" for size, number in list(report.sizes.items())[:5])
    lines = [
        f"{report.num_pairs} pairs, {report.num_groups} groups of instances, one depth code is {units}, aligned to {report.align}"
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
        lines.append(f"  ... and {len(report.problems) - most} more lines; --json has all")
    for line in lines:
        console.print(printable(line), soft_wrap=True)
