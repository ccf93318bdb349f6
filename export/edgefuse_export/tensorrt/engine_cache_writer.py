"""Writes a bundle's engine cache: checks that the cache is writable, locks it, and stores plans.

A plan and its record are complete before the manifest names them, and the manifest is replaced in one step: a reader finds either
the old plan or the new one. `edgefuse_runtime.engines.engine_cache` owns the format and reads it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgefuse.bundle import MANIFEST_NAME, Bundle, FileEntry, open_bundle, write_manifest
from edgefuse.io.files import file_replaced
from edgefuse.io.json_files import write_json
from edgefuse.io.new_files import held
from edgefuse.io.temporaries import remove_leftovers
from edgefuse.io.text import quoted
from edgefuse_runtime.engines.build_command import build_command_of, sm_name
from edgefuse_runtime.engines.engine_cache import (
    ENGINES_FOLDER,
    PlanError,
    PlanKey,
    PlanRecord,
    check_private,
    plan_records,
)

LOCK_NAME = ".lock"

_OF_A_PLAN = re.compile(r"(fp16|int8|fp32)-sm\w+-(trt|rtx).+-[0-9a-f]{12}\.(plan|json|log)")
_OF_A_GPU = re.compile(r"(fp16|int8|fp32)-sm\w+-(trt|rtx).+-[0-9a-f]{12}\..+\.(kernels|checked\.json)")


def check_cache(bundle: Bundle) -> None:
    """Check, before minutes of building, that the plan can be stored and loaded; creates `engines/`.

    Raises:
        PlanError: the folder or the manifest cannot be written, other users can write them, or another user owns the lock.
    """
    folder = bundle.folder / ENGINES_FOLDER
    for place in (bundle.folder, bundle.folder / MANIFEST_NAME):
        check_private(place)
    if folder.exists() and not folder.is_dir():
        raise PlanError(
            f"the engine would be stored in {folder}, which is a file: move it away: mv {quoted(folder)} {quoted(f'{folder}.old')}, and build again"
        )
    try:
        if not folder.is_dir():
            folder.mkdir(mode=0o755, exist_ok=True)  # another process may create it first
            folder.chmod(0o755)  # independent of the umask: loading refuses a folder that the group can write
        check_private(folder)
        for place in (bundle.folder, folder):
            with tempfile.TemporaryFile(dir=place):
                pass
    except OSError as error:
        raise PlanError(
            f"the engine would be stored in {folder}, which cannot be written ({error.strerror}): make it writable "
            f"({_chmod_command(bundle.folder, folder)}), or copy the bundle to a folder that you can write: "
            f"cp -r {quoted(bundle.folder)} ~/ and build there"
        ) from error
    if (folder / LOCK_NAME).exists():
        os.close(_open_lock(folder / LOCK_NAME))


def _chmod_command(*places: Path) -> str:
    """The command that lets this user write there: only its owner can change a mode."""
    existing = [place for place in places if place.exists()]
    if all(place.stat().st_uid == os.geteuid() for place in existing):
        return f"chmod u+w {' '.join(map(quoted, existing))}"
    return f"sudo chown -R {os.geteuid()} {quoted(places[0])}"


@dataclass(frozen=True, kw_only=True)
class BuildLock:
    """A held lock. The kernel releases it when its owner ends.

    Attributes:
        path: of the lock file.
        handle: file descriptor of the locked file; after a new export `path` is another file, or does not exist.
    """

    path: Path
    handle: int

    @property
    def is_current(self) -> bool:
        """Whether the locked file is still the one at `path`."""
        try:
            return os.path.samestat(os.fstat(self.handle), self.path.stat())
        except FileNotFoundError:
            return False


@contextmanager
def build_lock(bundle_folder: Path, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[BuildLock]:
    """Lock the cache: one process builds and writes at a time.

    Args:
        on_wait: called once if another process has the lock.

    Raises:
        PlanError: the lock file cannot be opened because another user owns it, or the bundle was removed in the meantime.
    """
    lock = _locked(bundle_folder / ENGINES_FOLDER / LOCK_NAME, on_wait)
    try:
        yield lock
    finally:
        os.close(lock.handle)


def _locked(path: Path, on_wait: Callable[[], None]) -> BuildLock:
    waited = False
    while True:
        lock = BuildLock(path=path, handle=_open_lock(path))
        try:
            try:
                fcntl.flock(lock.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waited:
                    on_wait()
                waited = True
                fcntl.flock(lock.handle, fcntl.LOCK_EX)
            if lock.is_current:
                return lock
        except BaseException:
            os.close(lock.handle)
            raise
        os.close(lock.handle)  # the bundle was replaced while waiting: its lock is another file


def _open_lock(path: Path) -> int:
    """Open the lock file, and create it if it is missing. Read access is enough to lock a file of another user."""
    refused: OSError | None = None
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):  # NFS locks only files that are open for writing
        try:
            return os.open(path, flags | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            raise PlanError(
                f"{path.parent} does not exist any more: the bundle was exported again or moved. Build again: edgefuse build "
                f"{quoted(path.parent.parent)}"
            ) from None
        except OSError as error:
            refused = error
    assert refused is not None
    raise PlanError(
        f"{path}, the lock of engine builds, cannot be opened ({refused.strerror}). If no build is running there, change its "
        f"owner: sudo chown -R {os.geteuid()} {quoted(path.parent)}"
    ) from refused


def sweep(bundle: Bundle) -> None:
    """Remove the leftovers of killed builds: temporary files, and plans that are not in the manifest. Requires `build_lock`."""
    folder = bundle.folder / ENGINES_FOLDER
    stems = {Path(name).stem for name in bundle.manifest.files if name.startswith(f"{ENGINES_FOLDER}/")}
    of_stems = tuple(f"{stem}." for stem in stems)
    left = [path for path in folder.iterdir() if path.name.startswith(".") and path.name != LOCK_NAME]
    left += [path for path in folder.iterdir() if _OF_A_PLAN.fullmatch(path.name) and path.stem not in stems]
    left += [path for path in folder.iterdir() if _OF_A_GPU.fullmatch(path.name) and not path.name.startswith(of_stems)]
    remove_leftovers(bundle.folder)
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def plan_stem(key: PlanKey, plan_sha256: str) -> str:
    """Name of a plan's files, without the suffix."""
    gpus = "_".join(map(sm_name, key.compute_capabilities))
    library = "rtx" if key.engine == "rtx" else "trt"
    stem = f"{key.precision}-{gpus}-{library}{key.tensorrt_version}-{plan_sha256[:12]}"
    return re.sub(r"[^A-Za-z0-9._-]", "_", stem)


