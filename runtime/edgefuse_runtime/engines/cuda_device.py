"""Name and compute capability of the GPU, from the CUDA driver.

The key of a plan needs both before pycuda or TensorRT is loaded, and TensorRT provides neither.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from edgefuse.errors import UserError

DRIVER_LIBRARY = "libcuda.so.1"

# cuda.h, CUdevice_attribute and CUresult.
COMPUTE_CAPABILITY_MAJOR = 75
COMPUTE_CAPABILITY_MINOR = 76
ERROR_NO_DEVICE = 100
NAME_BYTES = 256


class NoGpuError(UserError):
    """No CUDA device can be used. The message says whether the driver or the device is missing, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """CUDA device 0, after CUDA_VISIBLE_DEVICES.

    Attributes:
        name: from cuDeviceGetName, such as "Orin".
        compute_capability: "8.7".
    """

    name: str
    compute_capability: str


def current_gpu(*, library: str = DRIVER_LIBRARY) -> Gpu:
    """Query the driver for device 0, without creating a context.

    Args:
        library: the driver's library.

    Raises:
        NoGpuError: there is no driver or no device, or the driver does not start.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise NoGpuError(
            f"the CUDA driver is missing ({error})",
            "Install NVIDIA's driver (nvidia-smi shows whether it works); in a container start it with --gpus all (Jetson: "
            "--runtime nvidia)",
        ) from error
    _call(driver, "cuInit", 0)
    device = ctypes.c_int()
    _call(driver, "cuDeviceGet", ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(NAME_BYTES)
    _call(driver, "cuDeviceGetName", name, NAME_BYTES, device)
    numbers = []
    for attribute in (COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR):
        number = ctypes.c_int()
        _call(driver, "cuDeviceGetAttribute", ctypes.byref(number), attribute, device)
        numbers.append(number.value)
    return Gpu(name=name.value.decode(errors="replace"), compute_capability=f"{numbers[0]}.{numbers[1]}")


def _call(driver: ctypes.CDLL, function: str, *arguments: Any) -> None:
    code = getattr(driver, function)(*arguments)
    if code == 0:
        return
    if code == ERROR_NO_DEVICE:
        raise NoGpuError(
            "the CUDA driver finds no device",
            "Check nvidia-smi and CUDA_VISIBLE_DEVICES; in a container start it with --gpus all (Jetson: --runtime nvidia)",
        )
    text = ctypes.c_char_p()
    driver.cuGetErrorString(code, ctypes.byref(text))
    reason = text.value.decode(errors="replace") if text.value else "unknown error"
    raise NoGpuError(
        f"the CUDA driver does not start ({function}: error {code}, {reason})",
        "Check nvidia-smi; after a driver update restart the machine",
    )
