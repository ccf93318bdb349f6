"""Descriptions of recordings: streams and frames of intact ones, and a message for every damaged one."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest
from runtime_scenes import draw_pair

from bare_python import bare_edgefuse
from edgefuse_runtime.cameras.db3_file import DamagedError
from edgefuse_runtime.cameras.recording_info import StreamInfo, describe_recording
from edgefuse_runtime.recording.write_db3 import write_recording


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "a.db3"
    write_recording(path, [draw_pair("far")] * 6, fps=15, depth_unit_m=0.0001)
    return path


def test_a_written_recording(recording: Path) -> None:
    found = describe_recording(recording)
    depth = StreamInfo(name="Depth_0", frames=6, size="64x48", format="Z16", rate=15)
    assert found.streams == (StreamInfo(name="Color_0", frames=6, size="64x48", format="RGB8", rate=15), depth)
    assert found.depth_unit_m == pytest.approx(0.0001) and found.device["Name"] == "edgefuse software camera"
    with sqlite3.connect(recording) as database:
        (last_ns,) = database.execute("SELECT max(timestamp) FROM messages").fetchone()
    assert 0 < found.duration_s <= last_ns / 1e9


def test_a_real_bag(d435_bag: Path) -> None:
    found = describe_recording(d435_bag)
    assert [(one.name, one.frames, one.size, one.format, one.rate) for one in found.streams] == [
        ("Color_0", 1, "640x480", "RGB8", 6),
        ("Depth_0", 2, "640x480", "Z16", 6),
    ]
    assert found.device["Name"] == "Intel RealSense D435" and found.duration_s == pytest.approx(0.168, abs=0.001)


def test_a_bag_without_the_sdk_has_its_frames(d435_bag: Path, tmp_path: Path) -> None:
    done = bare_edgefuse(tmp_path, "info", d435_bag)
    assert done.returncode == 0, done.stderr
    assert "Color_0: 1 frame," in done.stdout and "Depth_0: 2 frames" in done.stdout


def test_a_bag_that_was_cut_off_has_no_index(d435_bag: Path, tmp_path: Path) -> None:
    data = d435_bag.read_bytes()
    cut = tmp_path / "cut.bag"
    for size, text in ((len(data) // 2, "no index"), (len(data) - 100, "index is cut off"), (5, "no .bag file")):
        cut.write_bytes(data[:size])
        with pytest.raises(DamagedError, match=text):
            describe_recording(cut)
    unclosed = data.replace(b"index_pos=" + data[data.index(b"index_pos=") + 10 :][:8], b"index_pos=" + bytes(8), 1)
    cut.write_bytes(unclosed)
    with pytest.raises(DamagedError, match="ended before it was closed"):
        describe_recording(cut)


def test_random_damage_ends_in_a_description_or_a_message(recording: Path, d435_bag: Path, tmp_path: Path) -> None:
    """The SDK, which reads .bag files in a child process, is left out: a seed would take a second."""
    from edgefuse_runtime.cameras import recording_info

    outcomes = {".db3": [0, 0], ".bag": [0, 0]}
    for seed in range(200):
        rng = random.Random(seed)
        for source in (recording, d435_bag):
            data = bytearray(source.read_bytes())
            if seed % 4 == 0:
                del data[rng.randrange(len(data)) :]
            # Near the ends there are headers and the index.
            for _ in range(rng.randrange(1, 200)):
                at = rng.choice((rng.randrange(4096), rng.randrange(len(data) + 1), len(data) - rng.randrange(8000)))
                if 0 <= at < len(data):
                    data[at] = rng.randrange(256)
            path = tmp_path / f"damaged{source.suffix}"
            path.write_bytes(data)
            read = recording_info._describe_db3 if source is recording else recording_info._counted_in_bag
            try:
                with recording_info._damage_reported():
                    read(path)
                outcomes[source.suffix][0] += 1
            except DamagedError:
                outcomes[source.suffix][1] += 1
    assert all(min(both) >= 5 for both in outcomes.values()), outcomes
