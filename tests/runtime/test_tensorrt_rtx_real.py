"""NVIDIA's TensorRT-RTX on a machine without a driver: it builds a plan, and the engine says why it does not run."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorrt_scenes import bundle_for_rtx, plan_bytes

from edgefuse.bundle import MODEL_NAME, Bundle, open_bundle
from edgefuse.errors import MissingPackageError
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.cuda_device import DRIVER_LIBRARY
from edgefuse_runtime.engines.gpu_memory import GpuError
from edgefuse_runtime.engines.tensorrt import TensorRTEngine
from edgefuse_runtime.engines.tensorrt_library import RTX, load_library
from fake_rtx import FakeRTX
from host_memory import HostMemory
from logs import logged
from toy_bundle import make_toy_bundle


def has_driver() -> bool:
    try:
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed"),
    pytest.mark.skipif(has_driver(), reason="this machine has a CUDA driver"),
]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a plan that the real library built."""
    folder = tmp_path_factory.mktemp("real")
    library = load_library(RTX)
    onnx_file = make_toy_bundle(folder / "toy").folder / MODEL_NAME
    as_built_by = FakeRTX(version=library.version)
    plan = real_plan(onnx_file)
    assert plan != plan_bytes(as_built_by, onnx_file)
    return bundle_for_rtx(folder / "bundle", as_built_by, targets="8.9", plan=plan)


def real_plan(onnx_file: Path) -> bytes:
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger).parse_from_file(str(onnx_file))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    return bytes(builder.build_serialized_network(network, config))


def test_the_library_refuses_the_plan_and_the_message_names_the_driver(planned: Bundle) -> None:
    memory = HostMemory(fake=FakeRTX(), compute_capability="8.9")
    with pytest.raises(GpuError) as caught, TensorRTEngine(planned, product=RTX, open_memory=lambda: memory):
        pass
    message = str(caught.value)
    assert message.startswith(f"NVIDIA's driver is missing or too old for TensorRT-RTX {load_library(RTX).version} (")
    assert "35" in message and message.endswith("The plan can be built here, but not run") and "nvidia-smi" in message
    assert not memory.is_open


def test_without_a_driver_the_plan_is_not_loaded(planned: Bundle) -> None:
    with pytest.raises(MissingPackageError) as caught, open_engine(planned, engine="rtx"):
        pass
    message = str(caught.value)
    assert message.startswith("the CUDA driver is missing (libcuda.so.1") and "nvidia-smi" in message
    assert message.endswith("Plans for TensorRT-RTX can be built without a GPU, but not run")


def test_without_a_plan_the_library_is_not_even_loaded(tmp_path: Path) -> None:
    folder = make_toy_bundle(tmp_path / "toy").folder
    code = """
import sys
from pathlib import Path
from edgefuse.bundle import open_bundle
from edgefuse_runtime.engines import open_engine
with open_engine(open_bundle(Path(sys.argv[1]))) as engine:
    print(engine.description["passed_over"]["rtx"], "tensorrt_rtx" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert "it has no TensorRT-RTX engine. Build one: edgefuse build" in done.stdout and done.stdout.endswith("False\n")


def test_auto_runs_on_the_cpu_and_has_the_reason(planned: Bundle) -> None:
    with logged() as messages, open_engine(planned) as engine:
        assert engine.description["provider"] in ("CPUExecutionProvider", "OpenVINO CPU")
        assert "the CUDA driver is missing" in engine.description["passed_over"]["rtx"]
    (line,) = [line for line in messages if "engine: " in line]
    assert line.startswith(("engine: cpu (", "engine: openvino (")) and "rtx: the CUDA driver is missing" in line


def test_live_by_name_is_an_error_of_one_line(planned: Bundle) -> None:
    command = [
        sys.executable,
        "-m",
        "edgefuse",
        "live",
        str(planned.folder),
        "--engine",
        "rtx",
        "--camera",
        "synthetic",
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stdout == ""
    assert "the CUDA driver is missing" in done.stderr


def test_a_real_plan_for_another_gpu_is_refused_before_it_is_loaded(planned: Bundle) -> None:
    memory = HostMemory(fake=FakeRTX(), compute_capability="12.0")
    opened = open_bundle(planned.folder)
    with (
        pytest.raises(ValueError, match=r"GPU: 'sm89' -> 'sm120'.*--engine rtx --for sm120"),
        TensorRTEngine(opened, product=RTX, open_memory=lambda: memory),
    ):
        pass
