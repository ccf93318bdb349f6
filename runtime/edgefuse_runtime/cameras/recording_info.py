"""What a recording has, without playing it: device, streams, number of frames, duration. `edgefuse info` shows it.

.db3: everything is read from the database. .bag: the numbers of frames are read from the index at its end, which a recording that
was cut off lacks; sizes and rates are inside compressed blocks, so the SDK reads them if it is installed.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import struct
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgefuse_runtime.cameras.db3_file import DamagedError, open_database
from edgefuse_runtime.doctor.probe import probe

_IMAGES = re.compile(r"/device_\d+/sensor_\d+/(?P<stream>[A-Za-z]+_\d+)/image/data")
_BAG_START = b"#ROSBAG V2.0\n"
LIMIT_S = 20.0
_CONNECTION, _CHUNK_INFO = b"\x07", b"\x06"


@dataclass(frozen=True, kw_only=True)
class StreamInfo:
    """One stream of images; sizes, format and rate are None where they are not known.

    Attributes:
        name: such as "Depth_0".
        rate: frames per second.
    """

    name: str
    frames: int
    size: str | None = None
    format: str | None = None
    rate: int | None = None


@dataclass(frozen=True, kw_only=True)
class RecordingInfo:
    """A recording.

    Attributes:
        device: what the camera says about itself, such as "Name" and "Firmware Version".
        duration_s: from the first to the last image.
        depth_unit_m: metres per depth code; None if unknown.
    """

    streams: tuple[StreamInfo, ...]
    device: dict[str, str]
    duration_s: float
    depth_unit_m: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The recording as a JSON object."""
        return {**asdict(self), "streams": [asdict(stream) for stream in self.streams]}


def describe_recording(path: Path) -> RecordingInfo:
    """Read the description of a .db3 or .bag file.

    Raises:
        DamagedError: it is damaged, was cut off, or is no recording. The message does not name the file.
    """
    with _damage_reported():
        found = _describe_bag(path) if path.suffix.lower() == ".bag" else _describe_db3(path)
    if not found.streams:
        raise DamagedError("it has no stream of images")
    return found


@contextlib.contextmanager
def _damage_reported() -> Iterator[None]:
    """Convert the errors of a damaged file to `DamagedError`."""
    try:
        yield
    except (sqlite3.Error, struct.error, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"it cannot be read ({error})") from error
    except OSError as error:
        raise DamagedError(f"it cannot be read ({error.strerror})") from error


def _describe_db3(path: Path) -> RecordingInfo:
    with contextlib.closing(open_database(path)) as database:
        database.text_factory = lambda text: text.decode(errors="replace")
        topics = {str(name): topic for topic, name in database.execute("SELECT id, name FROM topics")}
        times_ns: list[int] = []
        streams = []
        for name, topic in topics.items():
            image = _IMAGES.match(name)
            if image is None:
                continue
            number, first_ns, last_ns = database.execute(
                "SELECT count(*), min(timestamp), max(timestamp) FROM messages WHERE topic_id = ?", (topic,)
            ).fetchone()
            times_ns += [first_ns, last_ns] if number else []
            folder = name.split("/image/")[0]
            about = _pairs(_text(database, topics.get(f"{folder}/info")))
            camera = _pairs(_text(database, topics.get(f"{folder}/camera_info")))
            streams.append(
                StreamInfo(
                    name=image["stream"],
                    frames=number,
                    size=f"{camera['width']}x{camera['height']}" if {"width", "height"} <= set(camera) else None,
                    format=about.get("encoding"),
                    rate=int(about["fps"]) if about.get("fps", "").isdecimal() else None,
                )
            )
        device = _pairs(_text(database, topics.get("/device_0/info")))
        units = [topic for name, topic in topics.items() if name.endswith("/option/Depth_Units/value")]
        unit = _text(database, units[0]) if units else ""
    return RecordingInfo(
        streams=tuple(sorted(streams, key=lambda stream: stream.name)),
        device=device,
        duration_s=(max(times_ns) - min(times_ns)) / 1e9 if times_ns else 0.0,
        depth_unit_m=float(unit) if unit else None,
    )


