"""`edgefuse live --engine`: the engine is logged, and one chosen by name is never replaced."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgefuse.bundle import Bundle
from edgefuse_runtime.engines.onnxruntime import OnnxRuntimeEngine
from toy_bundle import make_toy_bundle

MAIN = "from edgefuse.app.main import main; main()"


def live(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, "live", str(bundle), "--camera", "synthetic", "--frames", "2", "--json"]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_bundle(tmp_path_factory.mktemp("live") / "toy").folder


def test_auto_logs_the_engine_and_the_summary_has_the_reasons(toy: Path) -> None:
    done = live(toy)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("engine: ")]
    engine = json.loads(done.stdout)["engine"]
    for word, reason in engine["passed_over"].items():
        assert f"{word}: " in line and reason


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_an_engine_that_is_missing_is_an_error_with_the_next_step(toy: Path) -> None:
    done = live(toy, "--engine", "tensorrt")
    summary = json.loads(done.stdout)
    assert done.returncode == 1 and (summary["ended"], summary["engine"], summary["received"]) == ("failed", {}, 0)
    assert f"error: {summary['failure']}" in done.stderr
    assert "TensorRT's Python bindings are not installed" in done.stderr and "Traceback" not in done.stderr


def test_the_file_is_chosen_by_name(toy: Path) -> None:
    assert json.loads(live(toy, "--engine", "cpu", "--file", "model.onnx").stdout)["engine"]["file"] == "model.onnx"
    done = live(toy, "--file", "model.int4.onnx")
    assert done.returncode == 1 and "has no model file 'model.int4.onnx'; it has model.onnx" in done.stderr


def test_the_threads_of_a_session_do_not_spin(bundle: Bundle) -> None:
    with OnnxRuntimeEngine(bundle, num_threads=2) as engine:
        options = engine._session.get_session_options()
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert str(options.execution_mode).endswith("ORT_SEQUENTIAL")  # there are no threads between operators to spin
