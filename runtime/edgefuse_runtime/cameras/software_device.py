"""A RealSense device without hardware: librealsense's software device with one depth and one colour stream.

`write_recording` records from it; tests use it as a camera.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.camera import Sensor
from edgefuse_runtime.cameras.pyrealsense import load_pyrealsense2

Domain = Literal["hardware_clock", "system_time", "global_time"]
ColorFormat = Literal["rgb8", "bgr8", "rgba8", "bgra8", "yuyv", "uyvy"]
BYTES_PER_PIXEL: dict[ColorFormat, int] = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "yuyv": 2, "uyvy": 2}

# Playback of the device's recording needs a name: without one it fails with "info Name not supported".
DEVICE_INFO = {
    "name": "edgefuse software camera",
    "serial_number": "000000000000",
    "firmware_version": "0.0.0.0",
    "product_id": "0000",
    "product_line": "D400",
    "physical_port": "software",
    "usb_type_descriptor": "3.2",
}


class SoftwareCamera:
    """An SDK device with a depth and a colour stream of the same size and rate.

    Attributes:
        device: the `pyrealsense2.software_device`, for a pipeline or a recorder.
        width, height: of both streams, in pixels.
    """

    def __init__(
        self,
        *,
        width: int,
        height: int,
        fps: int = 30,
        depth_unit_m: float = 0.001,
        focal_px: float = 600.0,
        color_focal_px: float | None = None,
        baseline_m: float = 0.0,
        color_format: ColorFormat = "rgb8",
        domain: Domain = "hardware_clock",
        without: Sensor | None = None,
    ) -> None:
        """Build the device.

        Args:
            depth_unit_m: metres per depth code.
            focal_px: focal length of both streams in pixels, or of depth only if `color_focal_px` is given.
            baseline_m: horizontal distance of the colour camera; 0 with equal focal lengths = both streams have the same view.
            domain: the clock reported for the frames' timestamps; may be changed later.
            without: a sensor that the device lacks.
        """
        self._rs = rs = load_pyrealsense2()
        self.width, self.height = width, height
        self._fps = fps
        self._depth_unit_m = depth_unit_m
        self._color_format: ColorFormat = color_format
        self.domain: Domain = domain
        self.device: Any = rs.software_device()
        for name, value in DEVICE_INFO.items():
            self.device.register_info(getattr(rs.camera_info, name), value)
        if without != "depth":
            self._depth_sensor = self.device.add_sensor("Stereo Module")
            self._depth_profile = self._depth_sensor.add_video_stream(self._stream("depth", focal_px=focal_px))
            self._depth_sensor.add_read_only_option(rs.option.depth_units, depth_unit_m)
        if without != "rgb":
            self._color_sensor = self.device.add_sensor("RGB Camera")
            self._color_profile = self._color_sensor.add_video_stream(
                self._stream("color", focal_px=color_focal_px or focal_px)
            )
        if without is None:
            pose = rs.extrinsics()
            pose.rotation = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
            pose.translation = [-baseline_m, 0.0, 0.0]
            self._depth_profile.register_extrinsics_to(self._color_profile, pose)
        self.device.create_matcher(rs.matchers.default)

    def send_depth(self, depth: NDArray[np.uint16], *, number: int, timestamp_ms: float | None = None) -> None:
        """Send a depth image, uint16 [H, W]; the SDK copies it."""
        frame = self._frame(depth, number=number, timestamp_ms=timestamp_ms, bytes_per_pixel=2)
        frame.profile = self._depth_profile.as_video_stream_profile()
        frame.depth_units = self._depth_unit_m
        self._depth_sensor.on_video_frame(frame)

    def send_color(self, color: NDArray[np.uint8], *, number: int, timestamp_ms: float | None = None) -> None:
        """Send a colour image, uint8 [H, W, bytes per pixel] in the device's colour format; the SDK copies it."""
        bytes_per_pixel = BYTES_PER_PIXEL[self._color_format]
        frame = self._frame(color, number=number, timestamp_ms=timestamp_ms, bytes_per_pixel=bytes_per_pixel)
        frame.profile = self._color_profile.as_video_stream_profile()
        self._color_sensor.on_video_frame(frame)

    def _frame(self, pixels: NDArray[Any], *, number: int, timestamp_ms: float | None, bytes_per_pixel: int) -> Any:
        frame = self._rs.software_video_frame()
        frame.pixels = np.ascontiguousarray(pixels)
        frame.bpp = bytes_per_pixel
        frame.stride = self.width * bytes_per_pixel
        frame.frame_number = number
        frame.timestamp = number * 1000.0 / self._fps if timestamp_ms is None else timestamp_ms
        frame.domain = getattr(self._rs.timestamp_domain, self.domain)
        return frame

    def _stream(self, kind: Literal["depth", "color"], *, focal_px: float) -> Any:
        rs, width, height = self._rs, self.width, self.height
        intrinsics = rs.intrinsics()
        intrinsics.width, intrinsics.height = width, height
        intrinsics.fx = intrinsics.fy = focal_px
        intrinsics.ppx, intrinsics.ppy = (width - 1) / 2, (height - 1) / 2
        intrinsics.model = rs.distortion.brown_conrady
        intrinsics.coeffs = [0.0] * 5
        stream = rs.video_stream()
        stream.type = getattr(rs.stream, kind)
        stream.index, stream.uid = 0, 0 if kind == "depth" else 1
        stream.width, stream.height, stream.fps = width, height, self._fps
        stream.bpp = 2 if kind == "depth" else BYTES_PER_PIXEL[self._color_format]
        stream.fmt = rs.format.z16 if kind == "depth" else getattr(rs.format, self._color_format)
        stream.intrinsics = intrinsics
        return stream
