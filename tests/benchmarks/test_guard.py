"""Guards against slower code without absolute times: ratios with generous bounds, and memory that a call allocates."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgefuse.bundle import open_bundle
from edgefuse.measure import Plan, Variant, measure, ratio
from edgefuse_benchmarks.suites.core import bench_core
from edgefuse_runtime.classifier import Classifier
from edgefuse_runtime.engines import open_engine

PLAN = Plan(warmup_s=0.0, min_warmup_calls=20, measure_s=0.0, min_rounds=100, max_rounds=100)


def test_the_gate_costs_no_more_than_its_weights() -> None:
    (group,) = bench_core(widths=(256,), plan=replace(PLAN, min_warmup_calls=3, min_rounds=8, max_rounds=8)).groups
    found = next(one for one in group.ratios if one.numerator == "gated, ONNX Runtime, 1 thread")
    assert found.denominator.startswith("naive") and found.median < 3  # measured: 1.3


def test_an_engine_adds_little_to_onnx_runtime(bench_bundle: Path) -> None:
    import onnxruntime as ort

    bundle = open_bundle(bench_bundle)
    rng = np.random.default_rng(0)
    inputs = {
        "rgb": rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8),
        "depth": rng.integers(0, 8, (1, 32, 32, 2), dtype=np.uint8),
    }
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(bundle.file()), options, providers=["CPUExecutionProvider"])
    with open_engine(bundle, engine="cpu", num_threads=1) as engine:
        bare, wrapped = measure(
            [
                Variant(name="ONNX Runtime", call=lambda: session.run(None, inputs), calls_per_turn=5),
                Variant(name="engine", call=lambda: engine.run(**inputs), calls_per_turn=5),
            ],
            plan=PLAN,
            check=list,
        )
    assert ratio(wrapped, bare).median < 5  # measured: 1.5, on a network of 20 µs


def test_a_prediction_keeps_nothing_and_allocates_no_copy_of_the_frame(bench_bundle: Path) -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    depth = rng.integers(400, 3000, (480, 640), dtype=np.uint16)
    with Classifier(bench_bundle, engine="cpu", num_threads=1) as classifier:
        for _ in range(5):
            classifier(rgb, depth, roi=(100, 100, 300, 300))
        tracemalloc.start()
        try:
            for _ in range(20):  # caches fill
                classifier(rgb, depth, roi=(100, 100, 300, 300))
            gc.collect()
            kept, peak = tracemalloc.get_traced_memory()
            for _ in range(50):
                classifier(rgb, depth, roi=(100, 100, 300, 300))
            gc.collect()
            kept_later = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert kept_later - kept < 50 * 1024  # one cropped pair of each call would be 50 * 5120
    assert peak < rgb.nbytes / 10  # measured: 20 KB; a copy of the region alone has 270 KB
