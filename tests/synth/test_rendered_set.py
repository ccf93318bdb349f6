"""The built-in data set is repeatable, and neither sensor alone distinguishes its classes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefuse.contract import codes_from_bytes
from edgefuse.data.dataset import load, scan
from edgefuse.errors import UserError
from edgefuse.framing import Roi, fit
from edgefuse.synth.rendered_set import LABELS, STREAM_FIRST_SEQUENCE, SynthFrame, render_frame, stream, write_dataset
from edgefuse.synth.scenes import PHOTO_SUFFIX, degradation_of, object_of, view_of

FRAMES_PER_LABEL = 14


@pytest.fixture(scope="module")
def frames() -> list[SynthFrame]:
    """One frame of several objects of every class."""
    return [render_frame(seed=5, label=label, sequence=i, frame=0) for label in LABELS for i in range(FRAMES_PER_LABEL)]


def usable_depth(frame: SynthFrame) -> bool:
    return bool((frame.depth > 0).mean() > 0.5)


def well_lit(frame: SynthFrame) -> bool:
    return frame.degradation.exposure > 0.3


def bytes_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def plane_residual_mm(frame: SynthFrame) -> float:
    """Median distance of the measurements to the best inverse-depth plane (a plane in space is linear in 1/z)."""
    y, x = np.nonzero(frame.depth)
    inverse = 1000 / frame.depth[y, x].astype(float)
    design = np.stack([x, y, np.ones_like(x)], axis=1)
    solution = np.linalg.lstsq(design, inverse, rcond=None)[0]
    return float(np.median(np.abs(1000 / (design @ solution) - frame.depth[y, x])))


def neighbour_accuracy(features: np.ndarray, answers: np.ndarray) -> float:
    """Fraction of samples whose nearest other sample has the same label."""
    distance = np.linalg.norm(features[:, None] - features[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return float(np.mean(answers[distance.argmin(axis=1)] == answers))


def test_a_frame_is_a_pure_function_of_its_arguments() -> None:
    first = render_frame(seed=3, label="red_mug_photo", sequence=2, frame=1)
    render_frame(seed=9, label="bottle", sequence=0, frame=0)
    again = render_frame(seed=3, label="red_mug_photo", sequence=2, frame=1)
    np.testing.assert_array_equal(first.rgb, again.rgb)
    np.testing.assert_array_equal(first.depth, again.depth)
    assert first.degradation == again.degradation
    assert first.rgb.shape == (128, 128, 3)
    assert first.depth.shape == (128, 128)
    assert (first.rgb.dtype, first.depth.dtype) == (np.uint8, np.uint16)


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"label": "blue_mug"}, {"sequence": 3}, {"frame": 2}], ids=lambda change: next(iter(change))
)
def test_every_argument_changes_the_frame(change: dict[str, object]) -> None:
    base = {"seed": 3, "label": "red_mug", "sequence": 2, "frame": 1, "size": 32}
    one, other = render_frame(**base), render_frame(**{**base, **change})
    assert one.degradation != other.degradation
    assert one.distance_m != other.distance_m


def test_sequences_of_one_number_share_nothing_between_labels() -> None:
    red, blue = (
        object_of(np.random.default_rng([1, LABELS.index(label)]), label=label) for label in ("red_mug", "blue_mug")
    )
    assert red.solid.outline().max() != blue.solid.outline().max()


def test_photographs_are_flat_and_objects_are_not(frames: list[SynthFrame]) -> None:
    measured = [frame for frame in frames if usable_depth(frame)]
    flat = [plane_residual_mm(frame) for frame in measured if frame.label.endswith(PHOTO_SUFFIX)]
    solid = [plane_residual_mm(frame) for frame in measured if not frame.label.endswith(PHOTO_SUFFIX)]
    assert min(len(flat), len(solid)) > 20
    assert max(flat) < 7
    assert min(solid) > max(flat)


def test_colour_does_not_distinguish_a_photograph_from_the_object(frames: list[SynthFrame]) -> None:
    lit = [frame for frame in frames if well_lit(frame)]
    small = np.array([fit(f.rgb, f.depth, size=16).rgb.ravel().astype(float) for f in lit])
    is_photo = np.array([frame.label.endswith(PHOTO_SUFFIX) for frame in lit])
    assert 0.3 < neighbour_accuracy(small, is_photo) < 0.7
    brightness = np.array([frame.rgb.mean() for frame in lit])
    assert abs(brightness[is_photo].mean() - brightness[~is_photo].mean()) < 0.75 * brightness.std()


def test_colour_distinguishes_the_objects_shown(frames: list[SynthFrame]) -> None:
    lit = [frame for frame in frames if well_lit(frame)]
    middle = np.array([frame.rgb[54:90, 54:74].reshape(-1, 3).mean(axis=0) for frame in lit])
    strongest = np.where(
        middle.max(axis=1) == middle[:, 0], "red", np.where(middle[:, 2] > middle[:, 1], "blue", "bot")
    )
    right = [frame.label.startswith(word) for frame, word in zip(lit, strongest, strict=True)]
    assert np.mean(right) > 0.85


def test_depth_reveals_neither_the_colour_nor_the_content_of_a_photograph() -> None:
    """Cues in depth (size, slant and distance of the region) have the same distribution in all classes to confuse."""
    for group in (("red_mug", "blue_mug"), tuple(label for label in LABELS if label.endswith(PHOTO_SUFFIX))):
        known = {label: [] for label in group}
        for label in group:
            for i in range(150):
                rng = np.random.default_rng([LABELS.index(label), i])
                view = view_of(rng, object_of(rng, label=label), height=480, width=640)
                known[label].append([view.roi.w, view.distance_m, view.roi.w * view.distance_m])
        means = np.array([np.mean(values, axis=0) for values in known.values()])
        error = np.mean([np.std(values, axis=0) for values in known.values()], axis=0) / np.sqrt(150)
        assert (np.ptp(means, axis=0) < 5 * error).all()


def test_informativeness_varies_from_frame_to_frame() -> None:
    drawn = [degradation_of(np.random.default_rng(i)) for i in range(600)]
    exposure = np.array([degradation.exposure for degradation in drawn])
    assert 0.4 < np.mean(exposure > 0.3) < 0.9
    assert 0.05 < np.mean(exposure < 0.02) < 0.3
    assert 0.02 < np.mean([degradation.depth_missing for degradation in drawn]) < 0.15
    assert 0.1 < np.mean([degradation.blob_fraction > 0.05 for degradation in drawn]) < 0.6


def test_dark_and_missing_frames_match_their_degradation(frames: list[SynthFrame]) -> None:
    for frame in frames:
        assert (frame.depth.max() == 0) == frame.degradation.depth_missing
        if frame.degradation.exposure < 0.005:
            assert frame.rgb.mean() < 15
        if usable_depth(frame):
            assert frame.depth[frame.depth > 0].min() >= 200
            assert abs(np.median(frame.depth[frame.depth > 0]) / 1000 - frame.distance_m) < 0.7


def test_a_data_set_is_the_same_from_one_worker_and_from_two(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    one = write_dataset(
        tmp_path / "one",
        num_pairs=13,
        frames_per_sequence=2,
        size=32,
        seed=8,
        num_workers=1,
        progress=lambda done, total, *, stage: calls.append((done, total)),
    )
    two = write_dataset(tmp_path / "two", num_pairs=13, frames_per_sequence=2, size=32, seed=8, num_workers=2)
    other = write_dataset(tmp_path / "other", num_pairs=13, frames_per_sequence=2, size=32, seed=9, num_workers=1)
    assert bytes_below(one) == bytes_below(two)
    assert bytes_below(one).keys() == bytes_below(other).keys()
    colour, other_colour = (
        {data for name, data in bytes_below(root).items() if name.endswith("_rgb.png")} for root in (one, other)
    )
    assert not colour & other_colour
    assert calls[-1] == (13, 13)
    assert calls == sorted(set(calls))
    description = json.loads((one / "dataset.json").read_text())
    assert description["seed"] == 8
    assert description["created_by"] == "edgefuse data synth"

    rgbd = load(scan([one]))
    assert rgbd.dataset.labels == LABELS
    counts = np.bincount([sample.label for sample in rgbd.dataset.samples])
    assert counts.sum() == 13
    assert np.ptp(counts) <= 1
    sequences = {(sample.label, sample.sequence) for sample in rgbd.dataset.samples}
    assert len({sequence for _, sequence in sequences}) == len(sequences)
    assert {rgb.shape for rgb in rgbd.rgb} == {(32, 32, 3)}
    sample = rgbd.dataset.samples[3]
    rendered = render_frame(
        seed=8,
        label=LABELS[sample.label],
        sequence=int(sample.sequence.rsplit("_", 1)[1]),
        frame=int(sample.name),
        size=32,
    )
    np.testing.assert_array_equal(rgbd.rgb[3], rendered.rgb)
    np.testing.assert_array_equal(rgbd.depth[3], rendered.depth)


def test_an_interrupted_data_set_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int | None, /, *, stage: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "set", num_pairs=6, size=32, num_workers=1, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_streams_regions_match_the_data_sets_frames() -> None:
    """A complete frame, cropped to its region, equals the region rendered alone, except for the sensors' noise."""
    shown = list(stream(seed=5, num_frames=7, frames_per_object=1))
    assert {frame.label for frame in shown[:6]} == set(LABELS)
    assert all(frame.sequence >= STREAM_FIRST_SEQUENCE for frame in shown)
    assert shown[6].label == shown[0].label
    assert shown[6].sequence != shown[0].sequence
    for frame in shown:
        assert frame.rgb.shape == (480, 640, 3)
        assert frame.depth.shape == (480, 640)
        x, y, w, h = frame.roi_xywh
        assert w == h
        assert 0 <= x <= x + w <= 640
        assert 0 <= y <= y + h <= 480
        alone = render_frame(seed=5, label=frame.label, sequence=frame.sequence, frame=0)
        assert alone.degradation == frame.degradation
        framed = fit(frame.rgb, frame.depth, size=128, roi=Roi(*frame.roi_xywh))
        noise = 4 if well_lit(frame) else 25
        assert np.mean(np.abs(framed.rgb.astype(float) - alone.rgb)) < noise
        depth = codes_from_bytes(framed.depth)
        both = (depth > 0) & (alone.depth > 0)
        if both.any():
            assert np.median(np.abs(depth.astype(float) - alone.depth)[both]) < 15


