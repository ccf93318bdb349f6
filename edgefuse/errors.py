"""Exceptions for users, and the import of optional packages."""

from __future__ import annotations

import errno
import importlib
from types import ModuleType


class EdgefuseError(Exception):
    """Base of every error that edgefuse raises on purpose.

    Example:
        >>> import edgefuse
        >>> try:
        ...     edgefuse.open_bundle("bundles/cups")
        ... except edgefuse.EdgefuseError as error:
        ...     print(error)
        bundles/cups is not a bundle: it does not exist; make one with edgefuse export RUN --out BUNDLE
    """


class UserError(EdgefuseError, ValueError):
    """An error that the user can fix. The message says what was got, what was expected, and what to do next.

    Attributes:
        problem: the message, or its first part where the error has a `step`.
        step: what to do next, on its own; empty where it is part of the message.
    """

    def __init__(self, problem: str = "", step: str = "") -> None:
        super().__init__(f"{problem}. {step}" if step else problem)
        self.problem, self.step = problem, step


class MissingPackageError(UserError, ImportError):
    """An optional package, or a system library that it needs, is not installed. The message has the command that installs it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, in the forms that Python, OpenCV and torch raise."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch, on a GPU
        or (type(error).__module__.startswith("cv2") and "Insufficient memory" in text)
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )


_DISTRIBUTIONS = {"sklearn": "scikit-learn", "cv2": "opencv-python-headless"}
"""Module name -> package name, if they differ."""


def require(module: str, *, extra: str, hint: str = "", install: str = "") -> ModuleType:
    """Import `module`, or raise an error with the command that installs it.

    Args:
        module: dotted name, such as "onnxruntime".
        extra: the extra of edgefuse that installs the module.
        hint: one more sentence for the message, such as a system package.
        install: command to show instead of the extra's.

    Raises:
        MissingPackageError: the module cannot be imported. The message has the original error.

    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        install = install or f"pip install 'edgefuse[{extra}]'"
        missing = (
            isinstance(error, ModuleNotFoundError)
            and (error.name or "").split(".")[0] == module.split(".", maxsplit=1)[0]
        )
        if missing:
            message = f"this needs the package {_DISTRIBUTIONS.get(module.split('.', maxsplit=1)[0], module)}, which is not installed: {install}"
        else:
            message = f"the package {module} is installed but does not load ({error})"
            hint = hint or f"Install it again: {install}"
        raise MissingPackageError(f"{message}. {hint}".rstrip(". ") + ".") from error
