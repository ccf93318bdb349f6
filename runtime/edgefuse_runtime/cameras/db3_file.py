"""Integrity checks of a recording (.db3), read directly: librealsense ends playback of a damaged file without an error.

A .db3 file is a SQLite database of ROS 2 messages. Its images are PNG, whose chunks have checksums. librealsense ignores the
checksums of colour images, so that a single changed byte gives a wrong image.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sqlite3
import struct
import zlib
from collections.abc import Callable, Collection, Generator, Iterable
from pathlib import Path

from edgefuse.errors import UserError

_PNG_START = b"\x89PNG\r\n\x1a\n"
_MAX_HEADER_BYTES = 256
"""A message has a timestamp, names and a format before its image."""

_DESCRIPTION = re.compile(
    r"/device_0/(info|sensor_\d+/(info|post_processing|option/[^/]+/(value|description)"
    r"|[^/]+/(info|camera_info|imu_intrinsic|tf/ref_\d+)))"
)
"""Topics that librealsense reads before playback, to describe the device."""

_FOLLOWS = {"description": "value", "camera_info": "info", "imu_intrinsic": "info"}
"""librealsense 2.59 reads such a message only directly after the one named here; with an unpaired one, it waits forever."""


class DamagedError(UserError):
    """The file is damaged. The message describes the damage, without the file's name."""


class RecordingFile:
    """The depth and colour images of a .db3 file, checked in the order in which they were written."""

    def __init__(self, path: Path, *, depth_index: int, color_index: int) -> None:
        """Open the file for reading.

        Args:
            depth_index, color_index: indexes of the streams to check.

        Raises:
            DamagedError: the file is not a database of messages.
        """
        self._streams = {"colour": f"/Color_{color_index}/image/", "depth": f"/Depth_{depth_index}/image/"}
        self._num_checked = dict.fromkeys(self._streams, 0)
        try:
            self._database = open_database(path)
            self._topics = self._find_topics("data")
            self._images = self._checked_images()
        except sqlite3.Error as error:
            raise DamagedError(f"it cannot be read ({error})") from error

    def close(self) -> None:
        """Close the file."""
        self._images.close()
        self._database.close()

    def check(self, num_pairs: int | None) -> None:
        """Check images until `num_pairs` of each stream are known to be intact; None = to the end.

        Takes a third of a millisecond per pair of 640x480.

        Raises:
            DamagedError: an image does not match its checksum, or the database is damaged.
        """
        try:
            while num_pairs is None or min(self._num_checked.values()) < num_pairs:
                stream = next(self._images, None)
                if stream is None:
                    return
                self._num_checked[stream] += 1
        except sqlite3.Error as error:
            raise DamagedError(f"it cannot be read further ({error})") from error

    def num_frames(self) -> int | None:
        """Number of images of the longer stream; None if it cannot be read."""
        try:
            counts = [
                self._database.execute("SELECT count(*) FROM messages WHERE topic_id = ?", (topic,)).fetchone()[0]
                for topic in self._topics
            ]
        except sqlite3.Error:
            return None
        return max(counts, default=0)

    def last(self) -> dict[str, tuple[int, float]]:
        """Frame number and timestamp in ms of each stream's last image; without the streams for which these cannot be read."""
        found = {}
        for topic, (stream, _) in self._find_topics("metadata").items():
            try:
                row = self._database.execute(
                    "SELECT data FROM messages WHERE topic_id = ? ORDER BY timestamp DESC, id DESC LIMIT 1", (topic,)
                ).fetchone()
            except sqlite3.Error:
                continue
            text = row[0] if row is not None and isinstance(row[0], bytes) else b""
            number, time_ms = re.search(rb"Frame number=(\d+);", text), re.search(rb";timestamp=(\d+\.?\d*);", text)
            if number and time_ms:
                found[stream] = (int(number[1]), float(time_ms[1]))
        return found

    def _find_topics(self, kind: str) -> dict[int, tuple[str, bool]]:
        """Topic ids of both streams' images or metadata -> stream, and whether it is compressed. Other topics are ignored."""
        names = self._database.execute("SELECT id, name FROM topics").fetchall()
        return {
            topic: (stream, "compressed" in str(name))
            for topic, name in names
            for stream, part in self._streams.items()
            if part + kind in str(name)
        }

    def _message_finder(self, topics: Collection[int]) -> Callable[[int | None, int], bool]:
        """A function that returns whether a topic has a message at a given time."""
        query = "SELECT topic_id, timestamp FROM messages WHERE "
        if self._database.execute("SELECT 1 FROM pragma_index_list('messages')").fetchone():
            query += "topic_id = ? AND timestamp = ?"
            return lambda *key: self._database.execute(query, key).fetchone() is not None
        # Without an index by time, each query would read the complete file.
        places = ", ".join("?" for _ in topics)
        found = set(self._database.execute(f"{query} topic_id IN ({places})", tuple(topics)))
        return lambda *key: key in found

    def _checked_images(self) -> Generator[str, None, None]:
        """Yield the stream of each image after its check."""
        places = ", ".join("?" for _ in self._topics)
        rows = self._database.execute(
            f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({places}) ORDER BY id",
            tuple(self._topics),
        )
        metadata = {stream: topic for topic, (stream, _) in self._find_topics("metadata").items()}
        has_message = self._message_finder(metadata.values())
        for topic, time_ns, data in rows:
            stream, is_compressed = self._topics[topic]
            if not has_message(metadata.get(stream), time_ns):
                raise DamagedError(f"{stream} image {self._num_checked[stream] + 1} has no frame number and timestamp")
            if not isinstance(data, bytes) or (is_compressed and not _matches_checksum(data)):
                raise DamagedError(f"{stream} image {self._num_checked[stream] + 1} does not match its checksum")
            yield stream


