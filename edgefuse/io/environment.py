"""The software that produced a result: package versions and the git commit.

Owns these queries and the wording of their results. Standard library only.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

COMMAND_TIMEOUT_S = 10.0
NO_CHECKOUT = "not a checkout"
NOT_INSTALLED = "not installed"

VERSION_UNKNOWN = "installed, version unknown"

_DISTRIBUTIONS = {
    "opencv": (
        "cv2",
        (
            "opencv-python-headless",
            "opencv-python",
            "opencv-contrib-python-headless",
            "opencv-contrib-python",
        ),
    ),
    "onnxruntime": (
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-rocm", "onnxruntime-training"),
    ),
    "tensorrt": ("tensorrt", ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")),
    "tensorrt-rtx": ("tensorrt_rtx", ("tensorrt-rtx-cu12", "tensorrt-rtx-cu13")),
    "pyrealsense2": ("pyrealsense2", ("pyrealsense2", "pyrealsense2-beta")),
}
"""Package -> its module, and the distributions that can provide it. Which one is installed depends on the machine."""

TRAINING_PACKAGES = ("edgefuse", "torch", "torchvision", "numpy", "opencv")
ENGINE_PACKAGES = ("onnxruntime", "tensorrt", "tensorrt-rtx", "openvino")
EXPORT_PACKAGES = (*TRAINING_PACKAGES, "onnx", "onnxscript", "onnxruntime")


def versions(packages: Sequence[str], *, only_installed: bool = False) -> dict[str, str]:
    """Versions of Python and of `packages`, without importing them.

    A package is listed under the name of the installed distribution, such as "onnxruntime-gpu" for "onnxruntime".

    Args:
        packages: names of distributions, or of the families "opencv", "onnxruntime", "tensorrt", "tensorrt-rtx" and "pyrealsense2".
        only_installed: omit missing packages instead of listing them as "not installed".
    """
    found = {"python": platform.python_version()}
    for package in packages:
        several = installed(package)
        if several or not only_installed:
            found |= several or {package: NOT_INSTALLED}
    return found


def installed(package: str) -> dict[str, str]:
    """Name and version of each installed distribution that provides `package`.

    Without a distribution, as after a build from source, name and version of the module; empty if it is not installed.
    """
    module, names = _DISTRIBUTIONS.get(package, (package.replace("-", "_"), (package,)))
    found = {name: value for name in names if (value := _version(name))}
    if not found and _is_importable(module):
        found[package] = str(getattr(sys.modules.get(module), "__version__", VERSION_UNKNOWN))
    return found


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _is_importable(module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # ValueError: a loaded module without a spec
        return module in sys.modules
    return spec is not None and spec.origin is not None  # a folder of that name is a namespace package, without origin


def git_revision(source: Path = Path(__file__).with_name("__init__.py")) -> str | None:
    """Git commit of the tree that contains `source`, with "-dirty" if tracked files differ; None if git does not track it.

    Git is asked about the file itself, because an installed package may be inside an unrelated repository.
    """
    git = ["git", "-C", str(source.resolve().parent)]
    if output_of([*git, "ls-files", "--error-unmatch", source.name]) is None:
        return None
    head = output_of([*git, "rev-parse", "HEAD"])
    if head is None:
        return None
    return head + ("-dirty" if output_of([*git, "status", "--porcelain", "--untracked-files=no"]) else "")


def git_revision_text(found: str | None) -> str:
    """The first twelve digits of a commit, with "-dirty" if it had changes; `NO_CHECKOUT` without a commit."""
    if found is None:
        return NO_CHECKOUT
    digits, dirty, _ = found.partition("-dirty")
    return digits[:12] + dirty


def output_of(command: Sequence[str]) -> str | None:
    """Standard output of a command; None if it is not installed, fails, or takes longer than `COMMAND_TIMEOUT_S`."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
