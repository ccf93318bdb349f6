"""What an import may bring along, and how fast the command answers. Each import has a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edgefuse.app.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
EDGEFUSE = Path(sys.executable).with_name("edgefuse")

OPTIONAL = (
    *("torch", "torchvision", "safetensors", "sklearn", "matplotlib", "tensorboard", "onnx", "onnxscript"),
    *("onnxruntime", "tensorrt", "pycuda", "cuda", "pyrealsense2"),
)
"""What only an extra brings: imported inside the functions that need it, never with a module of the device."""

HELP_LIMIT_S = 0.3
HELP_TRIES = 5


def _modules_below(package: str, *, source_root: Path) -> list[str]:
    files = sorted((source_root / package.replace(".", "/")).rglob("*.py"))
    parts = (path.relative_to(source_root).with_suffix("").parts for path in files)
    return [".".join(names[:-1] if names[-1] == "__init__" else names) for names in parts]


def _loaded_with(module: str, *, of: tuple[str, ...]) -> list[str]:
    code = f"import sys, {module}; print(*(name for name in {of!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "module",
    [
        *("edgefuse.contract", "edgefuse.framing", "edgefuse.bundle", "edgefuse.training.recipe"),
        *_modules_below("edgefuse.data", source_root=ROOT),
        *_modules_below("edgefuse.evaluation", source_root=ROOT),
        *_modules_below("edgefuse.synth", source_root=ROOT),
        *("edgefuse.app.main", *sorted({entry.module for entry in COMMANDS})),
        *_modules_below("edgefuse_runtime", source_root=ROOT / "runtime"),
    ],
)
def test_modules_of_the_device_load_no_optional_package(module: str) -> None:
    assert _loaded_with(module, of=OPTIONAL) == []


@pytest.mark.parametrize("module", ["edgefuse_export.tensorrt.build", "edgefuse_export.tensorrt.commands"])
def test_an_engine_is_built_without_torch_and_onnx(module: str) -> None:
    assert _loaded_with(module, of=("torch", "torchvision", "onnx", "onnxruntime")) == []


def test_edgefuse_alone_loads_next_to_nothing() -> None:
    assert _loaded_with("edgefuse", of=(*OPTIONAL, "numpy", "cv2", "rich", "typer")) == []


def test_the_check_sees_a_loaded_package() -> None:
    assert _loaded_with("edgefuse.framing", of=("cv2", "torch")) == ["cv2"]


def test_help_answers_at_once() -> None:
    """Best of several tries, in processor time: on a busy machine the time on the wall tells more about the others."""
    best_s = min(_help_cpu_s() for _ in range(HELP_TRIES))
    assert best_s < HELP_LIMIT_S


def _help_cpu_s() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([EDGEFUSE, "--help"], capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "live" in done.stdout
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
