"""The writing side of a bundle's engine cache: is there room for a plan, who may build, and how a plan becomes current.

A plan and its record are whole before the manifest names them, and the manifest's rewrite is one step: whoever reads finds the
plan of before or the one of after. `edgefuse_runtime.engines.plans` owns the cache's form and reads it.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgefuse.bundle import MANIFEST_NAME, Bundle, FileEntry, open_bundle, write_manifest
from edgefuse.errors import require
from edgefuse.files import file_replaced, write_json
from edgefuse_runtime.engines.plans import (
    ENGINES_FOLDER,
    PlanError,
    PlanKey,
    PlanRecord,
    build_command,
    check_private,
    plan_records,
)

LOCK_NAME = ".lock"


def check_cache(bundle: Bundle) -> None:
    """Find out before minutes of building whether the plan could be kept and loaded; makes `engines/`.

    Raises:
        PlanError: the folder or the manifest cannot be written, or others can write them.
    """
    folder = bundle.folder / ENGINES_FOLDER
    for place in (bundle.folder, bundle.folder / MANIFEST_NAME):
        check_private(place)
    try:
        if not folder.is_dir():
            folder.mkdir()
            folder.chmod(0o755)  # whatever the umask: a folder that the group may write is refused on loading
        check_private(folder)
        for place in (bundle.folder, folder):
            with tempfile.TemporaryFile(dir=place):
                pass
    except OSError as error:
        raise PlanError(
            f"the engine would be kept in {folder}, which cannot be written ({error.strerror}): make it writable "
            f"(chmod u+w {bundle.folder} {folder}), or copy the bundle to where you may write: "
            f"cp -r {bundle.folder} ~/ and build there"
        ) from error


@contextmanager
def build_lock(bundle_folder: Path, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the cache: one process builds and writes at a time; the kernel frees the lock of a process that dies.

    Args:
        on_wait: called once when another process holds it.
    """
    filelock = require("filelock", extra="tensorrt")
    lock = filelock.FileLock(str(bundle_folder / ENGINES_FOLDER / LOCK_NAME), mode=0o644)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def plan_stem(key: PlanKey, plan_sha256: str) -> str:
    """Name of a plan's files without suffix."""
    stem = f"{key.precision}-sm{key.compute_capability.replace('.', '')}-trt{key.tensorrt_version}-{plan_sha256[:12]}"
    return re.sub(r"[^A-Za-z0-9._-]", "_", stem)


def store_plan(
    bundle_folder: Path,
    *,
    key: PlanKey,
    onnx_file: str,
    plan: bytes,
    details: Mapping[str, Any],
    log: Path | None = None,
) -> PlanRecord:
    """Keep a plan: the plan, its record and its log first, the manifest last, each atomically. Hold `build_lock`.

    A plan of the same precision, batch and GPU that this one replaces is removed; another GPU's stays for that GPU.

    Args:
        details: see `PlanRecord`; "parity", where there is one, also goes into the manifest's `parity`.
        log: the builder's log; it is moved beside the plan.

    Raises:
        PlanError: the bundle was exported again in the meantime.
    """
    bundle = open_bundle(bundle_folder)
    source = bundle.manifest.files.get(onnx_file)
    if source is None or source.sha256 != key.onnx_sha256:
        raise PlanError(
            f"{bundle_folder} was exported again while its engine was being built, so the engine was not kept. "
            f"Build it again: {build_command(bundle, key.precision)}"
        )
    digest = hashlib.sha256(plan).hexdigest()
    stem = plan_stem(key, digest)
    record = PlanRecord(
        name=f"{ENGINES_FOLDER}/{stem}.plan",
        key=key,
        onnx_file=onnx_file,
        plan_sha256=digest,
        num_bytes=len(plan),
        details=details,
    )
    folder = bundle_folder / ENGINES_FOLDER
    with file_replaced(folder / f"{stem}.plan") as temporary:
        temporary.write_bytes(plan)
    write_json(folder / f"{stem}.json", record.to_json())
    if log is not None:
        log.replace(folder / f"{stem}.log")
    replaced = [one for one in plan_records(bundle) if one.name != record.name and _same_place(one.key, key)]
    _name_in_manifest(bundle, record, without=[one.name for one in replaced])
    for one in replaced:
        for suffix in (".plan", ".json", ".log"):
            (bundle_folder / one.name).with_suffix(suffix).unlink(missing_ok=True)
    return record


def _name_in_manifest(bundle: Bundle, record: PlanRecord, *, without: list[str]) -> None:
    manifest = bundle.manifest
    gone = {*without, record.name}
    files, parity, engines = (
        {name: value for name, value in part.items() if name not in gone}
        for part in (manifest.files, manifest.parity, manifest.engines)
    )
    files[record.name] = FileEntry(
        sha256=record.plan_sha256, num_bytes=record.num_bytes, precision=record.key.precision
    )
    engines[record.name] = record.to_json()
    if "parity" in record.details:
        parity[record.name] = record.details["parity"]
    write_manifest(bundle.folder, replace(manifest, files=files, parity=parity, engines=engines))


def _same_place(one: PlanKey, other: PlanKey) -> bool:
    """Would both be loaded in the same place: same GPU, precision and batch?"""
    parts = ("device_name", "compute_capability", "precision", "batch_size")
    return all(getattr(one, part) == getattr(other, part) for part in parts)
