"""Builds a TensorRT engine for a bundle: looks it up in the cache, builds it, checks precision and outputs, and stores it.

The bundle is not changed before TensorRT and a GPU are found, and a plan that fails a check is not stored.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgefuse.bundle import Bundle, Samples, open_bundle
from edgefuse.contract import DEPTH_INPUT, RGB_INPUT
from edgefuse.errors import UserError, require
from edgefuse.io.text import quoted
from edgefuse.progress import Progress, no_progress
from edgefuse_export.compare_outputs import ParityReport
from edgefuse_export.tensorrt.build_log import BUILDING, Journal
from edgefuse_export.tensorrt.engine_cache_writer import BuildLock, build_lock, check_cache, store_plan, sweep
from edgefuse_export.tensorrt.inspect_engine import check_precision, count_layers
from edgefuse_export.tensorrt.plan_from_onnx import Typing, json_settings, new_logger, plan_from_onnx, typing_for
from edgefuse_export.tensorrt.verify_engine import verify_engine
from edgefuse_runtime.engines.cuda_device import Gpu, NoGpuError, current_gpu
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.engines.engine_cache import ENGINES_FOLDER, PlanKey, PlanRecord, look_up
from edgefuse_runtime.engines.pycuda_memory import open_gpu_memory
from edgefuse_runtime.engines.tensorrt_library import Library, load_library

PRECISIONS = ("fp16", "int8", "fp32")
MAX_OPTIMIZATION_LEVEL = 5
CANDIDATE_PREFIX = ".candidate-"

_log = logging.getLogger(__name__)


class EngineOutputError(UserError):
    """The outputs of the engine differ from those of the bundle; the engine was discarded."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        precision: "fp16", "int8" or "fp32".
        workspace_mib: most scratch memory of one layer.
        optimization_level: 0 (fastest build) to 5 (fastest engine); 3 is TensorRT's default.
        batch_size: N of the engine's inputs; None = that of the bundle, or 1 if the bundle's is dynamic.
        force: build even if the cache has the engine.
    """

    precision: str = "fp16"
    workspace_mib: int = 1024
    optimization_level: int = 3
    batch_size: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UserError(f"precision {self.precision!r} is unknown: one of {', '.join(PRECISIONS)} was expected")
        if self.workspace_mib < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise UserError(
                f"the workspace is {self.workspace_mib} MiB and the batch {self.batch_size}: 1 or more was expected"
            )
        if not 0 <= self.optimization_level <= MAX_OPTIMIZATION_LEVEL:
            raise UserError(
                f"the optimization level is {self.optimization_level}: 0 to {MAX_OPTIMIZATION_LEVEL} was expected"
            )


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """The engine of the bundle.

    Attributes:
        built: False = it was in the cache.
        reason: why it was built, or "".
    """

    bundle: Bundle
    record: PlanRecord
    built: bool
    reason: str


OpenPlan = Callable[[Path], Engine]
"""Opens a plan that this process has just built: path -> Engine, used with `with`."""


def check_machine(*, runs_here: bool = True) -> tuple[Library, Gpu]:
    """TensorRT and the GPU to build for. Takes a second, so that missing parts are reported before a long export or build.

    Args:
        runs_here: the comparison runs the new engine with this project's TensorRT engine, which requires pycuda.

    Raises:
        MissingPackageError, NoGpuError, GpuError: names the missing part and how to install it on this machine.
    """
    try:
        gpu = current_gpu()
    except NoGpuError as error:  # first, because the other parts are useless without a GPU
        raise NoGpuError(
            "no NVIDIA GPU here: build on the device that is to run the engine; live works without an engine too: "
            f"edgefuse live BUNDLE. If this machine has a GPU: {error}"
        ) from error
    library = load_library()
    require(
        "onnxruntime", extra="runtime", hint="The outputs of the new engine are compared with those of ONNX Runtime"
    )
    if runs_here:
        _ = open_gpu_memory().properties  # a pycuda for another CUDA version can be imported, but does not load
    return library, gpu


def build_engine(
    bundle_folder: Path,
    options: BuildOptions,
    *,
    open_plan: OpenPlan | None = None,
    progress: Progress = no_progress,
) -> BuildSummary:
    """Build an engine of the bundle for this machine's GPU and TensorRT, unless the cache has it.

    Args:
        open_plan: opens the new plan for the comparison. Default: the TensorRT engine that live uses.
        progress: called with (percent, 100) while TensorRT builds.

    Raises:
        UserError: a part is missing, the cache cannot be written, the build fails, or the engine runs in another precision or
            has other outputs; the engine is then discarded, and the manifest is unchanged.
    """
    bundle = open_bundle(bundle_folder)
    library, gpu = check_machine(runs_here=open_plan is None)
    typing = typing_for(library=library, precision=options.precision)
    source_file(bundle, typing.onnx_file, precision=options.precision)
    samples = bundle.samples()
    check_cache(bundle)
    waiting = f"another process is building in {bundle_folder}: waiting for it to end"
    with build_lock(bundle_folder, on_wait=lambda: _log.info("%s", waiting)) as lock:
        bundle = open_bundle(bundle_folder)  # another process may have built this engine
        onnx_path = source_file(bundle, typing.onnx_file, precision=options.precision)
        key = _key(bundle, version=library.version, gpu=gpu, typing=typing, options=options)
        found = look_up(bundle, key)
        if found.record is not None and not options.force:
            return BuildSummary(bundle=bundle, record=found.record, built=False, reason="")
        reason = found.reason or "--force was given"
        _log.info("building an engine for %s: %s", gpu.name, reason)
        if typing.note:
            _log.info("note: %s", typing.note)
        job = _Job(
            bundle=bundle, lock=lock, library=library, typing=typing, key=key, options=options, onnx_path=onnx_path
        )
        record = job.run(samples=samples, open_plan=open_plan, progress=progress)
    return BuildSummary(bundle=open_bundle(bundle_folder), record=record, built=True, reason=reason)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One build; the lock is held."""

    bundle: Bundle
    lock: BuildLock
    library: Library
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
    ) -> PlanRecord:
        folder = self.bundle.folder / ENGINES_FOLDER
        sweep(self.bundle)
        failed_log = folder / f"{self.key.precision}.failed.log"
        with tempfile.TemporaryDirectory(prefix=CANDIDATE_PREFIX, dir=folder) as place, Journal(failed_log) as journal:
            started_s = time.monotonic()
            logger = new_logger(self.library, journal)
            built = plan_from_onnx(
                self.onnx_path,
                library=self.library,
                typing=self.typing,
                shapes=self.key.shapes,
                workspace_mib=self.options.workspace_mib,
                optimization_level=self.options.optimization_level,
                timing_cache=folder / _timing_cache_name(self.key),
                journal=journal,
                logger=logger,
                progress=progress,
            )
            build_s = time.monotonic() - started_s
            layers = count_layers(built.content, library=self.library, logger=logger, shapes=self.key.shapes)
            check_precision(layers, precision=self.key.precision)
            candidate = Path(place) / "candidate.plan"
            candidate.write_bytes(built.content)
            parity = self._compare(candidate, samples=samples, open_plan=open_plan)
            progress(100, 100, stage=BUILDING)
            details = {
                "layers": layers,
                "notes": [*filter(None, [self.typing.note]), *built.notes],
                **self._versions(build_s=build_s),
                "parity": parity.to_json(),
            }
            return store_plan(
                self.bundle.folder,
                lock=self.lock,
                key=self.key,
                onnx_file=self.typing.onnx_file,
                plan=built.content,
                details=details,
                log=failed_log,
            )

    def _compare(self, candidate: Path, *, samples: Samples, open_plan: OpenPlan | None) -> ParityReport:
        opened = self._open_here(candidate) if open_plan is None else open_plan(candidate)
        try:
            with opened as engine:
                report = verify_engine(
                    self.bundle,
                    engine,
                    samples=samples,
                    precision=self.key.precision,
                    batch_size=self.key.batch_size,
                    name=f"TensorRT {self.key.tensorrt_version} {self.key.precision} on {self.key.device_name}",
                )
        except UserError as error:
            raise EngineOutputError(
                f"the engine was built but does not run, so it was discarded: {error}\n{self._next_step()}"
            ) from error
        failures = report.failures()
        if failures:
            raise EngineOutputError(
                "the outputs of the engine differ from those of the bundle, so it was discarded:\n  "
                + "\n  ".join(failures)
                + f"\n{self._next_step()}"
            )
        return report

    def _next_step(self) -> str:
        return (
            f"Let the builder choose other kernels: remove {self.bundle.folder / ENGINES_FOLDER}/timing-*.cache and build again, "
            "or use another --optimization-level; if a layer overflows in FP16, export again with --keep-fp32 PATTERN; or "
            "build with --precision fp32"
        )

    def _open_here(self, candidate: Path) -> Engine:
        from edgefuse_runtime.engines.tensorrt import TensorRTEngine

        return TensorRTEngine(
            self.bundle,
            precision=self.key.precision,
            plan=candidate.read_bytes(),
            batch_size=self.key.batch_size,
        )

    def _versions(self, *, build_s: float) -> dict[str, Any]:
        from edgefuse import __version__

        return {
            "versions": {"edgefuse": __version__, "tensorrt": self.key.tensorrt_version},
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
            f"{bundle.folder} has no {onnx_file}, which a {precision} engine is built from: export it: "
            f"edgefuse export RUN --out {quoted(bundle.folder)} --precision fp32,{precision} --force; or use the FP32 "
            "file: --precision fp32"
        )
    return bundle.file(onnx_file)


def _key(bundle: Bundle, *, version: str, gpu: Gpu, typing: Typing, options: BuildOptions) -> PlanKey:
    side, num = bundle.manifest.contract.size, options.batch_size or bundle.manifest.batch_size or 1
    return PlanKey(
        onnx_sha256=bundle.manifest.files[typing.onnx_file].sha256,
        tensorrt_version=version,
        compute_capability=gpu.compute_capability,
        device_name=gpu.name,
        precision=options.precision,
        shapes={RGB_INPUT: (num, side, side, 3), DEPTH_INPUT: (num, side, side, 2)},
        builder_options=json_settings(
            typing=typing, workspace_mib=options.workspace_mib, optimization_level=options.optimization_level
        ),
    )


def _timing_cache_name(key: PlanKey) -> str:
    """Timings are specific to a TensorRT version and a GPU: one file for each."""
    device = "".join(letter if letter.isalnum() else "_" for letter in key.device_name)
    return f"timing-sm{key.compute_capability.replace('.', '')}-{device}-trt{key.tensorrt_version}.cache"
