"""A recording that is damaged anywhere ends with an error, and never returns a wrong image."""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runtime_scenes import Pair

from edgefuse.errors import UserError
from edgefuse_runtime.camera import Counters, Frame, frames
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.cameras.pyrealsense import load_pyrealsense2
from edgefuse_runtime.cameras.software_device import SoftwareCamera
from edgefuse_runtime.capture import open_capture
from edgefuse_runtime.recording.write_db3 import recorder

NUM_FRAMES = 45


def _play(path: Path, *, real_time: bool = False) -> tuple[list[Frame], str, Counters]:
    played: list[Frame] = []
    camera = open_camera(str(path), real_time=real_time)
    try:
        with camera:
            played += frames(camera)
    except UserError as error:
        return played, str(error), camera.counters
    return played, "", camera.counters


def _assert_true(played: list[Frame], pairs: list[Pair]) -> None:
    for frame in played:
        rgb, depth = pairs[frame.color_number - 1]
        assert np.array_equal(frame.rgb, rgb) and np.array_equal(frame.depth, depth)


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.999])
@pytest.mark.parametrize("num_bytes", [512, 4096])
def test_a_sector_of_zeros(
    fraction: float, num_bytes: int, noise_recording: Path, noise_pairs: list[Pair], tmp_path: Path
) -> None:
    data = bytearray(noise_recording.read_bytes())
    place = int(len(data) * fraction) // num_bytes * num_bytes
    data[place : place + num_bytes] = bytes(num_bytes)
    path = tmp_path / "zeros.db3"
    path.write_bytes(data)
    played, error, _ = _play(path)
    assert f"{path} is damaged: stopped after {len(played)} of {NUM_FRAMES} frames" in error
    assert len(played) == pytest.approx(NUM_FRAMES * fraction, abs=2.5)
    _assert_true(played, noise_pairs)


def test_one_changed_byte_never_gives_a_wrong_image(
    noise_recording: Path, noise_pairs: list[Pair], tmp_path: Path
) -> None:
    """librealsense ignores the checksums of colour: half of such files played to the end with a wrong image."""
    whole = noise_recording.read_bytes()
    chance = random.Random(1)
    path = tmp_path / "byte.db3"
    for _ in range(12):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        played, error, _ = _play(path)
        assert bool(error) == (len(played) < NUM_FRAMES)
        _assert_true(played, noise_pairs)


@pytest.mark.parametrize("fraction", [0.1, 0.9, 0.9999])
def test_a_file_that_is_cut_off(fraction: float, noise_recording: Path, tmp_path: Path) -> None:
    data = noise_recording.read_bytes()
    (tmp_path / "cut.db3").write_bytes(data[: int(len(data) * fraction)])
    played, error, _ = _play(tmp_path / "cut.db3")
    assert "cut.db3: it was cut off" in error and "\n" not in error and not played
    found = re.search(r"with (\d+) frames; about (\d+) frames are missing", error)
    assert found and int(found[1]) == pytest.approx(NUM_FRAMES * fraction, abs=2)
    assert int(found[1]) + int(found[2]) == pytest.approx(NUM_FRAMES, abs=5)


def _changed(source: Path, path: Path, change: Callable[[sqlite3.Connection], object]) -> Path:
    shutil.copy(source, path)
    path.chmod(0o644)
    database = sqlite3.connect(path)
    change(database)
    database.commit()
    database.close()
    return path


def _garble(topic_part: str, number: int, data: bytes) -> Callable[[sqlite3.Connection], object]:
    return lambda database: database.execute(
        "UPDATE messages SET data = ? WHERE id = (SELECT messages.id FROM messages JOIN topics ON topic_id = topics.id "
        "WHERE name LIKE ? ORDER BY timestamp LIMIT 1 OFFSET ?)",
        (data, f"%{topic_part}%", number - 1),
    )


@pytest.mark.parametrize("topic", ["Depth_0/image/metadata", "Color_0/image/metadata", "Color_0/image/data"])
@pytest.mark.parametrize("number", [11, NUM_FRAMES])
def test_playback_that_stops_early(topic: str, number: int, noise_recording: Path, tmp_path: Path) -> None:
    path = _changed(noise_recording, tmp_path / "d.db3", _garble(topic, number, b"\x00\x01\x00\x00spoilt"))
    played, error, counters = _play(path)
    assert len(played) == number - 1
    assert f"stopped after {number - 1} of {NUM_FRAMES} frames ({(number - 2) / 120:.2f} s of " in error
    missing = int(error.rpartition("; ")[2].split()[0])
    assert error.endswith(" frames are missing") and missing == NUM_FRAMES - counters.received > 0
    assert counters.received == counters.delivered + counters.dropped + counters.stale


_PLAY = """
import sys
from pathlib import Path
from edgefuse.errors import UserError
from edgefuse_runtime.cameras.playback import Playback
from edgefuse_runtime.camera import frames
try:
    with Playback(Path(sys.argv[1])) as playback:
        print("whole", sum(1 for _ in frames(playback)))
except UserError as error:
    print("refused", error)
"""


