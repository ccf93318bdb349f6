"""What made a result: versions of the installed packages, and the git commit of the source.

Owns these questions and how their answers are worded; everything that writes figures down asks here. Standard library only.
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
    "pyrealsense2": ("pyrealsense2", ("pyrealsense2", "pyrealsense2-beta")),
}
"""Package -> its module, and the names of the distributions that bring it: which one is installed is the machine's affair."""

TRAINING_PACKAGES = ("edgefuse", "torch", "torchvision", "numpy", "opencv")
ENGINE_PACKAGES = ("onnxruntime", "tensorrt", "openvino")
EXPORT_PACKAGES = (*TRAINING_PACKAGES, "onnx", "onnxscript", "onnxruntime")


def versions(packages: Sequence[str], *, only_installed: bool = False) -> dict[str, str]:
    """Python's version and those of `packages`; nothing is imported for it.

    A package goes by the name of the distribution that is installed, such as "onnxruntime-gpu" for "onnxruntime".

    Args:
        packages: names of distributions, or of the families "opencv", "onnxruntime", "tensorrt" and "pyrealsense2".
        only_installed: leave out what is not there, in place of saying "not installed".
    """
    found = {"python": platform.python_version()}
    for package in packages:
        several = installed(package)
        if several or not only_installed:
            found |= several or {package: NOT_INSTALLED}
    return found


def installed(package: str) -> dict[str, str]:
    """Name and version of each installed distribution that brings `package`; of its module where none does, as with a build
    from source; nothing where it is not there.
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
    except (ImportError, ValueError):  # ValueError: loaded, by other means than Python's own
        return module in sys.modules
    return spec is not None and spec.origin is not None  # any folder of that name is a package without origin


def git_revision(source: Path = Path(__file__).with_name("__init__.py")) -> str | None:
    """Git commit of the tree that `source` belongs to, with "-dirty" when tracked files differ; None when git does not track it.

    An installed package may lie inside somebody else's repository, so the file itself is asked for.
    """
    git = ["git", "-C", str(source.resolve().parent)]
    if output_of([*git, "ls-files", "--error-unmatch", source.name]) is None:
        return None
    head = output_of([*git, "rev-parse", "HEAD"])
    if head is None:
        return None
    return head + ("-dirty" if output_of([*git, "status", "--porcelain", "--untracked-files=no"]) else "")


def git_revision_text(found: str | None) -> str:
    """The first twelve digits, with "-dirty" where it was; or that there was no commit to tell."""
    if found is None:
        return NO_CHECKOUT
    digits, dirty, _ = found.partition("-dirty")
    return digits[:12] + dirty


def output_of(command: Sequence[str]) -> str | None:
    """What a command prints; None when it is not there, fails, or takes too long."""
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
