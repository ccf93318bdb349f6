"""Recording sequences to the folder layout: nothing is overwritten or lost, and crops are the same as in live."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_scenes import Pair, draw_pair, labels_of

from edgefuse import framing
from edgefuse.data.dataset import DATASET_NAME, load, read_pair, scan, write_description
from edgefuse.errors import UserError
from edgefuse.framing import Roi
from edgefuse_runtime.camera import Camera, Frame
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.capture.capture import Capture
from edgefuse_runtime.capture.source import Source
from edgefuse_runtime.recording.record import record
from edgefuse_runtime.recording.write_db3 import write_recording
from edgefuse_runtime.regions.region import Fixed, parse_region
from logs import logged


def _record(source: Path, root: Path, *, align: Any = "color", label: str = "cup", **options: Any) -> Path:
    with open_camera(str(source), align=align) as camera:
        return record(camera=camera, root=root, label=label, **options)


def _pairs(sequence: Path) -> list[Pair]:
    return [
        read_pair(path, path.with_name(path.name.replace("_rgb", "_depth")))
        for path in sorted(sequence.glob("*_rgb.png"))
    ]


def test_a_sequence_has_the_cameras_frames(small_recording: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    sequence = _record(
        small_recording, tmp_path / "set", sequence="first", progress=lambda *count, stage: seen.append(count)
    )
    assert sequence == tmp_path / "set" / "cup" / "first"
    assert seen == sorted(seen) and seen[0] == (1, None) and seen[-1] == (30, None)
    for index, (rgb, depth) in enumerate(_pairs(sequence)):
        drawn = draw_pair(labels_of(30)[index], brightness=index)
        assert np.array_equal(rgb, drawn[0]) and np.array_equal(depth, drawn[1])
    description = json.loads((tmp_path / "set" / DATASET_NAME).read_text())
    assert (description["depth_unit_m"], description["align"]) == (0.001, "color")
    assert description["camera"]["name"] == "edgefuse software camera"


def test_sequences_and_classes_form_a_data_set(small_recording: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    _record(small_recording, root, num_frames=3)
    _record(small_recording, root, num_frames=2)
    _record(small_recording, root, label="box", num_frames=4, every=5)
    dataset = scan([root])
    load(dataset)
    assert dataset.labels == ("box", "cup")
    assert len({sample.sequence for sample in dataset.samples}) >= 2
    assert [sample.label for sample in dataset.samples].count(1) == 5
    boxes = _pairs(dataset.samples[0].rgb_path.parent)
    drawn = [draw_pair(labels_of(30)[index], brightness=index)[0] for index in (0, 5, 10, 15)]
    assert all(np.array_equal(rgb, expected) for (rgb, _), expected in zip(boxes, drawn, strict=True))


@pytest.mark.parametrize("roi", [Roi(100, 50, 200, 120), Roi(500, 400, 260, 90), Roi(-40, -30, 200, 200)])
def test_a_stored_crop_gives_the_same_model_input_as_live(
    roi: Roi, noise_recording: Path, noise_pairs: list[Pair], tmp_path: Path
) -> None:
    """At the camera's resolution, anywhere in the image and beyond its edges."""
    sequence = _record(noise_recording, tmp_path / "set", region=Fixed(roi=roi), num_frames=2)
    for stored, (rgb, depth) in zip(_pairs(sequence), noise_pairs, strict=False):
        side = max(roi.w, roi.h)
        assert stored[1].shape == (side, side)
        trained, live = framing.fit(*stored, size=96), framing.fit(rgb, depth, size=96, roi=roi)
        assert np.array_equal(trained.rgb, live.rgb) and np.array_equal(trained.depth, live.depth)


