"""Writing a RealSense recording (.db3) from images, with librealsense's recorder on a software device.

`Playback` reads the file like a camera's, so that demos and tests need no camera.
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
    """Record aligned pairs as a .db3 file whose two streams have the same view.

    librealsense records the arrival time of each frame, so writing takes as long as playback: 1 / `fps` seconds per pair. The
    file is then played once, to check that it has every pair, and renamed to `path`.

    Args:
        path: the file to write; its suffix must be .db3.
        frames: pairs of rgb uint8 [H, W, 3] in RGB order and depth uint16 [H, W], all of the same size.
        depth_unit_m: metres per depth code.
        focal_px: focal length of both streams in pixels; the principal point is the centre.
        force: overwrite an existing file.
        progress: called with the number of pairs written so far; the total is unknown.

    Returns:
        `path`.

    Raises:
        UserError: the suffix is wrong, the file exists, there are no frames, a frame has the wrong type or another size, or the
            written file is incomplete.
    """
    if path.suffix != ".db3":
        raise UserError(f"{path}: a recording with the suffix .db3 was expected")
    refuse_existing(path, force=force)
    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        raise UserError(f"{path}: there are no frames to record")
    if first[1].ndim != 2:
        raise UserError(f"{path}: the first depth image has the shape {list(first[1].shape)}: [H, W] was expected")
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
    """Record the frames sent to `camera` inside the block to `path`. The file is complete after the block."""
    rs = load_pyrealsense2()
    device = rs.recorder(str(path), camera.device)
    queue = rs.frame_queue(1)  # a sensor needs a consumer to stream
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
        # The recorder flushes its queue when its last reference is deleted.
        del sensor, sensors, device


def _send(camera: SoftwareCamera, pairs: Iterable[Pair], *, fps: int, progress: Progress) -> int:
    """Send `pairs` at `fps`. Returns their number."""
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
            f"uint8 {[height, width, 3]} with uint16 {[height, width]} was expected, as in the first frame"
        )
