"""Parsing `--camera`, and the cameras without a device: folders and the renderer."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from runtime_scenes import draw_pair

from edgefuse.data.dataset import read_pair, write_description
from edgefuse.errors import UserError
from edgefuse.framing import Roi
from edgefuse.synth.rendered_set import LABELS, stream
from edgefuse_runtime.camera import EndOfStream, frames
from edgefuse_runtime.cameras import open_camera


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("realsense", "realsense"),
        ("realsense:123", "realsense"),
        ("a.db3", "recording"),
        ("b/c.BAG", "recording"),
        ("synthetic", "synthetic"),
        ("synthetic:7", "synthetic"),
        (".", "folder"),
    ],
)
def test_a_name_opens_nothing_before_with(spec: str, kind: str) -> None:
    camera = open_camera(spec, align="depth")
    assert (camera.description["kind"], camera.align) == (kind, "depth")


@pytest.mark.parametrize("spec", ["", "webcam", "nothing/here", "synthetic:x", "video.mp4"])
def test_other_names_are_refused(spec: str) -> None:
    with pytest.raises(UserError, match="expected"):
        open_camera(spec)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("0", "realsense or realsense:SERIAL"),
        ("/dev/video0", "realsense or realsense:SERIAL"),
        ("http://camera.local/stream", "they have no depth"),
        ("rtsp://camera.local/stream", "they have no depth"),
        ("mug.png", "a single image or video has no depth"),
    ],
)
def test_names_of_other_programs_get_a_hint(spec: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"--camera {spec}: .*{hint}") as caught:
        open_camera(spec)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_a_recording_has_another_message_than_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="is not a recording or a folder"):
        open_camera(str(tmp_path / "notes.txt"))
    with pytest.raises(UserError, match="does not exist"):
        open_camera(str(tmp_path / "nothing"))


def test_a_folder_returns_its_pairs_with_their_classes(near_far_folder: Path) -> None:
    with open_camera(str(near_far_folder)) as camera:
        seen = list(frames(camera))
        with pytest.raises(EndOfStream):
            camera.read(10)
        assert camera.counters.received == camera.counters.delivered == 8
    assert [frame.label for frame in seen] == ["far"] * 4 + ["near"] * 4
    assert [frame.color_number for frame in seen] == list(range(1, 9))
    assert seen[5].name == "near/take1/frame_1"
    folder = near_far_folder / "near" / "take1"
    rgb, depth = read_pair(folder / "frame_1_rgb.png", folder / "frame_1_depth.png")
    assert np.array_equal(seen[5].rgb, rgb) and np.array_equal(seen[5].depth, depth)
    assert seen[5].depth_unit_m == 0.0005
    assert seen[5].timestamp_domain == "none"


def test_a_folder_of_another_alignment_is_refused(near_far_folder: Path) -> None:
    write_description(near_far_folder, align="depth")
    with (
        pytest.raises(UserError, match="aligned to depth, but the model needs pairs aligned to color"),
        open_camera(str(near_far_folder)),
    ):
        pass


def test_a_bad_pair_of_a_folder_is_named(near_far_folder: Path) -> None:
    bad = near_far_folder / "far" / "take1" / "frame_2_depth.png"
    bad.write_bytes(b"no image")
    with open_camera(str(near_far_folder)) as camera, pytest.raises(UserError, match=r"frame_2_depth\.png"):
        list(frames(camera))


def test_the_renderer_provides_classes_and_regions() -> None:
    with open_camera("synthetic:5") as camera:
        seen = list(frames(camera, num_frames=2))
    with open_camera("synthetic:5") as again:
        same = next(frames(again))
    assert np.array_equal(seen[0].rgb, same.rgb) and np.array_equal(seen[0].depth, same.depth)
    assert not np.array_equal(seen[0].depth, seen[1].depth)
    for frame in seen:
        assert frame.rgb.shape == (480, 640, 3) and frame.depth.shape == (480, 640)
        assert frame.label in LABELS
        assert isinstance(frame.roi, Roi) and frame.roi.w == frame.roi.h > 0


def test_the_renderer_is_fast_and_its_regions_and_labels_move_with_the_image() -> None:
    begun_s = time.process_time()  # other processes do not count
    with open_camera("synthetic:5") as camera:
        seen = list(frames(camera, num_frames=15 * len(LABELS)))
    assert len(seen) / (time.process_time() - begun_s) > 30
    assert [frame.label for frame in seen[::15]] == [frame.label for frame in seen[14::15]]
    assert sorted(str(frame.label) for frame in seen[::15]) == sorted(LABELS)
    scenes = stream(seed=5, num_frames=len(LABELS), frames_per_object=1, height=240, width=320)
    assert [frame.label for frame in scenes] == [frame.label for frame in seen[::15]]
    for before, after in pairwise(seen):
        assert not np.array_equal(before.rgb, after.rgb)
        if before.label == after.label:
            assert before.roi != after.roi
            assert np.array_equal(_region_of(before.rgb, before.roi), _region_of(after.rgb, after.roi))
            assert np.array_equal(_region_of(before.depth, before.roi), _region_of(after.depth, after.roi))


def _region_of(image: np.ndarray, roi: Roi | None) -> np.ndarray:
    assert roi is not None
    return image[roi.y : roi.y + roi.h, roi.x : roi.x + roi.w]


def test_draw_pair_is_what_the_toy_bundle_needs() -> None:
    near, far = draw_pair("near"), draw_pair("far")
    assert near[0][..., 0].mean() > far[0][..., 0].mean() and near[1].mean() < far[1].mean()
