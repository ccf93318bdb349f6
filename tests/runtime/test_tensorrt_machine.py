"""Machines that lack a part of TensorRT: each has its own message. A small C library simulates the CUDA driver."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgefuse.errors import MissingPackageError
from edgefuse_runtime.engines.cuda_device import Gpu, NoGpuError, current_gpu
from edgefuse_runtime.engines.tensorrt_library import RTX, is_jetson, load_library, version_numbers

COMPILER = shutil.which("cc") or shutil.which("gcc")

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGet(int *device, int ordinal) { *device = 7; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, device == 7 ? "Orin" : "wrong", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : 0;
    return device == 7 ? 0 : 101;
}
int cuGetErrorString(int code, const char **text) { *text = "driver too old"; return 0; }
"""


def driver(folder: Path, *, init: int) -> str:
    if COMPILER is None:
        assert not os.environ.get("CI"), "CI has no C compiler"
        pytest.skip("needs a C compiler, for the simulated CUDA driver")
    source, library = folder / "driver.c", folder / "libcuda.so.1"
    source.write_text(DRIVER)
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", f"-DINIT={init}", "-o", str(library), str(source)], check=True, timeout=60
    )
    return str(library)


def test_the_gpus_name_is_from_the_driver(tmp_path: Path) -> None:
    assert current_gpu(library=driver(tmp_path, init=0)) == Gpu(name="Orin", compute_capability="8.7")


def test_a_missing_driver_has_another_message_than_a_missing_device(tmp_path: Path) -> None:
    with pytest.raises(NoGpuError, match=r"CUDA driver is missing.*nvidia-smi.*--gpus all"):
        current_gpu(library="libcuda-of-no-machine.so.1")
    with pytest.raises(NoGpuError, match=r"finds no device.*CUDA_VISIBLE_DEVICES"):
        current_gpu(library=driver(tmp_path, init=100))


def test_a_driver_that_does_not_start_has_its_error_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(NoGpuError, match=r"cuInit: error 35, driver too old"):
        current_gpu(library=driver(tmp_path, init=35))


# The parts of TensorRT


def installed(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package tensorrt with this source instead of the bindings."""
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt" / "__init__.py").write_text(source)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def no_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)


def a_jetson(root: Path, monkeypatch: pytest.MonkeyPatch, *, bindings: bool) -> Path:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    (root / "etc").mkdir(parents=True)
    (root / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.0\n")
    if bindings:
        (root / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    return root


def test_missing_bindings_name_the_command(no_bindings: None, tmp_path: Path) -> None:
    with pytest.raises(MissingPackageError, match=r"bindings are not installed.*pip install 'edgefuse\[tensorrt\]'"):
        load_library(root=tmp_path)


@pytest.mark.parametrize("bindings", [True, False])
def test_on_a_jetson_the_environment_has_to_see_the_systems_bindings(
    no_bindings: None, bindings: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = a_jetson(tmp_path / "root", monkeypatch, bindings=bindings)
    with pytest.raises(MissingPackageError) as caught:
        load_library(root=root)
    message = str(caught.value)
    assert "--system-site-packages" in message and "pip install" not in message
    assert ("sudo apt-get install python3-libnvinfer" in message) is not bindings
    assert (f"{root}/usr/lib/python3.10/dist-packages" in message) is bindings


def test_only_a_tegra_release_on_aarch64_is_a_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = a_jetson(tmp_path / "root", monkeypatch, bindings=False)
    assert is_jetson(root) and not is_jetson(tmp_path)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert not is_jetson(root)


@pytest.mark.parametrize("jetson", [True, False])
def test_a_missing_library_of_the_bindings_is_named(
    jetson: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = a_jetson(tmp_path / "root", monkeypatch, bindings=True) if jetson else tmp_path
    cause = "libnvinfer.so.10: cannot open shared object file: No such file or directory"
    installed(tmp_path, f"raise ImportError({cause!r})", monkeypatch)
    with pytest.raises(MissingPackageError) as caught:
        load_library(root=root)
    message = str(caught.value)
    assert "bindings are installed, but the library libnvinfer.so.10 is missing" in message
    assert ("apt-get install" in message) is jetson and ("LD_LIBRARY_PATH" in message) is not jetson


def test_bindings_that_need_another_package_are_not_reported_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "import a_package_of_no_machine", monkeypatch)
    with pytest.raises(MissingPackageError, match=r"do not load \(No module named 'a_package_of_no_machine'\)"):
        load_library(root=tmp_path)


@pytest.mark.parametrize(
    ("version", "fits"), [("8.6.1", False), ("10.2.9", False), ("10.3.0", True), ("11.4.0.106", True)]
)
def test_versions_before_10_3_are_refused(
    version: str, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, f"__version__ = {version!r}", monkeypatch)
    if fits:
        assert load_library(root=tmp_path).version == version
        assert version_numbers(version)[:2] == tuple(map(int, version.split(".")[:2]))
    else:
        with pytest.raises(MissingPackageError, match=rf"TensorRT {version} is installed, 10\.3 or newer is needed"):
            load_library(root=tmp_path)


def test_an_older_tensorrt_rtx_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = ModuleType("tensorrt_rtx")
    older.__dict__["__version__"] = "1.2.0.54"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", older)
    with pytest.raises(MissingPackageError) as caught:
        load_library(RTX, root=tmp_path)
    message = str(caught.value)
    assert message.startswith("TensorRT-RTX 1.2.0.54 is installed, 1.4 or newer is needed")
    assert message.endswith("pip install 'edgefuse[rtx]'")


def test_tensorrt_rtx_is_not_for_a_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = a_jetson(tmp_path / "root", monkeypatch, bindings=True)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingPackageError, match=r"desktop and workstation GPUs; on a Jetson .*--engine tensorrt"):
        load_library(RTX, root=root)


def test_an_empty_folder_of_that_name_is_not_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python imports any folder called tensorrt as a package, such as /usr/src/tensorrt from inside /usr/src."""
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingPackageError, match="not installed"):
        load_library(root=tmp_path)
