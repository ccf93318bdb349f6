"""Finds RealSense cameras: those that the SDK lists, and those on USB that it does not.

RealSense cameras have USB vendor id 8086 (Intel), or 38e5 if they were made since RealSense left Intel in 2025.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

INTEL, REALSENSE = "8086", "38e5"
_INTEL_PRODUCT = re.compile(r"0a[a-f][0-9a-f]|0b[0-9a-f]{2}|115[56]|abc[cd]")
"""Product ids of RealSense cameras with Intel's vendor id, which other devices have too (from librealsense's udev rules)."""


@dataclass(frozen=True, kw_only=True)
class FoundCamera:
    """A camera that the SDK lists.

    Attributes:
        firmware, recommended_firmware: None if the SDK does not say it.
        usb: such as "3.2"; None for a camera on Ethernet or GMSL.
        product_id: four hex digits.
        streams: name, such as "Depth" -> "WIDTHxHEIGHT" -> frames per second, the highest first.
    """

    name: str
    serial: str
    firmware: str | None = None
    recommended_firmware: str | None = None
    usb: str | None = None
    product_id: str | None = None
    streams: Mapping[str, Mapping[str, list[int]]] = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the camera worse than it could be, one sentence each."""
        found = []
        if self.usb is not None and self.usb.startswith("2"):
            found.append("on USB 2: lower sizes and rates only; use a USB 3 port and cable")
        if (
            self.firmware
            and self.recommended_firmware
            and _numbers(self.firmware) < _numbers(self.recommended_firmware)
        ):
            found.append(f"firmware {self.firmware} is older than the recommended {self.recommended_firmware}")
        found += [
            f"no {name.lower()} stream: that sensor did not start"
            for name in ("Depth", "Color")
            if name not in self.streams
        ]
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """The camera as a JSON object."""
        return {**asdict(self), "warnings": list(self.warnings)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FoundCamera:
        """The inverse of `to_json`."""
        return cls(**{name: item for name, item in value.items() if name != "warnings"})


@dataclass(frozen=True, kw_only=True)
class UsbDevice:
    """A RealSense camera as the kernel lists it.

    Attributes:
        product: its name.
        speed_mbps: 480 for USB 2, 5000 and more for USB 3.
    """

    vendor_id: str
    product_id: str
    product: str
    speed_mbps: int | None


def found_by(rs: Any, context: Any) -> list[FoundCamera]:
    """The cameras of an SDK context.

    Args:
        rs: the module pyrealsense2.
        context: a `pyrealsense2.context`.
    """
    return [described(rs, device) for device in context.query_devices()]


def described(rs: Any, device: Any) -> FoundCamera:
    """A device of the SDK."""

    def info(key: str) -> str | None:
        name = getattr(rs.camera_info, key)
        return str(device.get_info(name)) if device.supports(name) else None

    streams: dict[str, dict[str, set[int]]] = {}
    for sensor in device.query_sensors():
        for profile in sensor.get_stream_profiles():
            size = "motion"
            if profile.is_video_stream_profile():
                video = profile.as_video_stream_profile()
                size = f"{video.width()}x{video.height()}"
            streams.setdefault(profile.stream_name(), {}).setdefault(size, set()).add(profile.fps())
    return FoundCamera(
        name=info("name") or "unknown",
        serial=info("serial_number") or "unknown",
        firmware=info("firmware_version"),
        recommended_firmware=info("recommended_firmware_version"),
        usb=info("usb_type_descriptor"),
        product_id=info("product_id"),
        streams={
            name: {size: sorted(rates, reverse=True) for size, rates in sizes.items()}
            for name, sizes in streams.items()
        },
    )


def on_usb(*, root: Path = Path("/")) -> list[UsbDevice]:
    """The RealSense cameras on USB according to the kernel, by both vendor ids."""
    found = []
    for folder in sorted((root / "sys/bus/usb/devices").glob("*")):
        vendor, product = _read(folder / "idVendor").lower(), _read(folder / "idProduct").lower()
        name = _read(folder / "product")
        if vendor == REALSENSE or (vendor == INTEL and ("RealSense" in name or _INTEL_PRODUCT.fullmatch(product))):
            speed = _read(folder / "speed")
            found.append(
                UsbDevice(
                    vendor_id=vendor,
                    product_id=product,
                    product=name or "RealSense camera",
                    speed_mbps=int(speed) if speed.isdecimal() else None,
                )
            )
    return found


def not_listed(usb: Iterable[UsbDevice], cameras: Iterable[FoundCamera]) -> list[UsbDevice]:
    """The cameras on USB that the SDK does not list: it may not open them, or it does not know them."""
    listed = [(camera.product_id or "").lower() for camera in cameras]
    missing = []
    for device in usb:
        if device.product_id in listed:
            listed.remove(device.product_id)
        else:
            missing.append(device)
    return missing


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
