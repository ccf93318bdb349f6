"""Live with several regions, followed objects, no object, unknown objects and a background class; its events and outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgefuse
from edgefuse.bundle import Bundle
from edgefuse.data.dataset import write_description, write_pair
from edgefuse.errors import UserError
from edgefuse.framing import Roi, fit
from edgefuse_runtime.camera import Counters, Frame
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.decisions.events import Appeared, Decided, Left
from edgefuse_runtime.decisions.over_time import DecisionConfig
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.engine import Decision
from edgefuse_runtime.live.decider import Decider
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.live.statistics import Clipping
from edgefuse_runtime.regions.region import parse_regions
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sensor_health import FROZEN_AFTER
from edgefuse_runtime.sinks.sink import SinkInfo
from logs import logged
from toy_bundle import make_toy_bundle, toy_answer

HEIGHT, WIDTH = 240, 320
LIVE = [sys.executable, "-c", "from edgefuse.app.main import main; main()", "live"]


class Keep:
    info = SinkInfo(name="keep", queue_size=1000)

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.events: list[Event] = []

    def __enter__(self) -> Keep:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def result(self, result: Result, frame: Any) -> None:
        self.results.append(result)

    def event(self, event: Event) -> None:
        self.events.append(event)

    def summary(self, summary: LiveSummary) -> None: ...


def _belt(*boxes: tuple[int, int, float], seed: int, red: int = 20) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """A belt 0.8 m away with boxes of 60 pixels: x, y of the corner and distance. `red` of the boxes decides the toy bundle's class."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 40, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    depth_m = 0.8 + rng.normal(0, 0.001, (HEIGHT, WIDTH))
    for x, y, distance_m in boxes:
        depth_m[y : y + 60, x : x + 60] = distance_m
        rgb[y : y + 60, x : x + 60, 0] = red
    return rgb, np.rint(1000 * depth_m).astype(np.uint16)


def _folder(root: Path, pairs: list[Any], *, label: str = "near") -> Path:
    write_description(root, depth_unit_m=0.001)
    for number, pair in enumerate(pairs):
        write_pair(root / label / "a", f"frame_{number:03d}", *pair)
    return root


def _run(bundle: Bundle, folder: Path, *roi: str, **decisions: Any) -> tuple[LiveSummary, list[Result], list[Event]]:
    keep = Keep()
    with open_engine(bundle, engine="cpu") as engine, open_camera(str(folder)) as camera:
        summary = run_live(
            engine=engine,
            camera=camera,
            region=parse_regions(roi),
            sinks=[keep],
            degraded_mode=bundle.manifest.degraded_mode,
            decisions=DecisionConfig(**decisions),
        )
    return summary, keep.results, keep.events


@pytest.fixture
def passing(tmp_path: Path) -> Path:
    """7 frames of an empty belt, 10 with a box that moves along it, 8 empty ones."""
    empty = [_belt(seed=number) for number in range(7)]
    moving = [_belt((40 + 15 * number, 90, 0.65), seed=20 + number) for number in range(10)]
    return _folder(tmp_path / "passing", [*empty, *moving, *(_belt(seed=40 + number) for number in range(8))])


def test_one_event_of_each_kind_for_an_object_that_passes_and_none_for_an_empty_belt(
    bundle: Bundle, passing: Path
) -> None:
    summary, results, events = _run(bundle, passing, "nearest")
    labels = [result.label for result in results]
    assert len(results) == 25 and labels[:7] == ["none"] * 7 and "none" not in labels[7:17]
    assert labels[-5:] == ["none"] * 5
    assert [(result.index, result.frame) for result in results] == [(n, n + 1) for n in range(25)]
    without, found = results[0], results[12]
    assert (without.roi, without.region, without.probability, without.top) == (None, None, None, ())
    assert (without.warning, without.correct, without.to_json()["roi"]) == ("", False, None)
    assert found.roi is not None and (found.region, found.object, found.decided) == (1, 1, found.label)
    assert abs(found.roi.x + found.roi.w / 2 - (40 + 15 * 5 + 30)) < 12
    assert [event.event for event in events] == ["started", "appeared", "decided", "left"]
    assert events[2].detail["label"] == found.label and events[1].detail["frame"] == 10
    assert summary.objects == {found.label: 1}
    assert summary.processed + summary.without_region == summary.received == 25
    assert summary.processed == sum(result.roi is not None for result in results) < 15


