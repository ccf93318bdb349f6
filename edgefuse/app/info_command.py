"""edgefuse info: shows what `info.describe` found."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefuse.console.options import AsJson
from edgefuse.io.text import new_console, printable, quoted, some_of

COLUMN = 16
MAX_ROWS = 20
NEXT = "next"
PARTS = {"both": "with both sensors", "no_rgb": "without RGB", "no_depth": "without depth"}

Row = tuple[str, str]
"""A title, and its text: one paragraph for each line."""


def info(
    path: Annotated[Path, typer.Argument(help="A bundle, run or data set folder, or a recording (.db3, .bag).")],
    as_json: AsJson = False,
) -> None:
    """Show what a bundle, run, recording or data set contains, without loading it.

    Exit code 1 if it is none of them, or if a file of it is damaged.
    """
    from edgefuse.app.info import describe
    from edgefuse.io.json_files import dumps
    from edgefuse.io.text import say

    found = describe(path)
    if as_json:
        typer.echo(dumps(found))
    else:
        _show(found)
    for problem in found.get("problems", ()):
        say(f"error: {problem}")
    if found.get("problems"):
        raise typer.Exit(1)


def _show(found: Mapping[str, Any]) -> None:
    console = new_console()
    rows = {"bundle": _bundle, "run": _run, "recording": _recording, "data set": _data_set}[found["kind"]](found)
    console.print(
        printable(f"{found['kind']} {found['path']}, {_bytes(found['num_bytes'])}"), style="bold", soft_wrap=True
    )
    for title, text in rows:
        for number, paragraph in enumerate(text.splitlines()):
            console.print(f"  {title if not number else '':<{COLUMN - 2}}", style="cyan", end="")
            # A command is not wrapped, so that it can be copied.
            width = max(20, console.width - COLUMN) if title != NEXT else len(paragraph)
            lines = textwrap.wrap(printable(paragraph), width, break_long_words=False, break_on_hyphens=False)
            console.print(f"\n{' ' * COLUMN}".join(lines), soft_wrap=True)


def _bundle(found: Mapping[str, Any]) -> Iterator[Row]:
    yield from _model_rows(found)
    batch = found["batch_size"]
    yield "batch", "any number of pairs" if batch is None else _of(batch, "pair")
    if found["region"]:
        yield "region", found["region"]
    mode = found["degraded_mode"]
    yield "sensor missing", f"without RGB: {mode['no_rgb']}; without depth: {mode['no_depth']}"
    yield "files", "\n".join(map(_file, found["files"]))
    engines = [
        f"{one['name']}: {one['engine']} {one['library_version']}, {one['precision']}, {one['device']} "
        f"({one['compute_capability']}), batch {one['batch_size']}"
        for one in found["engines"]
    ]
    yield "engines", "\n".join(engines) or "none built"
    on_cpu = found["cpu_engines"]
    yield "on this CPU", f"{', then '.join(on_cpu['words'])}; {on_cpu['reason']}"
    yield "versions", _versions(found)
    yield NEXT, f"edgefuse live {quoted(found['path'])}"


def _run(found: Mapping[str, Any]) -> Iterator[Row]:
    yield from _model_rows(found)
    epochs = found["epochs"]
    planned = f" of {epochs['planned']}" if epochs["planned"] else ""
    kept = f", epoch {epochs['kept']} kept" if epochs["kept"] else ""
    yield "epochs", f"{epochs['done'] or 0}{planned}{kept}, seed {found['seed']}"
    yield "files", "\n".join(f"{file['name']}  {_bytes(file['num_bytes'])}" for file in found["files"])
    yield "versions", _versions(found)
    yield NEXT, f"edgefuse export {quoted(found['path'])} --out BUNDLE"


def _model_rows(found: Mapping[str, Any]) -> Iterator[Row]:
    labels, contract, model = found["labels"], found["contract"], found["model"]
    yield "labels", f"{len(labels)}: {some_of(labels, most=MAX_ROWS)}"
    parts = [f"RGB {model.get('rgb')}", f"depth {model.get('depth')}"]
    yield "model", f"fusion {model.get('fusion')}, {', '.join(parts)}"
    side = contract["size"]
    yield (
        "inputs",
        (
            f"rgb uint8 [N, {side}, {side}, 3]; depth uint8 [N, {side}, {side}, 2], {contract['near_m']:g} to "
            f"{contract['far_m']:g} m; aligned to {contract['align']}"
        ),
    )
    accuracy = found["accuracy"]
    if accuracy:
        scores = ", ".join(f"{accuracy[name]:.1%} {text}" for name, text in PARTS.items() if name in accuracy)
        yield "accuracy", f"{scores} ({accuracy['num_pairs']} {accuracy['part']} pairs)"
    else:
        yield "accuracy", "not measured"
    data = found["data"]
    if data:
        counts = [f"{data[f'num_{part}'] or 0} {part}" for part in ("train", "validation", "test")]
        yield "trained on", f"{', '.join(counts)} pairs from {', '.join(data['roots'] or ['unknown'])}"


def _recording(found: Mapping[str, Any]) -> Iterator[Row]:
    device = found["device"]
    yield "camera", f"{device.get('Name', 'unknown')}, serial {device.get('Serial Number', 'unknown')}"
    yield "firmware", device.get("Firmware Version", "unknown")
    yield "duration", f"{found['duration_s']:.2f} s"
    streams = []
    for stream in found["streams"]:
        rate = f" at {stream['rate']}/s" if stream["rate"] else ""
        streams.append(
            f"{stream['name']}: {_of(stream['frames'], 'frame')}, {stream['size'] or ''} {stream['format'] or ''}{rate}"
        )
    yield "streams", "\n".join(streams)
    if found["depth_unit_m"]:
        yield "depth unit", f"{1000 * found['depth_unit_m']:g} mm"
    yield NEXT, f"edgefuse live BUNDLE --camera {quoted(found['path'])}"


def _data_set(found: Mapping[str, Any]) -> Iterator[Row]:
    classes = found["classes"]
    yield "pairs", f"{found['num_pairs']} in {_of(found['num_sequences'], 'sequence')} and {_of(len(classes), 'class')}"
    width = max((len(one["label"]) for one in classes), default=0)
    lines = [
        f"{one['label']:<{width}}  {_of(one['pairs'], 'pair')}, {_of(one['sequences'], 'sequence')}" for one in classes
    ]
    more = [f"and {len(lines) - MAX_ROWS} more; --json lists all"] if len(lines) > MAX_ROWS else []
    yield "classes", "\n".join([*lines[:MAX_ROWS], *more])
    yield "first pair", found["first_size"] or "cannot be read"
    yield "depth unit", f"{1000 * found['depth_unit_m']:g} mm, aligned to {found['align']}"
    if found["region"]:
        yield "region", found["region"]
    if found["num_bad"]:
        yield "bad pairs", f"{found['num_bad']}: edgefuse data check {quoted(found['path'])}"
    if found["warnings"]:
        yield "warnings", "\n".join(found["warnings"])
    yield NEXT, f"edgefuse train {quoted(found['path'])} --out RUN"


def _file(file: Mapping[str, Any]) -> str:
    difference = file["max_probability_difference"]
    compared = "" if difference is None else f", at most {difference:.1e} from PyTorch"
    state = "damaged" if file["problem"] else "intact"
    return f"{file['name']}: {file['precision']}, {_bytes(file['num_bytes'])}, {state}{compared}"


def _of(number: int, noun: str) -> str:
    """ "1 pair", "2 pairs", "3 classes"."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def _versions(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found["versions"].items()) or "unknown"


def _bytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 50_000 else f"{number} bytes"
