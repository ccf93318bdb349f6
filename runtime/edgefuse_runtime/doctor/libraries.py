"""Imports each library and reports what really loads. Runs in the child processes of `probe` only, as `main`.

An import may print, hang, crash or end the process: nothing else may import a library through this module.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgefuse.errors import UserError
from edgefuse.io.json_files import dumps
from edgefuse.io.text import write_line

NOT_PROBED = ("AzureExecutionProvider",)
"""Providers that run on no device of this machine."""

_RELU = (
    b'\x08\x07\x12\x00:3\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
"""An ONNX file with one node: y = Relu(x), float32 [1], opset 13. A provider that takes it has loaded its libraries."""


def main(name: str, argument: str = "") -> None:
    """Print the facts of a probe as lines of JSON. Whatever else the library prints goes to standard error."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def report(**facts: Any) -> None:
        write_line(dumps(facts), lines)

    try:
        for facts in PROBES[name](*([argument] if argument else [])):
            report(**facts)
    except UserError as error:
        report(problem=error.problem, step=error.step)
    except BaseException as error:  # a package may even call sys.exit while it is imported
        report(problem=str(error) or type(error).__name__)
    lines.close()
    os._exit(0)  # libraries of a GPU or camera may crash in their own clean-up


def _opencv() -> Iterator[dict[str, Any]]:
    yield {"numpy": importlib.import_module("numpy").__version__}
    yield {"version": importlib.import_module("cv2").__version__}


def _torch() -> Iterator[dict[str, Any]]:
    torch = importlib.import_module("torch")  # by name: no module of the device imports it
    yield {"version": torch.__version__, "cuda": torch.version.cuda}
    yield {"gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None}


def _cuda_driver() -> Iterator[dict[str, Any]]:
    from edgefuse_runtime.engines.cuda_device import current_gpu

    yield vars(current_gpu())


def _onnxruntime() -> Iterator[dict[str, Any]]:
    """The version, then each provider: null if a session runs on it, else the reason why not."""
    ort = importlib.import_module("onnxruntime")
    yield {"version": ort.__version__}
    available = ort.get_available_providers()
    if "CUDAExecutionProvider" in available and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # as the engine does
    loaded: dict[str, str | None] = {}
    for provider in available:
        if provider not in NOT_PROBED:
            loaded[provider] = "it crashes or hangs"  # replaced below, if the process survives
            yield {"providers": loaded}
            loaded[provider] = _provider_problem(ort, provider)
            yield {"providers": loaded}


def _provider_problem(ort: Any, provider: str) -> str | None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(_RELU, options, providers=[provider], enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        return str(error)
    return None if session.get_providers()[0] == provider else "its libraries do not load"


def _tensorrt() -> Iterator[dict[str, Any]]:
    from edgefuse_runtime.engines.tensorrt_library import TENSORRT, load_library

    yield {"version": load_library(TENSORRT).version, "library": _library_version(r"libnvinfer\.so")}


def _tensorrt_rtx() -> Iterator[dict[str, Any]]:
    from edgefuse_runtime.engines.tensorrt_library import RTX, load_library

    yield {"version": load_library(RTX).version, "library": _library_version(r"libtensorrt_rtx\.so")}


def _library_version(name: str) -> str | None:
    """Version of the library that the bindings have loaded, from the library itself; None if it does not say it."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    path = re.search(rf"/\S*{name}\S*", maps)
    if path is None:
        return None
    try:
        number = ctypes.CDLL(path.group()).getInferLibVersion()
    except (OSError, AttributeError):
        return None
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _pycuda() -> Iterator[dict[str, Any]]:
    yield {"version": importlib.import_module("pycuda").VERSION_TEXT}
    importlib.import_module("pycuda.driver")


def _openvino() -> Iterator[dict[str, Any]]:
    openvino = importlib.import_module("openvino")
    yield {"version": openvino.__version__}
    core = openvino.Core()
    yield {"devices": list(core.available_devices)}
    known = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    yield {"precisions": [one for one in ("FP32", "BF16", "INT8") if one in known]}


def _pyrealsense2() -> Iterator[dict[str, Any]]:
    rs = importlib.import_module("pyrealsense2")
    yield {"version": rs.__version__}
    yield {"cameras": len(rs.context().query_devices())}


def _cameras() -> Iterator[dict[str, Any]]:
    from edgefuse_runtime.cameras.find import found_by
    from edgefuse_runtime.cameras.pyrealsense import load_pyrealsense2

    rs = load_pyrealsense2()
    yield {"sdk": rs.__version__}
    yield {"cameras": [camera.to_json() for camera in found_by(rs, rs.context())]}


def _recording(path: str) -> Iterator[dict[str, Any]]:
    from edgefuse_runtime.cameras.find import found_by
    from edgefuse_runtime.cameras.pyrealsense import load_pyrealsense2

    rs = load_pyrealsense2()
    context = rs.context()
    device = context.load_device(path)  # its context lists it until it is deleted
    yield {"formats": _formats(device), "camera": found_by(rs, context)[0].to_json()}


def _formats(device: Any) -> dict[str, dict[str, Any]]:
    """Size, format and rate of each stream of images, such as "Depth_0"."""
    profiles = [profile for sensor in device.query_sensors() for profile in sensor.get_stream_profiles()]
    found = {}
    for profile in profiles:
        if profile.is_video_stream_profile():
            video = profile.as_video_stream_profile()
            found[f"{profile.stream_type().name.capitalize()}_{profile.stream_index()}"] = {
                "size": f"{video.width()}x{video.height()}",
                "format": profile.format().name.upper(),
                "rate": profile.fps(),
            }
    return found


PROBES: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
    "opencv": _opencv,
    "torch": _torch,
    "cuda_driver": _cuda_driver,
    "onnxruntime": _onnxruntime,
    "tensorrt": _tensorrt,
    "tensorrt_rtx": _tensorrt_rtx,
    "pycuda": _pycuda,
    "openvino": _openvino,
    "pyrealsense2": _pyrealsense2,
    "cameras": _cameras,
    "recording": _recording,
}
"""Name -> a function that imports the library and yields facts about it."""
