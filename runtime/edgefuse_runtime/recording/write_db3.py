"""Making a RealSense recording (.db3) out of pictures, with librealsense's own recorder on a software device.

The file plays through the ordinary pipeline, so that a demo or a test needs no camera. Owns the writing of recordings.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse.io.files import file_replaced, refuse_existing
from edgefuse.progress import Progress, no_progress
from edgefuse_runtime.camera import frames as frames_of
from edgefuse_runtime.cameras.playback import Playback
from edgefuse_runtime.cameras.pyrealsense import load_pyrealsense2
from edgefuse_runtime.cameras.software_device import SoftwareCamera

Pair = tuple[NDArray[np.uint8], NDArray[np.uint16]]


def write_recording(
    path: Path,
    frames: Iterable[Pair],
    *,
    depth_unit_m: float = 0.001,
    fps: int = 30,
    focal_px: float = 600.0,
    force: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """Record aligned pairs as a .db3 file whose two streams share one view.

    librealsense stamps a recording with the time at which frames reach it, so writing takes as long as playing: 1 / `fps`
    seconds a pair. The file is played once to see that every pair is in it, and appears under its name only then.

    Args:
        path: the file to write; its suffix must be .db3.
        frames: pairs of rgb uint8 [H, W, 3] in RGB order and depth uint16 [H, W], all of one size.
        depth_unit_m: metres of one depth code.
        focal_px: focal length of both streams in pixels; the principal point is the centre.
        force: replace a file of this name.
        progress: called with the pairs written so far; their number is not known.

    Returns:
        `path`.

    Raises:
        UserError: another suffix, a file that exists, no frames, frames of the wrong type or of several sizes, or a file that
            came out incomplete.
    """
    if path.suffix != ".db3":
        raise UserError(f"{path}: a recording's name ends with .db3")
    refuse_existing(path, force=force)
    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        raise UserError(f"{path}: there are no frames to record")
    if first[1].ndim != 2:
        raise UserError(f"{path}: the first depth picture is {list(first[1].shape)}: [H, W] was expected")
    height, width = first[1].shape
    with file_replaced(path) as temporary:
        camera = SoftwareCamera(width=width, height=height, fps=fps, depth_unit_m=depth_unit_m, focal_px=focal_px)
        with recorder(temporary, camera):
            num_written = _send(camera, itertools.chain([first], stream), fps=fps, progress=progress)
        with Playback(temporary) as playback:
            num_found = sum(1 for _ in frames_of(playback))
        if num_found != num_written:
            raise UserError(f"{path}: only {num_found} of {num_written} frames were recorded: is the disk full?")
    return path


@contextmanager
def recorder(path: Path, camera: SoftwareCamera) -> Iterator[None]:
    """Record into `path` what `camera` is sent inside the block; the file is complete after it."""
    rs = load_pyrealsense2()
    device = rs.recorder(str(path), camera.device)
    queue = rs.frame_queue(1)  # a sensor streams only into something
    sensors = list(device.query_sensors())
    for sensor in sensors:
        sensor.open(sensor.get_stream_profiles())
        sensor.start(queue)
    try:
        yield
    finally:
        for sensor in sensors:
            sensor.stop()
            sensor.close()
        # The recorder writes the rest of its queue when its last reference goes.
        del sensor, sensors, device


def _send(camera: SoftwareCamera, pairs: Iterable[Pair], *, fps: int, progress: Progress) -> int:
    """Send `pairs` at their own pace; gives their number."""
    number = 0
    start_s = time.monotonic()
    for number, (rgb, depth) in enumerate(pairs, start=1):
        _check_pair(rgb, depth, camera, number)
        time.sleep(max(0.0, start_s + (number - 1) / fps - time.monotonic()))
        camera.send_depth(depth, number=number)
        camera.send_color(rgb, number=number)
        progress(number, None, stage="recording")
    return number


def _check_pair(rgb: NDArray[np.uint8], depth: NDArray[np.uint16], camera: SoftwareCamera, number: int) -> None:
    height, width = camera.height, camera.width
    if (
        rgb.dtype != np.uint8
        or rgb.shape != (height, width, 3)
        or depth.dtype != np.uint16
        or depth.shape != (height, width)
    ):
        raise UserError(
            f"frame {number} is {rgb.dtype} {list(rgb.shape)} with depth {depth.dtype} {list(depth.shape)}: "
            f"uint8 {[height, width, 3]} with uint16 {[height, width]} was expected, as in the first"
        )
