"""The folder of a collection: foreign folders, class names, full disks and what a killed process left."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from collect_scenes import CLOSE, Run, a_frame, a_result, kept_in, opened

from edgefuse.bundle import Bundle
from edgefuse.data.dataset import scan, write_description
from edgefuse.errors import UserError
from edgefuse.framing import Roi
from edgefuse_runtime.collect.sink import CollectSink
from edgefuse_runtime.results import SinkCounts
from edgefuse_runtime.sinks.bus import SinkBus


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "collected"


def test_a_folder_that_is_not_its_own_is_refused(
    bundle: Bundle, near_far_folder: Path, tmp_path: Path, root: Path
) -> None:
    with pytest.raises(UserError, match="not collected"), opened(near_far_folder, bundle):
        pass
    cats = tmp_path / "cats"
    cats.mkdir()
    write_description(cats, collection={"labels": ["cat", "dog"]})
    with (
        pytest.raises(UserError, match="a collection of cat, dog, which this model does not have"),
        opened(cats, bundle),
    ):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"), opened(tmp_path / "file", bundle):
        pass
    with opened(root, bundle), pytest.raises(UserError, match="another live collects"), opened(root, bundle):
        pass
    with opened(root, bundle):  # nothing was kept
        pass
    assert not root.exists() or not any(root.iterdir())


def test_a_folder_that_cannot_be_written_is_refused(bundle: Bundle, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(UserError, match="Read-only file system"), opened(small_disk / "x", bundle):
        pass


def test_pairs_of_another_camera_or_region_are_not_mixed(bundle: Bundle, root: Path) -> None:
    with opened(root, bundle) as sink:
        Run(sink).show(top=CLOSE)
    with opened(root, bundle, region="whole") as sink, pytest.raises(UserError, match="region nearest.*region whole"):
        Run(sink).show(top=CLOSE, seconds=9)
    with opened(root, bundle, region="nearest:3") as sink:
        Run(sink).show(top=CLOSE, seconds=9)
    assert len(kept_in(root)) == 2


@pytest.mark.parametrize(
    "label", ["../up", "a/b", "..", ".hidden", "_review", "unknown", "", " ", "a\\b", "x" * 300, "a\x1b[2J", "\udce9"]
)
def test_a_class_that_is_no_folder_name_is_refused(bundle: Bundle, root: Path, tmp_path: Path, label: str) -> None:
    with opened(root, bundle) as sink:
        index = Run(sink).show()
        with pytest.raises(UserError):
            sink.mark_wrong(index, label)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_class_with_any_other_name_is_kept(bundle: Bundle, root: Path) -> None:
    with opened(root, bundle) as sink:
        run = Run(sink)
        for label in ("<img src=x onerror=alert(1)>", "чашка", "$(rm -r x)"):
            sink.mark_wrong(run.show(), label)
    assert scan([root]).labels == ("$(rm -r x)", "<img src=x onerror=alert(1)>", "чашка")


def test_whole_images_are_only_removed_inside_the_collection(bundle: Bundle, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside_rgb.png"
    outside.write_bytes(b"x")
    with opened(root, bundle, max_mb=1, per_hour=1000) as sink:
        run = Run(sink)
        run.show(top=CLOSE)
        (path,) = root.glob("_review/*/*/*.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"whole": "../outside"}))
        for _ in range(9):
            run.show(top=CLOSE, seconds=3, noise=200)
    assert outside.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounts a file system, which needs root")
    disk = tmp_path / "small"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def _collect(sink: CollectSink, *, num_frames: int, noise: int) -> SinkCounts:
    with SinkBus([sink], wait_s=20.0) as bus:
        bus.event("started", "the run started")
        for index in range(num_frames):
            result = a_result(index, at_s=3.0 * index, top=CLOSE, roi=Roi(0, 0, noise, noise - 1))
            bus.publish(result, a_frame(index, noise=noise))
        bus.drain(hurry=False)
    return bus.counts()[0]


def test_a_full_disk_leaves_complete_pairs_and_is_reported(bundle: Bundle, small_disk: Path) -> None:
    root = small_disk / "data"
    (small_disk / "others").write_bytes(b"x" * 300_000)
    sink = CollectSink(root, bundle, min_free_mb=-10, per_hour=100)  # as if others filled the disk while it writes
    counts = _collect(sink, num_frames=12, noise=200)
    assert counts.errors >= 1 and "No space left" in counts.error and counts.dropped >= 1
    dataset = scan([root / "_review"], may_be_unchecked=True)  # raises for an incomplete pair
    assert 1 <= len(dataset.samples) == len(kept_in(root)) < 12
    assert len(list((root / ".frames").glob("*/*_depth.png"))) == len(dataset.samples)


def test_the_reserve_of_the_disk_is_kept_and_collecting_goes_on_when_there_is_space(bundle: Bundle, root: Path) -> None:
    sink = CollectSink(root, bundle, min_free_mb=10**9)
    with SinkBus([sink], wait_s=20.0) as bus:
        bus.publish(a_result(0, at_s=0, top=CLOSE), a_frame(0))
        deadline_s = time.monotonic() + 20
        while not bus.counts()[0].errors:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert kept_in(root) == []
        sink._folder._min_free_bytes = 0
        while not kept_in(root):
            assert time.monotonic() < deadline_s
            bus.publish(a_result(9, at_s=9, top=CLOSE), a_frame(9))
            time.sleep(0.05)
        bus.drain(hurry=False)
    assert "less than 1000000000 MB" in bus.counts()[0].error and bus.counts()[0].state == "open"


def test_what_a_killed_process_left_is_repaired(bundle: Bundle, root: Path) -> None:
    with opened(root, bundle) as sink:
        run = Run(sink)
        run.show(top=CLOSE)
        run.show(top=CLOSE, seconds=3)
    first, second = (root / one["path"].removesuffix(".json") for one in kept_in(root))
    Path(f"{first}_rgb.png").unlink()
    with opened(root, bundle):
        assert [one["path"] for one in kept_in(root)] == [f"{second.relative_to(root)}.json"]
    assert len(scan([root / "_review"], may_be_unchecked=True).samples) == 1
