"""A RealSense camera on USB: finding the device, choosing a stream profile, starting, warm-up."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from edgefuse.contract import Align
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Counters, Frame
from edgefuse_runtime.cameras.alignment import Allocate
from edgefuse_runtime.cameras.find import described
from edgefuse_runtime.cameras.pipeline import PipelineReader, stop
from edgefuse_runtime.cameras.pyrealsense import OLD_SDK, UPDATE_SDK, is_old_sdk, load_pyrealsense2

WARMUP_FRAMES = 30
"""Framesets to skip while auto-exposure settles, as librealsense's samples do."""

WARMUP_LIMIT_S = 5.0


class Profile(NamedTuple):
    """Image sizes in pixels, and the frame rate of both streams."""

    depth_width: int
    depth_height: int
    color_width: int
    color_height: int
    fps: int

    def __str__(self) -> str:
        sizes = f"depth {self.depth_width}x{self.depth_height}, colour {self.color_width}x{self.color_height}"
        return f"{sizes}, {self.fps}/s"


PROFILES = (
    Profile(640, 480, 640, 480, 30),
    Profile(848, 480, 640, 480, 30),
    Profile(640, 480, 640, 480, 15),
    Profile(480, 270, 424, 240, 30),
    Profile(480, 270, 424, 240, 15),
    Profile(640, 480, 640, 480, 6),
)
"""Tried in this order. USB 2 does not offer the larger and faster ones."""


class RealSense:
    """A live camera. The pipeline keeps only the newest pair, so a slow consumer gets current frames; dropped ones are counted."""

    def __init__(
        self,
        *,
        serial: str | None = None,
        align: Align = "color",
        warmup_frames: int = WARMUP_FRAMES,
        profiles: Sequence[Profile] = PROFILES,
        device: Any | None = None,
        allow_missing: bool = False,
        allocate: Allocate = np.empty,
    ) -> None:
        """Choose the camera; `with` finds and starts it.

        Args:
            serial: serial number; None = the first camera found.
            warmup_frames: framesets to discard after the start.
            profiles: stream profiles to try, best first.
            device: an SDK device to use instead of one on USB, such as `SoftwareCamera.device`.
            allow_missing: also return the images of one sensor, while the other one sends none or did not start.
            allocate: returns the arrays of the frames.
        """
        self._serial = serial
        self._align: Align = align
        self._warmup_frames = warmup_frames
        self._profiles = tuple(profiles)
        self._device = device
        self._allow_missing, self._allocate = allow_missing, allocate
        self._pipeline: Any = None
        self._reader: PipelineReader | None = None
        self._counters = Counters()
        self._description: dict[str, Any] = {"kind": "realsense", "serial": serial}
        self.warnings: tuple[str, ...] = ()

    @property
    def align(self) -> Align:
        return self._align

    @property
    def description(self) -> dict[str, Any]:
        return self._description

    @property
    def counters(self) -> Counters:
        return self._counters

    def __enter__(self) -> RealSense:
        rs = load_pyrealsense2()
        device = self._device if self._device is not None else _find_device(rs, self._serial)
        self.warnings = _warnings(rs, device)
        streams = _streams_of(rs, device, allow_missing=self._allow_missing)
        sends = self._start(rs, device, streams)
        if not sends and self._allow_missing and len(streams) > 1:
            self._start_either(rs, device, streams)
        reader = self._reader
        assert reader is not None
        self._counters = reader.counters
        self._description |= {**_info(rs, device), **reader.describe()}
        return self

    def _start_either(self, rs: Any, device: Any, streams: Sequence[Any]) -> None:
        """Start only one stream: librealsense returns no frameset before every stream has sent an image."""
        for stream in streams:
            self._stop()
            if self._start(rs, device, [stream]):
                name = "depth" if stream == rs.stream.color else "colour"
                self.warnings = (*self.warnings, f"the {name} sensor sends no images")
                return
        self._stop()
        raise UserError(f"{_info(rs, device)['name']} has started, but sends no images: reconnect it, then try again")

    def _start(self, rs: Any, device: Any, streams: Sequence[Any]) -> bool:
        """Start a pipeline, and discard the first framesets. Returns whether there were any."""
        pipeline = _start(rs, device, self._profiles, streams=streams, is_on_usb=self._device is None)
        try:
            _keep_color_rate(rs, device)
            reader = PipelineReader(
                rs,
                pipeline=pipeline,
                align=self._align,
                allow_missing=self._allow_missing,
                allocate=self._allocate,
            )
            num_skipped = reader.skip(self._warmup_frames, timeout_s=WARMUP_LIMIT_S)
        except BaseException:
            stop(pipeline)
            raise
        self._pipeline, self._reader = pipeline, reader
        return num_skipped > 0 or self._warmup_frames == 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._reader is not None:
            self._reader.close()
        if self._pipeline is not None:
            stop(self._pipeline)
        self._reader = self._pipeline = None

    def read(self, timeout_ms: int) -> Frame | None:
        """See `Camera.read`."""
        if self._reader is None:
            raise RuntimeError("read outside of `with`")
        return self._reader.read(timeout_ms)

    def hardware_reset(self) -> None:
        """Restart the camera's firmware. It disappears from USB for up to 20 s. Call it outside of `with`.

        Raises:
            UserError: the camera was not found.
        """
        device = self._device if self._device is not None else _find_device(load_pyrealsense2(), self._serial)
        with contextlib.suppress(RuntimeError):  # such as for a software device, which has no firmware
            device.hardware_reset()


