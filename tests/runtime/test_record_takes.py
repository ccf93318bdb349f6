"""Recording takes into the folder layout: nothing is overwritten, nothing is lost, and the crop is live's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_scenes import Pair, draw_pair, labels_of

from edgefuse import framing
from edgefuse.data.folder import DATASET_NAME, load, read_pair, scan, write_description
from edgefuse.errors import UserError
from edgefuse.framing import Roi
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.frames import Camera, Frame
from edgefuse_runtime.record import record
from edgefuse_runtime.recording import write_recording
from edgefuse_runtime.regions import Fixed, parse_region


def _record(source: Path, root: Path, *, align: Any = "color", label: str = "cup", **options: Any) -> Path:
    with open_camera(str(source), align=align) as camera:
        return record(camera=camera, root=root, label=label, **options)


def _pairs(take: Path) -> list[Pair]:
    return [
        read_pair(path, path.with_name(path.name.replace("_rgb", "_depth"))) for path in sorted(take.glob("*_rgb.png"))
    ]


def test_a_take_holds_the_cameras_frames(small_recording: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    take = _record(small_recording, tmp_path / "set", instance="first", on_progress=seen.append)
    assert take == tmp_path / "set" / "cup" / "first"
    assert seen == list(range(1, 31))
    for index, (rgb, depth) in enumerate(_pairs(take)):
        drawn = draw_pair(labels_of(30)[index], brightness=index)
        assert np.array_equal(rgb, drawn[0]) and np.array_equal(depth, drawn[1])
    description = json.loads((tmp_path / "set" / DATASET_NAME).read_text())
    assert (description["depth_unit_m"], description["align"]) == (0.001, "color")
    assert description["camera"]["name"] == "edgefuse software camera"


def test_takes_and_classes_add_up_to_a_data_set(small_recording: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    _record(small_recording, root, num_frames=3)
    _record(small_recording, root, num_frames=2)
    _record(small_recording, root, label="box", num_frames=4, every=5)
    dataset = scan([root])
    load(dataset)
    assert dataset.labels == ("box", "cup")
    assert len({sample.instance for sample in dataset.samples}) >= 2
    assert [sample.label for sample in dataset.samples].count(1) == 5
    boxes = _pairs(dataset.samples[0].rgb_path.parent)
    drawn = [draw_pair(labels_of(30)[index], brightness=index)[0] for index in (0, 5, 10, 15)]
    assert all(np.array_equal(rgb, expected) for (rgb, _), expected in zip(boxes, drawn, strict=True))


@pytest.mark.parametrize("roi", [Roi(100, 50, 200, 120), Roi(500, 400, 260, 90), Roi(-40, -30, 200, 200)])
def test_a_stored_crop_gives_the_model_what_live_gives_it(
    roi: Roi, noise_recording: Path, noise_pairs: list[Pair], tmp_path: Path
) -> None:
    """At the camera's resolution, in each place of a picture and over its edges."""
    take = _record(noise_recording, tmp_path / "set", region=Fixed(roi=roi), num_frames=2)
    for stored, (rgb, depth) in zip(_pairs(take), noise_pairs, strict=False):
        side = max(roi.w, roi.h)
        assert stored[1].shape == (side, side)
        trained, live = framing.fit(*stored, size=96), framing.fit(rgb, depth, size=96, roi=roi)
        assert np.array_equal(trained.rgb, live.rgb) and np.array_equal(trained.depth, live.depth)


