"""mypy checks the modules that use TensorRT against the real bindings of each version that the project is written for.

This proves names and signatures. It proves nothing about behaviour: no TensorRT library runs here, and "API-checked" means
no more than this test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache, lru_cache
from pathlib import Path

import pytest

from fetching import ROOT, cache_folder
from tensorrt_stubs import fetch, pins, stubs

SOURCES = {
    path: path.read_text(encoding="utf-8")
    for folder in ("edgefuse", "export", "runtime", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
LIBRARY = re.compile(r"\b(trt|rtx) = (self\._)?library\.module$", re.MULTILINE)
"""How a function gets TensorRT or TensorRT-RTX; the checked copy imports the stubs instead, because mypy cannot know a module that
is a value. `rtx` is for names that only TensorRT-RTX has."""
MODULES = [path for path, text in SOURCES.items() if LIBRARY.search(text)]
ONLY_RTX = [path for path in MODULES if "import tensorrt as rtx" in SOURCES[path]]
VERSION_OF_RTX = "1.7.1.116"
IN_SOME_VERSIONS = re.compile(r'(?:__members__(?:\[|\.get\()|hasattr\(\w+, )"(\w+)"')
"""How the project looks up a name that not every version has; mypy does not check the string."""


@lru_cache
def checked_copy(folder: Path) -> Path:
    """A copy of the project whose functions import TensorRT's bindings by name."""
    for path, text in SOURCES.items():
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(LIBRARY.sub(r"import tensorrt as \1", text), encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@cache
def errors(version: str, folder: Path, *paths: Path) -> list[str]:
    """Errors of mypy, run in `folder`, in `paths` with the bindings of `version` as `tensorrt`."""
    options = ["--no-error-summary", "--no-pretty", "--config-file", "pyproject.toml"]
    # Without the bindings their classes are Any, and subclassing Any needs an ignore.
    options += ["--no-warn-unused-ignores", "--cache-dir", str(cache_folder("mypy"))]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *map(str, paths)],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(stubs(pins()[version]))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("version", pins())