def test_without_depth_nothing_is_said_about_objects(bundle: Bundle, tmp_path: Path) -> None:
    """That no object is found shows nothing then, and an object that was there has not left."""
    pairs = [_belt((100, 90, 0.65), seed=number) for number in range(5)]
    blind = [(rgb, np.zeros_like(depth)) for rgb, depth in (_belt(seed=number) for number in range(20))]
    _, results, events = _run(bundle, _folder(tmp_path / "blind", [*pairs, *blind]), "nearest")
    assert [result.label for result in results[5:]] == [None] * 20
    assert results[-1].sensors.depth == "missing" and results[-1].roi is None
    assert [event.event for event in events] == ["started", "appeared", "decided"]


def test_depth_that_is_frozen_shows_no_object_that_comes(bundle: Bundle) -> None:
    """The camera sends the image of the empty belt again and again, with new numbers and times."""
    _, empty = _belt(seed=0)
    frames = []
    for number in range(FROZEN_AFTER + 5):
        rgb, _ = _belt(seed=number)
        if number == FROZEN_AFTER + 4:
            rgb[:] = 0  # as if RGB were gone, too
        frames.append(
            Frame(
                rgb=rgb,
                depth=empty.copy(),
                depth_unit_m=0.001,
                align="color",
                color_number=number,
                depth_number=number,
                timestamp_ms=33.0 * number,
                timestamp_domain="hardware",
                arrival_ns=0,
                ready_ns=0,
                name=str(number),
            )
        )
    with open_engine(bundle, engine="cpu") as engine:
        decide = Decider(engine, parse_regions(["nearest"]), None, Counters(), Clipping(bundle.manifest.contract))
        prepared = map(decide.prepare, frames)
        results = [result for one in prepared for result in decide.finish(one, decide.infer(one), since_ns=0) or ()]
    assert [result.label for result in results] == ["none"] * FROZEN_AFTER + [None] * 5
    assert [result.sensors for result in results[-2:]] == [("ok", "frozen"), ("missing", "frozen")]
    assert results[-2].warning == "depth is frozen: no decision"


class Counted:
    """An engine that keeps the number of pairs of each run."""

    def __init__(self, engine: Any) -> None:
        self.inner, self.runs = engine, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        self.runs.append(len(rgb))
        return self.inner.run(rgb, depth)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("batch", "runs", "note"),
    [
        ("N", [3], None),
        (4, [3], None),
        (2, [2, 1], "3 regions take 2 engine runs for each frame, because one run takes 2"),
        (1, [1, 1, 1], "3 regions take 3 engine runs for each frame, because one run takes 1"),
    ],
)
def test_several_regions_are_one_batch_if_the_bundle_takes_it(
    batch: Any, runs: list[int], note: str | None, tmp_path: Path
) -> None:
    bundle = make_toy_bundle(tmp_path / "bundle", batch=batch)
    boxes = [(10, 20, 0.5), (120, 20, 0.6), (230, 140, 0.7)]
    rgb, depth = _belt(*boxes, seed=1, red=120)
    folder = _folder(tmp_path / "set", [(rgb, depth)] * 2)
    rois = [Roi(10, 20, 60, 60), Roi(120, 20, 60, 60), Roi(230, 140, 60, 60)]
    keep = Keep()
    with open_engine(bundle, engine="cpu") as engine, open_camera(str(folder)) as camera, logged() as lines:
        counted = Counted(engine)
        region = parse_regions([",".join(map(str, roi)) for roi in rois])
        summary = run_live(engine=counted, camera=camera, region=region, sinks=[keep])  # type: ignore[arg-type]
    assert counted.runs == runs * 2
    assert [line for line in lines if "engine runs" in line] == (
        [] if note is None else [line for line in lines if note in line]
    )
    assert [(result.frame, result.region, result.roi) for result in keep.results] == [
        (frame, number, roi) for frame in (1, 2) for number, roi in enumerate(rois)
    ]
    for result in keep.results:
        assert result.roi is not None
        framed = fit(rgb, depth, size=32, roi=result.roi)
        assert result.probability == pytest.approx(toy_answer(framed.rgb, framed.depth)[0].max(), abs=1e-5)
        assert result.nearest_m == pytest.approx(boxes[result.region or 0][2], abs=0.01)
        assert result.times is keep.results[3 * (result.frame - 1)].times
        assert result.is_first == (result.region == 0)
    assert (summary.processed, summary.num_results, summary.received) == (2, 6, 2)


