"""edgefuse find-cameras: cameras of an SDK context, cameras on USB that it does not list, and the command without any."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from runtime_scenes import draw_pair

from bare_python import bare_edgefuse
from edgefuse.io.json_files import dumps, parse_json
from edgefuse.io.text import new_console
from edgefuse_runtime.cameras.commands import show
from edgefuse_runtime.cameras.find import FoundCamera, UsbDevice, found_by, not_listed, on_usb
from edgefuse_runtime.cameras.pyrealsense import load_pyrealsense2
from edgefuse_runtime.recording.write_db3 import write_recording

COMMAND = (sys.executable, "-m", "edgefuse", "find-cameras")
D435 = FoundCamera(
    name="RealSense [D435]",
    serial="123456789012",
    firmware="5.13.0.50",
    recommended_firmware="5.17.0.10",
    usb="2.1",
    product_id="0B07",
    streams={
        "Color": {"640x480": [30, 15]},
        "Depth": {"480x270": [60], "848x480": [90, 30]},
        "Gyro": {"motion": [400]},
    },
)
"""A hand-written camera: an SDK's device that is on USB cannot be simulated."""


def test_the_sdk_describes_a_device(tmp_path: Path) -> None:
    """A recording that is loaded into a context is listed there like a camera."""
    rs = load_pyrealsense2()
    path = tmp_path / "a.db3"
    write_recording(path, [draw_pair("far")] * 2, fps=15)
    context = rs.context()
    device = context.load_device(str(path))
    (camera,) = found_by(rs, context)
    assert camera.serial == device.get_info(rs.camera_info.serial_number) and camera.usb == "3.2"
    assert camera.streams == {"Depth": {"64x48": [15]}, "Color": {"64x48": [15]}} and camera.warnings == ()
    assert FoundCamera.from_json(parse_json(dumps(camera.to_json()), what="a camera")) == camera


def test_warnings_of_a_camera() -> None:
    usb, firmware = D435.warnings
    assert "USB 2" in usb and "5.13.0.50 is older than the recommended 5.17.0.10" in firmware
    without_depth = FoundCamera(name="D436", serial="1", usb="3.2", streams={"Color": {"640x480": [30]}})
    assert without_depth.warnings == ("no depth stream: that sensor did not start",)


def usb_device(root: Path, name: str, **files: str) -> None:
    folder = root / "sys/bus/usb/devices" / name
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(f"{text}\n")


def test_cameras_of_both_vendors_are_found_on_usb_and_other_devices_are_not(tmp_path: Path) -> None:
    usb_device(tmp_path, "1-1", idVendor="8086", idProduct="0b07", product="RealSense D435", speed="480")
    usb_device(tmp_path, "2-1", idVendor="38e5", idProduct="0b5b", product="D405", speed="5000")
    usb_device(tmp_path, "2-2", idVendor="8086", idProduct="0b3a")
    usb_device(tmp_path, "3-1", idVendor="8086", idProduct="0189", product="Bluetooth", speed="12")
    usb_device(tmp_path, "usb1", idVendor="1d6b", idProduct="0002", product="xHCI Host Controller", speed="480")
    usb_device(tmp_path, "1-1:1.0", bInterfaceClass="0e")
    found = on_usb(root=tmp_path)
    assert [(one.vendor_id, one.product_id, one.speed_mbps) for one in found] == [
        ("8086", "0b07", 480),
        ("38e5", "0b5b", 5000),
        ("8086", "0b3a", None),
    ]
    # Each camera that the SDK lists accounts for one device.
    assert [one.product_id for one in not_listed([found[0], *found], [D435])] == ["0b07", "0b5b", "0b3a"]


@pytest.mark.parametrize("width", [80, 120])
def test_the_screen(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    other = UsbDevice(vendor_id="38e5", product_id="0b5b", product="RealSense [D405]", speed_mbps=5000)
    many = {f"{100 + side}x{side}": [30] for side in range(20)}
    wide = FoundCamera(name="D4", serial="2", usb="3.2", streams={"Depth": many, "Color": {"640x480": [30]}})
    show([D435, wide], [other], new_console(width=width))
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[:2] == [
        "RealSense [D435]",
        "  serial 123456789012, firmware 5.13.0.50, USB 2.1, product id 0b07",
    ]
    assert "  Depth        848x480 90/s, 480x270 60/s" in lines and "  Gyro         motion 400/s" in lines
    assert "  edgefuse live BUNDLE --camera realsense:123456789012" in lines
    assert "RealSense [D405]" in lines and "38e5:0b5b" in text and "5000 Mbit/s" in text


def test_without_a_camera_the_message_says_what_to_check() -> None:
    if on_usb():
        pytest.skip("a camera is connected")
    done = subprocess.run([*COMMAND, "--json"], capture_output=True, text=True, timeout=60)
    assert (
        done.returncode == 1 and "no RealSense camera can be used" in done.stderr and "edgefuse doctor" in done.stderr
    )
    found = json.loads(done.stdout)
    assert found.pop("sdk") == load_pyrealsense2().__version__
    assert found == {"cameras": [], "not_listed": [], "problem": None}


def test_without_the_sdk_the_message_has_the_install_command(tmp_path: Path) -> None:
    done = bare_edgefuse(tmp_path, "find-cameras")
    assert done.returncode == 1 and done.stdout == ""
    assert "pyrealsense2, which is not installed: pip install 'edgefuse[realsense]'" in done.stderr


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import os; os.abort()", "pyrealsense2 does not load (it crashed (SIGABRT))"),
        ("__version__ = '2.57.0'\ndef context(): raise RuntimeError('[usb] failed')", "cannot list the cameras ([usb] failed)"),
    ],
)  # fmt: skip
def test_an_sdk_that_fails_ends_in_a_message(source: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "extra/pyrealsense2").mkdir(parents=True)
    (tmp_path / "extra/pyrealsense2/__init__.py").write_text(source)
    done = bare_edgefuse(tmp_path, "find-cameras", extra=[tmp_path / "extra"])
    assert done.returncode == 1 and text in done.stderr and "Traceback" not in done.stderr
    assert ("before 2.58.4" in done.stderr) is ("2.57.0" in source)
