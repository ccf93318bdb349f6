"""Reads a camera in a process or thread of its own and keeps it alive. `open_capture` parses `--camera` for live and recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgefuse_runtime.capture.source import Source

if TYPE_CHECKING:
    from edgefuse.contract import Align
    from edgefuse_runtime.camera import Camera
    from edgefuse_runtime.capture.capture import Mode


def open_capture(
    spec: str,
    *,
    align: Align = "color",
    real_time: bool = False,
    mode: Mode = "process",
    allow_missing: bool = True,
    wait: bool = False,
) -> Camera:
    """The camera named by `spec`. RealSense cameras and recordings are read in a process or thread of their own, because a call of
    librealsense may hang. Folders and rendered scenes are read by the caller.

    Args:
        spec, align, real_time, allow_missing: see `edgefuse_runtime.cameras.open_camera`.
        mode: "process": a call that hangs is ended; "thread": uses less memory.
        wait: see `Capture`.

    Raises:
        UserError: `spec` is not the name of a camera.
    """
    from edgefuse_runtime.cameras import open_camera
    from edgefuse_runtime.cameras.playback import SUFFIXES
    from edgefuse_runtime.capture.capture import Capture

    arguments = {"align": align, "real_time": real_time, "allow_missing": allow_missing}
    camera = open_camera(spec, **arguments)  # type: ignore[arg-type]  # raises the error for a wrong name here
    is_live = spec.partition(":")[0] == "realsense"
    if not is_live and Path(spec).suffix.lower() not in SUFFIXES:
        return camera
    source = Source(arguments={"spec": spec, **arguments}, is_live=is_live, waits=not is_live and not real_time)
    return Capture(source, align=align, mode=mode, description=camera.description, wait=wait)