def store_plan(
    bundle_folder: Path,
    *,
    lock: BuildLock,
    key: PlanKey,
    onnx_file: str,
    plan: bytes,
    details: Mapping[str, Any],
    log: Path | None = None,
) -> PlanRecord:
    """Store a plan: the plan, its record and its log first, the manifest last, each atomically.

    An older plan of the same precision, batch and GPU is removed; plans of other GPUs stay.

    Args:
        lock: of this bundle, held.
        details: see `PlanRecord`; an entry "parity" that is not None is also written to the manifest's `parity`.
        log: the builder's log; it is moved next to the plan.

    Raises:
        PlanError: the bundle was exported again in the meantime.
    """
    _current(bundle_folder, lock=lock, key=key, onnx_file=onnx_file)
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
    with file_replaced(folder / f"{stem}.plan", private=True, follow_links=False) as temporary:
        temporary.write_bytes(plan)
    write_json(folder / f"{stem}.json", record.to_json(), follow_links=False)
    if log is not None and log.exists():
        log.replace(folder / f"{stem}.log")
    # An export does not wait for builds. The manifest is read again, so that an old one never overwrites a new bundle's.
    with held(bundle_folder / MANIFEST_NAME):
        bundle = _current(bundle_folder, lock=lock, key=key, onnx_file=onnx_file)
        replaced = [one for one in plan_records(bundle) if one.name != record.name and _replaces(one.key, key)]
        _name_in_manifest(bundle, record, without=[one.name for one in replaced])
    for one in replaced:
        for suffix in (".plan", ".json", ".log"):
            (bundle_folder / one.name).with_suffix(suffix).unlink(missing_ok=True)
    return record


def _current(bundle_folder: Path, *, lock: BuildLock, key: PlanKey, onnx_file: str) -> Bundle:
    """The bundle, reopened.

    Raises:
        PlanError: it is not the bundle that the plan was built for.
    """
    bundle = open_bundle(bundle_folder)
    source = bundle.manifest.files.get(onnx_file)
    if lock.is_current and source is not None and source.sha256 == key.onnx_sha256:
        return bundle
    raise PlanError(
        f"{bundle_folder} was exported again while its engine was being built, so the engine was discarded. "
        f"Build it again: {build_command_of(bundle, key)}"
    )


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
    if record.details.get("parity") is not None:
        parity[record.name] = record.details["parity"]
    write_manifest(bundle.folder, replace(manifest, files=files, parity=parity, engines=engines))


def _replaces(one: PlanKey, other: PlanKey) -> bool:
    """Whether both plans are for the same GPU, precision and batch."""
    parts = ("device_name", "compute_capability", "precision", "batch_size")
    return all(getattr(one, part) == getattr(other, part) for part in parts)
