"""From SDK frames to NumPy images: alignment, conversion of colour formats, and copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgefuse.contract import Align
from edgefuse.errors import UserError

Allocate = Callable[[tuple[int, ...], DTypeLike], NDArray[Any]]
"""Returns the array of a shape and type to copy an image to, such as `np.empty`."""

# OpenCV's conversion to RGB; None = none needed.
COLOR_CONVERSIONS: dict[str, int | None] = {
    "rgb8": None,
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
}
PACKED_FORMATS = ("yuyv", "uyvy")
"""Two neighbouring pixels have one chroma value, so that aligning, which moves single pixels, gives wrong colours."""


def check_color_format(color_format: str, *, resampled: bool) -> None:
    """Refuse a colour format that cannot be converted to RGB.

    Args:
        resampled: the colour image is aligned to depth before the conversion.

    Raises:
        UserError: the format is not supported, or cannot be resampled.
    """
    if color_format not in COLOR_CONVERSIONS:
        raise UserError(
            f"the colour stream has the format {color_format}: one of {', '.join(COLOR_CONVERSIONS)} was expected"
        )
    if resampled and color_format in PACKED_FORMATS:
        raise UserError(
            f"the colour stream has the format {color_format}, which cannot be aligned to depth: record rgb8, or use a model "
            f"aligned to color"
        )


def rgb_from(frame: Any, *, color_format: str, allocate: Allocate) -> NDArray[np.uint8]:
    """A copy of a colour frame as uint8 [H, W, 3] in RGB order."""
    data = np.asarray(frame.get_data())
    height, width = data.shape[:2]
    rgb = allocate((height, width, 3), np.uint8)
    conversion = COLOR_CONVERSIONS[color_format]
    if conversion is None:
        np.copyto(rgb, data)
    else:
        cv2.cvtColor(data.view(np.uint8).reshape(height, width, -1), conversion, dst=rgb)
    return rgb


def depth_from(frame: Any, *, allocate: Allocate) -> NDArray[np.uint16]:
    """A copy of a depth frame: uint16 [H, W] in the camera's codes."""
    data = np.asarray(frame.get_data())
    depth = allocate(data.shape, np.uint16)
    np.copyto(depth, data)
    return depth


def zeros(shape: tuple[int, ...], dtype: DTypeLike, *, allocate: Allocate) -> NDArray[Any]:
    """The image of a sensor that is missing."""
    image = allocate(shape, dtype)
    image.fill(0)
    return image


class Aligner:
    """Aligns the two images of a frameset. One of them is resampled, unless both streams already have the same view.

    With equal intrinsics and the same pose, no pixel moves. `rs.align` would still project to 3-D and back, and its rounding
    leaves holes (4 % of the depth pixels of a 640x480 image).
    """

    def __init__(self, rs: Any, *, align: Align, depth_profile: Any, color_profile: Any) -> None:
        """Compare the views of the streams.

        Raises:
            UserError: the extrinsics between the streams are not known.
        """
        depth_profile, color_profile = depth_profile.as_video_stream_profile(), color_profile.as_video_stream_profile()
        try:
            same_view = _have_same_view(depth_profile, color_profile)
        except RuntimeError as error:
            raise UserError(
                f"colour and depth cannot be aligned: the source has no extrinsics between its two streams ({error})"
            ) from error
        self.resamples: Align | None = None if same_view else ("depth" if align == "color" else "color")
        self._block = None if same_view else rs.align(getattr(rs.stream, align))

    def __call__(self, frameset: Any) -> Any:
        """The aligned frameset. `rs.align` takes 1 to 7 ms and holds the GIL."""
        return frameset if self._block is None else self._block.process(frameset)


def _have_same_view(depth_profile: Any, color_profile: Any) -> bool:
    pose = depth_profile.get_extrinsics_to(color_profile)
    at_one_pose = list(pose.rotation) == [1, 0, 0, 0, 1, 0, 0, 0, 1] and not any(pose.translation)
    return at_one_pose and _lens(depth_profile.get_intrinsics()) == _lens(color_profile.get_intrinsics())


def _lens(intrinsics: Any) -> tuple[Any, ...]:
    # With zero coefficients, every distortion model is a pinhole camera.
    model = str(intrinsics.model) if any(intrinsics.coeffs) else "none"
    names = ("width", "height", "fx", "fy", "ppx", "ppy")
    return (*(getattr(intrinsics, name) for name in names), model, *intrinsics.coeffs)
