"""`edgefuse evaluate --engine`: the requested engine is used, or none."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefuse.app.open_model import open_model
from edgefuse.bundle import Bundle
from edgefuse.data.dataset import write_description, write_pair
from edgefuse.errors import UserError
from fake_tensorrt import FakeTensorRT
from host_memory import HostMemory
from toy_bundle import make_toy_bundle

MAIN = "from edgefuse.app.main import main; main()"
RUNTIME_TESTS = Path(__file__).resolve().parents[1] / "runtime"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "near_far"
    write_description(root)
    for label, depth_mm in (("near", 500), ("far", 2000)):
        for number in range(2):
            depth = np.full((32, 32), depth_mm + number, np.uint16)
            write_pair(root / label / "take1", f"frame_{number}", np.full((32, 32, 3), 90, np.uint8), depth)
    return root


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_bundle(tmp_path_factory.mktemp("evaluate") / "toy").folder


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle with an FP16 plan, on fakes of TensorRT and GPU memory."""
    monkeypatch.syspath_prepend(str(RUNTIME_TESTS))
    from tensorrt_scenes import bundle_with_plan

    from edgefuse_runtime.engines.tensorrt import TensorRTEngine

    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    defaults: dict[str, Any] = dict(TensorRTEngine.__init__.__kwdefaults__ or {})
    changed = {**defaults, "open_memory": lambda: HostMemory(fake=fake)}
    monkeypatch.setattr(TensorRTEngine.__init__, "__kwdefaults__", changed)
    return bundle_with_plan(tmp_path / "bundle", fake)


def evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, "evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_an_engine_can_be_selected_by_name(toy: Path, data: Path) -> None:
    done = evaluate(toy, data, "--engine", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["answered_by"] == "model.onnx in ONNX Runtime"
    assert report["engine"]["provider"] == "CPUExecutionProvider" and report["engine"]["passed_over"] == {}


@pytest.mark.parametrize("more", [[], ["--corruptions"]])
def test_the_json_has_the_engines_that_were_passed_over(toy: Path, data: Path, more: list[str]) -> None:
    done = evaluate(toy, data, "--json", *more)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (engine,) = [one["engine"] for one in report["models"].values()] if more else [report["engine"]]
    assert engine["passed_over"] and all(engine["passed_over"].values())


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
@pytest.mark.parametrize("more", [[], ["--corruptions"]])
def test_a_missing_engine_is_an_error_and_not_replaced(toy: Path, data: Path, more: list[str]) -> None:
    done = evaluate(toy, data, "--engine", "tensorrt", *more)
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
    assert "TensorRT's Python bindings are not installed" in done.stderr


def test_a_run_accepts_no_engine_option(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    with (
        pytest.raises(UserError, match=r"is a run, which runs in PyTorch: .*leave out --engine cuda"),
        open_model(tmp_path, num_threads=None, engine="cuda"),
    ):
        pass


def test_the_plan_is_named_with_its_precision(planned: Bundle) -> None:
    with open_model(planned.folder, num_threads=None, engine="tensorrt") as opened:
        assert opened.name == "model.fp16.onnx in TensorRT, fp16"
    with (
        pytest.raises(UserError, match="has no engine for this machine: it has no fp32 engine"),
        open_model(planned.folder, num_threads=None, engine="tensorrt", file="model.onnx"),
    ):
        pass


def test_depth_out_of_range_and_a_missing_sensor_are_warned_of(toy: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, depth_mm in (("near", 500), ("far", 4000)):
        for number in range(2):
            depth = rng.integers(depth_mm, depth_mm + 99, (32, 32), np.uint16)
            rgb = np.full((32, 32, 3), 90, np.uint8) if label == "far" else rng.integers(0, 255, (32, 32, 3), np.uint8)
            write_pair(tmp_path / label / "take1", f"frame_{number}", rgb, depth)
    warnings = [line for line in evaluate(toy, tmp_path).stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2 and warnings[0].startswith("warning: RGB is missing") and "(far), first" in warnings[0]
    assert warnings[1].startswith("warning: in 2 of 4 pairs: 50% of the measured depth is beyond 2 m")
