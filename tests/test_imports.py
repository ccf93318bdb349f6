"""Modules that an import may load, and the start-up time of the command. Each import has its own process."""

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
    *("onnxruntime", "tensorrt", "pycuda", "cuda", "pyrealsense2", "starlette", "uvicorn", "websockets"),
)
"""Packages of extras: imported inside the functions that need them, never with a module of the device."""

IMPORT_LIMIT_S = 0.05
HELP_LIMIT = 2.25
"""Times the imports of typer and its tables alone (0.13 s), so 0.3 s where nothing else runs; 1.8 to 2.0 as it is."""
TRIES = 5


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


def test_import_edgefuse_loads_almost_nothing() -> None:
    assert _loaded_with("edgefuse", of=(*OPTIONAL, "numpy", "cv2", "rich", "typer")) == []


def test_the_list_of_commands_loads_neither_numpy_nor_opencv() -> None:
    assert _loaded_with("edgefuse.app.main; edgefuse.app.main.build_app()", of=("numpy", "cv2")) == []


def test_the_check_finds_a_loaded_package() -> None:
    assert _loaded_with("edgefuse.framing", of=("cv2", "torch")) == ["cv2"]


def test_import_is_fast() -> None:
    """CPU time above that of an interpreter without imports; the best of several tries."""
    own_s, bare_s = (min(_cpu_s(sys.executable, "-c", code) for _ in range(TRIES)) for code in ("import edgefuse", "0"))
    assert own_s - bare_s < IMPORT_LIMIT_S


def test_help_is_fast() -> None:
    """CPU time against that of the imports which it needs, in turns: on a busy machine, both take longer."""
    whole_s, needed_s = [], []
    for _ in range(TRIES):
        whole_s.append(_cpu_s(EDGEFUSE, "--help", prints="live"))
        needed_s.append(_cpu_s(sys.executable, "-c", "import typer, typer.rich_utils"))
    assert min(whole_s) < HELP_LIMIT * min(needed_s)


def test_the_package_runs_as_a_module() -> None:
    as_module, as_command = (
        subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout.split()
        for command in ([sys.executable, "-m", "edgefuse"], [EDGEFUSE])
    )
    assert as_module[:4] == ["Usage:", "python", "-m", "edgefuse"] and "live" in as_module
    assert as_module[4:] == as_command[2:]


def _cpu_s(*command: str | Path, prints: str = "") -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert prints in done.stdout
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