def test_the_nearest_objects_keep_their_numbers(bundle: Bundle, tmp_path: Path) -> None:
    pairs = [_belt((20 + 8 * n, 20, 0.5), (220 - 8 * n, 150, 0.65), seed=n) for n in range(15)]
    _, results, events = _run(bundle, _folder(tmp_path / "set", pairs), "nearest:2")
    assert len(results) == 30
    near, far = results[::2], results[1::2]
    assert {r.region for r in near} != {r.region for r in far} and len({r.region for r in near}) == 1
    assert near[-1].roi is not None and far[-1].roi is not None
    assert near[-1].roi.y < 60 < far[-1].roi.y
    assert near[-1].nearest_m is not None and far[-1].nearest_m is not None
    assert near[-1].nearest_m < far[-1].nearest_m
    assert sorted(event.event for event in events) == ["appeared", "appeared", "decided", "decided", "started"]


def _uncertain(tmp_path: Path) -> Path:
    """Five frames that the toy bundle is sure of, five that it is not."""
    sure = [_belt((0, 0, 0.3), seed=n, red=250) for n in range(5)]
    unsure = [_belt((0, 0, 0.8), seed=n, red=95) for n in range(5)]
    return _folder(tmp_path / "set", [*sure, *unsure])


def test_an_answer_below_the_minimum_confidence_is_unknown_and_no_class(bundle: Bundle, tmp_path: Path) -> None:
    folder = _uncertain(tmp_path)
    _, plain, _ = _run(bundle, folder, "0,0,60,60")
    assert {result.label for result in plain} <= {"near", "far"}
    summary, results, events = _run(bundle, folder, "0,0,60,60", min_confidence=0.9)
    assert [result.label for result in results] == ["near"] * 5 + ["unknown"] * 5
    assert [result.probability for result in results] == [result.probability for result in plain]
    assert [result.correct for result in results] == [True] * 5 + [None] * 5
    assert all("unknown" not in dict(result.top) for result in results)
    assert [event.detail["label"] for event in events if event.event == "decided"] == ["near", "unknown"]
    assert (summary.unknown, summary.without_decision, summary.objects) == (5, 0, {"near": 1, "unknown": 1})
    assert summary.accuracy is not None and (summary.accuracy.scored, summary.accuracy.abstained) == (5, 5)
    rgb, depth = _belt((0, 0, 0.8), seed=1, red=95)
    for least, label in ((0.0, plain[-1].label), (0.9, "unknown"), (1.0, "unknown")):
        with edgefuse.Classifier(bundle.folder, engine="cpu", min_confidence=least) as classifier:
            prediction = classifier(rgb, depth, roi=(0, 0, 60, 60))
            assert prediction.label == label and prediction.probability is not None
            assert classifier.batch(rgb, depth, rois=[(0, 0, 60, 60)])[0].label == label


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan")])
def test_a_minimum_confidence_that_is_no_probability_is_refused(bundle: Bundle, least: float) -> None:
    with pytest.raises(UserError, match="probability from 0 to 1"):
        edgefuse.Classifier(bundle.folder, min_confidence=least)
    with pytest.raises(UserError, match="probability from 0 to 1"):
        next(edgefuse.live(bundle.folder, camera="synthetic", min_confidence=least))


def test_the_background_class_is_no_object(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "bundle", labels=("mug", "_background"))
    near = [_belt((0, 0, 0.3), seed=n, red=250) for n in range(6)]
    far = [_belt((0, 0, 2.0), seed=n, red=0) for n in range(6)]
    folder = _folder(tmp_path / "set", [*far, *near, *far], label="_background")
    summary, results, events = _run(bundle, folder, "0,0,60,60", min_confidence=0.5)
    assert [result.label for result in results] == ["none"] * 6 + ["mug"] * 6 + ["none"] * 6
    assert results[0].expected == "none" and results[0].correct is True and results[6].correct is False
    assert results[0].top[0][0] == "none" and results[0].object is None
    assert [event.event for event in events] == ["started", "appeared", "decided", "left"]
    assert summary.objects == {"mug": 1}
    with edgefuse.Classifier(bundle.folder, engine="cpu") as classifier:
        prediction = classifier(*far[0], roi=(0, 0, 60, 60))
        assert prediction.label == "none" and next(iter(prediction.probabilities)) == "none"
        assert classifier.labels == ("mug", "_background")


