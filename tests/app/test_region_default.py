"""The region goes from recording to data set, run and bundle, and live uses it by default."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgefuse.bundle import open_bundle
from edgefuse_runtime.recording.write_db3 import write_recording

EDGEFUSE = (sys.executable, "-c", "from edgefuse.app.main import main; main()")
HEIGHT, WIDTH = 48, 96

pytestmark = pytest.mark.slow


def _edgefuse(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*EDGEFUSE, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done


def _pair(label: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The object that differs by class is in the middle; the rest is the same in every image."""
    rng = np.random.default_rng(seed)
    rgb, depth = rng.integers(0, 40, (HEIGHT, WIDTH, 3), dtype=np.uint8), np.full((HEIGHT, WIDTH), 1500, np.uint16)
    rgb[16:32, 40:56, 0 if label == "red" else 2] = 220
    depth[16:32, 40:56] = 700
    return rgb, depth


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of two classes, a data set recorded with --roi center, and a bundle that was trained on it."""
    root = tmp_path_factory.mktemp("region")
    for label in ("red", "blue"):
        write_recording(root / f"{label}.db3", [_pair(label, seed) for seed in range(4)], fps=60)
        for sequence in ("a", "b"):
            camera = ("--camera", root / f"{label}.db3")
            _edgefuse("record", root / "set", "--label", label, "--sequence", sequence, *camera, "--roi", "center")
    quick = ("--epochs", 1, "--size", 32, "--threads", 1, "--validation-fraction", 0, "--exclude", "b")
    _edgefuse("train", root / "set", "--out", root / "run", *quick)
    _edgefuse("export", root / "run", "--out", root / "bundle")
    return root


def _live(folder: Path, *arguments: object) -> tuple[dict[str, str], str, list[int]]:
    """The region that live reports, its messages, and the region of its first result."""
    jsonl = folder / "results.jsonl"
    done = _edgefuse("live", folder / "bundle", *arguments, "--json", "--jsonl", jsonl, "--force", "--threads", 1)
    lines = [json.loads(line) for line in jsonl.read_text().splitlines()]
    roi = next(line["roi"] for line in lines if line["kind"] == "result")
    return json.loads(done.stdout)["region"], done.stderr, roi


def test_the_region_is_stored_at_every_step(folder: Path) -> None:
    assert json.loads((folder / "set/dataset.json").read_text())["region"] == "center"
    assert json.loads((folder / "run/run.json").read_text())["data"]["region"] == "center"
    assert open_bundle(folder / "bundle").manifest.region == "center"


def test_live_uses_the_region_by_default(folder: Path) -> None:
    region, messages, roi = _live(folder, "--camera", folder / "red.db3")
    assert region == {"roi": "center", "from": "bundle"} and roi == [24, 0, 48, 48]
    assert "region: center, as in the model's training data" in messages and "warning" not in messages


def test_live_warns_of_another_region_and_uses_it(folder: Path) -> None:
    region, messages, roi = _live(folder, "--camera", folder / "red.db3", "--roi", "whole")
    assert region == {"roi": "whole", "from": "--roi"} and roi == [0, 0, WIDTH, HEIGHT]
    assert messages.count("warning") == 1 and "the region is whole, but the model was trained on center" in messages


def test_crops_of_the_data_set_are_not_cropped_again(folder: Path) -> None:
    region, messages, roi = _live(folder, "--camera", folder / "set")
    assert region == {"roi": "center", "from": "camera"} and roi == [0, 0, 48, 48]
    assert "warning" not in messages


def test_evaluate_warns_of_images_of_another_region(folder: Path) -> None:
    _edgefuse("record", folder / "wide", "--label", "red", "--sequence", "a", "--camera", folder / "red.db3")
    text = "trained on another region (center) than these images show (whole)"
    for model in ("run", "bundle"):
        assert text in _edgefuse("evaluate", folder / model, folder / "wide").stderr
        assert text not in _edgefuse("evaluate", folder / model, folder / "set").stderr


def test_live_reports_how_many_frames_have_a_region(folder: Path) -> None:
    regions = folder / "regions.json"
    regions.write_text(json.dumps({"frames": [{"frame": n, "roi_xywh": [24, 0, 48, 48]} for n in (3, 4, 5)]}))
    _, messages, _ = _live(folder, "--camera", folder / "red.db3", "--roi", regions)
    assert f"warning: 2 of 4 frames had a region in {regions}; the others were skipped" in messages
    regions.write_text(json.dumps({"frames": [{"frame": 70, "roi_xywh": [24, 0, 48, 48]}]}))
    done = subprocess.run(
        [*EDGEFUSE, "live", str(folder / "bundle"), "--camera", str(folder / "red.db3"), "--roi", str(regions)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert (
        f"0 of 4 frames had a region in {regions}: it has regions for frames 70 to 70, but the camera's frames are 1 to 4"
        in done.stderr
    )
