"""Builds an engine for a bundle with TensorRT or TensorRT-RTX: looks it up in the cache, builds it, checks precision and outputs, and
stores it.

The bundle is not changed before everything that the build needs is found, and a plan that fails a check is not stored.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from edgefuse.bundle import Bundle, Samples, open_bundle
from edgefuse.contract import DEPTH_INPUT, RGB_INPUT
from edgefuse.errors import MissingPackageError, UserError, require
from edgefuse.io.text import quoted
from edgefuse.progress import Progress, no_progress
from edgefuse_export.tensorrt.build_log import Journal
from edgefuse_export.tensorrt.build_options import BuildOptions
from edgefuse_export.tensorrt.engine_cache_writer import BuildLock, build_lock, check_cache, store_plan, sweep
from edgefuse_export.tensorrt.first_difference import TracedEngine
from edgefuse_export.tensorrt.int8_timing import Int8Timing, SlowerError, time_int8
from edgefuse_export.tensorrt.plan_from_onnx import (
    Typing,
    check_parser,
    json_settings,
    new_logger,
    plan_from_onnx,
    typing_for,
)
from edgefuse_export.tensorrt.rtx_targets import targets_for
from edgefuse_export.tensorrt.trial import BuildPlan, OpenPlan, Trial
from edgefuse_runtime.engines.build_command import sm_name
from edgefuse_runtime.engines.cuda_device import Gpu, NoGpuError, current_gpu
from edgefuse_runtime.engines.engine_cache import (
    ANY_DEVICE,
    ENGINES_FOLDER,
    PlanKey,
    PlanRecord,
    look_up,
)
from edgefuse_runtime.engines.gpu_memory import GpuError
from edgefuse_runtime.engines.pycuda_memory import open_gpu_memory
from edgefuse_runtime.engines.tensorrt_library import RTX, Library, load_library, version_numbers

INT8_SINCE = (1, 7)
"""First TensorRT-RTX that builds the exporter's INT8 files; 1.4, 1.5 and 1.6 fail with an internal error."""
CANDIDATE_PREFIX = ".candidate-"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """The engine of the bundle.

    Attributes:
        built: False = it was in the cache.
        reason: why it was built, or "".
        int8_timing: if an INT8 engine was requested and discarded because it is not faster: its time. `record` is then the FP16 engine.
    """

    bundle: Bundle
    record: PlanRecord
    built: bool
    reason: str
    int8_timing: Int8Timing | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What this machine builds with, and for.

    Attributes:
        targets: compute capabilities, such as ("8.6", "8.9").
        device_name: of the GPU that the plan is for; "any" with TensorRT-RTX.
        not_run: why the new plan cannot run here, so that its outputs are not compared; "" = it can.
    """

    library: Library
    targets: tuple[str, ...]
    device_name: str
    not_run: str = ""

    @property
    def where(self) -> str:
        """What a plan is built for, in messages."""
        return ", ".join(map(sm_name, self.targets)) if self.device_name == ANY_DEVICE else self.device_name


def check_machine(options: BuildOptions | None = None, *, runs_here: bool = True) -> Machine:
    """The library, and the GPUs to build for. Takes a second, so that missing parts are reported before a long export or build.

    Args:
        options: engine and targets. Default: TensorRT.
        runs_here: the comparison runs the new engine with this project's TensorRT engine, which requires pycuda.

    Raises:
        MissingPackageError, NoGpuError, GpuError: names the missing part and how to install it on this machine.
        TargetError: TensorRT-RTX does not build for one of the targets.
    """
    options = options or BuildOptions()
    if options.engine == "rtx":
        return _machine_for_rtx(options, runs_here=runs_here)
    try:
        gpu = current_gpu()
    except NoGpuError as error:  # first, because the other parts are useless without a GPU
        raise NoGpuError(
            "no NVIDIA GPU here: build on the device that is to run the engine, or with --engine rtx for desktop GPUs; live works "
            f"without an engine too: edgefuse live BUNDLE. If this machine has a GPU: {error}"
        ) from error
    library = load_library()
    check_parser(library)
    _require_to_run(library, runs_here=runs_here)
    return Machine(library=library, targets=(gpu.compute_capability,), device_name=gpu.name)


def _machine_for_rtx(options: BuildOptions, *, runs_here: bool) -> Machine:
    library = load_library(RTX)
    check_parser(library)
    if options.precision == "int8" and version_numbers(library.version)[:2] < INT8_SINCE:
        raise UserError(
            f"{library.title} builds no engine from an INT8 file, {'.'.join(map(str, INT8_SINCE))} or newer does: "
            "pip install --upgrade tensorrt-rtx-cu12; or build with --precision fp16"
        )
    gpu: Gpu | None = None
    with contextlib.suppress(NoGpuError):
        gpu = current_gpu()
    targets = targets_for(options.targets, library=library, gpu=gpu)
    not_run = ""
    if gpu is None:
        not_run = "built without a GPU"
    elif gpu.compute_capability not in targets:
        not_run = f"{gpu.name} is none of the GPUs that it was built for"
    else:
        try:
            _require_to_run(library, runs_here=runs_here)
        except (MissingPackageError, GpuError) as error:
            not_run = str(error)
    return Machine(library=library, targets=targets, device_name=ANY_DEVICE, not_run=not_run)


def _require_to_run(library: Library, *, runs_here: bool) -> None:
    """Raises MissingPackageError or GpuError if a plan cannot be run and compared here."""
    require(
        "onnxruntime", extra="runtime", hint="The outputs of the new engine are compared with those of ONNX Runtime"
    )
    if runs_here:
        _ = open_gpu_memory(
            library.product
        ).properties  # a pycuda for another CUDA version can be imported, but does not load


def build_engine(
    bundle_folder: Path,
    options: BuildOptions,
    *,
    open_plan: OpenPlan | None = None,
    progress: Progress = no_progress,
) -> BuildSummary:
    """Build an engine of the bundle, unless the cache has it.

    TensorRT builds for the GPU of this machine, TensorRT-RTX for the GPUs of `options.targets`. The outputs are compared if the
    plan runs on the GPU of this machine; INT8 is then kept only if it is faster than FP16, or with `options.force`.

    Args:
        open_plan: opens the new plan for the comparison. Default: the TensorRT engine that live uses.
        progress: called with (percent, 100) while the library builds.

    Raises:
        UserError: a part is missing, the cache cannot be written, the build fails, or the engine runs in another precision or
            has other outputs; the engine is then discarded, and the manifest is unchanged.
    """
    bundle = open_bundle(bundle_folder)
    machine = check_machine(options, runs_here=open_plan is None)
    typing = typing_for(library=machine.library, precision=options.precision)
    source_file(bundle, typing.onnx_file, precision=options.precision)
    samples = bundle.samples()
    check_cache(bundle)
    fp16: BuildSummary | None = None
    if options.precision == "int8" and not machine.not_run:  # to measure INT8 against
        fp16 = build_engine(bundle_folder, options.of_fp16(), open_plan=open_plan, progress=progress)
    waiting = f"another process is building in {bundle_folder}: waiting for it to end"
    with build_lock(bundle_folder, on_wait=lambda: _log.info("%s", waiting)) as lock:
        bundle = open_bundle(bundle_folder)  # another process may have built this engine
        onnx_path = source_file(bundle, typing.onnx_file, precision=options.precision)
        key = _key(bundle, machine=machine, typing=typing, options=options)
        found = look_up(bundle, key)
        if found.record is not None and not options.force:
            return BuildSummary(bundle=bundle, record=found.record, built=False, reason="")
        reason = found.reason or "--force was given"
        _log.info("building an engine for %s: %s", machine.where, reason)
        job = _Job(
            bundle=bundle, lock=lock, machine=machine, typing=typing, key=key, options=options, onnx_path=onnx_path
        )
        try:
            record = job.run(samples=samples, open_plan=open_plan, progress=progress, fp16=fp16)
        except SlowerError as slower:
            assert fp16 is not None
            return replace(fp16, int8_timing=slower.timing)
    return BuildSummary(bundle=open_bundle(bundle_folder), record=record, built=True, reason=reason)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One build; the lock is held."""

    bundle: Bundle
    lock: BuildLock
    machine: Machine
    typing: Typing
    key: PlanKey
    options: BuildOptions
    onnx_path: Path

    def run(
        self,
        *,
        samples: Samples,
        open_plan: OpenPlan | None,
        progress: Progress,
        fp16: BuildSummary | None,
    ) -> PlanRecord:
        if self.typing.note:
            _log.info("note: %s", self.typing.note)
        folder = self.bundle.folder / ENGINES_FOLDER
        sweep(self.bundle)
        failed_log = folder / f"{self.key.precision}.failed.log"
        with tempfile.TemporaryDirectory(prefix=CANDIDATE_PREFIX, dir=folder) as place, Journal(failed_log) as journal:
            started_s = time.monotonic()
            logger = new_logger(self.machine.library, journal)
            trial = Trial(
                bundle=self.bundle,
                key=self.key,
                library=self.machine.library,
                logger=logger,
                onnx_path=self.onnx_path,
                build_plan=self._plan_builder(folder, journal, logger, progress),
                candidate=Path(place) / "candidate.plan",
                samples=samples,
                open_plan=open_plan or self._open_here,
            )
            attempt, further = (trial.unverified(), {}) if self.machine.not_run else trial.right_engine()
            if fp16 is not None:
                further["int8_timing"] = time_int8(trial, attempt, fp16=fp16.record, keep=self.options.force).to_json()
            details = {
                "layers": attempt.layers,
                "parsed_layers": attempt.built.parsed,
                "notes": [*self._notes(), *attempt.built.notes],
                **self._versions(build_s=time.monotonic() - started_s),
                "parity": None if attempt.parity is None else attempt.parity.to_json(),
                **further,
            }
            return store_plan(
                self.bundle.folder,
                lock=self.lock,
                key=self.key,
                onnx_file=self.typing.onnx_file,
                plan=attempt.built.content,
                details=details,
                log=failed_log,
            )

    def _notes(self) -> list[str]:
        notes, not_run = [self.typing.note] if self.typing.note else [], self.machine.not_run
        if not_run:
            notes.append(f"outputs not compared: {not_run}; live compares them at its first start")
        if not_run and self.key.precision == "int8":
            notes.append(f"not measured whether INT8 is faster than FP16: {not_run}; auto prefers FP16")
        return notes

    def _plan_builder(self, folder: Path, journal: Journal, logger: Any, progress: Progress) -> BuildPlan:
        is_rtx = self.key.engine == "rtx"
        return partial(
            plan_from_onnx,
            self.onnx_path,
            library=self.machine.library,
            typing=self.typing,
            precision=self.key.precision,
            shapes=self.key.shapes,
            workspace_mib=self.options.workspace_mib,
            optimization_level=self.options.optimization_level,
            timing_cache=None if is_rtx else folder / _timing_cache_name(self.key),
            targets=self.machine.targets if is_rtx else (),
            journal=journal,
            logger=logger,
            progress=progress,
        )

    def _open_here(self, candidate: Path, extra_outputs: tuple[str, ...]) -> TracedEngine:
        from edgefuse_runtime.engines.tensorrt import TensorRTEngine

        return TensorRTEngine(
            self.bundle,
            precision=self.key.precision,
            plan=candidate.read_bytes(),
            extra_outputs=extra_outputs,
            batch_size=self.key.batch_size,
            product=self.machine.library.product,
        )

    def _versions(self, *, build_s: float) -> dict[str, Any]:
        from edgefuse import __version__

        return {
            "versions": {"edgefuse": __version__, self.key.engine: self.key.tensorrt_version},
            "built": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "build_s": round(build_s, 1),
        }


