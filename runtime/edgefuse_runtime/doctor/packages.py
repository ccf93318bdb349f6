"""The checks of Python packages and their libraries: turns the facts of the probes into `Check`s. Only `report` imports it.

Nothing is imported or measured here: facts in, checks out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgefuse_runtime.cameras.pyrealsense import OLD_SDK, UPDATE_SDK, is_old_sdk
from edgefuse_runtime.doctor.check import (
    ONNXRUNTIME,
    OPENCV,
    OPENVINO,
    PYCUDA,
    PYREALSENSE2,
    TORCH,
    Check,
    Component,
    brief,
)
from edgefuse_runtime.doctor.probe import Facts

INSTALL_GPU = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'edgefuse[gpu]'"
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the checks of packages need to know about the machine.

    Attributes:
        gpu: name of the CUDA device; None without one.
        is_jetson: TensorRT comes with JetPack there, and ONNX Runtime has no CUDA provider.
    """

    gpu: str | None
    is_jetson: bool


def opencv(facts: Facts) -> Check:
    """OpenCV and NumPy, which every command needs; two packages of OpenCV overwrite each other's files."""
    result = OPENCV.is_now
    packages = facts.get("packages") or ["opencv-python-headless"]
    again = f"pip uninstall -y {' '.join(packages)} && pip install --force-reinstall numpy opencv-python-headless"
    if "missing" in facts or "problem" in facts:
        return result("broken", "not installed" if "missing" in facts else _does_not_load(facts), again)
    found = f"{facts['version']}, NumPy {facts['numpy']}"
    if len(packages) > 1:
        return result("warning", f"{found}; {' and '.join(packages)} overwrite each other", again)
    return result("ok", found)


def torch(facts: Facts, machine: Machine) -> Check:
    """PyTorch: version, CUDA version, and the GPU that it uses."""

    result = TORCH.is_now
    again = "pip install --force-reinstall torch torchvision"
    if "missing" in facts:
        return result("missing", "not installed", "pip install 'edgefuse[train,export]'")
    if "problem" in facts:
        return result("broken", _does_not_load(facts), again)
    version, cuda, gpu = facts["version"], facts["cuda"], facts["gpu"]
    if gpu:
        return result("ok", f"{version}, CUDA {cuda}, on {gpu}")
    if machine.gpu is None or machine.is_jetson:
        return result("ok", f"{version}, on the CPU")
    if cuda is None:
        return result("warning", f"{version} has no CUDA, although there is a GPU", again)
    return result(
        "warning",
        f"{version} finds no GPU: its CUDA {cuda} and the driver do not fit",
        "update the driver, or install a PyTorch for an older CUDA: https://pytorch.org/get-started/locally",
    )


def onnxruntime(facts: Facts, machine: Machine) -> Check:
    """ONNX Runtime: the packages, and the providers on which a session runs."""

    result = ONNXRUNTIME.is_now
    wants_cuda = machine.gpu is not None and not machine.is_jetson
    install = f"pip install 'edgefuse[{'gpu' if wants_cuda else 'runtime'}]'"
    if "missing" in facts:
        return result("missing", "not installed", install)
    again = INSTALL_GPU if wants_cuda else f"pip uninstall -y onnxruntime onnxruntime-gpu && {install}"
    packages = facts.get("packages") or ["onnxruntime"]
    name = " and ".join(packages)
    providers: Mapping[str, str | None] = facts.get("providers") or {}
    if "version" not in facts or (providers and _CPU in providers and providers[_CPU] is not None):
        problem = facts.get("problem") or providers.get(_CPU)
        return result("broken", f"{name} does not load ({brief(problem)})", again)
    works = [_word(provider) for provider, problem in providers.items() if problem is None]
    fails = [
        f"{_word(provider)} does not load ({brief(problem)[:70]})" for provider, problem in providers.items() if problem
    ]
    found = f"{name} {facts['version']}: {', '.join(works) or 'no provider'}{''.join(f'; {text}' for text in fails)}"
    if len(packages) > 1:
        return result("broken", f"{found}; the packages overwrite each other", again)
    if wants_cuda and providers.get(_CUDA, "missing") is not None:
        return result("warning", found if _CUDA in providers else f"{found}; CUDA is not in this package", again)
    return result("ok" if works else "broken", found, "" if works else again)


def tensorrt(facts: Facts, component: Component, *, install: str) -> Check:
    """TensorRT or TensorRT-RTX: bindings, and the version of the library that they load.

    Args:
        component: `TENSORRT` or `TENSORRT_RTX`.
        install: the command that installs both.
    """

    result = component.is_now
    if "missing" in facts:
        return result("missing", "not installed", _command(facts.get("step") or install))
    if "problem" in facts:
        problem = facts["problem"].removeprefix(f"{component.name}'s Python ")
        return result("broken", brief(problem), _command(facts.get("step") or install))
    version, library = facts["version"], facts["library"]
    if library is not None and _numbers(version)[:3] != _numbers(library):
        return result("broken", f"the bindings are {version}, the library is {library}", install)
    return result("ok", f"{version}, bindings and library" if library else version)


def pycuda(facts: Facts, machine: Machine, *, install: str) -> Check:
    """pycuda, which loads only where there is a driver."""

    result = PYCUDA.is_now
    if "missing" in facts:
        return result("missing", "not installed (TensorRT needs it)", install)
    if "problem" not in facts:
        return result("ok", facts["version"])
    if machine.gpu is None:
        return result("warning", f"{facts.get('version', 'installed')}; it loads only with a CUDA driver")
    return result("broken", _does_not_load(facts), "pip install --force-reinstall --no-cache-dir pycuda")


def openvino(facts: Facts) -> Check:
    """OpenVINO, and the precisions that the CPU computes in."""

    result = OPENVINO.is_now
    if "missing" in facts:
        return result("missing", "not installed: the CPU uses ONNX Runtime alone", "pip install 'edgefuse[openvino]'")
    if "problem" in facts:
        return result("broken", _does_not_load(facts), "pip install --force-reinstall openvino")
    version = facts["version"].partition("-")[0]
    if "CPU" not in facts["devices"]:
        return result("broken", f"{version} has no CPU device", "pip install --force-reinstall openvino")
    return result("ok", f"{version}: CPU, {', '.join(facts['precisions'])}")


def pyrealsense2(facts: Facts) -> Check:
    """The camera SDK: version, libusb, and the number of cameras."""

    result = PYREALSENSE2.is_now
    if "missing" in facts:
        return result("missing", "not installed", "pip install 'edgefuse[realsense]'")
    if "libusb" in str(facts.get("problem")):
        return result("broken", "the system library libusb-1.0 is missing", "sudo apt-get install libusb-1.0-0")
    if "version" not in facts:
        return result("broken", _does_not_load(facts), "pip install --force-reinstall pyrealsense2")
    version = facts["version"]
    if "problem" in facts:
        return result(
            "broken",
            f"{version} cannot list USB devices ({brief(facts['problem'])})",
            "unplug the camera and plug it in again",
        )
    number = facts["cameras"]
    cameras = f"{number} camera{'' if number == 1 else 's'}" if number else "no camera connected"
    if is_old_sdk(version):
        return result("warning", f"{version}, {cameras}; {OLD_SDK}", UPDATE_SDK)
    return result("ok", f"{version}, {cameras}")


def _does_not_load(facts: Facts) -> str:
    version = f"{facts['version']} " if "version" in facts else ""
    return f"{version}does not load ({brief(facts['problem'])})"


def _command(step: str) -> str:
    return step.removeprefix("Install them: ")


def _word(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
