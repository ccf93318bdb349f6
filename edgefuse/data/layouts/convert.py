"""Convert another layout to a data set folder.

Owns the list of layouts, with the reader and the options of each; the command line calls `convert`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from edgefuse.data.description import DATASET_NAME, UNITS_M, describe, stated
from edgefuse.data.layouts import bu3dfe, npy, pairs, tum, washington
from edgefuse.data.layouts.source import Converted, Source, write_source
from edgefuse.errors import UserError
from edgefuse.io.files import real_path
from edgefuse.io.text import name_problem, printable
from edgefuse.progress import Progress, no_progress

Layout = Literal["washington", "bu3dfe", "pairs", "npy", "tum"]

_OPTIONS: dict[str, tuple[str, ...]] = {
    "washington": ("samples", "seed", "masked"),
    "bu3dfe": ("neutral", "levels", "size"),
    "pairs": ("unit", "sequence_pattern"),
    "npy": ("unit", "sequence_pattern"),
    "tum": ("unit", "label", "sequence"),
}


def convert(  # long: the options of every layout, declared and passed on
    source: Path,
    out: Path,
    *,
    layout: str,
    unit: str | None = None,
    sequence_pattern: str | None = None,
    label: str | None = None,
    sequence: str | None = None,
    samples: int | None = None,
    seed: int | None = None,
    masked: bool = False,
    neutral: bool = False,
    levels: Sequence[int] | None = None,
    size: int | None = None,
    skip_bad: bool = False,
    strict: bool = False,
    progress: Progress = no_progress,
) -> Converted:
    """Read `source` in its layout and write the data set folder `out` atomically.

    Options are those of `read_washington`, `read_bu3dfe`, `read_pairs`, `read_npy` and `read_tum`; an option of another layout
    is refused. `unit` is m, cm, mm, um or metres per depth code. A `dataset.json` of the source is carried over.

    Raises:
        UserError: an unknown layout or option, a source in another layout, or bad pairs (all are listed).
    """
    if layout not in get_args(Layout):
        raise UserError(f"unknown layout {layout!r}: one of {', '.join(get_args(Layout))} was expected")
    options: dict[str, Any] = {
        "unit": unit,
        "sequence_pattern": sequence_pattern,
        "label": label,
        "sequence": sequence,
        "samples": samples,
    }
    options |= {
        "seed": seed,
        "masked": masked or None,
        "neutral": neutral or None,
        "levels": levels or None,
        "size": size,
    }
    given = {name: value for name, value in options.items() if value is not None}
    foreign = [f"--{name.replace('_', '-')}" for name in given if name not in _OPTIONS[layout]]
    if foreign:
        known = ", ".join(f"--{name.replace('_', '-')}" for name in _OPTIONS[layout])
        raise UserError(f"{' and '.join(foreign)} cannot be used with --layout {layout}, which has {known}")
    if real_path(out) == real_path(source) or real_path(source).is_relative_to(real_path(out)):
        raise UserError(f"the output {out} would replace the source {source}: choose another name")
    found = READERS[layout](source, given)
    origin = {"layout": layout, "folder": real_path(source).name, **given, **found.origin}
    found = replace(_as_described(found, source, origin) if "unit" in _OPTIONS[layout] else found, origin=origin)
    return write_source(found, out, skip_bad=skip_bad, strict=strict, progress=progress)


def _as_described(found: Source, source: Path, origin: dict[str, Any]) -> Source:
    """Carry over the fields of the source's `dataset.json` except the unit. Adds its `source` to `origin`."""
    description, known = describe(source), stated(source)
    before = known.pop("source", None)
    if before is not None:
        origin["source"] = before
        if isinstance(before, Mapping) and "trials" in before:
            origin["trials"] = before["trials"]
    carried = {name: value for name, value in known.items() if name in ("camera", "created_by", "labels")}
    return replace(found, align=description.align, region=description.region, carried=carried)


def unit_in_metres(text: str) -> float:
    """Metres per depth code: "mm", "cm", "m", "um", or a number such as 0.0002.

    Raises:
        UserError: neither.
    """
    try:
        unit_m = UNITS_M[text] if text in UNITS_M else float(text)
    except ValueError:
        unit_m = float("nan")
    if not 1e-6 <= unit_m <= 1.0:
        raise UserError(
            f"the depth unit is {text!r}: one of {', '.join(UNITS_M)}, or metres per depth code such as 0.0002, was expected"
        )
    return unit_m


def _read_washington(source: Path, given: dict[str, Any]) -> Source:
    return washington.read_washington(
        source, num_samples=given.get("samples"), seed=given.get("seed", 0), masked=given.get("masked", False)
    )


def _read_bu3dfe(source: Path, given: dict[str, Any]) -> Source:
    return bu3dfe.read_bu3dfe(
        source,
        neutral=given.get("neutral", False),
        levels=given.get("levels", bu3dfe.LEVELS),
        size_px=given.get("size", bu3dfe.SIZE_PX),
    )


def _read_pairs(source: Path, given: dict[str, Any]) -> Source:
    unit_m = _unit(source, given)
    return pairs.read_pairs(
        source, unit_m=_code_unit(unit_m, default_m=UNITS_M["mm"]), sequence_pattern=given.get("sequence_pattern")
    )


def _read_npy(source: Path, given: dict[str, Any]) -> Source:
    return npy.read_npy(source, unit_m=_unit(source, given), sequence_pattern=given.get("sequence_pattern"))


def _read_tum(source: Path, given: dict[str, Any]) -> Source:
    label = given.get("label", "")
    for option, name in (("--label", label), ("--sequence", given.get("sequence", label))):
        problem = name_problem(name)
        if problem:
            raise UserError(
                f"{option} is {printable(name)!r}: {problem}; a plain name for the sequence's class was expected, such as --label mug"
            )
    unit_m = _code_unit(_unit(source, given), default_m=tum.TUM_UNIT_M)
    return tum.read_tum(source, label=label, sequence=given.get("sequence"), unit_m=unit_m)


def _unit(source: Path, given: dict[str, Any]) -> float | None:
    """Metres per depth code: `--unit`, or from the source's `dataset.json`; None without both.

    Raises:
        UserError: they contradict each other.
    """
    option_m = unit_in_metres(given["unit"]) if "unit" in given else None
    if not source.is_dir():
        return option_m
    description = describe(source)
    if "depth_unit_m" not in stated(source):
        return option_m
    if option_m is not None and abs(option_m - description.depth_unit_m) > 1e-6 * option_m:
        raise UserError(
            f"--unit is {given['unit']}, but {source / DATASET_NAME} has {description.depth_unit_m:g} m per depth code: leave "
            "--unit out, or correct the file"
        )
    return description.depth_unit_m


def _code_unit(unit_m: float | None, *, default_m: float) -> float:
    """The unit of 16-bit codes, at most 0.1 m, which `dataset.json` records."""
    unit_m = default_m if unit_m is None else unit_m
    if unit_m > 0.1:
        raise UserError(
            f"the depth unit is {unit_m:g} m: 16-bit codes of at most 0.1 m were expected, such as --unit mm"
        )
    return unit_m


READERS: dict[str, Callable[[Path, dict[str, Any]], Source]] = {
    "washington": _read_washington,
    "bu3dfe": _read_bu3dfe,
    "pairs": _read_pairs,
    "npy": _read_npy,
    "tum": _read_tum,
}
