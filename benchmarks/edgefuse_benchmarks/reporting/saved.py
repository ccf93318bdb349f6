"""The JSON of a result as a `Report` again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgefuse.errors import UserError
from edgefuse.io.json_files import check_fields, read_json
from edgefuse.measure import Ratio, Series
from edgefuse_benchmarks.report import SCHEMA, Group, Report

WHAT = "the result"
_RATIO = {
    "numerator": str,
    "denominator": str,
    "num_rounds": int,
    **dict.fromkeys(("median", "low", "high", "p5", "p95"), float),
}
_SPEC = {
    "benchmark": str,
    "machine": dict,
    "parameters": dict,
    "parity": list,
    "notes": [str],
    "groups": [{"scope": str, "name": str, "facts": dict, "series": [{"name": str}], "ratios": [_RATIO]}],
}


def read_report(path: Path) -> Report:
    """Read a result that `edgefuse_benchmarks.report.save` wrote.

    Raises:
        UserError: the file cannot be read, is no result of times, is of another schema version, or has no raw samples.
    """
    return report_of(read_json(path, what=WHAT), path=path)


def report_of(value: Mapping[str, Any], *, path: Path) -> Report:
    """The `Report` of a JSON object; `path` is for messages.

    Raises:
        UserError: see `read_report`.
    """
    if "groups" not in value or "benchmark" not in value:
        raise UserError(
            f"{path} is not a result of edgefuse bench core, engine, live, train, preprocess, energy or peers"
        )
    schema = value.get("schema")
    if schema != SCHEMA:
        raise UserError(
            f"{path} has schema version {schema!r}, this edgefuse reads version {SCHEMA}: measure again with this version, or use the "
            f"version that wrote the file"
        )
    check_fields(value, _SPEC, what=f"{WHAT} ({path})")
    return Report(
        benchmark=value["benchmark"],
        machine=value["machine"],
        parameters=value["parameters"],
        parity=tuple(value["parity"]),
        groups=tuple(_group(one, path=path) for one in value["groups"]),
        notes=tuple(value["notes"]),
    )


def _group(value: Mapping[str, Any], *, path: Path) -> Group:
    return Group(
        scope=value["scope"],
        name=value["name"],
        series=tuple(_series(one, path=path) for one in value["series"]),
        ratios=tuple(Ratio(**{name: one[name] for name in _RATIO}) for one in value["ratios"]),
        bytes_read={one["name"]: one["bytes_read"] for one in value["series"] if "bytes_read" in one},
        facts=value["facts"],
    )


def _series(value: Mapping[str, Any], *, path: Path) -> Series:
    if "samples_ns" not in value:
        raise UserError(
            f"{path} has no raw samples: it is the output of --json. Use the file that the command wrote, in --out"
        )
    try:
        turns = np.array(value["samples_ns"], np.int64).reshape(-1, value["calls_per_turn"])
    except (KeyError, TypeError, ValueError, OverflowError):
        turns = np.empty((0, 1), np.int64)
    if not turns.size or turns.min() < 0:
        raise UserError(f"{path} has samples of {value['name']!r} that are not times in nanoseconds: it was changed")
    return Series(name=value["name"], turns_ns=turns, first_call_ns=value.get("first_call_ns"))
