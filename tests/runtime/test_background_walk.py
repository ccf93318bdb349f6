"""A class `_background` from `edgefuse record` to the events of `edgefuse live`, with every command between them, on the built-in scenes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import edgefuse
from edgefuse.answers import BACKGROUND, shown_label
from edgefuse.framing import Roi
from edgefuse.io.json_files import write_json
from edgefuse_runtime.cameras.synthetic import FRAMES_PER_SCENE, Synthetic

pytestmark = pytest.mark.slow

OBJECTS = ("blue_mug", "bottle")
FIRST_LIVE, LAST_LIVE = 271, 360
"""Frames of six objects that no recording has: a bottle first, a blue mug last."""
SIDE = 160


def _edgefuse(*arguments: object) -> str:
    command = [sys.executable, "-m", "edgefuse", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def _scenes() -> Iterator[tuple[int, str, Roi]]:
    """Number, class and region of each frame."""
    with Synthetic() as camera:
        for number in range(1, LAST_LIVE + 1):
            frame = camera.read(0)
            assert frame is not None and frame.label is not None and frame.roi is not None
            yield number, frame.label, frame.roi


def _place(number: int) -> Roi:
    """A place without the object: one of the lower corners."""
    return Roi(10 if number // FRAMES_PER_SCENE % 2 else 630 - SIDE, 470 - SIDE, SIDE, SIDE)


def _write_regions(path: Path, regions: Mapping[int, tuple[str, Roi]]) -> Path:
    entries = [{"frame": number, "roi_xywh": list(roi), "label": label} for number, (label, roi) in regions.items()]
    write_json(path, {"frames": entries})
    return path


@pytest.fixture(scope="module")
def shown() -> dict[int, tuple[str, Roi]]:
    """What live is shown: a bottle, four times an empty place, a blue mug."""
    return {
        number: (label, roi) if label in OBJECTS else (BACKGROUND, _place(number))
        for number, label, roi in _scenes()
        if number >= FIRST_LIVE
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes and the background, recorded, trained and exported."""
    root = tmp_path_factory.mktemp("background")
    before = [(number, label, roi) for number, label, roi in _scenes() if number < FIRST_LIVE]
    recorded = {name: {n: (name, roi) for n, label, roi in before[::2] if label == name} for name in OBJECTS}
    recorded[BACKGROUND] = {n: (BACKGROUND, _place(n)) for n, label, _ in before[::5] if "photo" not in label}
    for label, regions in recorded.items():
        file = _write_regions(root / f"{label}.json", regions)
        said = _edgefuse(
            "record", root / "data", "--label", label, "--sequence", f"{label}_1", "--camera", "synthetic", "--roi", file,
            "--frames", len(regions),
        )  # fmt: skip
        assert f"({len(regions)} pairs)" in said and "have another class" not in said
    _edgefuse(
        "train", root / "data", "--out", root / "run", "--epochs", 20, "--size", 64, "--batch-size", 8, "--threads", 1,
        "--validation-fraction", 0,
    )  # fmt: skip
    _edgefuse("export", root / "run", "--out", root / "bundle", "--precision", "fp32")
    return root / "bundle"


def test_an_empty_place_is_no_object_and_has_no_events(
    bundle: Path, shown: dict[int, tuple[str, Roi]], tmp_path: Path
) -> None:
    regions, log = _write_regions(tmp_path / "live.json", shown), tmp_path / "log.jsonl"
    _edgefuse("live", bundle, "--camera", "synthetic", "--frames", LAST_LIVE, "--roi", regions, "--jsonl", log)
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
    results = [line for line in lines if line["kind"] == "result"]
    assert [result["frame"] for result in results] == list(shown)
    for label in (*OBJECTS, "none"):
        answers = [result["label"] for result in results if result["expected"] == label]
        assert answers.count(label) > 0.9 * len(answers), (label, answers)
    assert all(result["object"] is None for result in results[FRAMES_PER_SCENE + 5 : -FRAMES_PER_SCENE])
    events = [line for line in lines if line["kind"] == "event" and line["event"] != "started"]
    assert [(event["event"], event["detail"].get("label")) for event in events] == [
        ("appeared", None),
        ("decided", "bottle"),
        ("left", "bottle"),
        ("appeared", None),
        ("decided", "blue_mug"),
    ]
    assert events[2]["detail"]["frame"] < FIRST_LIVE + FRAMES_PER_SCENE <= events[3]["detail"]["frame"]
    summary = lines[-1]
    assert summary["objects"] == {"blue_mug": 1, "bottle": 1} and summary["unknown"] == 0
    assert summary["processed"] == summary["num_results"] == len(shown) and summary["accuracy"]["fraction"] > 0.9


def test_a_classifier_answers_none_too(bundle: Path, shown: dict[int, tuple[str, Roi]]) -> None:
    with edgefuse.Classifier(bundle) as classifier, Synthetic() as camera:
        assert classifier.labels == (BACKGROUND, *OBJECTS)
        for number in range(1, LAST_LIVE + 1):
            frame = camera.read(0)
            assert frame is not None
            if number >= FIRST_LIVE and number % FRAMES_PER_SCENE == 5:
                label, roi = shown[number]
                found = classifier(frame.rgb, frame.depth, depth_unit_m=frame.depth_unit_m, roi=roi)
                assert found.label == shown_label(label) and next(iter(found.probabilities)) == found.label
