"""Reading the engine cache of a bundle, BUNDLE/engines/: plans for TensorRT and TensorRT-RTX. Needs neither of them, and no GPU.

    engines/fp16-sm87-trt10.3.0-1f0c....plan    the plan; its name ends in its digest, so a name always means the same bytes
    engines/fp16-sm87-trt10.3.0-1f0c....json    its record: key, digest, layers by precision, parity, versions
    engines/fp16-sm87-trt10.3.0-1f0c....log     the builder's log
    engines/fp16-sm86_sm89-...GPU-sm89.kernels  kernels that TensorRT-RTX compiled from a plan for one GPU (`rtx_runtime`)
    engines/fp16-...GPU-sm89.checked.json       a plan built without a GPU has the right outputs on this one (`first_load`)
    engines/timing-....cache                    kernel timings of one GPU and version, which make a second build faster
    engines/.lock                               held during a build

Only plans that are listed in the manifest are loaded, whatever their record says: a plan can run code.
`edgefuse_export.tensorrt.engine_cache_writer` writes the cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from edgefuse.bundle import MANIFEST_NAME, Bundle
from edgefuse.errors import UserError
from edgefuse.io.json_files import Optional, check_fields
from edgefuse.io.text import quoted
from edgefuse_runtime.engines.build_command import build_command, build_command_of, sm_name

ENGINES_FOLDER = "engines"
PREFERRED_PRECISIONS = ("fp16", "fp32", "int8")
"""Order of preference among matching plans. INT8 is last, because it may cost accuracy, unless it was measured faster than FP16."""
ANY_DEVICE = "any"
"""The device name of plans for TensorRT-RTX."""

_PLAN_NAME = re.compile(rf"{ENGINES_FOLDER}/[A-Za-z0-9._-]+\.plan")

_RECORD_SPEC: Final = {
    "key": {
        **dict.fromkeys(("onnx_sha256", "tensorrt_version", "compute_capability", "device_name", "precision"), str),
        "engine": Optional(str),
        "shapes": {str: [int]},
        "builder_options": dict,
    },
    "onnx_file": str,
    "plan_sha256": str,
    "num_bytes": int,
    "details": {
        "layers": Optional({str: int}),
        "parity": Optional(dict),
        "fusion_broken_at": Optional({"tensors": [str]}),
        "int8_timing": Optional({"faster": bool}),
    },
}


class PlanError(UserError):
    """A plan is missing, stale, damaged or not trusted. The message has the next command."""


class NoPlanError(PlanError):
    """The bundle has no plan for this library: none was built."""


@dataclass(frozen=True, kw_only=True)
class PlanKey:
    """Everything that a plan depends on. With any difference, the plan is built again.

    Attributes:
        onnx_sha256: of the ONNX file.
        tensorrt_version: "10.3.0", of the library that `engine` names; a plan runs only on the version that built it.
        compute_capability: "8.7"; of a plan for TensorRT-RTX all that it was built for: "8.6, 8.9, 12.0".
        device_name: CUDA's name; boards with the same compute capability may need other kernels. "any" for TensorRT-RTX, which
            compiles its kernels when it loads the plan.
        precision: "fp16", "int8" or "fp32".
        shapes: input name -> shape, batch first. Static: minimum, optimum and maximum are equal.
        engine: value of `--engine`: "tensorrt" or "rtx". Plans from before TensorRT-RTX have none.
        builder_options: name -> JSON value, such as workspace_mib, optimization_level, network ("strongly typed").
    """

    onnx_sha256: str
    tensorrt_version: str
    compute_capability: str
    device_name: str
    precision: str
    shapes: Mapping[str, tuple[int, ...]]
    builder_options: Mapping[str, Any]
    engine: str = "tensorrt"

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """The compute capabilities that the plan was built for, such as ("8.6", "8.9")."""
        return tuple(self.compute_capability.split(", "))

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
        """The inverse of `to_json`, for a value of that form.

        Raises:
            TypeError: it has an unknown field.
        """
        shapes = {name: tuple(shape) for name, shape in value["shapes"].items()}
        return cls(**{**value, "shapes": shapes, "builder_options": dict(value["builder_options"])})

    def changes_since(self, built: PlanKey) -> tuple[str, ...]:
        """The differences from the key of a plan, as text: "device name: 'Orin' -> 'H100'".

        A plan for more GPUs than this key's is no difference.
        """
        if set(self.compute_capabilities) <= set(built.compute_capabilities):
            built = replace(built, compute_capability=self.compute_capability)
        now, then = _flat(self), _flat(built)
        return tuple(
            f"{name.replace('_', ' ')}: {_brief(then.get(name))} -> {_brief(now.get(name))}"
            for name in {**then, **now}
            if then.get(name) != now.get(name)
        )


@dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """One plan of the manifest.

    Attributes:
        name: path inside the bundle, "engines/....plan"; also its key in the manifest's `files` and `parity`.
        key: everything that the plan depends on.
        onnx_file: the bundle's file that it was built from.
        plan_sha256, num_bytes: of the plan.
        details: layers by precision, parity, versions, notes (such as a fallback), build time; JSON values.
    """

    name: str
    key: PlanKey
    onnx_file: str
    plan_sha256: str
    num_bytes: int
    details: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object, as in the plan's .json file and in the manifest."""
        return {**vars(self), "key": self.key.to_json(), "details": dict(self.details)}

    @property
    def batch_size(self) -> int:
        """N of its inputs."""
        return self.key.batch_size

    @property
    def extra_outputs(self) -> tuple[str, ...]:
        """Its outputs that the contract does not have: the tensors at which fusion was broken."""
        return tuple((self.details.get("fusion_broken_at") or {}).get("tensors", ()))

    @property
    def preference(self) -> int:
        """Position in the order in which `auto` chooses; INT8 comes first where it was measured faster than FP16 on this GPU."""
        is_faster = (self.details.get("int8_timing") or {}).get("faster", False)
        return -1 if is_faster else PREFERRED_PRECISIONS.index(self.key.precision)


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """The cached plan for a key.

    Attributes:
        record: an intact plan, or None.
        reason: why there is none, as one sentence for the user; empty if there is one.
    """

    record: PlanRecord | None
    reason: str