def test_frames_without_a_region_are_skipped(small_recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "regions.json"
    path.write_text(json.dumps({"frames": [{"frame": n, "roi_xywh": [0, 0, 8, 8]} for n in (1, 4, 9)]}))
    sequence = _record(small_recording, tmp_path / "set", region=parse_region(str(path)))
    assert len(_pairs(sequence)) == 3


def test_an_existing_sequence_is_refused_and_kept(small_recording: Path, tmp_path: Path) -> None:
    sequence = _record(small_recording, tmp_path / "set", sequence="a", num_frames=5)
    with pytest.raises(UserError, match="exists already"):
        _record(small_recording, tmp_path / "set", sequence="a", num_frames=2)
    assert len(_pairs(sequence)) == 5
    _record(small_recording, tmp_path / "set", sequence="a", num_frames=2, force=True)
    assert len(_pairs(sequence)) == 2
    assert [path.name for path in sequence.parent.iterdir()] == ["a"]


def test_another_unit_or_alignment_is_refused_before_anything_is_written(small_recording: Path, tmp_path: Path) -> None:
    fine = write_recording(tmp_path / "fine.db3", [draw_pair("near")] * 2, depth_unit_m=0.0001, fps=60)
    root = tmp_path / "set"
    _record(small_recording, root, sequence="a", num_frames=1)
    before = sorted(root.rglob("*"))
    with pytest.raises(UserError, match=r"units of 0.001 m aligned to color, but this camera has 0.0001 m"):
        _record(fine, root, sequence="b")
    with pytest.raises(UserError, match="with --align color"):
        _record(small_recording, root, align="depth", sequence="b")
    assert sorted(root.rglob("*")) == before


def test_a_folder_without_a_description_has_the_default_one(small_recording: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    _record(small_recording, root, sequence="a", num_frames=1)
    (root / DATASET_NAME).unlink()
    _record(small_recording, root, sequence="b", num_frames=1)
    write_description(root, depth_unit_m=0.01)
    with pytest.raises(UserError, match=r"units of 0.01 m"):
        _record(small_recording, root, sequence="c", num_frames=1)


@pytest.mark.parametrize(
    "options",
    [
        *({"label": name} for name in ("a/b", "", ".hidden", " ", "a\x1b[2J", "caf\udce9", "x" * 201)),
        *({"sequence": name} for name in ("../x", "a\nb", "\udcff")),
        *({"every": 0}, {"num_frames": 0}),
    ],
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
def test_a_failing_camera_keeps_new_pairs_and_never_an_old_sequence_is_lost(
    replaces: bool, small_recording: Path, tmp_path: Path
) -> None:
    root = tmp_path / "set"
    if replaces:
        _record(small_recording, root, sequence="a", num_frames=6)
    with (
        logged() as messages,
        open_camera(str(small_recording)) as camera,
        pytest.raises(UserError, match="unplugged"),
    ):
        unplugged = Failing(camera, UserError("unplugged"))
        record(camera=unplugged, root=root, label="cup", sequence="a", force=replaces)
    assert messages == ([] if replaces else [f"2 pairs are kept in {root / 'cup/a'}"])
    assert len(_pairs(root / "cup" / "a")) == (6 if replaces else 2)


@pytest.mark.parametrize(
    ("error", "num_frames", "messages"),
    [
        (KeyboardInterrupt(), 4, "2 of 4 new pairs were recorded;"),
        (UserError("unplugged"), 4, r"2 of 4 new pairs were recorded \(unplugged\);"),
        (OSError(5, "Input/output error"), None, r"2 new pairs were recorded \(.*Input/output error\);"),
        (None, 31, "30 of 31 new pairs were recorded;"),
    ],
)
def test_a_sequence_is_not_replaced_by_fewer_pairs_than_requested(
    error: BaseException | None, num_frames: int | None, messages: str, small_recording: Path, tmp_path: Path
) -> None:
    sequence = _record(small_recording, tmp_path / "set", sequence="a", num_frames=6)
    with (
        open_camera(str(small_recording)) as camera,
        pytest.raises(UserError, match=f"cup/a was not replaced: {messages} record again"),
    ):
        record(
            camera=camera if error is None else Failing(camera, error),
            root=tmp_path / "set",
            label="cup",
            sequence="a",
            num_frames=num_frames,
            force=True,
        )
    assert len(_pairs(sequence)) == 6


@pytest.mark.parametrize("num_frames", [None, 2])
def test_ctrl_c_after_the_requested_pairs_is_no_error(
    num_frames: int | None, small_recording: Path, tmp_path: Path
) -> None:
    sequence = _record(small_recording, tmp_path / "set", sequence="a", num_frames=6)
    with open_camera(str(small_recording)) as camera:
        record(
            camera=Failing(camera, KeyboardInterrupt()),
            root=tmp_path / "set",
            label="cup",
            sequence="a",
            num_frames=num_frames,
            force=True,
        )
    assert len(_pairs(sequence)) == 2


def test_pairs_are_kept_on_ctrl_c(small_recording: Path, tmp_path: Path) -> None:
    with open_camera(str(small_recording)) as camera:
        sequence = record(camera=Failing(camera, KeyboardInterrupt()), root=tmp_path / "set", label="cup")
    assert len(_pairs(sequence)) == 2


def test_ctrl_c_keeps_the_pairs_while_the_camera_hangs(tmp_path: Path) -> None:
    """In a call that never returns to Python: only a camera in a process of its own can be left."""
    arguments = {"folder": str(tmp_path), "faults": ["hang with GIL"]}
    source = Source(factory="capture_cameras:FaultyCamera", arguments=arguments, is_live=True)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with Capture(source, align="color") as camera:
            signal.setitimer(signal.ITIMER_REAL, 1.5)
            sequence = record(camera=camera, root=tmp_path / "set", label="near")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert 1 <= len(list(sequence.glob("*_depth.png"))) <= 5


def test_an_old_sequence_stays_if_no_frame_arrives(small_recording: Path, tmp_path: Path) -> None:
    sequence = _record(small_recording, tmp_path / "set", sequence="a", num_frames=6, region=parse_region("0,0,9,9"))
    with pytest.raises(UserError, match="nothing was recorded"):
        _record(small_recording, tmp_path / "set", sequence="a", region=lambda frame: None, force=True)
    assert len(_pairs(sequence)) == 6


def test_a_region_outside_the_image_is_refused(small_recording: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not overlap the 64x48 image"):
        _record(small_recording, tmp_path / "set", region=Fixed(roi=Roi(100, 0, 10, 10)))


@pytest.mark.parametrize(
    ("roi", "kept"),
    [(None, "whole"), ("whole", "whole"), ("centre", "center"), (" 4, 5,20,16", "4,5,20,16"), ("r.json", "file")],
)
def test_the_data_set_stores_the_region_of_its_images(
    roi: str | None, kept: str, small_recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.json").write_text(json.dumps({"frames": [{"frame": n, "roi_xywh": [0, 0, 8, 8]} for n in (1, 2)]}))
    _record(small_recording, tmp_path / "set", region=None if roi is None else parse_region(roi), num_frames=2)
    assert scan([tmp_path / "set"]).region == kept
    other = "center" if kept != "center" else "whole"
    if kept == "file":
        _record(small_recording, tmp_path / "set", label="box", region=parse_region(other), num_frames=1)
        other = "whole"
    with pytest.raises(
        UserError, match=f"region {kept}, but the new ones would be of {other}, .*record (with|without) --roi"
    ):
        _record(small_recording, tmp_path / "set", label="jar", region=parse_region(other))
    assert not (tmp_path / "set/jar").exists()


def test_a_set_without_a_region_accepts_any(small_recording: Path, tmp_path: Path) -> None:
    write_description(tmp_path)
    _record(small_recording, tmp_path, sequence="a", region=parse_region("center"), num_frames=1)
    assert scan([tmp_path]).region is None


def test_crops_that_are_recorded_again_keep_their_region(small_recording: Path, tmp_path: Path) -> None:
    _record(small_recording, tmp_path / "set", region=parse_region("center"), num_frames=3)
    _record(tmp_path / "set", tmp_path / "again")
    assert scan([tmp_path / "again"]).region == "center"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_first_pair_that_cannot_be_written_leaves_no_description(
    error: BaseException, is_there: bool, small_recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "set"
    if is_there:
        write_description(root)

    def fail(*_: Any) -> None:
        assert (root / DATASET_NAME).exists()
        raise error

    with monkeypatch.context() as patched, pytest.raises((OSError, UserError)):
        patched.setattr("edgefuse_runtime.recording.sequence_writer.write_pair", fail)
        _record(small_recording, root, region=parse_region("center"))
    assert root.exists() == is_there and (root / DATASET_NAME).exists() == is_there
    _record(small_recording, root, num_frames=1)


def test_a_recording_without_pairs_does_not_restrict_the_next(small_recording: Path, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"frames": [{"frame": 900, "roi_xywh": [0, 0, 8, 8]}]}))
    with pytest.raises(
        UserError, match=r"nothing was recorded: 0 of 30 frames had a region in .*r.json: .*frames are 1 to 30"
    ):
        _record(small_recording, tmp_path / "set", region=parse_region(str(tmp_path / "r.json")))
    assert not (tmp_path / "set").exists()
    _record(small_recording, tmp_path / "set", num_frames=1)


def test_frames_of_another_class_or_without_a_region_are_reported(small_recording: Path, tmp_path: Path) -> None:
    entries = [{"frame": n, "roi_xywh": [0, 0, 8, 8], "label": "cup" if n < 4 else "jar"} for n in range(1, 11)]
    (tmp_path / "r.json").write_text(json.dumps({"frames": entries}))
    with logged() as messages:
        sequence = _record(small_recording, tmp_path / "set", region=parse_region(str(tmp_path / "r.json")))
    assert len(_pairs(sequence)) == 10
    assert messages == [
        f"warning: 10 of 30 frames had a region in {tmp_path / 'r.json'}; the others were skipped",
        "warning: 7 pairs recorded as cup have another class in their source (such as jar)",
    ]


@pytest.mark.parametrize(
    ("existing", "label", "words"),
    [
        ("Mug", "mug", "similar to the class 'Mug'"),
        ("mug", " mug", "similar to the class 'mug'"),
        ("caf\u00e9", "cafe\u0301", "similar to the class"),
        ("mug", "test", "the name of a part of a split"),
        ("mug", "jar", ""),
        ("mug", "mug", ""),
    ],
)
def test_labels_that_are_easily_confused_give_a_warning(
    existing: str, label: str, words: str, small_recording: Path, tmp_path: Path
) -> None:
    _record(small_recording, tmp_path, label=existing, sequence="a", num_frames=1)
    with logged() as messages:
        _record(small_recording, tmp_path, label=label, sequence="b", num_frames=1)
    assert len(messages) == bool(words) and all(words in text for text in messages)
    scan([tmp_path])


def test_a_label_that_makes_the_folder_a_split_is_refused(small_recording: Path, tmp_path: Path) -> None:
    _record(small_recording, tmp_path, label="test", num_frames=1)
    with pytest.raises(UserError, match="'train' is the name of a part of a split"):
        _record(small_recording, tmp_path, label="train")
    assert scan([tmp_path]).labels == ("test",)