def _text(database: sqlite3.Connection, topic: int | None) -> str:
    """The first message of a topic, a std_msgs/String; empty if there is none."""
    row = database.execute("SELECT data FROM messages WHERE topic_id = ? LIMIT 1", (topic,)).fetchone()
    data = row[0] if row is not None and isinstance(row[0], bytes) else b""
    return data[8:].rstrip(b"\0").decode(errors="replace")  # after the header of the encoding and the length


def _pairs(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(";") if "=" in part)


def _describe_bag(path: Path) -> RecordingInfo:
    images, end_ns = _counted_in_bag(path)
    details, device = _from_sdk(path)
    streams = (StreamInfo(name=name, frames=frames, **details.get(name, {})) for name, frames in sorted(images.items()))
    return RecordingInfo(streams=tuple(streams), device=device, duration_s=end_ns / 1e9)


def _counted_in_bag(path: Path) -> tuple[dict[str, int], int]:
    """Frames of each stream, and the time of the last message in ns, from the index (http://wiki.ros.org/Bags/Format/2.0)."""
    topics: dict[bytes, str] = {}
    numbers: Counter[bytes] = Counter()
    end_ns = 0
    for header, data in _index(path):
        if header[b"op"] == _CONNECTION:
            topics[header[b"conn"]] = header[b"topic"].decode(errors="replace")
        elif header[b"op"] == _CHUNK_INFO:
            end_s, end_fraction_ns = struct.unpack("<II", header[b"end_time"])
            end_ns = max(end_ns, end_s * 10**9 + end_fraction_ns)  # times count from the start of the recording
            for at in range(0, len(data), 8):
                numbers[data[at : at + 4]] += struct.unpack_from("<I", data, at + 4)[0]
    images = {match["stream"]: numbers[number] for number, name in topics.items() if (match := _IMAGES.match(name))}
    return images, end_ns


def has_index(path: Path) -> bool:
    """Whether a .bag file has the index that is written when it is closed. True for a file of another format."""
    with path.open("rb") as file:
        if file.read(len(_BAG_START)) != _BAG_START:
            return True
    try:
        with contextlib.closing(_index(path)) as records:
            next(records, None)
    except (DamagedError, struct.error, ValueError, KeyError):
        return False
    return True


def _index(path: Path) -> Generator[tuple[dict[bytes, bytes], bytes], None, None]:
    """Header and data of each record after the last block of messages."""
    with path.open("rb") as file:
        if file.read(len(_BAG_START)) != _BAG_START:
            raise DamagedError("it is no .bag file of version 2.0")
        header, _ = _record(file)
        (start,) = struct.unpack("<Q", header[b"index_pos"])
        if not start or start >= path.stat().st_size:
            raise DamagedError("it has no index: the recording ended before it was closed, or the file was cut off")
        file.seek(start)
        while file.tell() < path.stat().st_size:
            yield _record(file)


def _record(file: Any) -> tuple[dict[bytes, bytes], bytes]:
    header = _block(file)
    fields, at = {}, 0
    while at < len(header):
        (length,) = struct.unpack_from("<I", header, at)
        name, _, value = header[at + 4 : at + 4 + length].partition(b"=")
        fields[name] = value
        at += 4 + length
    return fields, _block(file)


def _block(file: Any) -> bytes:
    (length,) = struct.unpack("<I", file.read(4))
    data: bytes = file.read(length)
    if len(data) < length:
        raise DamagedError("its index is cut off")
    return data


def _from_sdk(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Size, format and rate of each stream, and the device; empty without the SDK or if it refuses the file.

    In a child process: a damaged file may end or hang the SDK.
    """
    facts = probe("recording", str(path.absolute()), limit_s=LIMIT_S)
    camera = facts.get("camera") or {}
    keys = {"Name": "name", "Serial Number": "serial", "Firmware Version": "firmware"}
    return facts.get("formats") or {}, {title: camera[key] for title, key in keys.items() if camera.get(key)}