def plan_records(bundle: Bundle) -> tuple[PlanRecord, ...]:
    """The plans of the manifest, newest last. Entries with unknown fields are skipped."""
    found = []
    for name, value in bundle.manifest.engines.items():
        entry = bundle.manifest.files.get(name)
        if entry is None or not _PLAN_NAME.fullmatch(name):
            continue
        try:
            check_fields(value, _RECORD_SPEC, what=name)
            record = PlanRecord(**{**value, "name": name, "key": PlanKey.from_json(value["key"])})
        except (UserError, TypeError):  # an unknown field is a TypeError
            continue
        if (record.plan_sha256, record.num_bytes) == (entry.sha256, entry.num_bytes):
            found.append(record)
    return tuple(found)


def look_up(bundle: Bundle, wanted: PlanKey) -> Lookup:
    """The plan for a key, after checking its digest; or the differences of the key for which it must be built."""
    same_precision = [
        one for one in plan_records(bundle) if (one.key.engine, one.key.precision) == (wanted.engine, wanted.precision)
    ]
    if not same_precision:
        return Lookup(record=None, reason=f"the bundle has no {_named(wanted.engine, wanted.precision)} yet")
    nearest = min(same_precision, key=lambda one: len(wanted.changes_since(one.key)))
    changes = wanted.changes_since(nearest.key)
    if changes:
        return Lookup(record=None, reason=f"{nearest.name} does not match: {'; '.join(changes)}")
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
    engine: str = "tensorrt",
) -> PlanRecord:
    """The plan to run on this machine: it must match file, version, GPU, precision and batch, but not the builder options.

    Does not read the plan; `read_plan` does.

    Args:
        precision: None = that of the matching plan with the lowest `preference`.
        tensorrt_version: of the library that `engine` names.
        device_name: not compared for TensorRT-RTX.
        batch_size: None = the largest with a matching plan.
        engine: "tensorrt" or "rtx".

    Raises:
        NoPlanError: the bundle has none for this library.
        PlanError: none matches. The message has the differences of the closest plan, and the build command.
    """
    others: list[tuple[tuple[str, ...], str, PlanKey]] = []
    wanted = PREFERRED_PRECISIONS if precision is None else (precision,)
    newest_first = reversed(plan_records(bundle))
    records = [one for one in newest_first if one.key.engine == engine and one.key.precision in wanted]
    for record in sorted(records, key=lambda one: (one.preference, -one.batch_size)):
        source = bundle.manifest.files.get(record.onnx_file)
        here = replace(
            record.key,
            onnx_sha256="missing" if source is None else source.sha256,
            tensorrt_version=tensorrt_version,
            compute_capability=compute_capability,
            device_name=ANY_DEVICE if engine == "rtx" else device_name,
            shapes={name: (batch_size or shape[0], *shape[1:]) for name, shape in record.key.shapes.items()},
        )
        changes = here.changes_since(record.key)
        if not changes:
            return record
        others.append((changes, record.name, here))
    if not others:
        raise no_plan_error(bundle, engine=engine, precision=precision, targets=(compute_capability,))
    changes, name, here = min(others, key=lambda one: len(one[0]))
    why = "; ".join((f"{name} does not match", *changes))
    raise PlanError(
        f"{bundle.folder} has no engine for this machine: {why}. Build one: {build_command_of(bundle, here)}"
    )


