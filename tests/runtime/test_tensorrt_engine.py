"""The TensorRT engine on fakes of TensorRT and GPU memory, with every failure. Nothing here runs on a GPU."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from runtime_scenes import draw_pair
from tensorrt_scenes import FP16_NAME, bundle_with_plan, engine_on, plan_bytes

from edgefuse import framing
from edgefuse.bundle import Bundle, open_bundle
from edgefuse.contract import OUTPUTS, OUTPUTS_OF_OLDER_BUNDLES
from edgefuse.errors import MissingPackageError, UserError
from edgefuse_runtime.engines.engine_cache import PlanError
from edgefuse_runtime.engines.gpu_memory import GpuError, GpuOutOfMemoryError
from edgefuse_runtime.engines.tensorrt import TensorRTEngine
from fake_tensorrt import FakeTensorRT
from host_memory import HostMemory
from toy_bundle import make_toy_bundle, toy_answer, toy_nearest_m

Batch = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    stand_in = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in.module)
    return stand_in


@pytest.fixture
def memory(fake: FakeTensorRT) -> HostMemory:
    return HostMemory(fake=fake)


@pytest.fixture
def planned(tmp_path: Path, fake: FakeTensorRT) -> Bundle:
    return bundle_with_plan(tmp_path / "bundle", fake)


def framed(label: str) -> Batch:
    pair = framing.fit(*draw_pair(label), size=32)
    return pair.rgb[np.newaxis], pair.depth[np.newaxis]


def open_fails(bundle: Bundle, memory: HostMemory, error: type[Exception]) -> str:
    """The message of `error` on opening; nothing is left open."""
    with pytest.raises(error) as caught, engine_on(bundle, memory):
        pass
    assert not memory.is_open
    return str(caught.value)


@pytest.mark.parametrize("integrated", [False, True])
def test_the_output_is_the_graphs(planned: Bundle, memory: HostMemory, integrated: bool) -> None:
    memory.integrated = integrated
    with engine_on(planned, memory) as engine:
        for label in ("near", "far", "near"):
            rgb, depth = framed(label)
            decision = engine.run(rgb, depth)
            probabilities, gate = toy_answer(rgb[0], depth[0])
            np.testing.assert_allclose(decision.probabilities[0], probabilities, atol=1e-5)
            np.testing.assert_allclose(decision.gate, gate, atol=1e-5)
            np.testing.assert_allclose(decision.nearest_m, [toy_nearest_m(depth[0])], atol=1e-5)
            assert engine.labels[int(decision.probabilities.argmax())] == label
    assert not memory.is_open


def test_a_plan_has_the_outputs_of_its_manifest(tmp_path: Path, fake: FakeTensorRT, memory: HostMemory) -> None:
    older = bundle_with_plan(tmp_path / "older", fake, outputs=OUTPUTS_OF_OLDER_BUNDLES)
    with engine_on(older, memory) as engine:
        assert engine.run(*framed("near")).nearest_m is None
    contract = dataclasses.replace(older.manifest.contract, outputs=OUTPUTS)
    newer = dataclasses.replace(older, manifest=dataclasses.replace(older.manifest, contract=contract))
    plan = plan_bytes(fake, older.folder / "model.onnx")
    with (
        pytest.raises(PlanError, match="and float32 gate, nearest_m"),
        TensorRTEngine(newer, plan=plan, open_memory=lambda: HostMemory(fake=fake)),
    ):
        pass


def test_a_discrete_gpu_copies_and_an_integrated_one_does_not(planned: Bundle, fake: FakeTensorRT) -> None:
    discrete, integrated = HostMemory(fake=fake), HostMemory(fake=fake, integrated=True)
    with engine_on(planned, discrete) as engine:
        assert engine.description["buffers"] == "pinned"
    with engine_on(planned, integrated) as engine:
        assert engine.description["buffers"] == "mapped"
    assert discrete.num_copies > 0 and integrated.num_copies == 0
    assert integrated.num_free_bytes == HostMemory(fake=fake).num_free_bytes


def test_a_run_is_one_launch_of_the_graph(planned: Bundle, memory: HostMemory) -> None:
    with engine_on(planned, memory) as engine:
        assert engine.description["launch"] == "CUDA graph"
        copies, launches = memory.num_copies, memory.num_launches
        engine.run(*framed("far"))
    assert (memory.num_copies, memory.num_launches) == (copies, launches + 1)


def test_the_context_is_active_only_within_a_call(planned: Bundle, memory: HostMemory) -> None:
    with engine_on(planned, memory) as engine:
        assert memory.active_threads == []
        engine.run(*framed("near"))
        assert memory.active_threads == []


def test_outputs_are_owned_by_the_caller(planned: Bundle, memory: HostMemory) -> None:
    with engine_on(planned, memory) as engine:
        first = engine.run(*framed("near"))
        kept = first.probabilities.copy(), first.gate.copy()
        engine.run(*framed("far"))
    assert np.array_equal(first.probabilities, kept[0]) and np.array_equal(first.gate, kept[1])


def test_the_description_and_the_tensors_have_what_runs(
    planned: Bundle, memory: HostMemory, fake: FakeTensorRT
) -> None:
    with engine_on(planned, memory) as engine:
        described = engine.description
        assert [(one.name, one.dtype, one.shape) for one in engine.inputs] == [
            ("rgb", "uint8", (1, 32, 32, 3)),
            ("depth", "uint8", (1, 32, 32, 2)),
        ]
        assert {(one.name, one.dtype, one.shape) for one in engine.outputs} == {
            ("probabilities", "float32", (1, 2)),
            ("gate", "float32", (1, 4)),
            ("nearest_m", "float32", (1, 1)),
        }
    assert described["provider"] == f"TensorRT {fake.version}"
    assert (described["precision"], described["file"], described["device"]) == ("fp16", FP16_NAME, fake.device)
    assert described["plan"] in planned.manifest.engines
    assert engine.inputs == ()


def test_another_thread_gets_an_error(planned: Bundle, memory: HostMemory) -> None:
    errors: list[BaseException] = []

    def use() -> None:
        for call in (lambda: engine.run(*framed("near")), lambda: engine.__exit__(None, None, None)):
            try:
                call()
            except RuntimeError as error:
                errors.append(error)

    with engine_on(planned, memory) as engine:
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert [("called by another thread than the one that opened it" in str(error)) for error in errors] == [
            True,
            True,
        ]
        engine.run(*framed("near"))


def test_run_outside_of_with_or_the_contract(planned: Bundle, memory: HostMemory) -> None:
    engine = engine_on(planned, memory)
    with pytest.raises(RuntimeError, match="outside of `with`"):
        engine.run(*framed("near"))
    rgb, depth = framed("near")
    with engine:
        with pytest.raises(UserError, match="one run got 2 pairs, 1 was expected: .*export again with --batch N"):
            engine.run(np.repeat(rgb, 2, axis=0), np.repeat(depth, 2, axis=0))
        with pytest.raises(UserError, match=r"depth is uint16"):
            engine.run(rgb, depth.astype(np.uint16))


def test_a_plan_of_this_process_needs_no_cache(tmp_path: Path, fake: FakeTensorRT, memory: HostMemory) -> None:
    toy = make_toy_bundle(tmp_path / "toy", batch=3)
    plan = plan_bytes(fake, toy.folder / "model.onnx")
    rgb, depth = (np.concatenate(arrays) for arrays in zip(*map(framed, ("near", "far", "near")), strict=True))
    with engine_on(toy, memory, precision="fp32", plan=plan) as engine:
        assert engine.batch_size == 3
        decision, two = engine.run(rgb, depth), engine.run(rgb[1:], depth[1:])
    for i in range(3):
        np.testing.assert_allclose(decision.probabilities[i], toy_answer(rgb[i], depth[i])[0], atol=1e-5)
    np.testing.assert_allclose(two.probabilities, decision.probabilities[1:], atol=1e-6)


def test_capture_that_fails_leaves_separate_launches(
    planned: Bundle, memory: HostMemory, fake: FakeTensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    fake.faults.capture_fails = True
    with caplog.at_level(logging.WARNING), engine_on(planned, memory) as engine:
        decision = engine.run(*framed("far"))
        assert engine.description["launch"].startswith("plain (")
    assert engine.labels[int(decision.probabilities.argmax())] == "far"
    assert memory.num_launches == 0
    (line,) = [record.getMessage() for record in caplog.records]
    assert "without a CUDA graph" in line and "not permitted when stream is capturing" in line


@pytest.mark.parametrize(
    ("fault", "words"), [("launches_fail", "CUDA_ERROR_INVALID_VALUE"), ("drops_copies_of_graphs", "output differs")]
)
def test_a_wrong_graph_is_not_used(planned: Bundle, memory: HostMemory, fault: str, words: str) -> None:
    setattr(memory, fault, True)
    with engine_on(planned, memory) as engine:
        assert words in engine.description["launch"]
        rgb, depth = framed("near")
        np.testing.assert_allclose(engine.run(rgb, depth).probabilities[0], toy_answer(rgb[0], depth[0])[0], atol=1e-5)


def test_a_graph_that_fails_later_is_replaced_by_separate_launches(
    planned: Bundle, memory: HostMemory, caplog: pytest.LogCaptureFixture
) -> None:
    with engine_on(planned, memory) as engine, caplog.at_level(logging.WARNING):
        engine.run(*framed("near"))
        assert engine.description["launch"] == "CUDA graph"
        memory.launches_fail = True
        for label in ("far", "near"):
            decision = engine.run(*framed(label))
            assert engine.labels[int(decision.probabilities.argmax())] == label
        assert engine.description["launch"] == "plain (cuGraphLaunch: CUDA_ERROR_INVALID_VALUE)"
    (line,) = [record.getMessage() for record in caplog.records]
    assert "without a CUDA graph" in line and "CUDA_ERROR_INVALID_VALUE" in line


def test_enqueue_that_fails_is_an_error(planned: Bundle, memory: HostMemory, fake: FakeTensorRT) -> None:
    fake.faults.enqueue_returns_false = True
    message = open_fails(planned, memory, GpuError)
    assert "failed to run" in message and "enqueueV3" in message
    assert f"edgefuse build {planned.folder} --precision fp16 --force" in message


def test_enqueue_that_fails_later_is_an_error_too(planned: Bundle, memory: HostMemory, fake: FakeTensorRT) -> None:
    fake.faults.capture_fails = True
    with engine_on(planned, memory) as engine:
        fake.faults.enqueue_returns_false = True
        with pytest.raises(GpuError, match="failed to run"):
            engine.run(*framed("near"))
        fake.faults.enqueue_returns_false = False
        engine.run(*framed("near"))


def test_nan_is_refused(planned: Bundle, memory: HostMemory, fake: FakeTensorRT) -> None:
    fake.faults.answers_off = np.nan
    assert "NaN" in open_fails(planned, memory, PlanError)


def test_a_missing_plan_has_the_build_command(tmp_path: Path, memory: HostMemory) -> None:
    toy = make_toy_bundle(tmp_path / "toy")
    assert f"edgefuse build {toy.folder} --precision fp16" in open_fails(toy, memory, PlanError)


def test_a_plan_of_another_gpu_is_refused(planned: Bundle, memory: HostMemory, fake: FakeTensorRT) -> None:
    fake.device = "Another GPU"
    message = open_fails(planned, memory, PlanError)
    assert "device name: 'Fake GPU sm_87' -> 'Another GPU'" in message and "edgefuse build" in message


def test_a_plan_of_another_version_is_refused(tmp_path: Path, fake: FakeTensorRT, memory: HostMemory) -> None:
    built_by = FakeTensorRT(version="10.16.1.11")
    message = open_fails(bundle_with_plan(tmp_path / "old", built_by), memory, PlanError)
    assert f"tensorrt version: '{built_by.version}' -> '{fake.version}'" in message and "edgefuse build" in message


@pytest.mark.parametrize(("damage", "words"), [("cut", "is truncated"), ("flip", "is not the plan that was built")])
def test_a_damaged_plan_never_reaches_tensorrt(
    planned: Bundle, memory: HostMemory, monkeypatch: pytest.MonkeyPatch, fake: FakeTensorRT, damage: str, words: str
) -> None:
    path = planned.folder / next(iter(planned.manifest.engines))
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(fake.module, "Runtime", None)
    message = open_fails(planned, memory, PlanError)
    assert words in message and f"edgefuse build {planned.folder} --precision fp16" in message


def test_a_plan_that_others_can_write_is_refused(planned: Bundle, memory: HostMemory) -> None:
    path = planned.folder / next(iter(planned.manifest.engines))
    path.chmod(0o666)
    assert f"chmod go-w {path}" in open_fails(planned, memory, PlanError)


def test_a_plan_that_tensorrt_refuses_has_the_build_command(
    planned: Bundle, memory: HostMemory, fake: FakeTensorRT
) -> None:
    fake.faults.deserialize_returns_none = True
    message = open_fails(planned, memory, PlanError)
    assert "cannot load" in message and "Serialization" in message and "--force" in message


def test_a_plan_of_another_network_is_refused(
    tmp_path: Path, planned: Bundle, memory: HostMemory, fake: FakeTensorRT
) -> None:
    other = make_toy_bundle(tmp_path / "other", size=16, labels=("a", "b", "c"))
    engine = engine_on(planned, memory, plan=plan_bytes(fake, other.folder / "model.onnx"))
    with (
        pytest.raises(PlanError, match=r"has .*probabilities float32 \[1, 3\].*requires rgb uint8 \[1, 32, 32, 3\]"),
        engine,
    ):
        pass


@pytest.mark.parametrize("where", ["context", "buffers"])
def test_out_of_gpu_memory_has_a_next_step(planned: Bundle, memory: HostMemory, fake: FakeTensorRT, where: str) -> None:
    if where == "context":
        fake.faults.context_returns_none = True
        assert "--workspace-mib" in open_fails(planned, memory, GpuOutOfMemoryError)
    else:
        memory.num_free_bytes = 100
        open_fails(planned, memory, GpuOutOfMemoryError)


def test_a_tensorrt_that_does_not_start_has_the_reason(planned: Bundle, memory: HostMemory, fake: FakeTensorRT) -> None:
    fake.faults.no_driver = True
    message = open_fails(planned, memory, GpuError)
    assert "CUDA initialization failure with error: 35" in message and "nvidia-smi" in message


def test_a_missing_driver_is_reported_before_anything_is_opened(planned: Bundle, memory: HostMemory) -> None:
    memory.missing = MissingPackageError("the CUDA driver is missing")
    assert open_fails(planned, memory, MissingPackageError) == "the CUDA driver is missing"


def test_a_missing_tensorrt_names_its_command(
    planned: Bundle, memory: HostMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "pip install 'edgefuse[tensorrt]'" in open_fails(planned, memory, MissingPackageError)


def test_a_missing_libnvinfer_has_its_own_message(
    tmp_path: Path, planned: Bundle, memory: HostMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "tensorrt"
    package.mkdir(parents=True)
    text = "libnvinfer.so.10: cannot open shared object file: No such file or directory"
    (package / "__init__.py").write_text(f"raise ImportError({text!r})\n")
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    message = open_fails(planned, memory, MissingPackageError)
    assert "installed, but the library libnvinfer.so.10 is missing" in message


def test_tensorrt_objects_are_deleted_while_the_context_is_active(
    planned: Bundle, memory: HostMemory, fake: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    active_at_the_end: list[bool] = []
    create = fake.module.ICudaEngine.create_execution_context

    def watched(engine: object) -> object:
        context = create(engine)
        weakref.finalize(context, lambda: active_at_the_end.append(memory.is_open and bool(memory.active_threads)))
        return context

    monkeypatch.setattr(fake.module.ICudaEngine, "create_execution_context", watched)
    with engine_on(planned, memory) as engine:
        engine.run(*framed("near"))
    fake.faults.answers_off = np.nan
    open_fails(planned, memory, PlanError)
    assert active_at_the_end == [True, True]


def test_the_constructor_loads_nothing(tmp_path: Path) -> None:
    def never() -> HostMemory:
        raise AssertionError("the constructor touched the GPU")

    from edgefuse_runtime.engines.tensorrt import TensorRTEngine

    toy = make_toy_bundle(tmp_path / "toy")
    engine = TensorRTEngine(open_bundle(toy.folder), open_memory=never)
    assert engine.labels == ("near", "far") and engine.contract.size == 32 and engine.outputs == ()
    assert dataclasses.is_dataclass(engine.contract)
