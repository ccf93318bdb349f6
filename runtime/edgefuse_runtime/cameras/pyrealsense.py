"""Loading pyrealsense2, with one message for a missing package or system library."""

from __future__ import annotations

from typing import Any

from edgefuse.errors import require


def load_pyrealsense2() -> Any:
    """The module `pyrealsense2`.

    Raises:
        MissingPackageError: it or libusb-1.0 is not installed; the message has both install commands.
    """
    return require(
        "pyrealsense2",
        extra="realsense",
        hint="It also needs the system library libusb-1.0: apt-get install libusb-1.0-0",
    )
