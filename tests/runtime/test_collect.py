"""Collecting frames while live runs: what is kept and why, and how much of it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from collect_scenes import CLOSE, ROI, Run, a_frame, a_result, kept_in, opened
from runtime_scenes import draw_pair

from edgefuse.bundle import Bundle
from edgefuse.data.dataset import read_pair, scan
from edgefuse.data.layouts.pairs import read_pairs
from edgefuse.degraded_mode import DegradedMode
from edgefuse.errors import UserError
from edgefuse.framing import Roi, crop, square_in
from edgefuse_runtime.sensor_health import SensorStates
from toy_bundle import make_toy_bundle


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "collected"


# What is kept


def test_an_uncertain_frame_is_kept_with_its_region_its_images_and_the_frames_before(
    bundle: Bundle, root: Path
) -> None:
    with opened(root, bundle) as sink:
        run = Run(sink)
        for _ in range(25):
            run.show()
        uncertain = run.show(top=CLOSE)
        assert not root.joinpath("near").exists()
    kept = kept_in(root)
    assert [one["reasons"] for one in kept] == [["before"]] * 4 + [["low margin"]]
    last = kept[-1]
    assert (last["label"], last["labelled_by"], last["answer"], last["roi"]) == ("near", None, "near", [*ROI])
    assert last["path"].startswith("_review/near/live_20261126_") and last["index"] == uncertain
    assert {one["kept_for"] for one in kept[:4]} == {Path(last["path"]).stem}
    stem = root / last["path"].removesuffix(".json")
    frame = a_frame(uncertain)
    part = read_pair(Path(f"{stem}_rgb.png"), Path(f"{stem}_depth.png"))
    whole = read_pair(root / f"{last['whole']}_rgb.png", root / f"{last['whole']}_depth.png")
    assert all((one == other).all() for one, other in zip(whole, (frame.rgb, frame.depth), strict=True))
    square = square_in(ROI, height=48, width=64)
    assert all((one == crop(other, square)).all() for one, other in zip(part, (frame.rgb, frame.depth), strict=True))
    description = json.loads((root / "dataset.json").read_text())
    assert description["region"] == "nearest" and description["collection"] == {"labels": ["near", "far"]}


def test_a_slip_is_kept_and_a_new_object_is_not(bundle: Bundle, root: Path) -> None:
    far = {"label": "far", "top": (("far", 0.9), ("near", 0.1)), "object": 1, "decided": "near"}
    with opened(root, bundle) as sink:
        run = Run(sink)
        run.show(object=1, decided="near")
        slip = run.show(**far)
        run.show(object=1, decided="near")
        run.show(**far, seconds=5)
        run.show(**{**far, "object": 2, "decided": "far"})
        run.show(object=2, decided="far", label="far")
    (one,) = [one for one in kept_in(root) if one["reasons"] != ["before"]]
    assert one["reasons"] == ["changed"] and one["index"] == slip and one["path"].startswith("_review/far/")


def test_sensors_that_disagree_are_found_with_an_engine_of_its_own(tmp_path: Path, root: Path) -> None:
    mode = DegradedMode(no_rgb="predict", no_depth="predict")
    both = make_toy_bundle(tmp_path / "both", degraded_mode=mode)
    rgb, _ = draw_pair("near")
    _, depth = draw_pair("far")
    differing = replace(a_frame(1), rgb=rgb, depth=depth)  # red says near, depth says far
    with opened(root, both) as sink:
        sink.result(a_result(0, at_s=0), replace(a_frame(0), rgb=rgb, depth=depth // 2))
    (one,) = kept_in(root)
    assert one["reasons"] == ["sensors disagree"] and one["alone"] == {"rgb": "near", "depth": "far"}
    with opened(tmp_path / "abstains", make_toy_bundle(tmp_path / "one")) as sink:
        sink.result(a_result(0, at_s=0), differing)
    assert kept_in(tmp_path / "abstains") == []


def test_degraded_and_unknown_results_are_kept_and_those_without_an_object_are_not(bundle: Bundle, root: Path) -> None:
    with opened(root, bundle) as sink:
        run = Run(sink)
        run.show(sensors=SensorStates(depth="missing"), label=None, probability=None, top=())
        run.show(label="unknown", seconds=3)
        run.show(label="none", top=(), roi=None, seconds=3)
    kept = kept_in(root)
    assert [one["reasons"] for one in kept] == [["degraded"], ["low margin"]]
    assert [one["path"].split("/")[1] for one in kept] == ["_unknown", "near"] and kept[0]["label"] is None


def test_a_frame_that_is_marked_wrong_is_training_data(bundle: Bundle, root: Path) -> None:
    with opened(root, bundle, region="whole") as sink:
        run = Run(sink)
        whole = {"roi": Roi(0, 0, 64, 48)}
        wrong, uncertain, sure = run.show(**whole), run.show(top=CLOSE, **whole), run.show(**whole)
        assert sink.mark_wrong(wrong, "far") == "Frame 1 is kept as far."
        sink.mark_wrong(uncertain, "spoon")  # was kept already, to be checked
        sink.mark_wrong(sure, "none")
        sink.mark_wrong(sure, "far")  # another class after all
    kept = {one["index"]: one for one in kept_in(root) if one["labelled_by"] == "page"}
    assert {index: one["path"].split("/")[0] for index, one in kept.items()} == {
        wrong: "far",
        uncertain: "spoon",
        sure: "far",
    }
    assert all(one["whole"] is None and one["reasons"] == ["wrong"] for one in kept.values())
    dataset = scan([root])
    assert dataset.labels == ("far", "spoon") and len(dataset.samples) == 3 and dataset.region == "whole"
    assert not list(root.glob("_review/*/*/*_rgb.png")) or "_review" in dataset.warnings[0]


def test_what_nobody_has_checked_is_never_training_data(bundle: Bundle, root: Path) -> None:
    with opened(root, bundle) as sink:
        run = Run(sink)
        run.show(top=CLOSE)
        with pytest.raises(UserError, match=r"has no pairs.* 1 pairs .*nobody has checked.*data browse"):
            scan([root])
        sink.mark_wrong(run.show(), "far")
    dataset = scan([root])
    assert len(dataset.samples) == 1 and "1 pairs are left out" in dataset.warnings[0]
    assert len(read_pairs(root).items) == 1 and "1 pairs are left out" in read_pairs(root).notes[0]
    with pytest.raises(UserError, match="nobody has checked"):
        scan([root / "_review"])
    assert scan([root / "_review"], may_be_unchecked=True).labels == ("near",)


# How much


def test_quotas_count_the_last_hour_also_after_a_restart(bundle: Bundle, root: Path) -> None:
    for _ in range(2):
        with opened(root, bundle, per_hour=3) as sink:
            run = Run(sink)
            run.start_ms = time.time() * 1e3 - 60_000
            for _ in range(5):
                run.show(top=CLOSE, seconds=2.5)
            run.show(top=CLOSE)  # too soon
    assert [one["reasons"][0] for one in kept_in(root)].count("low margin") == 3


def test_without_a_quota_only_marked_frames_are_kept(bundle: Bundle, root: Path) -> None:
    with opened(root, bundle, per_hour=0) as sink:
        run = Run(sink)
        sink.mark_wrong(run.show(top=CLOSE), "far")
    assert [one["reasons"] for one in kept_in(root)] == [["wrong"]]


def _num_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def test_the_size_is_never_exceeded_and_the_least_valuable_frames_go_first(bundle: Bundle, root: Path) -> None:
    largest, marked = 0, 0
    with opened(root, bundle, max_mb=2, per_hour=1000) as sink:
        run = Run(sink)
        for number in range(40):
            run.show(seconds=0.7, noise=200)
            run.show(seconds=1.5, noise=200, label="unknown")
            if number % 10 == 0:
                sink.mark_wrong(run.show(seconds=3, noise=200), "far")
                marked += 1
            largest = max(largest, _num_bytes(root))
    kept = kept_in(root)
    assert 1_000_000 < largest <= 2_000_000
    assert sum(one["value"] == 5 for one in kept) == marked == 4
    uncertain = [one["index"] for one in kept if one["reasons"] == ["low margin"]]
    assert uncertain and min(uncertain) > 20 and max(uncertain) >= run.number - 2  # the newest ones
    assert len(list((root / ".frames").rglob("*_rgb.png"))) == len(kept)


def test_labelled_frames_are_never_removed(bundle: Bundle, root: Path) -> None:
    with opened(root, bundle, max_mb=1) as sink:
        run = Run(sink)
        with pytest.raises(UserError, match="full of labelled frames"):
            for _ in range(20):
                sink.mark_wrong(run.show(noise=200), "far")
        num_before = len(kept_in(root))
        run.show(noise=200, top=CLOSE)
    assert 2 <= num_before == len(kept_in(root)) and _num_bytes(root) <= 1_000_000


def test_a_frame_never_replaces_one_that_is_worth_more(bundle: Bundle, root: Path) -> None:
    with opened(root, bundle, max_mb=1, per_hour=1000) as sink:
        run = Run(sink)
        for _ in range(9):
            run.show(noise=200, object=1, decided="near", label="far", seconds=3)
            run.show(noise=200, object=1, decided="near")
        num_before = len(kept_in(root))
        run.show(noise=200, sensors=SensorStates(depth="missing"), seconds=3)
    reasons = [one["reasons"] for one in kept_in(root)]
    assert 2 <= num_before == len(reasons) and ["degraded"] not in reasons
    assert sink._counts["without room"] >= 1


# Frames that viewers see


def test_a_frame_can_be_marked_while_it_is_held(bundle: Bundle, root: Path) -> None:
    with opened(root, bundle) as sink:
        sink.shown(a_result(0, at_s=0), a_frame(0, noise=1000))
        sink.hold(0)
        sink.hold(77)  # never shown
        for index in range(1, 30):
            sink.shown(a_result(index, at_s=index), a_frame(index, noise=1000))
        with pytest.raises(UserError, match="not kept any more"):
            sink.mark_wrong(1, "far")
        sink.mark_wrong(0, "far")
        sink.mark_wrong(29, "far")
        assert sum(seen.frame.rgb.nbytes for seen in sink._shown._shown.values()) < 64_000_000
    with pytest.raises(UserError, match="not open"):
        sink.mark_wrong(29, "far")
