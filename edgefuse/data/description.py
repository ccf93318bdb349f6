"""`dataset.json`: the depth unit, alignment and region of a data set. Owns reading and writing it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from edgefuse.contract import DEPTH_UNIT_M, Align
from edgefuse.errors import UserError
from edgefuse.io.json_files import Optional, read_json, write_json
from edgefuse.io.text import printable, quoted

DATASET_NAME = "dataset.json"
FORMAT = 1
UNITS_M = {"m": 1.0, "cm": 0.01, "mm": 0.001, "um": 1e-6}
MIN_UNIT_M, MAX_UNIT_M = 1e-6, 0.1

_KEYS = ("format", "depth_unit_m", "align", "region")
_SPEC = {"format": Optional(int), "align": Optional(str), "region": Optional(str)}
_ALLOWED = re.compile(r"(source\.)+unit")
"""Written by `convert`: the unit given by the user. A conversion of a conversion has both."""

_REGION = re.compile(r"whole|center|nearest|file|-?\d{1,5},-?\d{1,5},[1-9]\d{0,4},[1-9]\d{0,4}")
_MEANT = {
    "format": ("version", "schema", "formatversion", "schemaversion", "fileversion", "datasetversion"),
    "region": ("roi", "crop", "cropped", "croproi", "cropbox", "roixywh", "bbox", "regionofinterest"),
    "align": ("registered", "registration", "registeredto", "register", "isregistered"),
}
"""Common synonyms of a field."""

_UNIT_WORDS = {"unit", "units", "scale", "scales", "scaling", "factor", "divisor", "multiplier", "lsb", "quantization"}
_UNIT_WORDS |= {
    "quantisation",
    "quantum",
    "disparity",
    "einheit",
    "einheiten",
    "unidad",
    "unidades",
    "massstab",
    "maßstab",
}
_OF_DEPTH = re.compile("depth|tiefe|profond|profundi|глубин|深度")
_DISPARITY = re.compile(r"(?:inverse|disparity)(?:[\W_]*(?:depth|map|image))?", re.IGNORECASE)
_OTHER_QUANTITIES = frozenset(
    re.findall(
        r"\w+",
        "test tests business temperature time angle angular exposure mass weight force pressure speed price currency processing gpu cpu "
        "imu gyro accel company organization color colour rgb gray grey brightness focal baseline height width distance length diameter "
        "radius size near far range min max position table object wavelength pixel pitch tolerance offset mean median std accuracy error "
        "noise altitude",
    )
)
"""A key with one of these words means another unit or another length."""
_UNIT_VALUES = ("um", "mm", "cm", "millimeter", "millimetre", "millimeters", "millimetres")
_LENGTH_WORDS = {"m", "cm", "mm", "um", "meter", "meters", "metre", "metres"} | {
    f"{prefix}{word}" for prefix in ("milli", "centi", "micro") for word in ("meter", "meters", "metre", "metres")
}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


@dataclass(frozen=True, kw_only=True)
class Description:
    """The pairs' description in `dataset.json`.

    Attributes:
        depth_unit_m: metres per depth code.
        align: the common view of the pairs: "color" or "depth".
        region: the recorded region, as in `--roi`, or "whole"; None if unknown.
    """

    depth_unit_m: float = DEPTH_UNIT_M
    align: Align = "color"
    region: str | None = None


def describe(root: Path) -> Description:
    """The description of the data set at `root`; the defaults without a `dataset.json`.

    Raises:
        UserError: `root` is not a folder; the description is invalid, or has a key that looks like a unit but is none; or it
            would be ignored, because its name differs in case or it is in the folder above only.
    """
    if not root.is_dir():
        raise UserError(
            f"{root} is not a folder: give a data set's root, or make one with edgefuse data synth {quoted(root)}"
        )
    path = root / DATASET_NAME
    if os.path.lexists(path):
        return _parsed(path)
    try:
        names = sorted(entry.name for entry in root.iterdir())
    except OSError as error:
        raise UserError(f"{root} cannot be read ({error.strerror})") from error
    for name in names:
        if name.lower() == DATASET_NAME:
            raise UserError(f"{root / name} would be ignored: the name {DATASET_NAME} was expected, rename it")
    above = root.absolute().parent / DATASET_NAME
    if above != path.absolute() and above.is_file() and _quietly_parsed(above) != Description():
        raise UserError(
            f"{root} has no {DATASET_NAME}, and the one in the folder above would be ignored: cp {quoted(above)} {quoted(root)}/ if it "
            "describes these pairs too, or write another one"
        )
    return Description()


def stated(root: Path) -> dict[str, Any]:
    """All keys of the `dataset.json` at `root`; empty without one. Call `describe` first, which checks the file."""
    path = root / DATASET_NAME
    return _read(path) if path.is_file() else {}


def write_description(
    root: Path, *, depth_unit_m: float = DEPTH_UNIT_M, align: Align = "color", region: str | None = None, **more: Any
) -> None:
    """Write `dataset.json`. `more` is written unchanged (camera, seed, ...)."""
    description: dict[str, Any] = {"format": FORMAT, "depth_unit_m": depth_unit_m, "align": align}
    if region is not None:
        description["region"] = region
    write_json(root / DATASET_NAME, {**description, **more})


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, what="the data set's description", spec=_SPEC)


def _parsed(path: Path) -> Description:
    found = _read(path)
    written = found.get("format")
    if written is not None and written != FORMAT:
        raise UserError(
            f"{path} has the format {written}, but this version of edgefuse reads format {FORMAT}: "
            "install a newer edgefuse, or the version that wrote it"
        )
    unit_m = _unit(found.get("depth_unit_m", DEPTH_UNIT_M), path)
    align = found.get("align") or "color"
    if align not in get_args(Align):
        raise UserError(f"{path} has align {printable(align)!r}: 'color' or 'depth' was expected")
    region = found.get("region")
    if region is not None and not _REGION.fullmatch(region):
        raise UserError(
            f"{path} has the region {printable(region)!r}: whole, center, nearest, file or x,y,w,h (pixels) was expected"
        )
    _refuse_ignored_keys(found, unit_m=unit_m, align=align, path=path)
    return Description(depth_unit_m=unit_m, align=cast("Align", align), region=region)


def _quietly_parsed(path: Path) -> Description:
    """The description of another folder. If it is not valid, it is not a data set's, and the defaults are returned."""
    try:
        return _parsed(path)
    except UserError:
        return Description()


