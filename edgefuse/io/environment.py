"""What made a result: versions of the installed packages, and the git commit of the source.

Owns these questions and how their answers are worded; everything that writes figures down asks here. Standard library only.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

COMMAND_TIMEOUT_S = 10.0
NO_CHECKOUT = "not a checkout"
NOT_INSTALLED = "not installed"

TRAINING_PACKAGES = ("edgefuse", "torch", "torchvision", "numpy", "opencv-python-headless")
ENGINE_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "openvino")
EXPORT_PACKAGES = (*TRAINING_PACKAGES, "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu")


def versions(packages: Sequence[str], *, only_installed: bool = False) -> dict[str, str]:
    """Python's version and those of `packages`, by name; nothing is imported for it.

    Args:
        only_installed: leave out what is not there, in place of saying "not installed".
    """
    found = {package: version(package) for package in packages}
    return {"python": platform.python_version()} | {
        package: value or NOT_INSTALLED for package, value in found.items() if value or not only_installed
    }


def version(package: str) -> str | None:
    """Version of an installed package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit(source: Path = Path(__file__).with_name("__init__.py")) -> str | None:
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


def commit_in_words(found: str | None) -> str:
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
