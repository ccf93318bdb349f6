"""edgefuse info on a bundle, a run, a recording, a data set, and on anything else."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bare_python import bare_edgefuse
from edgefuse.app.info import describe
from edgefuse.bundle import write_manifest
from edgefuse.data.dataset import write_description, write_pair
from edgefuse.errors import UserError
from edgefuse_runtime.recording.write_db3 import write_recording
from older_version import unpacked
from toy_bundle import make_toy_bundle


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("old"))


def info(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgefuse", "info", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def shown(text: str) -> dict[str, str]:
    """Title -> text of the screen, with its line breaks as blanks."""
    rows: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        title = line[:16].strip() or title  # noqa: F821  (the first row has a title)
        rows[title] = f"{rows.get(title, '')} {line[16:]}".strip()
    return rows


def test_a_bundle(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "[b] 1", labels=("[red] mug", "cup"), batch="N")
    measured = {"part": "test", "num_pairs": 40, "both": 0.95, "no_rgb": 0.5, "no_depth": 0.625, "chance": 0.5}
    mode = replace(bundle.manifest.degraded_mode, no_depth="predict", measured=measured)
    training = {"data": {"roots": ["mugs"], "num_train": 80, "num_validation": 20, "num_test": 40, "region": "nearest"}}
    write_manifest(bundle.folder, replace(bundle.manifest, degraded_mode=mode, training=training))
    done = info(bundle.folder)
    assert (done.returncode, done.stderr) == (0, "")
    rows = shown(done.stdout)
    assert done.stdout.startswith(f"bundle {bundle.folder}, ")
    assert rows["labels"] == "2: [red] mug, cup"
    assert rows["inputs"].startswith("rgb uint8 [N, 32, 32, 3]; depth uint8 [N, 32, 32, 2], 0.2 to 2 m")
    assert rows["accuracy"] == "95.0% with both sensors, 50.0% without RGB, 62.5% without depth (40 test pairs)"
    assert rows["trained on"] == "80 train, 20 validation, 40 test pairs from mugs" and rows["region"] == "nearest"
    assert rows["sensor missing"] == "without RGB: abstain; without depth: predict"
    assert rows["batch"] == "any number of pairs" and rows["engines"] == "none built"
    size = (bundle.folder / "model.onnx").stat().st_size
    assert rows["files"] == f"model.onnx: fp32, {size} bytes, intact" and "onnx " in rows["versions"]
    assert rows["next"] == f"edgefuse live '{bundle.folder}'"


def test_a_damaged_file_of_a_bundle_is_named_and_the_exit_code_is_1(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "bundle")
    model = bundle.folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    done = info(bundle.folder)
    assert done.returncode == 1 and "damaged" in shown(done.stdout)["files"] and str(model) in done.stderr
    assert [file["problem"] is None for file in describe(bundle.folder)["files"]] == [False]


def test_the_engines_of_a_bundle(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "bundle")
    name = "engines/fp16.plan"
    (bundle.folder / "engines").mkdir()
    (bundle.folder / name).write_bytes(b"plan")
    entry = type(bundle.manifest.files["model.onnx"]).of(bundle.folder / name, precision="fp16")
    key: dict[str, Any] = {
        "onnx_sha256": bundle.manifest.files["model.onnx"].sha256,
        "tensorrt_version": "10.3.0",
        "compute_capability": "8.7",
        "device_name": "Orin",
        "precision": "fp16",
        "shapes": {"rgb": [2, 32, 32, 3]},
        "builder_options": {},
    }
    record = {"key": key, "onnx_file": "model.onnx", "plan_sha256": entry.sha256, "num_bytes": 4, "details": {}}
    files = {**bundle.manifest.files, name: entry}
    write_manifest(bundle.folder, replace(bundle.manifest, files=files, engines={name: record}))
    rows = shown(info(bundle.folder).stdout)
    assert rows["engines"] == "engines/fp16.plan: tensorrt 10.3.0, fp16, Orin (8.7), batch 2"


def test_a_run_and_a_bundle_of_an_older_version_without_pytorch(old: Path, tmp_path: Path) -> None:
    done = bare_edgefuse(tmp_path, "info", old / "run")
    assert (done.returncode, done.stderr) == (0, "")
    rows = shown(done.stdout)
    description = json.loads((old / "run/run.json").read_text())
    scores = json.loads((old / "run/metrics.json").read_text())["test"]
    assert rows["labels"] == f"{len(description['labels'])}: {', '.join(description['labels'])}"
    assert rows["accuracy"].startswith(f"{scores['both']['accuracy']:.1%} with both sensors, ")
    assert rows["epochs"].startswith(f"{description['epochs_done']} of {description['training']['epochs']}")
    assert "model.safetensors" in rows["files"] and f"torch {description['versions']['torch']}" in rows["versions"]
    assert describe(old / "bundle")["labels"] == description["labels"]
    assert describe(old / "dataset")["kind"] == "data set"


def test_a_run_that_has_no_metrics_yet(old: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text((old / "run/run.json").read_text())
    assert shown(info(tmp_path).stdout)["accuracy"] == "not measured"


def test_a_recording(tmp_path: Path) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    write_recording(tmp_path / "a.db3", [(image, np.ones((48, 64), np.uint16))] * 3, fps=15)
    done = info(tmp_path / "a.db3")
    rows = shown(done.stdout)
    assert done.returncode == 0 and rows["camera"].startswith("edgefuse software camera")
    assert rows["streams"] == "Color_0: 3 frames, 64x48 RGB8 at 15/s Depth_0: 3 frames, 64x48 Z16 at 15/s"
    assert rows["depth unit"] == "1 mm" and f"--camera {tmp_path}/a.db3" in rows["next"]


def test_a_data_set(colour_and_range: Path, tmp_path: Path) -> None:
    found = describe(colour_and_range)
    assert (found["num_pairs"], found["num_sequences"], found["num_bad"]) == (60, 4, 0)
    assert found["classes"] == [
        {"label": label, "pairs": 20, "sequences": 4} for label in ("blue_near", "red_far", "red_near")
    ]
    assert found["num_bytes"] == sum(path.stat().st_size for path in colour_and_range.rglob("*.png"))
    rgb, depth = np.zeros((20, 30, 3), np.uint8), np.ones((20, 30), np.uint16)
    write_pair(tmp_path / "set/[bold]/s0", "000", rgb, depth)
    write_description(tmp_path / "set", depth_unit_m=0.0001, align="depth", region="nearest")
    (tmp_path / "set/[bold]/s0/001_rgb.png").write_bytes(b"")
    rows = shown(info(tmp_path / "set").stdout)
    assert rows["classes"] == "[bold]  1 pair, 1 sequence" and rows["pairs"] == "1 in 1 sequence and 1 class"
    assert rows["first pair"] == "30x20"
    assert rows["depth unit"] == "0.1 mm, aligned to depth" and rows["region"] == "nearest"
    assert rows["bad pairs"].startswith("1: edgefuse data check ")


def test_json_is_one_object(colour_and_range: Path, tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "bundle")
    for path, kind in ((bundle.folder, "bundle"), (colour_and_range, "data set")):
        done = info(path, "--json")
        assert (done.returncode, done.stderr) == (0, "") and json.loads(done.stdout) == describe(path)
        assert json.loads(done.stdout)["kind"] == kind


def test_anything_else_is_refused_with_a_hint(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "all/bundle")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.db3").write_bytes(b"SQLite format 3\0" + bytes(100))
    (tmp_path / "a.bag").write_bytes(b"")
    for path, text in (
        (tmp_path / "nothing", "it does not exist"),
        (tmp_path / "empty", "it has no manifest.json, run.json, dataset.json"),
        (tmp_path / "all", f"edgefuse info {bundle.folder}"),
        (bundle.folder / "model.onnx", f"it belongs to a bundle: edgefuse info {bundle.folder}"),
        (Path(__file__), "a recording ends in .db3 or .bag"),
        (tmp_path / "a.db3", "damaged or no recording"),
        (tmp_path / "a.bag", "damaged or no recording: it is no .bag file"),
    ):
        with pytest.raises(UserError) as caught:
            describe(path)
        assert text in str(caught.value) and str(path) in str(caught.value)
    done = info(tmp_path / "empty")
    assert (done.returncode, done.stdout) == (1, "") and "is not a bundle, run, recording or data set" in done.stderr
