"""Inference with a bundle's plan for TensorRT or TensorRT-RTX: chooses the plan, loads it, and checks its outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import Bundle
from edgefuse.contract import check_batch
from edgefuse.errors import UserError
from edgefuse_runtime.engines.build_command import build_command
from edgefuse_runtime.engines.engine import Decision, OfBundle, Tensor, check_num_pairs, padded
from edgefuse_runtime.engines.engine_cache import (
    PREFERRED_PRECISIONS,
    PlanRecord,
    device_file,
    no_plan_error,
    plan_records,
    read_plan,
    select_plan,
)
from edgefuse_runtime.engines.first_load import check_first_load
from edgefuse_runtime.engines.gpu_memory import GpuMemory, GpuProperties
from edgefuse_runtime.engines.loaded_plan import LoadedPlan
from edgefuse_runtime.engines.pycuda_memory import open_gpu_memory
from edgefuse_runtime.engines.tensorrt_library import RTX, TENSORRT, Library, Product, is_installed, load_library


class TensorRTEngine(OfBundle):
    """One execution context of one plan. See `Engine` for the protocol."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str | None = None,
        plan: bytes | None = None,
        extra_outputs: tuple[str, ...] = (),
        batch_size: int | None = None,
        product: Product = TENSORRT,
        open_memory: Callable[[], GpuMemory] | None = None,
    ) -> None:
        """Choose the plan; `with` finds, checks and loads it.

        Args:
            precision: of a plan in the bundle's cache; None = the best one that matches this machine.
            plan: use this plan instead of one from the cache. It is not checked, and a plan can run code: pass only a plan that
                this process has built.
            extra_outputs: outputs of `plan` that the contract does not have: tensors at which fusion was broken.
            batch_size: N of the plan's inputs; None = the bundle's, or with a dynamic batch the largest in its cache.
            product: TensorRT or TensorRT-RTX.
            open_memory: opens the GPU memory. Default: pycuda.
        """
        self._bundle = bundle
        self._precision = precision
        self._given_plan = plan
        self._extra_outputs = extra_outputs
        self._batch_size = batch_size if batch_size is not None else bundle.manifest.batch_size
        self._product = product
        self._open_memory = open_memory or partial(open_gpu_memory, product)
        self._loaded: LoadedPlan | None = None
        self._stack = ExitStack()
        self._owner = 0
        self._description: dict[str, Any] = {"engine": product.engine, "precision": precision}

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self._loaded.inputs if self._loaded is not None else ()

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self._loaded.outputs if self._loaded is not None else ()

    @property
    def batch_size(self) -> int | None:
        """N of the loaded plan; before loading, the requested N."""
        return self._loaded.batch_size if self._loaded is not None else self._batch_size

    @property
    def description(self) -> dict[str, Any]:
        return self._description

    def __enter__(self) -> TensorRTEngine:
        started_s = time.perf_counter()
        self._check_any_plan()
        library = load_library(self._product)
        memory = self._open_memory()
        gpu = self._properties(memory)
        record, plan = self._find_plan(library, gpu)
        where = f"{self._bundle.folder}/{record.name}" if record is not None else "the plan that was just built"
        self._description["precision"] = precision = record.key.precision if record is not None else self._precision
        again = build_command(
            self._bundle,
            precision or PREFERRED_PRECISIONS[0],
            engine=self._product.engine,
            targets=(gpu.compute_capability,),
            batch_size=record.batch_size if record is not None else None,
        )
        kernels = self._beside(record, gpu, ".kernels") if record is not None and self._product is RTX else None
        with ExitStack() as stack:
            stack.enter_context(memory)
            loaded = LoadedPlan(memory, library, where=where, again=again, mapped=gpu.integrated, kernels=kernels)
            stack.callback(loaded.close)
            loaded.open(plan, extra_outputs=self._extra_outputs if record is None else record.extra_outputs)
            batch_size = record.batch_size if record is not None else self._batch_size or 1
            loaded.check(self.contract, batch_size=batch_size, num_labels=len(self.labels))
            loaded.prepare(is_stored=record is not None)
            parity = None if record is None else self._check_outputs(loaded, record, library, gpu)
            self._loaded, self._owner, self._stack = loaded, threading.get_ident(), stack.pop_all()
        self._description |= {
            "provider": library.title,
            "file": record.onnx_file if record is not None else None,
            "plan": record.name if record is not None else None,
            "device": gpu.name,
            "compute_capability": gpu.compute_capability,
            "buffers": "mapped" if gpu.integrated else "pinned",
            "launch": loaded.launch,
            "parity": parity,
            "start_ms": round((time.perf_counter() - started_s) * 1e3, 1),
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loaded is not None:
            self._check_owner()
        self._loaded = None
        self._stack.close()

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        """See `Engine.run`."""
        if self._loaded is None:
            raise RuntimeError("run outside of `with`")
        self._check_owner()
        check_batch(rgb, depth, self.contract)
        batch_size = self._loaded.batch_size
        check_num_pairs(len(rgb), batch_size)
        decision = self._loaded.run(padded(rgb, batch_size), padded(depth, batch_size))
        self._description["launch"] = self._loaded.launch
        return decision.rows(0, len(rgb))

    def extra_outputs(self) -> dict[str, NDArray[Any]]:
        """Name -> values of the last run, of the outputs that the contract does not have."""
        assert self._loaded is not None
        self._check_owner()
        return self._loaded.read_extra()

    def _check_any_plan(self) -> None:
        """Without any plan, the library is not loaded: it takes a quarter of a second and 150 MB."""
        if self._given_plan is None and is_installed(self._product):
            records = plan_records(self._bundle)
            if not any(record.key.engine == self._product.engine for record in records):
                raise no_plan_error(self._bundle, engine=self._product.engine, precision=self._precision)

    def _properties(self, memory: GpuMemory) -> GpuProperties:
        try:
            return memory.properties
        except UserError as error:
            if self._product is not RTX:
                raise
            raise type(error)(
                f"{str(error).rstrip('.')}. Plans for {RTX.name} can be built without a GPU, but not run"
            ) from error

    def _find_plan(self, library: Library, gpu: GpuProperties) -> tuple[PlanRecord | None, bytes]:
        if self._given_plan is not None:
            return None, self._given_plan
        record = select_plan(
            self._bundle,
            precision=self._precision,
            tensorrt_version=library.version,
            compute_capability=gpu.compute_capability,
            device_name=gpu.name,
            batch_size=self._batch_size,
            engine=self._product.engine,
        )
        # Checks the ONNX file's digest: a plan has no labels and framing, so these come from the file it was built from.
        self._bundle.file(record.onnx_file)
        return record, read_plan(self._bundle, record)

    def _check_outputs(
        self, loaded: LoadedPlan, record: PlanRecord, library: Library, gpu: GpuProperties
    ) -> dict[str, Any]:
        def run(rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
            return loaded.run(padded(rgb, loaded.batch_size), padded(depth, loaded.batch_size)).rows(0, 1)

        checked = self._beside(record, gpu, ".checked.json")
        return check_first_load(self._bundle, record, run, library=library.title, checked=checked)

    def _beside(self, record: PlanRecord, gpu: GpuProperties, suffix: str) -> Path:
        return device_file(
            self._bundle, record, device_name=gpu.name, compute_capability=gpu.compute_capability, suffix=suffix
        )

    def _check_owner(self) -> None:
        if threading.get_ident() != self._owner:
            raise RuntimeError(
                f"a {self._product.name} engine was called by another thread than the one that opened it: open an engine in each thread, or "
                "pass the pairs to the thread that opened it"
            )
