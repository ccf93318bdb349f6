"""Recording frames of a camera into the folder layout, as one take of one class.

Owns where a take goes and when it is refused; the layout itself is `edgefuse.data.folder`'s.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgefuse.data.folder import read_description, write_description, write_pair
from edgefuse.errors import UserError
from edgefuse.framing import crop, square_around
from edgefuse.io.files import folder_replaced, refuse_existing
from edgefuse_runtime.frames import Camera, Frame, frames
from edgefuse_runtime.regions import RegionSource


def record(
    *,
    camera: Camera,
    root: Path,
    label: str,
    instance: str | None = None,
    num_frames: int | None = None,
    region: RegionSource | None = None,
    every: int = 1,
    force: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Path:
    """Write frames of an open camera to `root/label/instance/`.

    Ctrl-C and a failing camera keep the pairs that were written; a camera that fails while a take is replaced leaves the old one.

    Args:
        root: a data set's root; made where it does not exist.
        label: the class that the frames show.
        instance: name of the take; None = one made of the date and time.
        num_frames: pairs to write; None = until the stream ends.
        region: store the square around this region alone, at the camera's resolution; frames without one are left out.
        every: keep each N-th frame.
        force: replace a take of this name; the old one stays until the new one is complete.
        on_progress: called with the number of pairs written so far.

    Returns:
        The take's folder.

    Raises:
        UserError: names that are no folder names, a take that exists, a data set with another unit or alignment, a region
            outside the picture, no frame at all, or a camera that failed.
    """
    if every < 1 or (num_frames is not None and num_frames < 1):
        raise UserError(f"every {every}, frames {num_frames}: 1 or more was expected")
    instance = instance if instance is not None else _free_name(root / label)
    _check_name(label, what="label")
    _check_name(instance, what="instance")
    folder = root / label / instance
    refuse_existing(folder, force=force)
    replaces = folder.is_dir() and any(folder.iterdir())
    place: AbstractContextManager[Path] = folder_replaced(folder) if replaces else nullcontext(folder)
    with place as target:
        failure = _write_frames(
            target, root, camera, num_frames=num_frames, region=region, every=every, on_progress=on_progress
        )
        if failure is not None:
            raise failure  # inside: a take that was to be replaced stays as it was
    return folder


def _write_frames(
    target: Path,
    root: Path,
    camera: Camera,
    *,
    num_frames: int | None,
    region: RegionSource | None,
    every: int,
    on_progress: Callable[[int], None] | None,
) -> Exception | None:
    """Write pairs into `target`. What ends it after the first pair is returned, so that the pairs are kept."""
    written = 0
    try:
        for index, frame in enumerate(frames(camera)):
            if index % every:
                continue
            if index == 0:
                _describe(root, frame, camera)
            pair = _cropped(frame, region)
            if pair is None:
                continue
            written += 1
            write_pair(target, f"frame_{written:06d}", *pair)
            if on_progress is not None:
                on_progress(written)
            if written == num_frames:
                break
    except KeyboardInterrupt:
        pass
    except Exception as error:
        if not written:
            raise
        return error
    if not written:
        raise UserError("nothing was recorded: the camera gave no frame, or no region was found in any")
    return None


def _cropped(frame: Frame, region: RegionSource | None) -> tuple[NDArray[np.uint8], NDArray[np.uint16]] | None:
    """The pair to store. The crop is `framing`'s own: looked at whole, it gives the model what live gives it for the region."""
    if region is None:
        return frame.rgb, frame.depth
    found = region(frame)
    if found is None:
        return None
    height, width = frame.depth.shape
    square = square_around(found.roi)
    if square.x >= width or square.y >= height or square.x + square.w <= 0 or square.y + square.h <= 0:
        raise UserError(f"region {tuple(found.roi)} (x, y, w, h) has no part of the {width}x{height} picture")
    return crop(frame.rgb, square), crop(frame.depth, square)


def _describe(root: Path, frame: Frame, camera: Camera) -> None:
    """Write the data set's description where there is none, and refuse frames that another one does not fit."""
    if not root.exists() or not any(root.iterdir()):
        write_description(root, depth_unit_m=frame.depth_unit_m, align=frame.align, camera=camera.description)
        return
    unit_m, align = read_description(root)
    if abs(unit_m - frame.depth_unit_m) > 1e-9 or align != frame.align:
        raise UserError(
            f"{root} has depth in units of {unit_m:g} m aligned to {align}, this camera gives {frame.depth_unit_m:g} m aligned "
            f"to {frame.align}: record into another folder, or with --align {align}"
        )


def _free_name(folder: Path) -> str:
    """A take's name from the date and time that `folder` does not have yet."""
    stamp = time.strftime("take_%Y%m%d_%H%M%S")
    names = (stamp if count == 1 else f"{stamp}_{count}" for count in itertools.count(1))
    return next(name for name in names if not (folder / name).exists())


def _check_name(name: str, *, what: str) -> None:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise UserError(f"the {what} {name!r} is not a folder name: letters, digits, - and _ were expected")
