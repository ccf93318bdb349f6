"""Bundles with a TensorRT plan, and engines on the fakes of TensorRT and GPU memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgefuse.bundle import (
    MODEL_NAME,
    SAMPLES_NAME,
    Bundle,
    FileEntry,
    Samples,
    open_bundle,
    write_manifest,
    write_samples,
)
from edgefuse.contract import DEPTH_INPUT, RGB_INPUT, bytes_from_codes
from edgefuse_export.tensorrt.engine_cache_writer import build_lock, store_plan
from edgefuse_runtime.engines.engine_cache import ENGINES_FOLDER, PlanKey
from edgefuse_runtime.engines.tensorrt import TensorRTEngine
from fake_tensorrt import FakeTensorRT
from host_memory import HostMemory
from toy_bundle import make_toy_bundle, toy_answer, toy_nearest_m

FP16_NAME = "model.fp16.onnx"
COMPARED = {"parity": {"cases": []}}


def bundle_with_plan(
    folder: Path,
    fake: FakeTensorRT,
    *,
    precision: str = "fp16",
    details: dict[str, Any] | None = None,
    key_changes: Mapping[str, Any] = MappingProxyType({}),
    plan: bytes | None = None,
    **toy: Any,
) -> Bundle:
    """A toy bundle with a second file of `precision`, and the plan that `fake` builds from it.

    Args:
        details: of the plan's record; None = its outputs were compared at the build.
        key_changes: fields of the plan's key.
        plan: instead of one that `fake` builds.
    """
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
    key = dataclasses.replace(key, **key_changes)
    plan = plan_bytes(fake, path) if plan is None else plan
    with build_lock(folder) as lock:
        store_plan(folder, lock=lock, key=key, onnx_file=FP16_NAME, plan=plan, details=details or COMPARED)
    return open_bundle(folder)


def bundle_for_rtx(
    folder: Path, fake: FakeTensorRT, *, targets: str = "8.6, 8.9", has_samples: bool = True, **options: Any
) -> Bundle:
    """A toy bundle with a plan for TensorRT-RTX, as it is built without a GPU: for several compute capabilities, not compared."""
    changes = {"engine": "rtx", "compute_capability": targets, "device_name": "any"}
    made = bundle_with_plan(folder, fake, key_changes=changes, **{"details": {"parity": None}, **options})
    if has_samples:
        files = {**made.manifest.files, SAMPLES_NAME: write_samples(folder, _samples(made))}
        write_manifest(folder, dataclasses.replace(made.manifest, files=files))
    return open_bundle(folder)


def _samples(made: Bundle) -> Samples:
    """Dark and bright frames at all distances, with the toy model's outputs."""
    side, rng = made.manifest.contract.size, np.random.default_rng(0)
    rgb = rng.integers(0, 128, (16, side, side, 3), dtype=np.uint8)
    rgb[::2] += 100
    codes = rng.integers(1, 2000, (16, 1, 1), dtype=np.uint16)
    depth = bytes_from_codes(np.broadcast_to(codes, (16, side, side)))
    answers = [toy_answer(*pair) for pair in zip(rgb, depth, strict=True)]
    return Samples(
        rgb=rgb,
        depth=depth,
        probabilities=np.array([probabilities for probabilities, _ in answers], np.float32),
        gate=np.array([[gate] * made.manifest.model["width"] for _, gate in answers], np.float32),
        nearest_m=np.array([[toy_nearest_m(one)] for one in depth], np.float32),
    )


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
