"""The ring: no torn frame, the newest wins, frames that are held never change, nothing is left behind."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgefuse.errors import UserError
from edgefuse.framing import Roi
from edgefuse_runtime.camera import Counters, Frame
from edgefuse_runtime.capture.link import Files
from edgefuse_runtime.capture.ring import MAX_HELD, MAX_PIXELS, NUM_SLOTS, Reader, RingFiles, Writer
from leaks import nothing_left_behind


@pytest.fixture
def ring() -> Iterator[tuple[Writer, Reader]]:
    files = RingFiles.create()
    writer, reader = Writer(files), Reader(files)
    yield writer, reader
    reader.close()
    for file in files:
        os.close(file)


def _frame(number: int, *, height: int = 48, width: int = 64, **values: object) -> Frame:
    return Frame(
        **{
            "rgb": np.full((height, width, 3), number % 251, np.uint8),
            "depth": np.full((height, width), number, np.uint16),
            "depth_unit_m": 0.00025,
            "align": "depth",
            "color_number": 2**40 + number,
            "depth_number": number,
            "timestamp_ms": 1.7e12 + number,
            "timestamp_domain": "global",
            "arrival_ns": 10**15 + number,
            "ready_ns": 10**15 + number + 1,
            "name": f"frame {number} ü",
            **values,
        }  # type: ignore[arg-type]
    )


def test_a_frame_arrives_as_it_was_sent(ring: tuple[Writer, Reader]) -> None:
    writer, reader = ring
    rng = np.random.default_rng(3)
    rgb, depth = rng.integers(0, 256, (31, 17, 3), np.uint8), rng.integers(0, 65536, (31, 17), np.uint16)
    for values in ({}, {"label": "mug", "roi": Roi(-3, 4, 5, 6), "skew_ms": 12.5, "missing": ("depth",)}):
        sent = _frame(7, rgb=rgb, depth=depth, **values)
        writer.publish(sent, Counters(received=9, delivered=5, dropped=3, stale=1, skewed=2))
        taken = reader.take()
        assert taken is not None
        frame, counters = taken
        assert counters == Counters(received=9, delivered=5, dropped=3, stale=1, skewed=2)
        assert np.array_equal(frame.rgb, rgb) and np.array_equal(frame.depth, depth)
        for name in set(vars(sent)) - {"rgb", "depth"}:
            assert getattr(frame, name) == getattr(sent, name), name


def test_the_newest_frame_wins(ring: tuple[Writer, Reader]) -> None:
    writer, reader = ring
    assert reader.take() is None
    for number in range(3 * NUM_SLOTS):
        writer.publish(_frame(number), Counters(received=number))
    taken = reader.take()
    assert taken is not None and taken[0].depth_number == 3 * NUM_SLOTS - 1
    assert reader.take() is None


def test_frames_that_are_held_never_change_and_others_are_copied(ring: tuple[Writer, Reader]) -> None:
    writer, reader = ring
    held: list[Frame] = []
    for number in range(4 * NUM_SLOTS):
        writer.publish(_frame(number, height=20 + number), Counters())
        taken = reader.take()
        assert taken is not None
        held.append(taken[0])
    assert [frame.rgb.flags.owndata for frame in held] == [False] * MAX_HELD + [True] * (4 * NUM_SLOTS - MAX_HELD)
    for number, frame in enumerate(held):
        assert frame.rgb.shape == (20 + number, 64, 3)
        assert (frame.depth == number).all() and (frame.rgb == number).all()
    part = held[0].rgb[2:4]  # a part of an image also holds its slot
    del held, frame
    for number in range(NUM_SLOTS):
        writer.publish(_frame(100 + number), Counters())
        assert reader.take() is not None
    assert (part == 0).all()


def test_images_in_the_ring_are_not_copied(ring: tuple[Writer, Reader]) -> None:
    writer, reader = ring
    rgb, depth = writer.allocate((48, 64, 3), np.uint8), writer.allocate((48, 64), np.uint16)
    writer.publish(_frame(0, rgb=rgb, depth=depth), Counters())
    taken = reader.take()
    assert taken is not None
    rgb[:], depth[:] = 99, 999  # another mapping of the same memory
    assert (taken[0].rgb == 99).all() and (taken[0].depth == 999).all()


def test_no_frame_is_torn(ring: tuple[Writer, Reader]) -> None:
    """A writer at full speed, and a reader that keeps some of the frames."""
    writer, reader = ring
    done = threading.Event()

    def write() -> None:
        for number in range(3000):
            writer.publish(_frame(number, height=16 + number % 50), Counters(received=number + 1))
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    kept: list[Frame] = []
    numbers = []
    while not done.is_set() or not numbers or numbers[-1] < 2999:
        taken = reader.take()
        if taken is not None:
            frame, counters = taken
            number = frame.depth_number
            assert counters.received == number + 1
            numbers.append(number)
            kept = [*kept, frame][-5:]
            for one in kept:
                assert (one.depth == one.depth_number).all() and (one.rgb == one.depth_number % 251).all()
    thread.join()
    assert numbers == sorted(set(numbers)) and len(numbers) > 10


def test_an_image_that_is_too_large_is_refused(ring: tuple[Writer, Reader]) -> None:
    with pytest.raises(UserError, match="at most 8294400 pixels were expected"):
        ring[0].allocate((MAX_PIXELS, 2, 3), np.uint8)


def test_a_writer_that_waits_sends_one_frame_for_each_request(ring: tuple[Writer, Reader]) -> None:
    writer, reader = ring
    assert not writer.wait_for_request(0.01)
    reader.request()
    reader.request()
    assert [writer.wait_for_request(0.01) for _ in range(3)] == [True, True, False]


def test_a_limit_on_the_size_of_files_is_named() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(UserError, match="cannot be created .*ulimit -f unlimited"):
            RingFiles.create()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


_SEND = """
import gc, resource
from pathlib import Path
import numpy as np
from test_capture_ring import Counters, Reader, RingFiles, Writer, _frame

files = RingFiles.create()
writer, reader = Writer(files), Reader(files)

def send(num_frames):
    for number in range(num_frames):
        rgb, depth = writer.allocate((48, 64, 3), np.uint8), writer.allocate((48, 64), np.uint16)
        writer.publish(_frame(number % 1000, rgb=rgb, depth=depth), Counters())
        assert reader.take() is not None
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

before = send(500)
print(send(20_000) - before)
"""


def test_memory_is_flat_over_20000_frames() -> None:
    """In a process of its own: what other tests have left would be counted, or freed meanwhile."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", _SEND], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1 << 20


def test_files_and_memory_are_released() -> None:
    with nothing_left_behind():
        files = Files.create()
        reader, writer = Reader(files.ring), Writer(files.ring)
        writer.publish(_frame(1), Counters())
        taken = reader.take()
        reader.close()
        files.close()
        assert "edgefuse-capture" in Path("/proc/self/maps").read_text()
        assert taken is not None and (taken[0].depth == 1).all()
        del reader, writer, taken
