"""The command edgefuse find-cameras."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import typer

from edgefuse.console.options import AsJson
from edgefuse.io.text import new_console, printable, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from edgefuse_runtime.cameras.find import FoundCamera, UsbDevice

LIMIT_S = 20.0
"""For listing the cameras. A call of the SDK may hang, such as for a camera in a bad state."""


def find_cameras(as_json: AsJson = False) -> None:
    """List the connected RealSense cameras: serial number, firmware, USB speed, streams.

    Exit code 1 if none can be used.
    """
    from edgefuse.errors import MissingPackageError, UserError
    from edgefuse.io.json_files import dumps
    from edgefuse_runtime.cameras.find import FoundCamera, not_listed, on_usb
    from edgefuse_runtime.cameras.pyrealsense import OLD_SDK, UPDATE_SDK, is_old_sdk
    from edgefuse_runtime.doctor.probe import probe

    facts = probe("cameras", limit_s=LIMIT_S)
    cameras = [FoundCamera.from_json(camera) for camera in facts.get("cameras", ())]
    unusable = not_listed(on_usb(), cameras)
    if as_json:
        others = [vars(device) for device in unusable]
        problem = facts.get("problem")
        listed = [camera.to_json() for camera in cameras]
        typer.echo(dumps({"sdk": facts.get("sdk"), "cameras": listed, "not_listed": others, "problem": problem}))
    else:
        show(cameras, unusable, new_console())
    if "sdk" in facts and is_old_sdk(facts["sdk"]):
        say(f"warning: pyrealsense2 {facts['sdk']}: {OLD_SDK}: {UPDATE_SDK}")
    if "sdk" not in facts:
        problem = facts["problem"] if "step" in facts else f"pyrealsense2 does not load ({facts['problem']})"
        raise MissingPackageError(problem, facts.get("step") or "")
    if "problem" in facts:
        raise UserError(
            f"librealsense cannot list the cameras ({facts['problem']})",
            "Unplug the camera, plug it in again, and try again",
        )
    if not cameras:
        hint = "connect it to a USB 3 port" if not unusable else "see above"
        raise UserError(
            f"no RealSense camera can be used: {hint}, or run edgefuse doctor for the SDK and the udev rules"
        )


def show(cameras: Sequence[FoundCamera], unusable: Sequence[UsbDevice], console: Console) -> None:
    """Print the cameras, each with its streams and warnings, and how to use it."""

    def line(text: str, style: str = "default") -> None:
        console.print(printable(text, keep="\n"), style=style, soft_wrap=True)

    for camera in cameras:
        product = f", product id {camera.product_id.lower()}" if camera.product_id else ""
        line(camera.name, "bold")
        line(f"  serial {camera.serial}, firmware {camera.firmware or 'unknown'}, USB {camera.usb or 'none'}{product}")
        for name in sorted(camera.streams, key=lambda name: (name not in ("Depth", "Color"), name)):
            sizes = sorted(camera.streams[name].items(), key=lambda item: -_area(item[0]))
            text = ", ".join(f"{size} {max(rates)}/s" for size, rates in sizes)
            line(textwrap.fill(f"  {printable(name):<12} {text}", console.width, subsequent_indent=" " * 15), "dim")
        for warning in camera.warnings:
            line(f"  warning: {warning}", "yellow")
        line(f"  edgefuse live BUNDLE --camera realsense:{camera.serial}", "cyan")
    for device in unusable:
        line(device.product, "bold")
        speed = "" if device.speed_mbps is None else f" at {device.speed_mbps} Mbit/s"
        line(f"  on USB{speed} ({device.vendor_id}:{device.product_id}), but librealsense does not list it", "yellow")
        line("  no permission, or an SDK older than the camera: edgefuse doctor")


def _area(size: str) -> int:
    """Pixels of a size such as 640x480; 0 for a stream of motion."""
    width, _, height = size.partition("x")
    return int(width) * int(height) if height else 0