def test_every_name_and_argument_is_real(version: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = checked_copy(tmp_path_factory.getbasetemp() / "checked")
    found = errors(version, folder, *(path.relative_to(ROOT) for path in MODULES))
    if version != VERSION_OF_RTX:  # mypy also checks what the modules import
        found = [line for line in found if not line.startswith(tuple(str(path.relative_to(ROOT)) for path in ONLY_RTX))]
    assert not found, "\n".join(found)


def test_only_the_module_for_tensorrt_rtx_is_checked_against_one_version() -> None:
    assert VERSION_OF_RTX in pins() and [path.name for path in ONLY_RTX] == ["rtx_runtime.py"]


def test_every_module_that_uses_tensorrt_is_checked() -> None:
    assert {"plan_from_onnx.py", "inspect_engine.py", "rtx_targets.py", "loaded_plan.py"} <= {
        path.name for path in MODULES
    }
    untyped = re.compile(r'(require|import_module)\("tensorrt|\btrt: (ModuleType|Any)|\bmodule\b.*trt\b|\.module\.')
    assert [path.name for path, text in SOURCES.items() if untyped.search(text)] == ["tensorrt_library.py"]
    assert {path for path, text in SOURCES.items() if "library.module" in text} - set(MODULES) == {
        ROOT / "runtime/edgefuse_runtime/engines/tensorrt_library.py"
    }


def test_names_of_some_versions_are_in_one() -> None:
    asked = {name for path in MODULES for name in IN_SOME_VERSIONS.findall(SOURCES[path])}
    text = "".join(path.read_text() for pin in pins().values() for path in stubs(pin).rglob("tensorrt*.pyi"))
    assert {"FP16", "OBEY_PRECISION_CONSTRAINTS", "precision", "num_compute_capabilities"} <= asked
    assert not {name for name in asked if not re.search(rf"^(    (def )?|class ){name}\b", text, re.MULTILINE)}


PLANTED = """
from __future__ import annotations
from typing import Any
import tensorrt as trt

def build(path: str) -> bytes | None:
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(path):
        raise ValueError([parser.get_error(i).desc() for i in range(parser.num_errors)])
    config = builder.create_builder_config()
    config.set_memory_pool_limit(pool=trt.MemoryPoolType.WORKSPACE, pool_size=1 << 30)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    profile.set_shape("rgb", min=(1, 2), opt=(1, 2), max=(1, 2))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return None if plan is None else bytes(plan)

def names(builder: trt.Builder, parser: trt.OnnxParser, config: trt.IBuilderConfig, engine: trt.ICudaEngine) -> None:
    trt.ONNXParser  # Module has no attribute "ONNXParser"
    trt.Logger.WARN  # has no attribute "WARN"
    trt.MemoryPoolType.WORKSPACES  # has no attribute "WORKSPACES"
    builder.new_builder_config()  # "Builder" has no attribute "new_builder_config"
    parser.get_error(0).description()  # "ParserError" has no attribute "description"
    parser.num_errors()  # "int" not callable
    config.profile_verbosity = trt.ProfilingVerbosity.DETAILED  # "IBuilderConfig" has no attribute
    config.create_timing_cache(b"").serialise()  # has no attribute "serialise"
    engine.create_execution_context().set_input_shapes  # has no attribute "set_input_shapes"
    trt.Runtime(builder.logger).deserialize_cuda_engine(b"").name  # "None" of "ICudaEngine | None" has no attribute "name"
    [config][0].set_flagg(trt.BuilderFlag.TF32)  # "IBuilderConfig" has no attribute "set_flagg"
    sorted([config], key=lambda one: one.set_flagg)  # "IBuilderConfig" has no attribute "set_flagg"
    config.num_optimization_profiles = 2  # is read-only

def unknown(tensors: list[trt.ITensors], severity: trt.ILogger.Severities) -> None: ...  # "trt.ITensors" is not defined

def arguments(logger: trt.Logger, network: trt.INetworkDefinition, config: trt.IBuilderConfig) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size=1 << 30)  # Unexpected keyword argument "size"
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)  # Missing positional argument "pool_size"
    config.set_memory_pool_limit(trt.DataType.HALF, 1 << 30)  # expected "MemoryPoolType"
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1e9)  # incompatible type "float"
    config.add_optimization_profile(trt.Builder(logger).create_optimization_profile(), 3)  # Too many arguments
    config.profiling_verbosity = trt.DataType.HALF  # expression has type "DataType"
    config.set_flag(None)  # expected "BuilderFlag"
    trt.OnnxParser(logger, network)  # expected "INetworkDefinition"
    1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED  # Unsupported operand types
    trt.Runtime(logger).deserialize_cuda_engine("plan")  # No overload variant
    trt.OnnxParser(network, logger).parse_from_file(b"model.onnx")  # expected "str"

def versions(config: trt.IBuilderConfig, layer: trt.ILayer) -> None:
    config.set_flag(trt.BuilderFlag.__members__["FP16"])
    if hasattr(layer, "precision"):
        layer.precision = trt.DataType.FLOAT
    config.set_flag(trt.BuilderFlag.FP16)  # 11.4.0.106 1.7.1.116: has no attribute "FP16"
    trt.BuilderFlag.STRICT_NANS  # 10.3.0: has no attribute "STRICT_NANS"
    config.int8_calibrator  # 11.4.0.106 1.7.1.116: has no attribute "int8_calibrator"
    trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH  # 11.4.0.106 1.7.1.116: has no attribute

class Right(trt.IProgressMonitor):
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
    def step_complete(self, phase_name: str, step: int) -> bool:
        return True
    def phase_finish(self, phase_name: str) -> None: ...

class Lacking(trt.IProgressMonitor):
    def phase_begin(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
    def step_complete(self, step: int) -> None: ...  # incompatible with supertype "tensorrt
    def phase_finish(self, phase_name: int) -> None: ...  # incompatible with supertype "tensorrt

class Misspelt(trt.ILoggers): ...  # "trt.ILoggers" is not defined

def derived(config: trt.IBuilderConfig) -> None:
    config.progress_monitor = Right()
    Lacking()  # Cannot instantiate abstract class "Lacking" with abstract attribute "phase_start"
    trt.Builder(Right())  # expected "ILogger"
"""
"""Correct code, and wrong lines with a part of the expected mypy error; before a colon: only in these versions."""


@pytest.mark.parametrize("version", pins())
def test_planted_errors_are_found(version: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "planted.py"
    path.write_text(PLANTED)
    found: dict[int, str] = {}
    for line in errors(version, ROOT, path):
        number, kind, text = re.match(r".*planted\.py:(\d+): (\w+): (.*)", line).groups()
        if kind == "error":
            found[int(number)] = found.get(int(number), "") + text
    expected = {}
    for number, line in enumerate(PLANTED.splitlines(), start=1):
        _, comment, said = line.partition("  # ")
        versions, colon, text = said.rpartition(": ")
        if comment and (not colon or version in versions.split()):
            expected[number] = text
    assert set(found) == set(expected)
    assert not {number: (found[number], said) for number, said in expected.items() if said not in found[number]}


@pytest.mark.parametrize("ci", ["", "true"])
def test_without_a_package_index_it_is_skipped_and_in_ci_it_fails(
    ci: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    expected = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(expected, match=r"tensorrt-cu12-bindings==10\.3\.0 cannot be had from the package index"):
        fetch("tensorrt-cu12-bindings==10.3.0")
    assert not list((tmp_path / "edgefuse" / "tensorrt-bindings").iterdir())
