"""The command edgefuse build: on this machine without TensorRT, and with a fake TensorRT."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgefuse.bundle import Bundle
from edgefuse_runtime.engines.cuda_device import NoGpuError, current_gpu
from toy_bundle import make_toy_bundle

TESTS = Path(__file__).resolve().parents[1]
PLAIN = "from edgefuse.app.main import main; main()"

ON_A_STAND_IN = """
import sys
from engine_scenes import GPU, host_opener
from fake_tensorrt import FakeTensorRT
from host_memory import HostMemory
import edgefuse_export.tensorrt.build as module
from edgefuse.app.main import main
fake = FakeTensorRT(version={version!r}, device=GPU.name)
sys.modules["tensorrt"] = fake.module
module.current_gpu, module.open_gpu_memory = lambda: GPU, lambda _: HostMemory(fake=fake)
module._Job._open_here = lambda job, candidate, _extra_outputs: host_opener(fake, job.bundle)(candidate)
main()
"""

WITH_TENSORRT = """
from fake_tensorrt import FakeTensorRT
import sys
sys.modules["tensorrt"] = FakeTensorRT().module
"""


def edgefuse(
    *arguments: object, code: str = PLAIN, first_on_path: Path | None = None, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    places = [first_on_path] if first_on_path else []
    path = os.pathsep.join(map(str, (*places, os.environ.get("PYTHONPATH", ""), TESTS, TESTS / "export")))
    return subprocess.run(
        [*before, sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )


def everything_in(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in sorted([folder, *folder.rglob("*")])
    }


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    sys.path.insert(0, str(TESTS / "export"))
    try:
        from engine_scenes import make_engine_bundle
    finally:
        sys.path.remove(str(TESTS / "export"))
    return make_engine_bundle(tmp_path / "bundle")


WITH_A_GPU = """
import edgefuse_export.tensorrt.build as module
from edgefuse.app.main import main
from edgefuse_runtime.engines import pycuda_memory
from edgefuse_runtime.engines.cuda_device import Gpu
module.current_gpu = lambda: Gpu(name="Orin", compute_capability="8.7")
pycuda_memory.DRIVER_LIBRARY = "libc.so.6"  # any library that loads
main()
"""


def has_tensorrt() -> bool:
    try:
        current_gpu()
    except NoGpuError:
        return False
    return find_spec("tensorrt") is not None


@pytest.mark.skipif(has_tensorrt(), reason="TensorRT is installed here")
@pytest.mark.parametrize("command", ["build", "export"])
def test_without_tensorrt_it_fails_at_once_and_changes_nothing(bundle: Bundle, command: str, tmp_path: Path) -> None:
    """At once: within a second of CPU time, because on a busy machine any command may take longer than a second."""
    before = everything_in(bundle.folder)
    arguments = (
        ("build", bundle.folder) if command == "build" else ("export", tmp_path, "--out", bundle.folder, "--trt")
    )
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = edgefuse(*arguments, "--force")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    took_s = ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "no NVIDIA GPU here: build on the device" in result.stderr and "edgefuse live BUNDLE" in result.stderr
    assert everything_in(bundle.folder) == before
    if command == "build":  # an export loads torch
        assert took_s < 1.0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "raise ImportError('libnvinfer.so.10: cannot open shared object file')",
            "library libnvinfer.so.10 is missing",
        ),
        ("__version__ = '8.6.1'", "10.3 or newer is needed"),
        ("__version__ = '10.3.0'", "without its ONNX parser"),
        ("__version__, OnnxParser = '10.3.0', type", "pycuda"),
        ("raise ModuleNotFoundError(name='tensorrt')", "pip install 'edgefuse[tensorrt]'"),
    ],
)
@pytest.mark.skipif(has_tensorrt(), reason="TensorRT is installed here")
def test_each_missing_part_has_its_own_message(bundle: Bundle, source: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "shadow" / "tensorrt").mkdir(parents=True)
    (tmp_path / "shadow" / "tensorrt" / "__init__.py").write_text(source)
    before = everything_in(bundle.folder)
    result = edgefuse("build", bundle.folder, code=WITH_A_GPU, first_on_path=tmp_path / "shadow")
    assert result.returncode == 1 and words in result.stderr and "Traceback" not in result.stderr, result.stderr
    assert everything_in(bundle.folder) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--precision", "fp8"], "none of fp16, int8, fp32"),
        (["--optimization-level", "6"], "--optimization-level"),
        (["--workspace-mib", "0"], "--workspace-mib"),
        (["--batch", "0"], "--batch"),
    ],
)
def test_wrong_options_are_wrong_usage(tmp_path: Path, arguments: list[str], words: str) -> None:
    result = edgefuse("build", tmp_path, *arguments)
    assert result.returncode == 2 and words in result.stderr.replace("│", " ")


def test_a_folder_that_is_not_a_bundle_is_refused_first(tmp_path: Path) -> None:
    result = edgefuse("build", tmp_path / "absent")
    assert result.returncode == 1 and "is not a bundle" in result.stderr


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0.106"])
def test_a_build_is_shown_and_a_second_one_is_quick(bundle: Bundle, version: str) -> None:
    code = ON_A_STAND_IN.format(version=version)
    result = edgefuse("build", bundle.folder, "--workspace-mib", 512, "--json", code=code)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["built"] and answer["engine"]["key"]["builder_options"]["workspace_mib"] == 512
    assert answer["engine"]["details"]["layers"]["half"] >= 1
    for words in ("has no fp16 engine yet", "building fp16: 50 of 100 %", "half", "stored outputs", "edgefuse live"):
        assert words in result.stderr
    assert ("older than 10.12" in result.stderr) is (version == "10.3.0")
    again = edgefuse("build", bundle.folder, "--workspace-mib", 512, "--json", code=code)
    assert not json.loads(again.stdout)["built"] and "is up to date" in again.stderr
    changed = edgefuse("build", bundle.folder, code=code)
    assert "workspace mib: 512 -> 1024" in changed.stderr and changed.returncode == 0


def test_a_pycuda_of_another_cuda_is_reported_before_the_build(bundle: Bundle, tmp_path: Path) -> None:
    """The package is found, and `import pycuda` works: only pycuda.driver loads its library."""
    (tmp_path / "shadow" / "pycuda").mkdir(parents=True)
    (tmp_path / "shadow" / "pycuda" / "__init__.py").touch()
    source = "raise ImportError('_driver.so: undefined symbol: cuCtxCreate_v4')\n"
    (tmp_path / "shadow" / "pycuda" / "driver.py").write_text(source)
    before = everything_in(bundle.folder)
    code = WITH_A_GPU.replace("\nmain()", f"\n{WITH_TENSORRT}main()")
    result = edgefuse("build", bundle.folder, code=code, first_on_path=tmp_path / "shadow")
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    assert "pycuda.driver is installed but does not load" in result.stderr and "cuCtxCreate_v4" in result.stderr
    assert everything_in(bundle.folder) == before


def under_mode_bits() -> list[str]:
    """Words before a command that make mode bits apply to it: root drops its capability to override them."""
    if os.geteuid() != 0:
        return []
    drop = ["setpriv", "--bounding-set", "-dac_override", "--"]
    try:
        subprocess.run([*drop, "true"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"root overrides mode bits, and cannot drop that capability here: {error}")
    return drop


@pytest.mark.parametrize("shut", ["bundle", "engines"])
def test_a_read_only_cache_folder_is_reported_before_the_build(bundle: Bundle, shut: str) -> None:
    before = under_mode_bits()
    folder = bundle.folder / "engines" if shut == "engines" else bundle.folder
    folder.mkdir(exist_ok=True)
    folder.chmod(0o555)
    was = everything_in(bundle.folder)
    try:
        result = edgefuse("build", bundle.folder, code=ON_A_STAND_IN.format(version="10.3.0"), before=before)
        assert everything_in(bundle.folder) == was
    finally:
        folder.chmod(0o755)
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    stderr = " ".join(result.stderr.split())
    assert "which cannot be written (Permission denied)" in stderr and "chmod u+w" in stderr and "cp -r" in stderr
    assert "building an engine" not in stderr


def test_a_bundle_without_an_fp16_file_names_the_export(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "toy")
    result = edgefuse("build", bundle.folder, code=ON_A_STAND_IN.format(version="11.4.0.106"))
    assert result.returncode == 1 and "has no model.fp16.onnx" in result.stderr
    assert "edgefuse export RUN --out" in result.stderr and not (bundle.folder / "engines").exists()
