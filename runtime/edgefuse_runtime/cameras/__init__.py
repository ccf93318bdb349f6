"""Sources of frames: RealSense cameras, recordings, data set folders, rendered scenes. `open_camera` parses `--camera`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefuse.errors import UserError

if TYPE_CHECKING:
    from edgefuse.contract import Align
    from edgefuse_runtime.camera import Camera
    from edgefuse_runtime.cameras.alignment import Allocate

WORDS = "realsense[:SERIAL], FILE.db3, FILE.bag, FOLDER (a data set), synthetic[:SEED]"


def open_camera(
    spec: str,
    *,
    align: Align = "color",
    real_time: bool = False,
    allow_missing: bool = False,
    allocate: Allocate | None = None,
) -> Camera:
    """The camera named by `spec`. `with` opens it.

    Args:
        spec: one of `WORDS`. For a file or folder called "realsense" or "synthetic", write ./realsense.
        align: the stream to align the other one to, as in the bundle's contract.
        real_time: play a recording at its recorded rate and drop the frames that the consumer misses; otherwise no frame is
            dropped.
        allow_missing: a RealSense camera or a recording also returns the images of one sensor, while the other one sends none.
        allocate: returns the arrays of its frames; None = `np.empty`.

    Raises:
        UserError: `spec` is none of `WORDS`, or the path does not exist.
    """
    from edgefuse_runtime.cameras.folder import Folder
    from edgefuse_runtime.cameras.playback import SUFFIXES, Playback
    from edgefuse_runtime.cameras.realsense import RealSense
    from edgefuse_runtime.cameras.synthetic import Synthetic

    options: dict[str, Any] = {
        "align": align,
        "allow_missing": allow_missing,
        **({"allocate": allocate} if allocate else {}),
    }
    kind, _, detail = spec.partition(":")
    if kind == "realsense":
        return RealSense(serial=detail or None, **options)
    if kind == "synthetic":
        if detail and not detail.isdecimal():
            raise UserError(f"--camera {spec}: an integer was expected after the colon, such as synthetic:7")
        return Synthetic(seed=int(detail or 0), align=align)
    path = Path(spec)
    if path.suffix.lower() in SUFFIXES:
        return Playback(path, real_time=real_time, **options)
    if spec and path.is_dir():
        return Folder(path, align=align)
    raise UserError(f"--camera {spec}: {_problem(spec, path)}. One of these was expected: {WORDS}")


def _problem(spec: str, path: Path) -> str:
    """Why a name is not a camera, with a hint for common mistakes."""
    if spec.isdecimal() or spec.startswith("/dev/video"):
        return f"a RealSense camera is named realsense or realsense:SERIAL, not by a device number{_connected()}"
    if "://" in spec:
        return "network streams are not supported: they have no depth"
    if path.suffix.lower() in _IMAGES_OF_CAMERAS:
        return "a single image or video has no depth: give the folder of a data set"
    if spec and path.exists():
        return "it is not a recording or a folder"
    return "it does not exist"


_IMAGES_OF_CAMERAS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".mp4", ".avi", ".mkv", ".mov")


def _connected() -> str:
    """The connected RealSense cameras, as the end of a sentence."""
    from edgefuse_runtime.cameras.realsense import connected

    try:
        found = connected()
    except UserError:  # the SDK is not installed
        return ""
    return f"; connected: {', '.join(found)}" if found else "; none is connected"
