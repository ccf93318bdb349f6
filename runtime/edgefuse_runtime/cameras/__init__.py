"""Cameras: everything that frames can come from, behind one protocol and one way to name it.

Owns the words of `--camera`; the command line, the benchmarks and the demo open cameras here.
"""

from __future__ import annotations

from pathlib import Path

from edgefuse.contract import Align
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Camera

WORDS = "realsense[:SERIAL], FILE.db3, FILE.bag, FOLDER (a data set), synthetic[:SEED]"


def open_camera(spec: str, *, align: Align = "color", real_time: bool = False) -> Camera:
    """The camera that `spec` names. Nothing is opened before `with`.

    Args:
        spec: one of `WORDS`. A file or folder called "realsense" or "synthetic" is reached as ./realsense.
        align: whose view the pairs must share; a bundle's contract says it.
        real_time: play a recording at its own pace and drop what the consumer misses; without it every frame comes.

    Raises:
        UserError: `spec` names nothing of this kind.
    """
    from edgefuse_runtime.cameras.folder import Folder
    from edgefuse_runtime.cameras.playback import SUFFIXES, Playback
    from edgefuse_runtime.cameras.realsense import RealSense
    from edgefuse_runtime.cameras.synthetic import Synthetic

    kind, _, detail = spec.partition(":")
    if kind == "realsense":
        return RealSense(serial=detail or None, align=align)
    if kind == "synthetic":
        if detail and not detail.isdecimal():
            raise UserError(f"--camera {spec}: a whole number was expected after the colon, such as synthetic:7")
        return Synthetic(seed=int(detail or 0), align=align)
    path = Path(spec)
    if path.suffix.lower() in SUFFIXES:
        return Playback(path, align=align, real_time=real_time)
    if spec and path.is_dir():
        return Folder(path, align=align)
    raise UserError(f"--camera {spec}: {_problem(spec, path)}. One of these was expected: {WORDS}")


def _problem(spec: str, path: Path) -> str:
    """What is wrong with a name that is no camera, and what was meant where that can be guessed."""
    if spec.isdecimal() or spec.startswith("/dev/video"):
        return f"cameras have no numbers here, a RealSense is named realsense or realsense:SERIAL{_connected()}"
    if "://" in spec:
        return "streams of the network are not read, there is no depth in them"
    if path.suffix.lower() in _IMAGES_OF_CAMERAS:
        return "one picture is no pair of colour and depth: give the folder of a data set"
    if spec and path.exists():
        return "it is not a recording or a folder"
    return "it is not there"


_IMAGES_OF_CAMERAS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".mp4", ".avi", ".mkv", ".mov")


def _connected() -> str:
    """The RealSense cameras on USB, as the end of a sentence."""
    from edgefuse_runtime.cameras.realsense import connected

    try:
        found = connected()
    except UserError:  # the SDK is not installed: another message's matter
        return ""
    return f"; connected: {', '.join(found)}" if found else "; none is connected"
