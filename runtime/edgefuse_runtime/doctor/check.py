"""`Component` and `Check`, the result of checking one. Owns the states and the JSON form; every module of the doctor imports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

State = Literal["ok", "missing", "warning", "broken"]
"""missing: not installed, needed only for what it is for. warning: works, with a disadvantage. broken: installed, does not work."""

MAX_CHARACTERS = 160
"""Longest text of a component: messages of libraries may have pages."""


@dataclass(frozen=True)
class Component:
    """What is checked: its name in the JSON output, its name for people, and the heading under which it is listed."""

    key: str
    name: str
    group: str

    def is_now(self, state: State, found: str, step: str = "") -> Check:
        """The result of checking it; see `Check`."""
        return Check(component=self, state=state, found=found, step=step)


@dataclass(frozen=True, kw_only=True)
class Check:
    """The state of a component.

    Attributes:
        found: what was found, in one sentence.
        step: the command to type, or what to do; several commands are on lines of their own; empty if nothing.
    """

    component: Component
    state: State
    found: str
    step: str = ""

    def to_json(self) -> dict[str, Any]:
        """The check as a JSON object."""
        return {**vars(self.component), "state": self.state, "found": self.found, "step": self.step}


MACHINE, TRAINING, ENGINES, CAMERAS = "Machine", "Training and export", "Engines", "Cameras"

PYTHON = Component("python", "Python", MACHINE)
OPENCV = Component("opencv", "OpenCV", MACHINE)
DISK = Component("disk", "Disk", MACHINE)
POWER_MODE = Component("power_mode", "Power mode", MACHINE)
TORCH = Component("torch", "PyTorch", TRAINING)
ONNXRUNTIME = Component("onnxruntime", "ONNX Runtime", ENGINES)
CUDA_DRIVER = Component("cuda_driver", "CUDA driver", ENGINES)
TENSORRT = Component("tensorrt", "TensorRT", ENGINES)
TENSORRT_RTX = Component("tensorrt_rtx", "TensorRT-RTX", ENGINES)
PYCUDA = Component("pycuda", "pycuda", ENGINES)
OPENVINO = Component("openvino", "OpenVINO", ENGINES)
PYREALSENSE2 = Component("pyrealsense2", "pyrealsense2", CAMERAS)
UDEV_RULES = Component("udev_rules", "udev rules", CAMERAS)


def brief(text: object) -> str:
    """A message of a library on one line, cut to `MAX_CHARACTERS`."""
    line = " ".join(str(text).split())
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 3]}..."
