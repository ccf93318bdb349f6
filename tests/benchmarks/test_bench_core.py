"""The core benchmark with PyTorch and ONNX Runtime, at small widths."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from edgefuse.errors import UserError
from edgefuse.measure import ParityError, Plan
from edgefuse_benchmarks.report import Group, Report
from edgefuse_benchmarks.suites import core_variants
from edgefuse_benchmarks.suites.core import KINDS, _case, _Request, bench_core
from edgefuse_benchmarks.suites.core_variants import (
    build_core,
    features,
    in_onnxruntime,
    in_torch,
    onnx_from_core,
    weights_bytes,
)

PLAN = Plan(warmup_s=0.0, min_warmup_calls=1, measure_s=0.0, min_rounds=4, max_rounds=4)
WIDTHS = (24,)
FLUSH_BYTES = 16 << 20


@pytest.fixture(scope="module")
def report() -> Report:
    seen: list[tuple[int, int]] = []
    threads_before = torch.get_num_threads()
    torch.set_num_threads(2)
    found = bench_core(
        widths=WIDTHS,
        batches=(1, 3),
        plan=PLAN,
        flush_bytes=FLUSH_BYTES,
        progress=lambda done, total, **_: seen.append((done, total)),
    )
    assert seen == [(1, 2), (2, 2)]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads_before)
    return found


def on_cpu(report: Report) -> list[Group]:
    return [group for group in report.groups if group.facts["device"] == "cpu"]


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
    inputs = features(kind, width=12, batch=2, count=3, seed=2)
    onnx_bytes = onnx_from_core(core, inputs[0])
    for implementation in (
        in_torch(core, inputs, name="torch"),
        in_torch(core, inputs, name="torch", precision="float64"),
        in_onnxruntime(onnx_bytes, inputs, name="onnxruntime", num_threads=1),
    ):
        for i, (F_A, F_B) in enumerate(inputs):
            expected = numpy_outputs(core, F_A, F_B, gated=kind == "gated")
            for found, wanted in zip(implementation.outputs(i), expected, strict=True):
                np.testing.assert_allclose(found, wanted, atol=1e-6)
            run = implementation.run(i)
            assert isinstance(run, tuple)
            np.testing.assert_allclose(np.asarray(run[0]), expected[0], atol=1e-6)


def test_features_are_like_the_output_of_a_relu() -> None:
    for F_A, F_B in features("gated", width=512, count=4, seed=0):
        for one in (F_A, F_B):
            assert (one.shape, one.dtype) == ((1, 512), np.float32)
            assert one.min() == 0
            assert 0.4 < (one > 0).mean() < 0.6
        assert not np.array_equal(F_A, F_B)


def test_the_frame_gate_weighs_the_heads_of_spatial() -> None:
    core = build_core("spatial", width=12, num_hidden=5, num_classes=3, seed=1)
    inputs = features("spatial", width=12, batch=2, count=2, seed=2)
    assert [one.shape for one in inputs[0]] == [(2, 12), (2, 12), (2, 1)]
    weights = {name: value.detach().numpy().astype(np.float64) for name, value in core.named_parameters()}
    found = in_onnxruntime(onnx_from_core(core, inputs[0]), inputs, name="onnxruntime", num_threads=1)
    for i, (F_A, F_B, G) in enumerate(inputs):
        rgb, depth = (
            F @ weights[f"auxiliary_heads.{name}.weight"].T + weights[f"auxiliary_heads.{name}.bias"]
            for F, name in ((F_A, "rgb"), (F_B, "depth"))
        )
        powers = np.exp(2 * ((1 - G) * rgb + G * depth))
        np.testing.assert_allclose(found.outputs(i)[0], powers / powers.sum(axis=1, keepdims=True), atol=1e-6)
        np.testing.assert_array_equal(found.outputs(i)[1], G)


def test_the_size_of_the_weights_is_that_of_the_layers() -> None:
    d, h, c = 12, 5, 3
    head = (2 * d * h + h) + (h * c + c)
    for kind, gate in (("naive", 0), ("gated", d * d + d)):
        assert weights_bytes(build_core(kind, width=d, num_hidden=h, num_classes=c, seed=0)) == 4 * (head + gate)  # type: ignore[arg-type]


def test_every_width_and_batch_has_every_kind_and_implementation(report: Report) -> None:
    threads = report.parameters["onnxruntime_threads"]
    ways = ["torch, 1 thread", *(f"ONNX Runtime, {n} thread{'s' * (n > 1)}" for n in threads)]
    ways += ["OpenVINO, 1 thread"] * (find_spec("openvino") is not None)
    flushed = ["ONNX Runtime, 1 thread, flushed", "read weights, flushed"]
    assert [group.name for group in on_cpu(report)] == ["d=24", "d=24, batch 3"]
    for group in on_cpu(report):
        assert [one.name for one in group.series] == [
            f"{kind}, {way}"
            for kind in KINDS
            for way in (*ways, "read weights", *(flushed if kind in {"gated", "naive"} else ()))
        ]
        for one in group.series:
            assert one.turns_ns.shape == (4, 1 if "flushed" in one.name else 5)
            assert one.turns_ns.min() > 0
            assert group.gb_per_s(one) == pytest.approx(group.bytes_read[one.name] / np.median(one.samples_ns))
        against_naive = [
            one
            for one in group.ratios
            if one.denominator.startswith("naive, ") and "read weights" not in one.denominator
        ]
        assert [one.numerator for one in against_naive] == [f"gated, {way}" for way in (*ways, flushed[0])]
        assert [one.denominator.removeprefix("naive") for one in against_naive] == [
            one.numerator.removeprefix("gated") for one in against_naive
        ]
        against_reading = {one.numerator for one in group.ratios if "read weights" in one.denominator}
        assert {f"{kind}, ONNX Runtime, 1 thread" for kind in KINDS} <= against_reading


def test_only_flushed_variants_are_flushed_before_each_call() -> None:
    def flush() -> None: ...

    case = _case(_Request(kind="gated", width=8, batch=1, threads=(1,), seed=0), flush=flush)
    for variant in case.variants:
        if variant.name.endswith(", flushed"):
            assert (variant.prepare, variant.settle_calls, variant.calls_per_turn) == (flush, 0, 1)
        else:
            assert variant.prepare is None and variant.settle_calls > 0


def test_flushed_weights_take_longer_to_read(report: Report) -> None:
    p50_ns = {one.name: one.summary().p50_ns for one in on_cpu(report)[0].series}
    for kind in ("gated", "naive"):
        # The flushing itself is outside the timing: 16 MiB take a quarter of a millisecond even at 60 GB/s.
        assert p50_ns[f"{kind}, read weights"] < p50_ns[f"{kind}, read weights, flushed"] < 250e3


def test_a_cache_larger_than_the_flush_is_noted(report: Report) -> None:
    assert report.parameters["flush_bytes"] == FLUSH_BYTES
    largest = max(report.machine["cpu"]["caches_bytes"].values(), default=0)
    assert any("flushed" in note for note in report.notes) == (largest == 0 or largest > FLUSH_BYTES)


def test_everything_is_compared_with_float64(report: Report) -> None:
    candidates = 1 + len(report.parameters["onnxruntime_threads"]) + (find_spec("openvino") is not None)
    compared = [one for one in report.parity if "precision" not in one]  # those of a GPU have one
    assert len(compared) == candidates * len(KINDS) * len(WIDTHS) * 2
    assert {one["reference"] for one in compared} == {f"{kind}, float64" for kind in KINDS}
    assert all(one["max_probability_difference"] < 1e-5 for one in compared)
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("damage", [0.5, float("nan")])
def test_nothing_is_measured_if_outputs_differ(monkeypatch: pytest.MonkeyPatch, damage: float) -> None:
    correct = core_variants.onnx_from_core

    def damaged(core: Any, inputs: Any) -> bytes:
        other = copy.deepcopy(core)
        with torch.no_grad():
            other.head[3].bias[0] += damage
        return correct(other, inputs)

    monkeypatch.setattr(core_variants, "onnx_from_core", damaged)
    with pytest.raises(ParityError, match="d=8: gated, ONNX Runtime, 1 thread differs from gated, float64"):
        bench_core(widths=[8], kinds=["gated"], plan=PLAN, flush_bytes=FLUSH_BYTES)


@pytest.mark.parametrize("widths", [(), (0,), (128, -1), (1 << 20,)])
def test_impossible_widths_are_refused(widths: Sequence[int]) -> None:
    with pytest.raises(UserError, match="1 to 16384"):
        bench_core(widths=widths, plan=PLAN)


@pytest.mark.parametrize("batches", [(), (0,), (1, 2000)])
def test_impossible_batches_are_refused(batches: Sequence[int]) -> None:
    with pytest.raises(UserError, match="1 to 1024"):
        bench_core(widths=[8], batches=batches, plan=PLAN)