def check_description(path: Path, *, is_option: Callable[[str], bool]) -> None:
    """Check the device description of a .db3 file before librealsense opens it.

    Files of other programs, and files that SQLite cannot read, pass; librealsense refuses them.

    Args:
        is_option: whether the SDK has an option of this name, such as "Depth Units".

    Raises:
        DamagedError: a message is missing. Without it librealsense would hang while it holds Python's GIL, or assume a default
            depth unit.
    """
    try:
        with contextlib.closing(open_database(path)) as database:
            database.text_factory = lambda text: text.decode(errors="replace")
            topics = {topic: str(name) for topic, name in database.execute("SELECT id, name FROM topics")}
            first = database.execute("SELECT topic_id FROM messages ORDER BY timestamp, id LIMIT 1").fetchone()
            if first is None or topics.get(first[0]) != "/file_version":
                return
            names = {topic: name for topic, name in topics.items() if _DESCRIPTION.fullmatch(name)}
            places = ", ".join("?" for _ in names)
            rows = database.execute(
                f"SELECT topic_id FROM messages WHERE topic_id IN ({places}) ORDER BY timestamp, id", tuple(names)
            )
            found = [names[topic] for (topic,) in rows]
    except sqlite3.Error:
        return
    missing = [name for name in _needed(topics.values()) if name not in found]
    if missing:
        raise DamagedError(f"it has no message {', '.join(missing)}")
    for before, name in itertools.pairwise(["", *found]):
        folder, _, kind = name.rpartition("/")
        if kind == "description" and not is_option(Path(folder).name.replace("_", " ")):
            raise DamagedError(f"librealsense has no option {Path(folder).name} ({name})")
        if kind in _FOLLOWS and before != f"{folder}/{_FOLLOWS[kind]}":
            raise DamagedError(f"it has no message {folder}/{_FOLLOWS[kind]} before {name}")


def _needed(names: Iterable[str]) -> list[str]:
    """The topics that describe the depth and colour streams in the file."""
    needed = []
    for name in names:
        match = re.match(r"(/device_0/sensor_\d+)/((?:Depth|Color)_\d+)/image/data", name)
        if match:
            sensor, stream = match.groups()
            needed += [f"{sensor}/{stream}/info", f"{sensor}/{stream}/camera_info"]
            needed += [f"{sensor}/option/Depth_Units/value"] if stream.startswith("Depth") else []
    return needed


def open_database(path: Path) -> sqlite3.Connection:
    """Open for reading; raises `sqlite3.Error` if it is no database with topics."""
    name = path.absolute().as_uri()
    try:
        database = sqlite3.connect(f"{name}?mode=ro", uri=True, check_same_thread=False)
        database.execute("SELECT 1 FROM topics")
    except sqlite3.OperationalError:  # such as in a folder where SQLite cannot create a lock file
        database = sqlite3.connect(f"{name}?immutable=1", uri=True, check_same_thread=False)
    return database


def cut_off(path: Path) -> str | None:
    """What is missing at the end of a .db3 file that is shorter than its header says, in words; None if it is not.

    The frames that are left cannot be played: librealsense and SQLite refuse the file.
    """
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        return None
    (page_bytes,), (num_pages,) = struct.unpack_from(">H", header, 16), struct.unpack_from(">I", header, 28)
    expected = (page_bytes if page_bytes > 1 else 65536) * num_pages
    found = path.stat().st_size
    if found >= expected or header[24:28] != header[92:96]:  # otherwise the number of pages is out of date
        return None
    num_left = _num_images_left(path)
    num_missing = round(num_left * (expected - found) / found) or 1
    return (
        f"it was cut off: {found / 1e6:.1f} of {expected / 1e6:.1f} MB are left, with {num_left} frames; about {num_missing} frames "
        "are missing"
    )


def _num_images_left(path: Path) -> int:
    """Images of the shorter of the two streams that a file which was cut off still has."""
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as database:
        database.execute("PRAGMA writable_schema=ON")  # SQLite then reads a file that is too short, until its end
        counts: dict[int, int] = {}
        with contextlib.suppress(sqlite3.Error):
            names = database.execute("SELECT id, name FROM topics").fetchall()
            counts = {topic: 0 for topic, name in names if re.search(r"/(Depth|Color)_\d+/image/data", str(name))}
            for (topic,) in database.execute("SELECT topic_id FROM messages NOT INDEXED ORDER BY id"):
                if topic in counts:
                    counts[topic] += 1
    return min(counts.values(), default=0)


def _matches_checksum(message: bytes) -> bool:
    """Whether the PNG in a message matches its checksums; True if the image is compressed in another format."""
    start = message.find(_PNG_START, 0, _MAX_HEADER_BYTES)
    if start < 0:
        return b"png" not in message[:_MAX_HEADER_BYTES]
    view = memoryview(message)
    offset = start + len(_PNG_START)
    while offset + 12 <= len(view):
        (length,) = struct.unpack_from(">I", view, offset)
        end = offset + 8 + length
        if end + 4 > len(view) or struct.unpack_from(">I", view, end)[0] != zlib.crc32(view[offset + 4 : end]):
            return False
        if bytes(view[offset + 4 : offset + 8]) == b"IEND":
            return True
        offset = end + 4
    return False