def source_file(bundle: Bundle, onnx_file: str, *, precision: str) -> Path:
    """The ONNX file to build from, with a correct digest.

    Raises:
        UserError: the bundle has no file of this precision, or the file was changed.
    """
    if onnx_file not in bundle.manifest.files:
        raise UserError(
            f"{bundle.folder} has no {onnx_file}, which the {precision} engine is built from: export it: "
            f"edgefuse export RUN --out {quoted(bundle.folder)} --precision fp32,{precision} --force; or use the FP32 "
            "file: --precision fp32"
        )
    return bundle.file(onnx_file)


def _key(bundle: Bundle, *, machine: Machine, typing: Typing, options: BuildOptions) -> PlanKey:
    side, num = bundle.manifest.contract.size, options.batch_size or bundle.manifest.batch_size or 1
    return PlanKey(
        onnx_sha256=bundle.manifest.files[typing.onnx_file].sha256,
        tensorrt_version=machine.library.version,
        compute_capability=", ".join(machine.targets),
        device_name=machine.device_name,
        precision=options.precision,
        engine=options.engine,
        shapes={RGB_INPUT: (num, side, side, 3), DEPTH_INPUT: (num, side, side, 2)},
        builder_options=json_settings(
            typing=typing, workspace_mib=options.workspace_mib, optimization_level=options.optimization_level
        ),
    )


def _timing_cache_name(key: PlanKey) -> str:
    """Timings are specific to a TensorRT version and a GPU: one file for each."""
    device = "".join(letter if letter.isalnum() else "_" for letter in key.device_name)
    return f"timing-sm{key.compute_capability.replace('.', '')}-{device}-trt{key.tensorrt_version}.cache"