def _unit(unit: Any, path: Path) -> float:
    if isinstance(unit, str):
        unit = UNITS_M.get(unit, unit)
    is_number = isinstance(unit, int | float) and not isinstance(unit, bool)
    if not is_number or not MIN_UNIT_M <= unit <= MAX_UNIT_M:
        raise UserError(
            f"{path} has the depth unit {printable(repr(unit))}: metres per depth code were expected, such as 0.001, "
            "or one of cm, mm, um"
        )
    return float(unit)


def _refuse_ignored_keys(found: dict[str, Any], *, unit_m: float, align: str, path: Path) -> None:
    """Refuse keys that were probably meant as the depth unit or another field, because they would be ignored."""
    for where, key, value in _keys_below(found):
        if where in _KEYS or _ALLOWED.fullmatch(where):
            continue
        if (key == "depth_unit_m" and value == unit_m) or (key == "align" and value == align):
            continue  # written by the camera, and consistent
        if _looks_like_unit(key, value) or (where == key and _looks_like_step(key, value)):
            raise UserError(
                f"{path} has {printable(where)!r}, which would be ignored: the depth unit is called 'depth_unit_m', in metres per "
                "depth code, such as 0.001; rename or remove the key"
            )
        meant = difflib.get_close_matches(key.lower(), _KEYS, n=1, cutoff=0.8) if where == key else []
        joined = "".join(character for character in key.lower() if character.isalpha())
        meant = [field for field, words in _MEANT.items() if where == key and joined in words] or meant
        if key.lower().startswith("align"):
            meant = ["align"]
        if meant and _agrees(value, found, meant[0]):
            continue
        if meant:
            raise UserError(
                f"{path} has {printable(where)!r}, which would be ignored: is {meant[0]!r} meant? Rename it, or make the two agree"
            )


def _keys_below(value: Any, above: str = "") -> Iterator[tuple[str, str, Any]]:
    """Dotted name, key and value of every entry of nested objects and lists."""
    if isinstance(value, dict):
        for key, item in value.items():
            where = f"{above}.{key}" if above else key
            yield where, key, item
            yield from _keys_below(item, where)
    elif isinstance(value, list):
        for item in value:
            yield from _keys_below(item, above)


def _looks_like_unit(key: str, value: Any) -> bool:
    """Whether a key reads like a depth, its unit or its scale. An object called "depth" is a camera's stream: its keys are checked."""
    words = {word.lower() for word in _WORD.findall(key)}
    joined = "".join(character for character in key.lower() if character.isalpha())
    if _OF_DEPTH.search(joined) and not isinstance(value, dict):
        return True
    if words & _OTHER_QUANTITIES:
        return False
    if value in _UNIT_VALUES or (isinstance(value, str) and _DISPARITY.fullmatch(value)):
        return True
    if words & _UNIT_WORDS or re.search(r"^units?[a-z]{0,2}$|units?$|(?<!gr[ae]y)scale$|^scale|factor$", joined):
        return True
    return bool(words) and (words <= _LENGTH_WORDS or bool(words & _LENGTH_WORDS and words & {"per", "in", "to"}))


def _looks_like_step(key: str, value: Any) -> bool:
    """Whether a number at the top level reads like the length of one depth code."""
    words = [word.lower() for word in _WORD.findall(key)]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (
        is_number
        and bool(words)
        and not _OTHER_QUANTITIES & {*words}
        and (words[-1] in _LENGTH_WORDS or words == ["gain"])
    )


def _agrees(value: Any, found: dict[str, Any], field: str) -> bool:
    """Whether the value of a synonym agrees with the field's value, or is empty."""
    if field == "format":
        return str(value) in ("1", "1.0")
    return field == "region" and (value is None or value is False or value == found.get("region"))


def is_made_by_command(root: Path) -> bool:
    """Whether `data synth` or `data convert` made the complete data set at `root`, and nothing was added.

    A data set that was recorded, or described by hand, belongs to the user and is not replaced.
    """
    try:
        more = stated(root)
        names = [entry.name for entry in root.iterdir() if not entry.is_dir()]
    except (OSError, UserError):
        return False
    is_ours = str(more.get("created_by", "")).startswith("edgefuse data synth") or isinstance(more.get("source"), dict)
    return is_ours and all(name.endswith(".json") or name == ".DS_Store" for name in names)