def test_frames_without_a_region_are_left_out(small_recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "regions.json"
    path.write_text(json.dumps({"frames": [{"frame": n, "roi_xywh": [0, 0, 8, 8]} for n in (1, 4, 9)]}))
    take = _record(small_recording, tmp_path / "set", region=parse_region(str(path)))
    assert len(_pairs(take)) == 3


def test_an_existing_take_is_refused_and_kept(small_recording: Path, tmp_path: Path) -> None:
    take = _record(small_recording, tmp_path / "set", instance="a", num_frames=5)
    with pytest.raises(UserError, match="exists already"):
        _record(small_recording, tmp_path / "set", instance="a", num_frames=2)
    assert len(_pairs(take)) == 5
    _record(small_recording, tmp_path / "set", instance="a", num_frames=2, force=True)
    assert len(_pairs(take)) == 2
    assert [path.name for path in take.parent.iterdir()] == ["a"]


def test_another_unit_or_alignment_is_refused_before_anything_is_written(small_recording: Path, tmp_path: Path) -> None:
    fine = write_recording(tmp_path / "fine.db3", [draw_pair("near")] * 2, depth_unit_m=0.0001, fps=60)
    root = tmp_path / "set"
    _record(small_recording, root, instance="a", num_frames=1)
    before = sorted(root.rglob("*"))
    with pytest.raises(UserError, match=r"units of 0.001 m aligned to color, this camera gives 0.0001 m"):
        _record(fine, root, instance="b")
    with pytest.raises(UserError, match="with --align color"):
        _record(small_recording, root, align="depth", instance="b")
    assert sorted(root.rglob("*")) == before


def test_a_folder_without_a_description_has_the_default_one(small_recording: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    _record(small_recording, root, instance="a", num_frames=1)
    (root / DATASET_NAME).unlink()
    _record(small_recording, root, instance="b", num_frames=1)
    write_description(root, depth_unit_m=0.01)
    with pytest.raises(UserError, match=r"units of 0.01 m"):
        _record(small_recording, root, instance="c", num_frames=1)


@pytest.mark.parametrize(
    "options",
    [{"label": "a/b"}, {"label": ""}, {"label": ".hidden"}, {"instance": "../x"}, {"every": 0}, {"num_frames": 0}],
)
def test_bad_names_and_numbers_are_refused(options: dict[str, Any], small_recording: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected"):
        _record(small_recording, tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()


class Failing:
    """A camera that fails after its second frame."""

    def __init__(self, inner: Camera, error: BaseException) -> None:
        self._inner = inner
        self._error = error
        self.align, self.description, self.counters = inner.align, inner.description, inner.counters

    def read(self, timeout_ms: int) -> Frame | None:
        if self._inner.counters.delivered == 2:
            raise self._error
        return self._inner.read(timeout_ms)


@pytest.mark.parametrize("replaces", [False, True])
def test_a_failing_camera_keeps_new_pairs_and_never_costs_an_old_take(
    replaces: bool, small_recording: Path, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    if replaces:
        _record(small_recording, root, instance="a", num_frames=6)
    with open_camera(str(small_recording)) as camera, pytest.raises(UserError, match="unplugged"):
        record(camera=Failing(camera, UserError("unplugged")), root=root, label="cup", instance="a", force=replaces)
    assert len(_pairs(root / "cup" / "a")) == (6 if replaces else 2)


def test_pairs_are_kept_on_ctrl_c(small_recording: Path, tmp_path: Path) -> None:
    with open_camera(str(small_recording)) as camera:
        take = record(camera=Failing(camera, KeyboardInterrupt()), root=tmp_path / "set", label="cup")
    assert len(_pairs(take)) == 2


def test_an_old_take_stays_when_nothing_comes(small_recording: Path, tmp_path: Path) -> None:
    take = _record(small_recording, tmp_path / "set", instance="a", num_frames=6, region=parse_region("0,0,9,9"))
    with pytest.raises(UserError, match="nothing was recorded"):
        _record(small_recording, tmp_path / "set", instance="a", region=lambda frame: None, force=True)
    assert len(_pairs(take)) == 6


def test_a_region_outside_the_picture_is_refused(small_recording: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no part of the 64x48 picture"):
        _record(small_recording, tmp_path / "set", region=Fixed(roi=Roi(100, 0, 10, 10)))
