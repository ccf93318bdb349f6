"""GPU memory through the real pycuda and cuda-bindings, on a simulated CUDA driver in host memory: calls match their signatures, and
everything is freed. tests/gpu runs them on a GPU.

pycuda has no wheels. If it is not installed, it is built once into ~/.cache/edgefuse (pycuda_site.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from edgefuse.errors import MissingPackageError
from edgefuse_runtime.engines import pycuda_memory, tensorrt_library
from edgefuse_runtime.engines.gpu_memory import CaptureError
from edgefuse_runtime.engines.pycuda_memory import PycudaMemory, open_gpu_memory
from edgefuse_runtime.engines.tensorrt_library import RTX, TENSORRT, Product, install_command
from fetching import cannot
from pycuda_site import pycuda_site

HERE = Path(__file__).parent
NOT_IN_THE_STAND_IN = "int {name}(void) {{ return 801; /* CUDA_ERROR_NOT_SUPPORTED */ }}"

PROLOGUE = """
import ctypes, json, sys, threading
driver = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
import numpy as np
from edgefuse_runtime.engines.gpu_memory import CaptureError, GpuError, GpuOutOfMemoryError
from edgefuse_runtime.engines.pycuda_memory import PycudaMemory, open_gpu_memory

def switch(name, value):
    ctypes.c_int.in_dll(driver, name).value = value

def counts():
    return [getattr(driver, f"stand_in_{what}")() for what in ("depth", "references", "buffers", "graphs")]

report = {}
"""


class Driver(NamedTuple):
    """Paths for the processes of these tests.

    Attributes:
        libraries: a folder with a libcuda.so.1 that has every function that pycuda was linked to.
        site: where pycuda and cuda-bindings are.
    """

    libraries: Path
    site: Path


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    spec = find_spec("pycuda")
    installed = spec is not None and spec.origin is not None and find_spec("cuda") is not None
    site = Path(spec.origin).parents[1] if installed else pycuda_site()  # type: ignore[union-attr, arg-type]
    if shutil.which("gcc") is None or shutil.which("nm") is None:
        cannot("gcc or nm is not installed")
    (extension,) = (site / "pycuda").glob("_driver*.so")
    folder = tmp_path_factory.mktemp("driver")
    source, library = HERE / "stand_in_libcuda.c", folder / "libcuda.so.1"
    build = ["gcc", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(source)]
    subprocess.run([*build, "-ldl"], check=True)
    missing = sorted(_symbols(extension, "--undefined-only") - _symbols(library, "--defined-only"))
    rest = folder / "rest.c"
    rest.write_text("\n".join(NOT_IN_THE_STAND_IN.format(name=name) for name in missing if name.startswith("cu")))
    subprocess.run([*build, str(rest), "-ldl"], check=True)
    return Driver(folder, site)


def _symbols(library: Path, which: str) -> set[str]:
    listed = subprocess.run(["nm", "-D", which, str(library)], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].partition("@")[0] for line in listed.splitlines()}


def play(driver: Driver, code: str, **environment: str) -> Any:
    """The dict `report` after `code`, run in a separate process, because a library is loaded once and a leak may abort."""
    libraries = os.pathsep.join(filter(None, [str(driver.libraries), os.environ.get("LD_LIBRARY_PATH")]))
    packages = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(driver.site)]))
    done = subprocess.run(
        [sys.executable, "-c", f"{PROLOGUE}\n{code}\nprint(json.dumps(report))"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LD_LIBRARY_PATH": libraries, "PYTHONPATH": packages, **environment},
    )
    assert done.returncode == 0, done.stderr
    assert "PyCUDA WARNING" not in done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def with_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any library that loads can take the place of the driver's."""
    monkeypatch.setattr(pycuda_memory, "DRIVER_LIBRARY", "libc.so.6")


@pytest.fixture
def without_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)


