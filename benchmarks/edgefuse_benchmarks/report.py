"""The result of a benchmark, its JSON and its file. Tables and plots are made from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from edgefuse.bundle import Bundle
from edgefuse.io import json_files
from edgefuse.io.files import file_replaced, real_path
from edgefuse.io.text import write_text
from edgefuse.measure import Ratio, Series
from edgefuse_benchmarks.machine_state import during, state_notes

SCHEMA = 1
"""Increase it when a field of the JSON is removed or changes its meaning."""

FEW_SAMPLES = 100
BUSY_FRACTION = 0.5
MAX_CV = 0.025
"""Largest coefficient of variation without a note: as in trtexec."""

Benchmark = Literal["core", "engine", "preprocess", "live", "train", "energy", "outputs", "peers"]
Scope = Literal[
    "core",
    "two streams",
    "engine",
    "raw frame",
    "preprocess",
    "cold start",
    "after a pause",
    "each minute",
    "frame to result",
    "frame age",
    "training step",
    "energy",
    "around the network",
]

SCOPES: dict[Scope, str] = {
    "core": "gate, fusion and fully connected layers only, from two feature vectors",
    "two streams": "a whole gated model on a GPU, from framed bytes to logits, without copies",
    "engine": "one framed pair in, one decision out, with the engine's copies",
    "preprocess": "from a pair of the camera in memory to the inputs of a network",
    "raw frame": "a complete frame in memory, crop, resize, engine, decision out; of a peer, its own code for the same",
    "cold start": "a fresh process until its first decision",
    "after a pause": "as engine, a single call after a pause",
    "each minute": "as engine, the medians of whole minutes of work",
    "frame to result": "from the arrival of a camera's pair to its result",
    "frame age": "from the sensor's timestamp to the result",
    "energy": "one pair in memory, cropped, resized and classified; its energy is in the notes",
    "around the network": "the network alone on ready inputs, to subtract from a complete frame; a way with another network also from the frame",
    "training step": "one update of the weights on a batch that is on the device, or the preparation of one",
}
"""What each scope includes. Times of different scopes cannot be compared."""

FEW_BY_NATURE: frozenset[Scope] = frozenset(("cold start", "after a pause", "each minute"))
"""Scopes with few samples, which are neither key figures nor a reason for a warning."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Series that were measured together, and their ratios.

    Attributes:
        bytes_read: series name -> bytes that one call must read at least, to compute GB/s.
        facts: more values to interpret the times with, as JSON values.
    """

    scope: Scope
    name: str
    series: tuple[Series, ...]
    ratios: tuple[Ratio, ...] = ()
    bytes_read: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def gb_per_s(self, series: Series) -> float | None:
        """Bytes that one call must read over its median time; None without an entry in `bytes_read`."""
        num_bytes = self.bytes_read.get(series.name)
        return None if num_bytes is None else num_bytes / series.summary().p50_ns


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of one benchmark.

    Attributes:
        machine: from `machine.describe`, before measuring.
        parameters: of the benchmark, as JSON values.
        parity: the comparisons of outputs that passed before measuring.
        notes: remarks for the reader.
    """

    benchmark: Benchmark
    machine: dict[str, Any]
    parameters: dict[str, Any]
    parity: tuple[dict[str, Any], ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()

    def finished(self) -> Report:
        """The same result with what happened to the machine meanwhile, `machine["during"]`. Call it when measuring has ended."""
        before = self.machine.get("before")
        return self if before is None else replace(self, machine={**self.machine, "during": during(before)})

    def to_json(self, *, raw: bool = True) -> dict[str, Any]:
        """The result as a JSON object.

        Args:
            raw: with every sample, in nanoseconds and in chronological order, round after round.
        """
        return {
            "schema": SCHEMA,
            "benchmark": self.benchmark,
            "scopes": {group.scope: SCOPES[group.scope] for group in self.groups},
            "machine": self.machine,
            "parameters": self.parameters,
            "parity": list(self.parity),
            "notes": [*self.notes, *general_notes(self)],
            "groups": [_group_json(group, raw=raw) for group in self.groups],
        }


def general_notes(report: Report) -> list[str]:
    """Warnings that apply to any benchmark."""
    notes = []
    load, cores = report.machine.get("load_average_1min"), report.machine.get("cpu", {}).get("cores_usable") or 1
    if load is not None and load > BUSY_FRACTION * cores:
        notes.append(f"the machine was busy before the start: load average {load:g} on {cores} core(s)")
    notes += state_notes(report.machine)
    series = [one for group in report.groups for one in group.series if group.scope not in FEW_BY_NATURE]
    fewest = min((len(one.samples_ns) for one in series), default=FEW_SAMPLES)
    if fewest < FEW_SAMPLES:
        notes.append(f"some series have only {fewest} sample(s): their p99 is close to their maximum")
    unsteady = [(cv, one.name) for one in series if (cv := one.summary().cv) > MAX_CV]
    if unsteady:
        worst, name = max(unsteady)
        notes.append(
            f"unsteady: the coefficient of variation is over {MAX_CV:.1%} in {len(unsteady)} of {len(series)} series, at most "
            f"{worst:.0%} ({name}); compare medians and ratios, not means"
        )
    return notes


def save(report: Report, folder: Path) -> Path:
    """Write the JSON atomically to a new file; its name has the benchmark and the time (UTC)."""
    return save_json(report.to_json(), folder, benchmark=report.benchmark)


def save_json(value: Any, folder: Path, *, benchmark: str) -> Path:
    """Like `save`, for a JSON value that is not a `Report`."""
    stem = f"{benchmark}-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    path = folder / f"{stem}.json"
    number = 2
    while path.exists():
        path = folder / f"{stem}-{number}.json"
        number += 1
    with file_replaced(path) as temporary:
        write_text(temporary, dumps(value) + "\n")
    return path


def dumps(value: Any) -> str:
    """Indented JSON with each list of numbers on one line; NaN and infinity become null."""
    return re.sub(
        r"\[\n\s+[-+\d.eE,\s]+\]",
        lambda found: re.sub(r"\s+", "", found[0]),
        json_files.dumps(value, indent=2),
    )


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """The bundle that was measured: name of its folder, model, and its files with digests."""
    manifest = bundle.manifest
    return {
        "bundle": real_path(bundle.folder).name,
        "model": manifest.model,
        "input_size": manifest.contract.size,
        "files": {name: vars(entry) for name, entry in manifest.files.items()},
    }


def camera_facts(description: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a camera, without the folder of its file."""
    return {key: Path(value).name if key == "path" else value for key, value in description.items()}


def _group_json(group: Group, *, raw: bool) -> dict[str, Any]:
    return {
        "scope": group.scope,
        "name": group.name,
        "facts": dict(group.facts),
        "series": [_series_json(group, series, raw=raw) for series in group.series],
        "ratios": [{**asdict(found), **_rounded(asdict(found))} for found in group.ratios],
    }


def _series_json(group: Group, series: Series, *, raw: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"name": series.name, **_rounded(asdict(series.summary()))}
    if series.first_call_ns is not None:
        value["first_call_ns"] = series.first_call_ns
    gb_per_s = group.gb_per_s(series)
    if gb_per_s is not None:
        value |= {"bytes_read": group.bytes_read[series.name], "gb_per_s": round(gb_per_s, 2)}
    if raw:
        value |= {"calls_per_turn": series.turns_ns.shape[1], "samples_ns": series.samples_ns.tolist()}
    return value


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Nanoseconds rounded to one decimal, other numbers to four."""
    return {
        key: round(value, 1 if key.endswith("_ns") else 4) if isinstance(value, float) else value
        for key, value in values.items()
    }
