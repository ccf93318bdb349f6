"""The engine cache of a bundle, BUNDLE/engines/: what a TensorRT plan was built for, whether it may be loaded, how it is kept.

    engines/fp16-sm87-trt10.3.0-1f0c....plan    the plan; the name ends in its digest, so bytes under a name never change
    engines/fp16-sm87-trt10.3.0-1f0c....json    its record: key, digest, layers by precision, parity, versions
    engines/fp16-sm87-trt10.3.0-1f0c....log     what the builder said
    engines/timing-....cache                    kernel timings of one GPU and version: a second build takes a fraction
    engines/.lock                               held by whoever builds

The manifest names the plans that count. A plan that it does not name is not loaded, whatever the file's own record says,
because loading a plan is running its maker's code.

This module owns the reading side, and needs neither TensorRT nor a GPU; `edgefuse_export.tensorrt.engine_cache_writer` writes.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from edgefuse.bundle import MANIFEST_NAME, Bundle
from edgefuse.errors import UserError
from edgefuse.io.json_files import Optional, check_fields
from edgefuse.io.text import quoted

ENGINES_FOLDER = "engines"
PREFERRED_PRECISIONS = ("fp16", "fp32", "int8")
"""Which plan is taken where several fit. INT8 last: it may cost accuracy."""

_PLAN_NAME = re.compile(rf"{ENGINES_FOLDER}/[A-Za-z0-9._-]+\.plan")


_RECORD_SPEC: Final = {
    "key": {
        "onnx_sha256": str,
        "tensorrt_version": str,
        "compute_capability": str,
        "device_name": str,
        "precision": str,
        "shapes": {str: [int]},
        "builder_options": dict,
    },
    "onnx_file": str,
    "plan_sha256": str,
    "num_bytes": int,
    "details": {"layers": Optional({str: int}), "parity": Optional(dict)},
}


class PlanError(UserError):
    """A plan is missing, stale, damaged or not to be trusted; the message has the next command."""


@dataclass(frozen=True, kw_only=True)
class PlanKey:
    """All that a plan depends on. Two equal keys: the plan may be used; any difference: it is built again.

    Attributes:
        onnx_sha256: of the file that it is built from.
        tensorrt_version: "10.3.0"; a plan runs on the version that built it alone.
        compute_capability: "8.7".
        device_name: as CUDA says it; boards with one compute capability have other kernels.
        precision: "fp16", "int8" or "fp32".
        shapes: input name -> shape, batch first. Static: smallest, usual and largest are one.
        builder_options: name -> JSON value, such as workspace_mib, optimization_level, network ("strongly typed").
    """

    onnx_sha256: str
    tensorrt_version: str
    compute_capability: str
    device_name: str
    precision: str
    shapes: Mapping[str, tuple[int, ...]]
    builder_options: Mapping[str, Any]

    @property
    def batch_size(self) -> int:
        """N of the inputs."""
        return next((shape[0] for shape in self.shapes.values() if shape), 0)

    def to_json(self) -> dict[str, Any]:
        """The key as a JSON object."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return {**vars(self), "shapes": shapes, "builder_options": dict(self.builder_options)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PlanKey:
        """The inverse of `to_json`, for a value of its form.

        Raises:
            TypeError: it has a field that this version does not know.
        """
        shapes = {name: tuple(shape) for name, shape in value["shapes"].items()}
        return cls(**{**value, "shapes": shapes, "builder_options": dict(value["builder_options"])})

    def changes_since(self, built: PlanKey) -> tuple[str, ...]:
        """What differs from the key that a plan was built with, in words: "device name: 'Orin' -> 'H100'"."""
        now, then = _flat(self), _flat(built)
        return tuple(
            f"{name.replace('_', ' ')}: {_brief(then.get(name))} -> {_brief(now.get(name))}"
            for name in {**then, **now}
            if then.get(name) != now.get(name)
        )


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """One plan that the manifest names.

    Attributes:
        name: path inside the bundle, "engines/....plan"; also its key in the manifest's `files` and `parity`.
        key: what it was built for.
        onnx_file: the bundle's file that it was built from.
        plan_sha256, num_bytes: of the plan.
        details: layers by precision, parity, versions, notes (such as a fall-back), time to build; JSON values.
    """

    name: str
    key: PlanKey
    onnx_file: str
    plan_sha256: str
    num_bytes: int
    details: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object, as it stands beside the plan and in the manifest."""
        return {**vars(self), "key": self.key.to_json(), "details": dict(self.details)}

    @property
    def batch_size(self) -> int:
        """N of its inputs."""
        return self.key.batch_size


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """What the cache holds for a key.

    Attributes:
        record: a plan that is whole and may be loaded as it is, or None.
        reason: why there is none, in one sentence for the user; empty when there is one.
    """

    record: PlanRecord | None
    reason: str


def plan_records(bundle: Bundle) -> tuple[PlanRecord, ...]:
    """The plans that the manifest names, newest last. An entry that this version does not understand is left out."""
    found = []
    for name, value in bundle.manifest.engines.items():
        entry = bundle.manifest.files.get(name)
        if entry is None or not _PLAN_NAME.fullmatch(name):
            continue
        try:
            check_fields(value, _RECORD_SPEC, what=name)
            record = PlanRecord(**{**value, "name": name, "key": PlanKey.from_json(value["key"])})
        except (UserError, TypeError):  # a field that this version does not know is a TypeError
            continue
        if (record.plan_sha256, record.num_bytes) == (entry.sha256, entry.num_bytes):
            found.append(record)
    return tuple(found)


def look_up(bundle: Bundle, wanted: PlanKey) -> Lookup:
    """The plan for a key, after checking every byte of it; or why it must be built, part by part of the key."""
    same_precision = [one for one in plan_records(bundle) if one.key.precision == wanted.precision]
    if not same_precision:
        return Lookup(record=None, reason=f"the bundle has no {wanted.precision} engine yet")
    nearest = min(same_precision, key=lambda one: len(wanted.changes_since(one.key)))
    changes = wanted.changes_since(nearest.key)
    if changes:
        return Lookup(record=None, reason=f"{nearest.name} was built for something else: {'; '.join(changes)}")
    try:
        read_plan(bundle, nearest)
    except PlanError as error:
        return Lookup(record=None, reason=str(error))
    return Lookup(record=nearest, reason="")


def select_plan(
    bundle: Bundle,
    *,
    precision: str | None,
    tensorrt_version: str,
    compute_capability: str,
    device_name: str,
    batch_size: int | None = 1,
) -> PlanRecord:
    """The plan to run here: for this bundle's file, version, GPU, precision and batch, whatever its builder options.

    The bytes are not read; `read_plan` does that.

    Args:
        precision: None = the first of `PREFERRED_PRECISIONS` of which one fits.
        batch_size: None = the largest of which one fits.

    Raises:
        PlanError: there is none; says in what the nearest one differs, and the command that builds one.
    """
    nearest: tuple[str, ...] | None = None
    nearest_precision = precision or PREFERRED_PRECISIONS[0]
    wanted = PREFERRED_PRECISIONS if precision is None else (precision,)
    newest_first = [one for one in reversed(plan_records(bundle)) if one.key.precision in wanted]
    for record in sorted(newest_first, key=lambda one: (wanted.index(one.key.precision), -one.batch_size)):
        source = bundle.manifest.files.get(record.onnx_file)
        here = replace(
            record.key,
            onnx_sha256="missing" if source is None else source.sha256,
            tensorrt_version=tensorrt_version,
            compute_capability=compute_capability,
            device_name=device_name,
            shapes={name: (batch_size or shape[0], *shape[1:]) for name, shape in record.key.shapes.items()},
        )
        changes = here.changes_since(record.key)
        if not changes:
            return record
        if nearest is None or len(changes) < len(nearest):
            nearest = (f"{record.name} was built for something else", *changes)
            nearest_precision = record.key.precision
    why = "; ".join(nearest) if nearest else f"it has no {precision or 'TensorRT'} engine"
    command = build_command(bundle, nearest_precision)
    raise PlanError(f"{bundle.folder} has no engine to run here: {why}. Build one: {command}")


def read_plan(bundle: Bundle, record: PlanRecord) -> bytes:
    """The plan's bytes, to be handed to TensorRT as they are.

    They are read once and the digest is of what is returned: nobody can put another file there in between.

    Raises:
        PlanError: the plan is missing, truncated or changed, or others could have written it.
    """
    path = bundle.folder / record.name
    again = build_command(bundle, record.key.precision)
    for place in (bundle.folder, bundle.folder / MANIFEST_NAME, path.parent):
        if place.exists():
            check_private(place)
    try:
        # Without O_NONBLOCK a pipe of that name would be waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            check_private(path, status=status)
            if not stat.S_ISREG(status.st_mode):
                raise PlanError(f"{path} is no regular file. Remove it, and build it again: {again}")
            plan = file.read() if status.st_size == record.num_bytes else b""
    except FileNotFoundError:
        raise PlanError(f"{path} is missing although the manifest lists it. Build it again: {again}") from None
    except OSError as error:
        raise PlanError(
            f"{path} cannot be read ({error.strerror}). Make it readable, or build it again: {again}"
        ) from error
    if len(plan) != record.num_bytes:
        kind = "truncated" if status.st_size < record.num_bytes else "not the plan that was built"
        raise PlanError(f"{path} is {kind}: {status.st_size} of {record.num_bytes} bytes. Build it again: {again}")
    found = hashlib.sha256(plan).hexdigest()
    if found != record.plan_sha256:
        raise PlanError(
            f"{path} is not the plan that was built: its sha256 is {found[:12]}..., the manifest says "
            f"{record.plan_sha256[:12]}.... Build it again: {again}"
        )
    return plan


def check_private(path: Path, *, status: os.stat_result | None = None) -> None:
    """Refuse a file or folder of a plan that someone else could have written: loading a plan is running its maker's code.

    The user's own and root's are fine (root can do all things anyway), unless group or others may write.

    Args:
        status: of the opened file, where one was opened.

    Raises:
        PlanError: with the chmod or chown command that mends it.
    """
    status = path.stat() if status is None else status
    if status.st_uid not in {os.geteuid(), 0}:
        raise PlanError(
            f"{path} belongs to user {status.st_uid}, you are user {os.geteuid()}: an engine is code, so it is loaded from "
            f"your own folders alone. If you trust it: sudo chown -R {os.geteuid()} {quoted(path)}"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PlanError(
            f"{path} can be written by others (mode {stat.S_IMODE(status.st_mode):o}): an engine is code, so it is loaded "
            f"only where nobody else could change it. If you trust it: chmod go-w {quoted(path)}"
        )


def build_command(bundle: Bundle, precision: str) -> str:
    """The command that builds the plan that is missing."""
    return f"edgefuse build {quoted(bundle.folder)} --precision {precision}"


def _flat(key: PlanKey) -> dict[str, Any]:
    value = key.to_json()
    shapes, options = value.pop("shapes"), value.pop("builder_options")
    return {**value, **{f"shape of {name}": shape for name, shape in shapes.items()}, **options}


def _brief(value: Any) -> str:
    """A value in a sentence; of a digest the first twelve digits."""
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"{value[:12]}..."
    return "none" if value is None else repr(value) if isinstance(value, str) else str(value)
