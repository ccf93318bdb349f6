"""The search for a wrong fusion: the search alone, with a fake TensorRT that miscompiles, and builds with NVIDIA's TensorRT-RTX."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from engine_scenes import SIZE, build, everything_in, installed, make_engine_bundle

from edgefuse.bundle import Bundle
from edgefuse.errors import UserError
from edgefuse_export.tensorrt.break_fusion import MAX_BUILDS, Attempt, Search, break_fusion, make_outputs
from edgefuse_export.tensorrt.build_log import Journal
from edgefuse_export.tensorrt.plan_from_onnx import BuildError, BuiltPlan, new_logger, plan_from_onnx, typing_for
from edgefuse_export.tensorrt.trial import EngineOutputError
from edgefuse_runtime.engines.engine_cache import plan_records
from edgefuse_runtime.engines.tensorrt import TensorRTEngine
from edgefuse_runtime.engines.tensorrt_library import RTX, load_library
from fake_tensorrt import VERSIONS, FakeTensorRT
from host_memory import HostMemory
from logs import logged

# The search alone


class Compiler:
    """Builds of a network of tensors t0, t1, ...: right if one tensor of every wrong fusion is an output."""

    def __init__(self, num_tensors: int, *wrong_fusions: set[str], refuses: str = "") -> None:
        self.tensors = [f"t{i}" for i in range(num_tensors)]
        self._wrong, self._refuses = wrong_fusions, refuses
        self.asked: list[Sequence[str]] = []

    def build(self, outputs: Collection[str] | None) -> Attempt:
        marked = [name for name in self.tensors if outputs is None or name in outputs]
        self.asked.append(marked)
        if self._refuses and self._refuses in marked and outputs is not None:
            raise BuildError("no kernel")
        is_wrong = any(not fusion & set(marked) for fusion in self._wrong)
        plan = BuiltPlan(content=b"", notes=(), parsed={}, marked={name: f"layer of {name}" for name in marked})
        return Attempt(built=plan, layers={}, parity=None, failures=("differs",) if is_wrong else ())

    def search(self, **options: Any) -> Search:
        found = break_fusion(self.build, wrong=self.build(()), **options)
        assert found.num_builds == len(self.asked) - 1 <= MAX_BUILDS
        return found


def kept(search: Search) -> list[str]:
    assert search.kept is not None and not search.kept.failures
    return list(search.kept.built.marked)


@pytest.mark.parametrize("place", [0, 1, 5, 63, 126, 127])
def test_one_tensor_is_found_wherever_it_is(place: int) -> None:
    assert kept(Compiler(128, {f"t{place}"}).search()) == [f"t{place}"]


def test_a_thousand_tensors_need_no_more_builds_than_allowed() -> None:
    assert kept(Compiler(1024, {"t777"}).search()) == ["t777"]


def test_of_several_tensors_that_are_enough_the_first_is_kept() -> None:
    assert kept(Compiler(20, {"t7", "t9", "t15"}).search()) == ["t7"]


def test_two_wrong_fusions_are_both_broken() -> None:
    assert kept(Compiler(16, {"t3"}, {"t11", "t12"}).search()) == ["t3", "t11"]


def test_without_builds_left_the_smallest_right_engine_is_kept() -> None:
    compiler = Compiler(128, {"t3"}, {"t64"}, {"t100"})
    found = kept(compiler.search())
    right = [asked for asked in compiler.asked if {"t3", "t64", "t100"} <= set(asked)]
    assert len(compiler.asked) == MAX_BUILDS + 1 and found == min(right, key=len) and len(found) < 128


def test_the_limit_holds_for_one_build_too() -> None:
    compiler = Compiler(8, {"t3"})
    assert kept(compiler.search(max_builds=1)) == compiler.tensors and len(compiler.asked) == 2


def test_a_build_that_fails_counts_as_wrong() -> None:
    assert kept(Compiler(16, {"t3", "t9"}, refuses="t3").search()) == [f"t{i}" for i in range(16)]


def test_every_build_is_logged() -> None:
    compiler = Compiler(8, {"t2"})
    with logged() as lines:
        compiler.search()
    builds = [line for line in lines if line.startswith("build ")]
    assert builds[0] == f"build 1 of at most {MAX_BUILDS}, with all tensors as outputs: right"
    assert builds[1] == f"build 2 of at most {MAX_BUILDS}, with 4 tensors as outputs: right"
    assert builds[-1].endswith("with t2 as outputs: right") and len(builds) == len(compiler.asked) - 1
    assert "warning: fusion is broken at t2 (layer layer of t2): the outputs agree" in lines


# With a TensorRT that miscompiles


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_engine_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_engine_is_kept_with_fusion_broken_where_needed(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    fake = installed(version, monkeypatch)
    fake.faults.wrong_fusions = {"score": ("distance",)}
    messages: list[str] = []
    summary = build(fake, bundle, messages=messages)
    record = summary.record
    broken = record.details["fusion_broken_at"]
    assert broken["tensors"] == ["distance"] == list(record.extra_outputs) and broken["layers"] == ["node_5"]
    assert broken["num_builds"] == len(fake.builds) - 1
    assert any("probabilities" in failure for failure in broken["failures_before"])
    assert fake.builds[0]["marked"] == [] and len(fake.builds[1]["marked"]) >= 7
    together = record.details["parity"]["together"]
    assert together["max_probability_difference"] < 0.02
    assert any("fusion is broken at distance (layer node_5)" in message for message in messages)
    assert not build(fake, bundle).built  # found in the cache


def test_the_kept_engine_runs_in_the_engine_that_live_uses(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = installed("10.16.1.11", monkeypatch)
    fake.faults.wrong_fusions = {"score": ("distance",)}
    built = build(fake, bundle).bundle
    samples = built.samples()
    memory = HostMemory(fake=fake)
    with TensorRTEngine(built, open_memory=lambda: memory) as engine:
        copies_before = memory.num_copies
        decision = engine.run(samples.rgb[:1], samples.depth[:1])
        assert memory.num_copies == copies_before  # replayed from the graph, which copies no more than without
        assert {one.name for one in engine.outputs} == set(engine.contract.outputs)
        assert decision.probabilities == pytest.approx(samples.probabilities[:1], abs=0.02)
        extra = engine.extra_outputs()
    assert list(extra) == ["distance"] and extra["distance"].shape == (1, 1) and extra["distance"].any()


def test_an_output_that_the_record_does_not_name_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = installed("10.16.1.11", monkeypatch)
    fake.faults.wrong_fusions = {"score": ("distance",)}
    built = build(fake, bundle).bundle
    (record,) = plan_records(built)
    plan = (built.folder / record.name).read_bytes()
    for names in ((), ("gate", "distance")):
        engine = TensorRTEngine(
            built, precision="fp16", plan=plan, extra_outputs=names, open_memory=lambda: HostMemory(fake=fake)
        )
        with pytest.raises(UserError, match="the manifest requires"), engine:
            pass


def refused(fake: FakeTensorRT, bundle: Bundle) -> str:
    before = everything_in(bundle.folder)
    with pytest.raises(EngineOutputError) as caught:
        build(fake, bundle)
    after = everything_in(bundle.folder)
    assert {name: after[name] for name in before} == before and not [one for one in after if one.endswith(".plan")]
    return str(caught.value)


def test_a_wrong_kernel_is_named_after_one_build(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = installed("10.16.1.11", monkeypatch)
    fake.faults.wrong_fusions = {"distance": ()}
    message = refused(fake, bundle)
    assert "also without fusion" in message and len(fake.builds) == 2
    assert "The difference starts at the layer node_5: its output distance differs by 1 of its largest value" in message
    assert "its inputs agree" in message and "timing-*.cache" in message


def test_a_layer_that_makes_nan_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = installed("10.16.1.11", monkeypatch)
    fake.faults.answers_off = math.nan  # of every output, so the first one is to blame
    assert "The difference starts at the layer node_0: its output rgb_float is NaN or infinite" in refused(fake, bundle)


def test_without_onnx_the_message_says_what_to_install(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = installed("10.16.1.11", monkeypatch)
    fake.faults.wrong_fusions = {"distance": ()}

    def no_onnx(name: str, **_: Any) -> Any:
        raise UserError(f"{name} is not installed")

    monkeypatch.setattr("edgefuse_export.tensorrt.first_difference.require", no_onnx)
    message = refused(fake, bundle)
    assert "was not found: onnx is not installed" in message and "differ from those of the bundle" in message


def test_an_engine_that_cannot_have_all_outputs_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = installed("10.16.1.11", monkeypatch)
    fake.faults.wrong_fusions, fake.faults.no_kernel_with_output = {"score": ("distance",)}, "red"
    message = refused(fake, bundle)
    assert "differ from those of the bundle, so it was discarded" in message and "without fusion" not in message


# With NVIDIA's library, which parses and builds without a GPU


def test_tensorrt_rtx_builds_with_each_tensor_as_an_output(bundle: Bundle, tmp_path: Path) -> None:
    library = load_library(RTX)
    trt = library.module
    path = bundle.file("model.fp16.onnx")
    with Journal(tmp_path / "log") as journal:
        logger = new_logger(library, journal)

        def built(names: Collection[str] | None) -> BuiltPlan:
            return plan_from_onnx(
                path,
                library=library,
                typing=typing_for(library=library, precision="fp16"),
                precision="fp16",
                shapes={"rgb": (1, SIZE, SIZE, 3), "depth": (1, SIZE, SIZE, 2)},
                workspace_mib=64,
                optimization_level=3,
                timing_cache=None,
                targets=("8.9",),
                journal=journal,
                logger=logger,
                mark_outputs=names,
            )

        everything = list(built(None).marked)
        assert set(everything) >= {"red", "distance", "score", "score_half", "logits"}
        for name in everything:
            assert list(built([name]).marked) == [name]
        network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        assert trt.OnnxParser(network, logger).parse_from_file(str(path))
        assert list(make_outputs(library, network, ["score"])) == ["score"]
    outputs = {network.get_output(i).name for i in range(network.num_outputs)}
    assert outputs == {*bundle.manifest.contract.outputs, "score"}
