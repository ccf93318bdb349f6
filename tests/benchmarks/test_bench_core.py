"""The core benchmark with PyTorch and ONNX Runtime, at small widths."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from edgefuse.errors import UserError
from edgefuse.measure import ParityError, Plan
from edgefuse_benchmarks.report import Report
from edgefuse_benchmarks.suites import core_variants
from edgefuse_benchmarks.suites.core import _case, bench_core
from edgefuse_benchmarks.suites.core_variants import (
    build_core,
    feature_pairs,
    in_onnxruntime,
    in_torch,
    onnx_from_core,
    weights_bytes,
)

PLAN = Plan(warmup_s=0.0, min_warmup_calls=1, measure_s=0.0, min_rounds=4, max_rounds=4)
WIDTHS = (8, 24)
FLUSH_BYTES = 16 << 20


@pytest.fixture(scope="module")
def report() -> Report:
    seen: list[tuple[int, int]] = []
    threads_before = torch.get_num_threads()
    torch.set_num_threads(2)
    found = bench_core(
        widths=WIDTHS, plan=PLAN, flush_bytes=FLUSH_BYTES, progress=lambda done, total, **_: seen.append((done, total))
    )
    assert seen == [(1, 2), (2, 2)]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads_before)
    return found


def numpy_outputs(core: Any, F_A: np.ndarray, F_B: np.ndarray, *, gated: bool) -> tuple[np.ndarray, np.ndarray]:
    """Equations 6 and 7 and the two layers, with the weights of the core."""
    weights = {name: value.detach().numpy().astype(np.float64) for name, value in core.named_parameters()}
    G = np.full_like(F_B, 0.5, dtype=np.float64)
    F_O = np.concatenate([F_A, F_B], axis=1)
    if gated:
        G = 1 / (1 + np.exp(-(F_B @ weights["fusion.W.weight"].T + weights["fusion.W.bias"])))
        F_O = np.concatenate([F_A * (1 - G), F_B * G], axis=1)
    hidden = np.maximum(F_O @ weights["head.0.weight"].T + weights["head.0.bias"], 0)
    powers = np.exp(hidden @ weights["head.3.weight"].T + weights["head.3.bias"])
    return powers / powers.sum(axis=1, keepdims=True), G


@pytest.mark.parametrize("kind", ["gated", "naive"])
def test_the_timed_core_is_that_of_the_paper(kind: Any) -> None:
    core = build_core(kind, width=12, num_hidden=5, num_classes=3, seed=1)
    pairs = feature_pairs(12, num_pairs=3, seed=2)
    onnx_bytes = onnx_from_core(core, width=12)
    for implementation in (
        in_torch(core, pairs, name="torch"),
        in_onnxruntime(onnx_bytes, pairs, name="onnxruntime", num_threads=1),
    ):
        for i, (F_A, F_B) in enumerate(pairs):
            expected = numpy_outputs(core, F_A, F_B, gated=kind == "gated")
            for found, wanted in zip(implementation.outputs(i), expected, strict=True):
                np.testing.assert_allclose(found, wanted, atol=1e-6)
            run = implementation.run(i)
            assert isinstance(run, tuple)
            np.testing.assert_allclose(np.asarray(run[0]), expected[0], atol=1e-6)


def test_features_are_like_the_output_of_a_relu() -> None:
    for F_A, F_B in feature_pairs(512, num_pairs=4, seed=0):
        for features in (F_A, F_B):
            assert (features.shape, features.dtype) == ((1, 512), np.float32)
            assert features.min() == 0
            assert 0.4 < (features > 0).mean() < 0.6
        assert not np.array_equal(F_A, F_B)


def test_the_size_of_the_weights_is_that_of_the_layers() -> None:
    d, h, c = 12, 5, 3
    head = (2 * d * h + h) + (h * c + c)
    for kind, gate in (("naive", 0), ("gated", d * d + d)):
        assert weights_bytes(build_core(kind, width=d, num_hidden=h, num_classes=c, seed=0)) == 4 * (head + gate)  # type: ignore[arg-type]


def test_every_width_has_every_implementation(report: Report) -> None:
    threads = report.parameters["onnxruntime_threads"]
    ways = ["torch, 1 thread", *(f"ONNX Runtime, {n} thread{'s' * (n > 1)}" for n in threads)]
    ways += ["read weights", "ONNX Runtime, 1 thread, flushed", "read weights, flushed"]
    if torch.cuda.is_available():
        ways.insert(1, "torch, CUDA")
    assert [group.name for group in report.groups] == ["d=8", "d=24"]
    for group in report.groups:
        assert [one.name for one in group.series] == [f"{kind}, {way}" for kind in ("gated", "naive") for way in ways]
        for one in group.series:
            assert one.turns_ns.shape == (4, 1 if "flushed" in one.name else 5)
            assert one.turns_ns.min() > 0
            assert group.gb_per_s(one) == pytest.approx(group.bytes_read[one.name] / np.median(one.samples_ns))
        against_naive = [one for one in group.ratios if one.denominator.startswith("naive")]
        assert [one.numerator for one in against_naive] == [
            f"gated, {way}" for way in ways if "read weights" not in way
        ]
        assert [one.denominator.removeprefix("naive") for one in against_naive] == [
            one.numerator.removeprefix("gated") for one in against_naive
        ]


def test_only_flushed_variants_are_flushed_before_each_call() -> None:
    def flush() -> None: ...

    case = _case("gated", 8, feature_pairs(8, num_pairs=8, seed=0), threads=[1], seed=0, flush=flush)
    for variant in case.variants:
        if variant.name.endswith(", flushed"):
            assert (variant.prepare, variant.settle_calls, variant.calls_per_turn) == (flush, 0, 1)
        else:
            assert variant.prepare is None and variant.settle_calls > 0


def test_flushed_weights_take_longer_to_read(report: Report) -> None:
    p50_ns = {one.name: one.summary().p50_ns for one in report.groups[1].series}
    for kind in ("gated", "naive"):
        # The flushing itself is outside the timing: 16 MiB take a quarter of a millisecond even at 60 GB/s.
        assert p50_ns[f"{kind}, read weights"] < p50_ns[f"{kind}, read weights, flushed"] < 250e3


def test_a_cache_larger_than_the_flush_is_noted(report: Report) -> None:
    assert report.parameters["flush_bytes"] == FLUSH_BYTES
    largest = max(report.machine["cpu"]["caches_bytes"].values(), default=0)
    assert any("flushed" in note for note in report.notes) == (largest == 0 or largest > FLUSH_BYTES)


def test_the_result_has_the_comparisons(report: Report) -> None:
    num_compared = 2 * (len(report.parameters["onnxruntime_threads"]) + torch.cuda.is_available())
    assert len(report.parity) == num_compared * len(WIDTHS)
    assert all(one["max_probability_difference"] < 1e-5 for one in report.parity)
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("damage", [0.5, float("nan")])
def test_nothing_is_measured_if_outputs_differ(monkeypatch: pytest.MonkeyPatch, damage: float) -> None:
    correct = core_variants.onnx_from_core

    def damaged(core: Any, *, width: int) -> bytes:
        other = copy.deepcopy(core)
        with torch.no_grad():
            other.head[3].bias[0] += damage
        return correct(other, width=width)

    monkeypatch.setattr(core_variants, "onnx_from_core", damaged)
    with pytest.raises(ParityError, match="d=8: gated, ONNX Runtime, 1 thread differs from gated, torch"):
        bench_core(widths=[8], plan=PLAN, flush_bytes=FLUSH_BYTES)


@pytest.mark.parametrize("widths", [(), (0,), (128, -1), (1 << 20,)])
def test_impossible_widths_are_refused(widths: Sequence[int]) -> None:
    with pytest.raises(UserError, match="1 to 16384"):
        bench_core(widths=widths, plan=PLAN)
