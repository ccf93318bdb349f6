"""The in-memory TensorRT: from an ONNX file to answers, and each thing that it can be told to get wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefuse.bundle import MODEL_NAME, Bundle
from edgefuse.contract import DEPTH_INPUT, GATE_OUTPUT, PROBABILITIES_OUTPUT, RGB_INPUT
from edgefuse.errors import require
from fake_tensorrt import FakeTensorRT, Faults
from fake_tensorrt.names import VERSIONS
from toy_bundle import make_toy_bundle


@pytest.fixture
def toy(tmp_path: Path) -> Bundle:
    return make_toy_bundle(tmp_path / "toy", size=16)


def build_plan(
    fake: FakeTensorRT, path: Path, *, flags: tuple[str, ...] = (), typed: bool = True, **settings: Any
) -> Any:
    """The way of any program: parse, configure, build. None = it failed."""
    trt = fake.module
    logger = trt.Logger(trt.Logger.INFO)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if typed else 0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        return None
    config = builder.create_builder_config()
    for flag in flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    for name, value in settings.items():
        setattr(config, name, value)
    return builder.build_serialized_network(network, config)


def run_plan(fake: FakeTensorRT, plan: Any, inputs: dict[str, Any], outputs: dict[str, Any]) -> bool:
    """Run once on arrays of this process. False = it did not."""
    trt = fake.module
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    for name, array in {**inputs, **outputs}.items():
        assert context.set_tensor_address(name, array.ctypes.data)
    return bool(context.execute_async_v3(7))


def frames(side: int = 16) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    depth = rng.integers(0, 256, (1, side, side, 2), dtype=np.uint8)
    return {RGB_INPUT: rgb, DEPTH_INPUT: depth}


def answers() -> dict[str, Any]:
    return {PROBABILITIES_OUTPUT: np.zeros((1, 2), np.float32), GATE_OUTPUT: np.zeros((1, 4), np.float32)}


def layers_of(fake: FakeTensorRT, plan: Any) -> list[Any]:
    trt = fake.module
    inspector = trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan).create_engine_inspector()
    return json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))["Layers"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plan_gives_the_answers_of_its_file(version: str, toy: Bundle) -> None:
    import onnxruntime as ort

    fake = FakeTensorRT(version=version)
    plan = build_plan(fake, toy.file(MODEL_NAME))
    outputs, inputs = answers(), frames()
    assert run_plan(fake, plan, inputs, outputs)
    expected = ort.InferenceSession(str(toy.file(MODEL_NAME)), providers=["CPUExecutionProvider"]).run(None, inputs)
    np.testing.assert_array_equal(outputs[PROBABILITIES_OUTPUT], expected[0])
    assert outputs[PROBABILITIES_OUTPUT].sum() == pytest.approx(1)
    fake.faults.answers_off = 0.25
    assert run_plan(fake, plan, inputs, outputs)
    np.testing.assert_allclose(outputs[PROBABILITIES_OUTPUT], expected[0] + 0.25)


def test_it_stands_for_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(version="11.4.0.106")
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    trt = require("tensorrt", extra="tensorrt")
    assert trt.__version__ == "11.4.0.106"
    assert not hasattr(trt.BuilderFlag, "FP16")
    assert hasattr(FakeTensorRT(version="10.16.1.11").module.BuilderFlag, "FP16")


@pytest.mark.parametrize(
    "faults", [Faults(build_returns_none=True), Faults(parser_errors=("No importer registered for op: Odd",))]
)
def test_a_build_fails(faults: Faults, toy: Bundle) -> None:
    fake = FakeTensorRT(faults=faults)
    assert build_plan(fake, toy.file(MODEL_NAME)) is None


def test_no_driver_is_a_type_error(toy: Bundle) -> None:
    with pytest.raises(TypeError, match="nullptr"):
        build_plan(FakeTensorRT(faults=Faults(no_driver=True)), toy.file(MODEL_NAME))


@pytest.mark.parametrize(("version", "typed"), [("10.3.0", True), ("10.3.0", False), ("11.4.0.106", False)])
def test_precision_flags_and_strong_types_exclude_each_other(version: str, typed: bool, toy: Bundle) -> None:
    fake = FakeTensorRT(version=version)
    flags = ("FP16",) if hasattr(fake.module.BuilderFlag, "FP16") else ()
    plan = build_plan(fake, toy.file(MODEL_NAME), flags=flags, typed=typed)
    assert (plan is None) is (typed and bool(flags))
    assert fake.builds[0]["strongly_typed"] is (typed or version.startswith("11"))


def test_layers_tell_types_only_in_detailed_builds(toy: Bundle) -> None:
    fake = FakeTensorRT()
    trt = fake.module
    assert all(isinstance(layer, str) for layer in layers_of(fake, build_plan(fake, toy.file(MODEL_NAME))))
    detailed = {"profiling_verbosity": trt.ProfilingVerbosity.DETAILED}
    weak = build_plan(fake, toy.file(MODEL_NAME), flags=("FP16",), typed=False, **detailed)
    assert '"Half"' in json.dumps(layers_of(fake, weak))
    fake.faults.no_half_layer = True
    unsaid = build_plan(fake, toy.file(MODEL_NAME), flags=("FP16",), typed=False, **detailed)
    assert '"Half"' not in json.dumps(layers_of(fake, unsaid))
    assert '"Float"' in json.dumps(layers_of(fake, unsaid))


def test_layers_can_be_held_in_float_up_to_10(toy: Bundle) -> None:
    for version in VERSIONS:
        trt = FakeTensorRT(version=version).module
        assert hasattr(trt.ILayer, "precision") is not version.startswith("11")
    fake = FakeTensorRT(version="10.3.0")
    trt = fake.module
    builder = trt.Builder(trt.Logger())
    network = builder.create_network(0)
    assert trt.OnnxParser(network, builder.logger).parse_from_file(str(toy.file(MODEL_NAME)))
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.FP16)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        assert layer.get_output(0) is not None
        assert layer.get_input(layer.num_inputs) is None
        layer.precision = trt.DataType.FLOAT
    assert trt.LayerType.SOFTMAX in [network.get_layer(index).type for index in range(network.num_layers)]
    free = builder.build_serialized_network(network, config)
    assert '"Half"' in json.dumps(layers_of(fake, free))
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    assert '"Half"' not in json.dumps(layers_of(fake, builder.build_serialized_network(network, config)))


def test_foreign_and_broken_plans_are_refused(toy: Bundle) -> None:
    fake = FakeTensorRT()
    trt = fake.module
    plan = bytes(build_plan(fake, toy.file(MODEL_NAME)))
    flipped = bytearray(plan)
    flipped[len(plan) // 2] ^= 1
    for bad in (b"", plan[:-1], bytes(flipped)):
        assert trt.Runtime(trt.Logger()).deserialize_cuda_engine(bad) is None
    assert trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan) is not None
    for other in (FakeTensorRT(version="10.16.1.11"), FakeTensorRT(device="another")):
        logger = other.module.Logger()
        assert other.module.Runtime(logger).deserialize_cuda_engine(plan) is None
        assert "ERROR" in logger._lines[0]


def test_capture_keeps_what_is_enqueued(toy: Bundle) -> None:
    fake = FakeTensorRT()
    plan = build_plan(fake, toy.file(MODEL_NAME))
    outputs = answers()
    fake.captures[7] = []
    assert run_plan(fake, plan, frames(), outputs)
    assert not outputs[PROBABILITIES_OUTPUT].any()
    for launch in fake.captures.pop(7):
        launch()
    assert fake.num_executions == 1
    fake.captures[7] = []
    fake.faults.capture_fails = True
    assert not run_plan(fake, plan, frames(), outputs)
    del fake.captures[7]
    assert run_plan(fake, plan, frames(), outputs)


def test_a_tensor_without_address_stops_the_run(toy: Bundle) -> None:
    fake = FakeTensorRT()
    assert not run_plan(fake, build_plan(fake, toy.file(MODEL_NAME)), frames(), {})


def test_wrong_types_and_names_are_refused_as_by_pybind11(toy: Bundle) -> None:
    fake = FakeTensorRT()
    trt = fake.module
    builder = trt.Builder(trt.Logger())
    config = builder.create_builder_config()
    with pytest.raises(TypeError):
        config.set_flag(trt.DataType.HALF)
    with pytest.raises(TypeError):
        trt.OnnxParser(builder.create_network(), builder.logger).parse_from_file(toy.file(MODEL_NAME))
    with pytest.raises(AttributeError):
        config.builder_optimisation_level = 3
    with pytest.raises(TypeError):
        1 << trt.BuilderFlag.TF32

    class Silent(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="must be called"):
        config.progress_monitor = Silent()


def test_progress_and_cancelling(toy: Bundle) -> None:
    fake = FakeTensorRT()
    trt = fake.module

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        def __init__(self, num_steps: int) -> None:
            trt.IProgressMonitor.__init__(self)
            self.num_steps, self.phases = num_steps, [""]

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            self.phases.append(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.num_steps -= 1
            return self.num_steps >= 0

        def phase_finish(self, phase_name: str) -> None:
            self.phases.append(f"/{phase_name}")

    patient = Monitor(100)
    assert build_plan(fake, toy.file(MODEL_NAME), progress_monitor=patient) is not None
    assert patient.phases[1:] == ["Building Engine", "Tactic selection", "/Tactic selection", "/Building Engine"]
    assert build_plan(fake, toy.file(MODEL_NAME), progress_monitor=Monitor(1)) is None


def test_a_timing_cache_belongs_to_one_device(toy: Bundle) -> None:
    fake = FakeTensorRT()
    trt = fake.module
    logger = trt.Logger()
    data = b""
    for hit in (False, True):
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        assert trt.OnnxParser(network, logger).parse_from_file(str(toy.file(MODEL_NAME)))
        config = builder.create_builder_config()
        assert config.set_timing_cache(config.create_timing_cache(data), False)
        assert builder.build_serialized_network(network, config) is not None
        assert fake.builds[-1]["timing_cache_hit"] is hit
        data = bytes(config.get_timing_cache().serialize())
    other = FakeTensorRT(device="another").module
    config = other.Builder(other.Logger()).create_builder_config()
    assert not config.set_timing_cache(config.create_timing_cache(data), False)