def no_plan_error(bundle: Bundle, *, engine: str, precision: str | None, targets: Sequence[str] = ()) -> NoPlanError:
    """The error for a bundle that has no plan for a library."""
    command = build_command(bundle, precision or PREFERRED_PRECISIONS[0], engine=engine, targets=targets)
    return NoPlanError(
        f"{bundle.folder} has no engine for this machine: it has no {_named(engine, precision)}. Build one: {command}"
    )


def read_plan(bundle: Bundle, record: PlanRecord) -> bytes:
    """The plan's bytes. They are read once, and the digest is checked on the returned bytes, so that no other process can change
    the file between check and use.

    Raises:
        PlanError: the plan is missing, truncated or changed, or others can write to it.
    """
    path, again = bundle.folder / record.name, build_command_of(bundle, record.key)
    for place in (bundle.folder, bundle.folder / MANIFEST_NAME, path.parent):
        if place.exists():
            check_private(place)
    try:
        plan, num_bytes = read_private(path, num_bytes=record.num_bytes)
    except FileNotFoundError:
        raise PlanError(f"{path} is missing although the manifest lists it. Build it again: {again}") from None
    except OSError as error:
        raise PlanError(
            f"{path} cannot be read ({error.strerror}). Make it readable, or build it again: {again}"
        ) from error
    if len(plan) != record.num_bytes:
        kind = "truncated" if num_bytes < record.num_bytes else "not the plan that was built"
        raise PlanError(f"{path} is {kind}: {num_bytes} of {record.num_bytes} bytes. Build it again: {again}")
    found = hashlib.sha256(plan).hexdigest()
    if found != record.plan_sha256:
        raise PlanError(
            f"{path} is not the plan that was built: its sha256 is {found[:12]}..., the manifest says "
            f"{record.plan_sha256[:12]}.... Build it again: {again}"
        )
    return plan


def read_private(path: Path, *, num_bytes: int | None = None) -> tuple[bytes, int]:
    """The bytes of a regular file that only the user can write, and its size.

    Args:
        num_bytes: the expected size; a file of another size is not read.

    Raises:
        PlanError: it is not a regular file, or others can write to it.
        OSError: it cannot be read.
    """
    # O_NONBLOCK: opening a pipe of that name would block.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        check_private(path, status=status)
        if not stat.S_ISREG(status.st_mode):
            raise PlanError(f"{path} is not a regular file. Remove it, and build the engine again")
        return file.read() if num_bytes in (None, status.st_size) else b"", status.st_size


def check_private(path: Path, *, status: os.stat_result | None = None) -> None:
    """Refuse a file or folder of a plan that others can write to, because a plan can run code.

    It must belong to the user or root, and must not be writable by group or others.

    Args:
        status: of the file, if it is already open.

    Raises:
        PlanError: the message has the chmod or chown command that fixes it.
    """
    status = path.stat() if status is None else status
    if status.st_uid not in {os.geteuid(), 0}:
        raise PlanError(
            f"{path} belongs to user {status.st_uid}, but you are user {os.geteuid()}: an engine can run code, so it is loaded "
            f"only from your own folders. If you trust it: sudo chown -R {os.geteuid()} {quoted(path)}"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PlanError(
            f"{path} is writable by others (mode {stat.S_IMODE(status.st_mode):o}): an engine can run code, so it is loaded "
            f"only if nobody else can change it. If you trust it: chmod go-w {quoted(path)}"
        )


def device_file(bundle: Bundle, record: PlanRecord, *, device_name: str, compute_capability: str, suffix: str) -> Path:
    """A file beside a plan that is of use on one GPU only."""
    name = f"{Path(record.name).stem}.{device_name}-{sm_name(compute_capability)}{suffix}"
    return bundle.folder / ENGINES_FOLDER / re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _named(engine: str, precision: str | None) -> str:
    """An engine as text."""
    library = "TensorRT-RTX" if engine == "rtx" else "TensorRT"
    if precision is None:
        return f"{library} engine"
    return f"{precision} engine{' for TensorRT-RTX' if engine == 'rtx' else ''}"


def _flat(key: PlanKey) -> dict[str, Any]:
    value = key.to_json()
    shapes, options = value.pop("shapes"), value.pop("builder_options")
    if key.engine == "rtx":  # in the words of `edgefuse build --for`
        value["TensorRT-RTX version"] = value.pop("tensorrt_version")
        value["GPU"] = ", ".join(map(sm_name, key.compute_capabilities))
        del value["compute_capability"]
    return {**value, **{f"shape of {name}": shape for name, shape in shapes.items()}, **options}


def _brief(value: Any) -> str:
    """A value as text; a digest is shortened to twelve digits."""
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return f"{value[:12]}..."
    return "none" if value is None else repr(value) if isinstance(value, str) else str(value)