def test_a_pycuda_that_does_not_load_has_the_missing_part_in_its_error(
    with_driver: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    says = "libstdc++.so.6: version `GLIBCXX_3.4.32' not found"
    (tmp_path / "pycuda" / "driver.py").write_text(f"raise ImportError({says!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    words = r"is installed but does not load .*GLIBCXX.*g\+\+ and the CUDA headers"
    with pytest.raises(MissingPackageError, match=words), open_gpu_memory():
        pass
    sys.modules.pop("pycuda", None)


def test_a_missing_driver_is_named_before_pycuda(without_pycuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pycuda_memory, "DRIVER_LIBRARY", "libcuda-of-no-machine.so.1")
    words = "the CUDA driver is missing .*libcuda-of-no-machine.*Install NVIDIA's driver"
    with pytest.raises(MissingPackageError, match=words), open_gpu_memory():
        pass


@pytest.mark.parametrize(("product", "extra"), [(TENSORRT, "tensorrt"), (RTX, "rtx")])
def test_a_missing_pycuda_names_its_command(
    with_driver: None, without_pycuda: None, product: Product, extra: str
) -> None:
    with pytest.raises(MissingPackageError, match=rf"pip install 'edgefuse\[{extra}\]'"), open_gpu_memory(product):
        pass


@pytest.mark.parametrize("release", [36, 38, None])
def test_a_jetson_gets_single_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: int | None) -> None:
    """The extra may install a TensorRT from pip that hides JetPack's."""
    monkeypatch.setattr(tensorrt_library, "is_jetson", lambda _root: release is not None)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(f"# R{release} (release), REVISION: 4.0, GCID: 37537400\n")
    expected = {36: ("pip install pycuda", "pip install 'cuda-bindings<13'")}
    expected[38] = ("pip install pycuda", "pip install 'cuda-bindings>=13'")
    found = tuple(install_command(package, root=tmp_path) for package in ("pycuda", "cuda-bindings"))
    assert found == expected.get(release or 0, ("pip install 'edgefuse[tensorrt]'",) * 2)


def test_a_missing_pycuda_on_a_jetson_is_named_alone(
    with_driver: None, without_pycuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_library, "is_jetson", lambda _root: True)
    with pytest.raises(MissingPackageError, match="not installed: pip install pycuda") as caught, open_gpu_memory():
        pass
    assert "edgefuse[" not in str(caught.value)


class Raising:
    """cuda-bindings with a driver that lacks one function: it raises instead of returning an error code."""

    class CUstreamCaptureMode:
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1

    def __init__(self, lacks: str) -> None:
        self.lacks = lacks
        self.called: list[str] = []

    def __getattr__(self, function: str) -> Any:
        def call(*_arguments: object) -> tuple[Any, ...]:
            self.called.append(function)
            if function == self.lacks:
                raise RuntimeError(f'Function "{function}" not found')
            return (0, "graph") if function in ("cuStreamEndCapture", "cuGraphInstantiate") else (0,)

        return call


@pytest.mark.parametrize(
    "lacks",
    ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy", "cuGraphLaunch"],
)
def test_what_cuda_bindings_raises_is_a_capture_error(lacks: str) -> None:
    memory, stream, driver = PycudaMemory(), SimpleNamespace(handle=7), Raising(lacks)
    memory._driver = driver
    worked: list[str] = []

    def capture_and_launch() -> None:
        memory.launch(memory.capture(stream, lambda: worked.append("work")), stream)

    if lacks == "cuGraphDestroy":  # destroys the captured graph after instantiation: not an error
        capture_and_launch()
        return
    with pytest.raises(CaptureError, match=f'{lacks}: Function "{lacks}" not found'):
        capture_and_launch()
    assert bool(worked) is (lacks != "cuStreamBeginCapture")
    assert driver.called.count("cuGraphDestroy") == (0 if "Stream" in lacks else 1)


COPIES = """
with open_gpu_memory() as memory:
    with memory.active():
        address, stream = memory.allocate(64), memory.stream()
        source = memory.pinned((2, 8), np.float32, mapped=False).array
        target = memory.pinned((2, 8), np.float32, mapped=False).array
        def there_and_back():
            memory.to_device(address, source, stream)
            memory.to_host(target, address, stream)
        source[:] = 3
        there_and_back()
        memory.synchronise(stream)
        report["plain"] = float(target.sum())
        {body}
    report["idle"] = counts()
    del source, target, stream
report["closed"] = counts()
"""


@pytest.mark.slow
def test_copies_return_the_data_and_everything_is_freed(driver: Driver) -> None:
    report = play(driver, COPIES.format(body="report['active'] = counts()"))
    assert report == {"plain": 48.0, "active": [1, 1, 4, 0], "idle": [0, 1, 4, 0], "closed": [0, 0, 0, 0]}


@pytest.mark.slow
def test_a_graph_does_nothing_when_captured_and_all_when_launched(driver: Driver) -> None:
    body = """
        graph = memory.capture(stream, there_and_back)
        source[:] = 5
        report["captured"] = float(target.sum())
        memory.launch(graph, stream)
        memory.synchronise(stream)
        report["launched"] = float(target.sum())
    """
    report = play(driver, COPIES.format(body=body.strip()))
    assert (report["captured"], report["launched"]) == (48.0, 80.0)
    assert report["idle"] == [0, 1, 4, 1] and report["closed"] == [0, 0, 0, 0]


@pytest.mark.slow
def test_a_capture_that_fails_leaves_the_stream_usable(driver: Driver) -> None:
    body = """
        switch("stand_in_refuses_capture", 1)
        try:
            memory.capture(stream, there_and_back)
        except CaptureError as error:
            report["error"] = str(error)
        memory.synchronise(stream)
    """
    report = play(driver, COPIES.format(body=body.strip()))
    assert "cuMemcpyHtoDAsync" in report["error"]
    assert report["idle"] == [0, 1, 4, 0] and report["closed"] == [0, 0, 0, 0]


@pytest.mark.slow
def test_without_cuda_bindings_there_is_no_graph(driver: Driver) -> None:
    body = """
        try:
            memory.capture(stream, there_and_back)
        except CaptureError as error:
            report["error"] = str(error)
    """
    code = "sys.modules['cuda.bindings.driver'] = None\n" + COPIES.format(body=body.strip())
    assert "pip install 'edgefuse[tensorrt]'" in play(driver, code)["error"]


@pytest.mark.slow
def test_properties_mapped_memory_and_events(driver: Driver) -> None:
    code = """
switch("stand_in_is_integrated", 1)
memory = PycudaMemory()
report["properties"] = vars(memory.properties)
report["before"] = counts()
with memory, memory.active():
    mapped = memory.pinned((3,), np.uint8, mapped=True)
    report["same_bytes"] = mapped.device_address == mapped.array.ctypes.data
    stream, first, second = memory.stream(), memory.event(), memory.event()
    first.record(stream)
    second.record(stream)
    report["ms"] = second.time_since(first)
"""
    report = play(driver, code)
    assert report["properties"] == {
        "name": "Stand-in",
        "compute_capability": "8.7",
        "integrated": True,
        "total_bytes": 1 << 29,
    }
    assert (report["before"], report["same_bytes"], report["ms"]) == ([0, 0, 0, 0], True, 2.5)


@pytest.mark.slow
def test_threads_and_errors_leave_no_context_behind(driver: Driver) -> None:
    code = """
def use(memory):
    try:
        with memory.active():
            memory.allocate(1 << 30)
    except GpuOutOfMemoryError as error:
        report["error"] = str(error)
    report["thread"] = counts()

with open_gpu_memory() as memory:
    thread = threading.Thread(target=use, args=(memory,))
    thread.start()
    thread.join()
report["closed"] = counts()
"""
    report = play(driver, code)
    assert "1,073,741,824 bytes on the GPU" in report["error"] and "--workspace-mib" in report["error"]
    assert report["thread"][0] == 0 and report["closed"] == [0, 0, 0, 0]


@pytest.mark.slow
def test_no_device_has_a_next_step(driver: Driver) -> None:
    code = """
try:
    PycudaMemory().properties
except GpuError as error:
    report["error"] = str(error)
"""
    report = play(driver, code, STAND_IN_NO_DEVICE="1")
    assert "no CUDA-capable device is detected" in report["error"] and "nvidia-smi" in report["error"]


@pytest.mark.slow
def test_the_engine_runs_on_it(driver: Driver, tmp_path: Path) -> None:
    """The fake of TensorRT does not take part in the driver's captures, so there is no CUDA graph here."""
    code = f"""
sys.modules["cuda.bindings.driver"] = None
sys.path[:0] = [{str(HERE.parent)!r}, {str(HERE)!r}]
from pathlib import Path
from fake_tensorrt import FakeTensorRT
from tensorrt_scenes import bundle_with_plan
from edgefuse_runtime.engines.tensorrt import TensorRTEngine
from toy_bundle import toy_answer
fake = FakeTensorRT(device="Stand-in")
sys.modules["tensorrt"] = fake.module
rng = np.random.default_rng(1)
rgb, depth = (rng.integers(0, 256, (1, 32, 32, n), dtype=np.uint8) for n in (3, 2))
for integrated in (0, 1):
    switch("stand_in_is_integrated", integrated)
    with TensorRTEngine(bundle_with_plan(Path({str(tmp_path)!r}) / str(integrated), fake)) as engine:
        decision = engine.run(rgb, depth)
        off = np.abs(decision.probabilities[0] - toy_answer(rgb[0], depth[0])[0]).max()
        report[engine.description["buffers"]] = [float(off) < 1e-5, counts()[0]]
report["closed"] = counts()
"""
    report = play(driver, code)
    assert report == {"pinned": [True, 0], "mapped": [True, 0], "closed": [0, 0, 0, 0]}