def connected() -> list[str]:
    """Name and serial number of each RealSense camera on USB.

    Raises:
        MissingPackageError: pyrealsense2 is not installed.
    """
    rs = load_pyrealsense2()
    infos = [_info(rs, device) for device in rs.context().query_devices()]
    return [f"{info['name']} (realsense:{info['serial']})" for info in infos]


def _find_device(rs: Any, serial: str | None) -> Any:
    """The device with this serial number, or the first one.

    Needed before a pipeline starts: without a device, `pipeline.start()` blocks every Python thread for 15 s.
    """
    devices = list(rs.context().query_devices())
    by_serial = {_info(rs, device)["serial"]: device for device in devices}
    if serial is None and devices:
        return devices[0]
    if serial in by_serial:
        return by_serial[serial]
    wanted = "no RealSense camera was found" if serial is None else f"no RealSense camera {serial} was found"
    if devices:
        found = ", ".join(f"{_info(rs, device)['name']} {number}" for number, device in by_serial.items())
        raise UserError(f"{wanted}; connected: {found}. Choose one with --camera realsense:SERIAL")
    others = ", ".join(_other_video_devices())
    raise UserError(
        f"{wanted} on USB; other video devices: {others or 'none'}. "
        f"Check the cable, a USB 3 port and the udev rules (edgefuse doctor), or play a recording: --camera FILE.db3"
    )


def _other_video_devices() -> list[str]:
    names = Path("/sys/class/video4linux").glob("*/name")
    return sorted({name.read_text(encoding="utf-8", errors="replace").strip() for name in names})


def _warnings(rs: Any, device: Any) -> tuple[str, ...]:
    """What makes the camera worse than it could be: USB 2, old firmware, a sensor that did not start, an old SDK."""
    old_sdk = (f"pyrealsense2 {rs.__version__}: {OLD_SDK}: {UPDATE_SDK}",) if is_old_sdk(rs.__version__) else ()
    return (*described(rs, device).warnings, *old_sdk)


def _streams_of(rs: Any, device: Any, *, allow_missing: bool) -> list[Any]:
    """The streams to start. librealsense may list a camera without a sensor that has failed, since 2.58."""
    profiles = [profile for sensor in device.query_sensors() for profile in sensor.get_stream_profiles()]
    both = [rs.stream.depth, rs.stream.color]
    found = [stream for stream in both if any(profile.stream_type() == stream for profile in profiles)]
    return found if found and allow_missing else both


def _start(rs: Any, device: Any, profiles: Sequence[Profile], *, streams: Sequence[Any], is_on_usb: bool) -> Any:
    """A pipeline, started with the first profile that the device supports."""
    for profile in profiles:
        # A new pipeline for each attempt: after a failure the old one may be partly started.
        pipeline, config = rs.pipeline(), rs.config()
        if is_on_usb:
            config.enable_device(_info(rs, device)["serial"])
        else:
            pipeline.set_device(device)
        if rs.stream.depth in streams:
            size = profile.depth_width, profile.depth_height
            config.enable_stream(rs.stream.depth, *size, rs.format.z16, profile.fps)
        if rs.stream.color in streams:
            size = profile.color_width, profile.color_height
            config.enable_stream(rs.stream.color, *size, rs.format.rgb8, profile.fps)
        try:
            if config.can_resolve(rs.pipeline_wrapper(pipeline)):
                pipeline.start(config)
                return pipeline
        except RuntimeError as error:
            raise UserError(_start_message(str(error), _info(rs, device))) from error
    info = _info(rs, device)
    raise UserError(
        f"{info['name']} {info['serial']} (USB {info['usb']}) supports none of these profiles: {'; '.join(map(str, profiles))}. "
        f"It supports {_offered(device)}. USB 2 offers fewer: use a USB 3 port and cable"
    )


def _start_message(cause: str, info: dict[str, Any]) -> str:
    camera = f"{info['name']} {info['serial']}"
    if "busy" in cause.lower() or "errno=16" in cause:
        return (
            f"{camera} is in use by another process ({cause}): end that process (fuser -v /dev/video*), then try again"
        )
    return f"{camera} did not start ({cause}): reconnect it, then try again"


def _offered(device: Any) -> str:
    offered = set()
    for sensor in device.query_sensors():
        for profile in sensor.get_stream_profiles():
            if profile.is_video_stream_profile():
                video = profile.as_video_stream_profile()
                offered.add(
                    f"{profile.stream_name()} {video.width()}x{video.height()} {profile.format().name} {profile.fps()}/s"
                )
    return ", ".join(sorted(offered)) or "no video stream"


def _keep_color_rate(rs: Any, device: Any) -> None:
    """Keep the colour stream's frame rate in the dark. Otherwise long exposures halve it, and every second pair is stale."""
    for sensor in device.query_sensors():
        if sensor.supports(rs.option.auto_exposure_priority):
            sensor.set_option(rs.option.auto_exposure_priority, 0.0)


def _info(rs: Any, device: Any) -> dict[str, str]:
    keys = {
        "name": rs.camera_info.name,
        "serial": rs.camera_info.serial_number,
        "firmware": rs.camera_info.firmware_version,
        "usb": rs.camera_info.usb_type_descriptor,
    }
    return {name: device.get_info(key) if device.supports(key) else "unknown" for name, key in keys.items()}