def _play_in_process(path: Path) -> str:
    """The result of playback, in a separate process, because librealsense may hang while it holds the GIL."""
    ended = subprocess.run(
        [sys.executable, "-c", _PLAY, str(path)], capture_output=True, text=True, timeout=20, check=True
    )
    return ended.stdout.strip()


def _sql(*statements: str) -> Callable[[sqlite3.Connection], object]:
    return lambda database: [database.execute(statement) for statement in statements]


@pytest.mark.parametrize(
    "topic",
    [
        "/device_0/sensor_0/option/Depth_Units/value",
        "/device_0/sensor_0/option/Frames_Queue_Size/value",
        "/device_0/sensor_0/Depth_0/info",
        "/device_0/sensor_1/Color_0/info",
        "/device_0/sensor_1/Color_0/camera_info",
    ],
)
def test_a_recording_that_does_not_describe_its_device(topic: str, small_recording: Path, tmp_path: Path) -> None:
    where = f"(SELECT id FROM topics WHERE name = '{topic}')"
    for number, statement in enumerate(
        [
            f"DELETE FROM messages WHERE topic_id = {where}",
            f"DELETE FROM topics WHERE name = '{topic}'",
            f"UPDATE messages SET timestamp = 5000000 WHERE topic_id = {where}",
        ]
    ):
        path = _changed(small_recording, tmp_path / f"{number}.db3", _sql(statement))
        assert re.match(
            f"refused {path} is damaged: it has no message .*/(value|info|camera_info)", _play_in_process(path)
        )


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["UPDATE topics SET name = replace(name, 'Units', 'Unots')"], "no message /device_0/sensor_0/option/Depth_Units/value"),
        (["UPDATE topics SET name = replace(name, 'Queue', 'Qxeue')"], "no option Frames_Qxeue_Size"),
        (["DELETE FROM messages WHERE topic_id IN (SELECT id FROM topics WHERE name LIKE '%Depth_Units%')"], "Depth_Units/value"),
        (
            [
                "UPDATE messages SET data = CAST(replace(data, '0.001000', '0.000000') AS BLOB) "
                "WHERE topic_id = (SELECT id FROM topics WHERE name LIKE '%Depth_Units/value')"
            ],
            "Depth_Units",
        ),
        (["DELETE FROM messages WHERE topic_id IN (SELECT id FROM topics WHERE name LIKE '%/metadata')"], "has no frame number"),
        (
            [
                "DROP INDEX timestamp_idx",
                "DELETE FROM messages WHERE topic_id IN (SELECT id FROM topics WHERE name LIKE '%Depth_0/image/metadata')",
            ],
            "depth image 1 has no frame number and timestamp",
        ),
    ],
)  # fmt: skip
def test_wrong_descriptions_and_numbers_are_refused(
    statements: list[str], words: str, small_recording: Path, tmp_path: Path
) -> None:
    path = _changed(small_recording, tmp_path / "d.db3", _sql(*statements))
    ended = _play_in_process(path)
    assert ended.startswith(f"refused {path} is damaged: ") and words in ended


def test_messages_that_librealsense_does_not_need(small_recording: Path, tmp_path: Path) -> None:
    statements = [
        "DROP INDEX timestamp_idx",
        "DELETE FROM messages WHERE topic_id IN (SELECT id FROM topics WHERE name LIKE '%/description' OR name = '/device_0/info')",
    ]
    assert _play_in_process(_changed(small_recording, tmp_path / "d.db3", _sql(*statements))) == "whole 30"


def test_a_damaged_recording_in_real_time(noise_recording: Path, tmp_path: Path) -> None:
    path = _changed(noise_recording, tmp_path / "d.db3", _garble("Color_0/image/data", 20, b"\x00\x01\x00\x00 png"))
    assert "is damaged" in _play(path, real_time=True)[1]
    assert _play(noise_recording, real_time=True)[1] == ""


def test_images_missing_from_the_middle_are_dropped(noise_recording: Path, tmp_path: Path) -> None:
    def remove(database: sqlite3.Connection) -> None:
        for kind in ("data", "metadata"):
            for stream in ("Depth", "Color"):
                database.execute(
                    "DELETE FROM messages WHERE id IN (SELECT messages.id FROM messages JOIN topics ON topic_id = topics.id "
                    "WHERE name LIKE ? ORDER BY timestamp LIMIT 3 OFFSET 10)",
                    (f"%/{stream}_0/image/{kind}%",),
                )

    played, error, counters = _play(_changed(noise_recording, tmp_path / "gap.db3", remove))
    assert error == ""
    assert (len(played), counters.received, counters.dropped) == (NUM_FRAMES - 3, NUM_FRAMES, 3)


def test_topics_of_other_programs_are_ignored(noise_recording: Path, tmp_path: Path) -> None:
    def add(database: sqlite3.Connection) -> None:
        database.execute(
            "INSERT INTO topics VALUES (99, '/robot/joint_states', 'sensor_msgs/msg/JointState', 'cdr', '')"
        )
        rows = [(99, i * 10_000_000, b"\x00\x01\x00\x00" + bytes(50)) for i in range(60)]
        database.executemany("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", rows)

    played, error, _ = _play(_changed(noise_recording, tmp_path / "robot.db3", add))
    assert (len(played), error) == (NUM_FRAMES, "")