def test_a_stream_shows_several_frames_of_one_object_before_the_next() -> None:
    shown = list(stream(seed=2, num_frames=6, frames_per_object=3, height=120, width=160))
    assert [frame.label for frame in shown[:3]] == [shown[0].label] * 3
    assert shown[3].label != shown[0].label
    assert shown[0].distance_m != shown[1].distance_m
    assert shown[0].rgb.shape == (120, 160, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda path: render_frame(seed=0, label="cup", sequence=0, frame=0), "'cup'"),
        (lambda path: render_frame(seed=-1, label="bottle", sequence=0, frame=0), "seed"),
        (lambda path: write_dataset(path, num_pairs=3), "num_pairs is 3"),
        (lambda path: write_dataset(path, num_workers=0), "num_workers is 0"),
        (lambda path: write_dataset(path, seed=-5), "-5"),
        (lambda path: list(stream(seed=0, num_frames=1, frames_per_object=0)), "frames_per_object"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, call, words: str) -> None:
    with pytest.raises(UserError, match=words):
        call(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


SYNTH = (
    "import sys; from edgefuse.app.main import main; sys.argv = ['edgefuse', 'data', 'synth', *sys.argv[1:]]; main()"
)


def session_of(leader: int) -> list[int]:
    """The running processes in the session of `leader`, which may have ended."""
    found = []
    for process in (path.name for path in Path("/proc").iterdir() if path.name.isdigit()):
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()[0]
            if int(process) != leader and os.getsid(int(process)) == leader and state != "Z":
                found.append(int(process))
    return found


def until(holds: Callable[[], object], *, timeout_s: float) -> bool:
    end_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_command_and_the_next_one_cleans_up(number: signal.Signals, tmp_path: Path) -> None:
    arguments = (str(tmp_path / "out"), "--pairs", "2000", "--size", "32", "--workers", "2")
    command = subprocess.Popen(
        [sys.executable, "-c", SYNTH, *arguments], start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        assert until(lambda: list(tmp_path.glob(".out-*/*/*/*.png")), timeout_s=60)
        assert len(session_of(command.pid)) >= 2
        command.send_signal(number)
        command.wait(timeout=30)
        assert until(lambda: not session_of(command.pid), timeout_s=5)
    finally:
        for process in session_of(command.pid):
            os.kill(process, signal.SIGKILL)
    if number == signal.SIGTERM:
        assert list(tmp_path.iterdir()) == []
    write_dataset(tmp_path / "next", num_pairs=8, size=32, num_workers=1)
    assert list(tmp_path.iterdir()) == [tmp_path / "next"]


def test_a_killed_worker_is_reported(tmp_path: Path) -> None:
    def kill(done: int, total: int | None, /, *, stage: str = "") -> None:
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(UserError, match="fewer --workers"):
        write_dataset(tmp_path / "set", num_pairs=200, size=32, num_workers=2, progress=kill)
    assert list(tmp_path.iterdir()) == []
