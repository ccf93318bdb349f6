"""Bundles with a TensorRT plan, and engines on the fakes of TensorRT and GPU memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from edgefuse.bundle import MODEL_NAME, Bundle, FileEntry, open_bundle, write_manifest
from edgefuse.contract import DEPTH_INPUT, RGB_INPUT
from edgefuse_export.tensorrt.engine_cache_writer import build_lock, store_plan
from edgefuse_runtime.engines.engine_cache import ENGINES_FOLDER, PlanKey
from edgefuse_runtime.engines.tensorrt import TensorRTEngine
from fake_tensorrt import FakeTensorRT
from host_memory import HostMemory
from toy_bundle import make_toy_bundle

FP16_NAME = "model.fp16.onnx"


def bundle_with_plan(folder: Path, fake: FakeTensorRT, *, precision: str = "fp16", **toy: Any) -> Bundle:
    """A toy bundle with a second file of `precision`, and the plan that `fake` builds from it."""
    made = make_toy_bundle(folder, **toy)
    path = folder / FP16_NAME
    path.write_bytes((folder / MODEL_NAME).read_bytes())
    entry = FileEntry.of(path, precision=precision)
    write_manifest(folder, dataclasses.replace(made.manifest, files={**made.manifest.files, FP16_NAME: entry}))
    side = made.manifest.contract.size
    (folder / ENGINES_FOLDER).mkdir(mode=0o755)
    key = PlanKey(
        onnx_sha256=entry.sha256,
        tensorrt_version=fake.version,
        compute_capability="8.7",
        device_name=fake.device,
        precision=precision,
        shapes={RGB_INPUT: (1, side, side, 3), DEPTH_INPUT: (1, side, side, 2)},
        builder_options={},
    )
    with build_lock(folder) as lock:
        store_plan(folder, lock=lock, key=key, onnx_file=FP16_NAME, plan=plan_bytes(fake, path), details={})
    return open_bundle(folder)


def plan_bytes(fake: FakeTensorRT, onnx_file: Path) -> bytes:
    """A plan of an ONNX file, built through TensorRT's API."""
    trt = fake.module
    logger = trt.ILogger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger).parse_from_file(str(onnx_file))
    return bytes(builder.build_serialized_network(network, builder.create_builder_config()))


def engine_on(bundle: Bundle, memory: HostMemory, **options: Any) -> TensorRTEngine:
    """The engine under test, on `memory` as its GPU."""
    return TensorRTEngine(bundle, open_memory=lambda: memory, **options)