def test_a_recording_with_infrared_plays_completely(tmp_path: Path) -> None:
    rs = load_pyrealsense2()
    camera = SoftwareCamera(width=64, height=48)
    sensor = camera.device.add_sensor("Infrared")
    stream = camera._stream("color", focal_px=600.0)
    stream.type, stream.fmt, stream.bpp, stream.index, stream.uid = rs.stream.infrared, rs.format.y8, 1, 1, 2
    profile = sensor.add_video_stream(stream)
    rng = np.random.default_rng(0)
    with recorder(tmp_path / "infrared.db3", camera):
        for number in range(1, 21):
            camera.send_depth(rng.integers(1, 9000, (48, 64), np.uint16), number=number)
            frame = camera._frame(np.zeros((48, 64), np.uint8), number=number, timestamp_ms=None, bytes_per_pixel=1)
            frame.profile = profile.as_video_stream_profile()
            sensor.on_video_frame(frame)
            camera.send_color(rng.integers(0, 255, (48, 64, 3), np.uint8), number=number)
            time.sleep(0.005)
    played, error, _ = _play(tmp_path / "infrared.db3")
    assert (len(played), error) == (20, "")


@pytest.mark.parametrize("longer", ["color", "depth"])
def test_a_stream_that_is_longer_is_no_damage(longer: str, tmp_path: Path) -> None:
    camera = SoftwareCamera(width=64, height=48)
    rng = np.random.default_rng(0)
    with recorder(tmp_path / "alone.db3", camera):
        for number in range(1, 31):
            if longer == "depth" or number <= 20:
                camera.send_depth(rng.integers(1, 9000, (48, 64), np.uint16), number=number)
            if longer == "color" or number <= 20:
                camera.send_color(rng.integers(0, 255, (48, 64, 3), np.uint8), number=number)
            time.sleep(0.005)
    played, error, counters = _play(tmp_path / "alone.db3")
    assert (len(played), error) == (20, "")
    assert counters.received == counters.delivered + counters.dropped + counters.stale


def test_the_real_recordings_are_intact(gestures_recording: Path, d435_bag: Path) -> None:
    assert [_play(path)[1] for path in (gestures_recording, d435_bag)] == ["", ""]


def test_a_damaged_bag_is_refused(d435_bag: Path, tmp_path: Path) -> None:
    data = bytearray(d435_bag.read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "d.bag").write_bytes(data)
    (tmp_path / "cut.bag").write_bytes(data[: len(data) // 2])
    for name, reason in (("d.bag", ""), ("cut.bag", "it has no index: the recording ended before it was closed")):
        assert f"cannot play {tmp_path / name}: {reason}" in _play(tmp_path / name)[1]


def test_constant_frame_numbers_lose_no_frame(tmp_path: Path) -> None:
    camera = SoftwareCamera(width=64, height=48)
    rng = np.random.default_rng(0)
    with recorder(tmp_path / "zero.db3", camera):
        for number in range(1, 21):
            camera.send_depth(rng.integers(1, 9000, (48, 64), np.uint16), number=0, timestamp_ms=number * 10.0)
            camera.send_color(rng.integers(0, 255, (48, 64, 3), np.uint8), number=0, timestamp_ms=number * 10.0)
            time.sleep(0.01)
    played, error, counters = _play(tmp_path / "zero.db3")
    assert (len(played), error) == (20, "")
    assert (counters.received, counters.dropped, counters.stale) == (20, 0, 0)


_SEEDS = [pytest.param(range(12)), pytest.param(range(12, 200), marks=pytest.mark.slow)]


@pytest.mark.parametrize("seeds", _SEEDS, ids=["12 seeds", "200 seeds"])
def test_any_damage_ends_the_capture_process_with_an_error_and_no_wrong_image(
    seeds: range, noise_recording: Path, noise_pairs: list[Pair], tmp_path: Path
) -> None:
    """Random bytes and cuts, half of them near the start, where the description of the device is."""
    whole = noise_recording.read_bytes()
    path = tmp_path / "damaged.db3"
    for seed in seeds:
        chance = random.Random(seed)
        data = bytearray(whole)
        for _ in range(chance.choice([1, 1, 20])):
            data[int(len(data) * chance.random() ** chance.choice([1, 6]))] = chance.randrange(256)
        path.write_bytes(data[: chance.randrange(len(data))] if seed % 4 == 3 else data)
        played: list[Frame] = []
        error = ""
        started_s = time.monotonic()
        camera = open_capture(str(path))
        try:
            with camera:
                for frame in frames(camera):
                    _assert_true([frame], noise_pairs)
                    played.append(frame)
        except UserError as failure:
            error = str(failure)
        assert time.monotonic() - started_s < 60, (seed, error)
        assert (len(played) == NUM_FRAMES) == (error == ""), (seed, len(played), error)
        assert "\n" not in error and "Traceback" not in error
