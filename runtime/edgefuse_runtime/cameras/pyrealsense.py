"""Loading pyrealsense2, with one message for a missing package or system library, and the oldest version without known faults."""

from __future__ import annotations

import re
from typing import Any

from edgefuse.errors import require

FIRST_WITHOUT_CLOCK_WRAP = (2, 58, 4)
"""Before it, the clocks of depth and colour may stay apart after 71.6 minutes, when a 32-bit counter of microseconds wraps."""
OLD_SDK = "before 2.58.4, depth and colour may stay apart after 71 minutes"
UPDATE_SDK = "pip install --upgrade pyrealsense2"


def is_old_sdk(version: str) -> bool:
    """Whether a version of pyrealsense2 is older than `FIRST_WITHOUT_CLOCK_WRAP`."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3]) < FIRST_WITHOUT_CLOCK_WRAP


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