def test_an_average_over_frames_holds_an_outlier_and_follows_a_change(bundle: Bundle, tmp_path: Path) -> None:
    near, far = _belt((0, 0, 0.5), seed=1, red=160), _belt((0, 0, 0.9), seed=2, red=90)
    folder = _folder(tmp_path / "set", [near] * 6 + [far] + [near] * 3 + [far] * 4)
    _, plain, _ = _run(bundle, folder, "0,0,60,60")
    _, smooth, _ = _run(bundle, folder, "0,0,60,60", smooth=9)
    assert [result.label for result in plain] == ["near"] * 6 + ["far"] + ["near"] * 3 + ["far"] * 4
    assert [result.label for result in smooth] == ["near"] * 11 + ["far"] * 3
    assert smooth[-1].probability == pytest.approx(plain[-1].probability, abs=1e-5)


def test_the_generator_gives_regions_and_decisions(bundle: Bundle, passing: Path) -> None:
    results = list(edgefuse.live(bundle.folder, camera=str(passing), roi="nearest", engine="cpu", agree=(2, 3)))
    events = [event for result in results for event in result.events]
    assert [type(event) for event in events] == [Appeared, Decided, Left]
    assert isinstance(events[0], Appeared) and events[0].frame == 9  # the second frame with the box
    two = list(
        edgefuse.live(bundle.folder, camera=str(passing), roi=["0,0,60,60", "whole"], engine="cpu", num_frames=3)
    )
    assert [(result.frame, result.region) for result in two] == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]


def test_the_command_writes_events_only(bundle: Bundle, passing: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    arguments = [
        str(bundle.folder),
        "--camera",
        str(passing),
        "--roi",
        "nearest",
        "--engine",
        "cpu",
        "--jsonl",
        str(log),
    ]
    done = subprocess.run([*LIVE, *arguments, "--events-only"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line.get("event", line["kind"]) for line in lines] == ["started", "appeared", "decided", "left", "summary"]
    decided = lines[2]
    assert set(decided["detail"]) == {
        *("object", "region", "frame", "roi", "nearest_m", "label", "probability"),
        *("num_agreed", "num_frames", "previous"),
    }
    shown = done.stdout.splitlines()
    assert [line.split()[0] for line in shown[:3]] == ["appeared", "decided", "left"]
    assert any(line.startswith("objects decided: ") for line in shown)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--agree", "3"], "N/M was expected"),
        (["--agree", "6/5"], "1 <= N <= M"),
        (["--agree", "0/5"], "1 <= N <= M"),
        (["--min-confidence", "2"], "Invalid value for '--min-confidence'"),
        (["--smooth", "0"], "Invalid value for '--smooth'"),
        (["--roi", "nearest", "--roi", "center"], "nearest:N"),
        (["--roi", "nearest:0"], "from 1 to 16"),
    ],
)
def test_wrong_values_are_refused(bundle: Bundle, arguments: list[str], words: str) -> None:
    command = [*LIVE, str(bundle.folder), "--camera", "synthetic", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and words in " ".join(done.stderr.replace("│", " ").split()), done.stderr


def test_a_bundle_trained_on_nearest_has_no_state_between_pairs(bundle: Bundle, tmp_path: Path) -> None:
    """Pairs given to a `Classifier` are independent: an object elsewhere in the next pair is not a moved one."""
    from edgefuse.bundle import write_manifest

    copied = make_toy_bundle(tmp_path / "bundle")
    write_manifest(copied.folder, replace(copied.manifest, training={"data": {"region": "nearest"}}))
    first, second, empty = _belt((40, 90, 0.6), seed=1), _belt((60, 90, 0.6), seed=2), _belt(seed=3)
    with edgefuse.Classifier(copied.folder, engine="cpu") as classifier:
        alone = classifier(*second)
        classifier(*first)
        assert classifier(*second).roi == alone.roi is not None
        nothing = classifier(*empty)
        assert (nothing.label, nothing.roi, nothing.warning) == ("none", None, "no object was found to classify")
