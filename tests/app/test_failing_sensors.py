"""`edgefuse evaluate --corruptions`, `edgefuse explain` and the degraded mode of `edgefuse export`, run as processes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgefuse.app.explain_command import DEFINITIONS
from edgefuse.data.dataset import write_description, write_pair
from edgefuse.evaluation.corruptions import CORRUPTIONS
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.trainer import train
from toy_bundle import make_toy_bundle

ROOT = Path(__file__).resolve().parents[2]

EDGEFUSE = (sys.executable, "-c", "from edgefuse.app.main import main; main()")
LABELS = ("blue_near", "red_far", "red_near")
NUM_ROWS = 1 + sum(len(c.severities) for c in CORRUPTIONS)


def edgefuse(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EDGEFUSE, *map(str, arguments)], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bundles whose folders have the same name."""
    root = tmp_path_factory.mktemp("models")
    folders = (root / "old" / "bundle", root / "new" / "bundle")
    for folder, size in zip(folders, (32, 48), strict=True):
        make_toy_bundle(folder, labels=LABELS, size=size)
    return folders


def test_several_models_share_one_table(bundles: tuple[Path, Path], colour_and_range: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    arguments = (
        "evaluate",
        bundles[0],
        colour_and_range,
        "--only",
        "take[01]",
        "--corruptions",
        "--against",
        bundles[1],
    )
    result = edgefuse(*arguments, "--json", "--plot", plot)
    assert result.returncode == 0, result.stderr
    models = json.loads(result.stdout)["models"]
    assert list(models) == ["old/bundle", "new/bundle"] and [m["size"] for m in models.values()] == [32, 48]
    assert all(len(m["rows"]) == NUM_ROWS and m["rows"][0]["corruption"] == "clean" for m in models.values())
    assert models["old/bundle"]["rows"][0]["scores"]["num_samples"] == 30
    assert plot.read_bytes().startswith(b"\x89PNG") and str(plot) in result.stderr

    clean = edgefuse("evaluate", bundles[0], colour_and_range, "--only", "take[01]", "--json")
    scores = json.loads(clean.stdout)["conditions"]
    rows = {row["corruption"]: row["scores"] for row in models["old/bundle"]["rows"]}
    assert (rows["clean"], rows["no_rgb"], rows["no_depth"]) == (scores["both"], scores["no_rgb"], scores["no_depth"])

    out = tmp_path / "report"
    table = edgefuse(*arguments, "--out", out, "--seed", 3)
    report = json.loads((out / "report.json").read_text())
    assert sorted(path.suffix for path in out.iterdir()) == [".csv", ".json", ".md", ".png"]
    assert (report["seed"], report["data"]) == (3, json.loads(result.stdout)["data_digest"][:12])
    assert "--seed 3" in report["command"] and report["commit"] and report["versions"]["numpy"]
    assert report["title"] == "colour_and_range, 30 pairs: accuracy while a sensor fails"
    again, seeded = (found["old/bundle"] for found in (json.loads(result.stdout)["models"], report["models"]))
    assert len(seeded) == NUM_ROWS and seeded[0] == again["rows"][0]  # clean images do not depend on the seed
    lines = (out / "report.csv").read_text().splitlines()
    assert len(lines) == 1 + NUM_ROWS and lines[0] == "corruption,severity,unit,old/bundle,new/bundle"
    text = (out / "report.md").read_text()
    assert report["command"] in text and "| overexposed rgb, 2 stops over |" in text and "- seed: 3." in text
    assert "exists already" in edgefuse(*arguments, "--out", out).stderr
    assert table.returncode == 0 and "new/bundle" in table.stdout and "depth shift" in table.stdout
    assert "16 pixels" in table.stdout and table.stdout.count("%") == 2 * (NUM_ROWS + 6)  # and six expected accuracies


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--against", "OTHER"), 2, "it needs --corruptions"),
        (("--plot", "x.png"), 2, "it needs --corruptions"),
        (("--out", "x"), 2, "it needs --corruptions"),
        (("--seed", "0"), 2, "it needs --corruptions"),
        (("--corruptions", "--against", "MODEL"), 2, "given twice"),
        (("--corruptions", "--against", "absent"), 1, "absent is not a bundle"),
        (("--corruptions", "--against", "DATA"), 1, "it looks like a data set: edgefuse train"),
        (("--corruptions", "--against", "UNLIKE"), 1, "classes that the model does not know: blue_near"),
        (("--corruptions", "--against", "TURNED"), 1, "the data is aligned to color, the model expects depth"),
        (("--corruptions", "--only", "take9"), 1, "no sequence matches 'take9'"),
        (("--corruptions", "--plot", "plot.jpg"), 2, "ends in .png was expected"),
        (("--corruptions", "--plot", "FOLDER.png"), 2, "is a folder"),
        (("--corruptions", "--plot", "FILE/plot.png"), 2, "cannot be written"),
    ],
)
def test_wrong_usage_is_reported_before_any_work(
    options: tuple[str, ...],
    code: int,
    words: str,
    bundles: tuple[Path, Path],
    colour_and_range: Path,
    tmp_path: Path,
) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "folder.png").mkdir()
    named = {"DATA": colour_and_range, "MODEL": bundles[0], "OTHER": bundles[1], "FOLDER.png": tmp_path / "folder.png"}
    named["FILE/plot.png"] = file / "plot.png"
    if "UNLIKE" in options:
        named["UNLIKE"] = make_toy_bundle(tmp_path / "unlike", labels=("cup", "ball")).folder
    if "TURNED" in options:
        named["TURNED"] = make_toy_bundle(tmp_path / "turned", labels=LABELS, align="depth").folder
    result = edgefuse("evaluate", bundles[0], colour_and_range, *(named.get(option, option) for option in options))
    text = " ".join(result.stderr.replace("│", " ").split())
    assert result.returncode == code and words in text and "pairs" not in text, text


def test_corruptions_of_bad_pairs_are_refused_by_name(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        rgb, depth = rng.integers(0, 256, (40, 40, 3), np.uint8), rng.integers(500, 900, (40, 40), np.uint16)
        write_pair(tmp_path / "set/red_far/take0", f"frame_{number}", rgb, depth)
    write_description(tmp_path / "set")
    cv2.imwrite(str(tmp_path / "set/red_far/take0/frame_1_depth.png"), np.zeros((40, 40), np.uint8))
    refused = edgefuse("evaluate", bundles[0], tmp_path / "set", "--corruptions")
    assert refused.returncode == 1 and "frame_1_depth.png: depth is 8-bit" in refused.stderr
    done = edgefuse("evaluate", bundles[0], tmp_path / "set", "--corruptions", "--skip-bad", "--json")
    assert done.returncode == 0 and "left out 1 bad pair(s)" in done.stderr
    rows = json.loads(done.stdout)["models"]["bundle"]["rows"]
    assert {row["scores"]["num_samples"] for row in rows} == {2}
    assert "foreign_rgb" not in {row["corruption"] for row in rows}  # there is only one sequence


def test_explain_writes_a_folder_and_replaces_only_its_own(
    bundles: tuple[Path, Path], colour_and_range: Path, tmp_path: Path
) -> None:
    out = tmp_path / "seen"
    arguments = ("explain", bundles[0], colour_and_range, "--only", "take0", "--out", out)
    result = edgefuse(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["examples.png", "explain.json", "gate.png"]
    stored = json.loads((out / "explain.json").read_text())
    assert "ONNX Runtime" in stored.pop("title") and stored == json.loads(result.stdout)
    assert set(stored["by_class"]) == set(LABELS) and len(stored["by_corruption"]) == NUM_ROWS

    again = edgefuse(*arguments)
    assert again.returncode == 1 and "--force" in again.stderr
    forced = edgefuse(*arguments, "--force")
    assert forced.returncode == 0 and "from depth" in forced.stdout and DEFINITIONS in forced.stdout
    document, _, section = DEFINITIONS.partition("#")
    headings = [line for line in (ROOT / document).read_text().splitlines() if line.startswith("## ")]
    assert section in [line.removeprefix("## ").lower().replace(",", "").replace(" ", "-") for line in headings]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    refused = edgefuse(*arguments[:-1], tmp_path / "mine", "--force")
    assert refused.returncode == 1 and "did not make it" in refused.stderr


@pytest.fixture(scope="module")
def runs(colour_and_range: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trainings of one epoch: gated, and RGB only."""
    root = tmp_path_factory.mktemp("runs")
    config = TrainConfig(size=32, epochs=1, batch_size=16, num_features=16, num_hidden=16)
    for fusion in ("gated", "rgb"):
        train([colour_and_range], root / fusion, config=replace(config, fusion=fusion))  # type: ignore[arg-type]
    return {fusion: root / fusion for fusion in ("gated", "rgb")}


def test_a_spatial_run_shows_its_kept_area_and_its_bundle_says_that_it_cannot(
    colour_and_range: Path, tmp_path: Path
) -> None:
    config = TrainConfig(size=32, epochs=1, batch_size=16, num_features=16, num_hidden=16)
    train([colour_and_range], tmp_path / "run", config=config)
    arguments = (colour_and_range, "--only", "take0", "--out")
    result = edgefuse("explain", tmp_path / "run", *arguments, tmp_path / "seen")
    assert result.returncode == 0 and "RGB kept" in result.stdout and "exported" not in result.stderr, result.stderr
    found = json.loads((tmp_path / "seen/explain.json").read_text())
    kept = {(row["corruption"], row["severity"]): row["mean_kept_area"] for row in found["by_corruption"]}
    assert kept["no_depth", 1] > 0.9 > kept["clean", 0] > 0 and kept["no_rgb", 1] == kept["clean", 0]
    make_toy_bundle(tmp_path / "bundle", labels=LABELS, fusion="spatial")
    result = edgefuse("explain", tmp_path / "bundle", *arguments, tmp_path / "other", "--json")
    assert result.returncode == 0 and "edgefuse explain RUN" in result.stderr
    assert json.loads(result.stdout)["all"]["mean_kept_area"] is None


def test_export_reports_what_live_does_without_a_sensor(runs: dict[str, Path], tmp_path: Path) -> None:
    chosen = edgefuse(
        *("export", runs["gated"], "--out", tmp_path / "chosen", "--json"),
        *("--without-rgb", "predict", "--without-depth", "abstain"),
    )
    assert chosen.returncode == 0, chosen.stderr
    mode = json.loads(chosen.stdout)["degraded_mode"]
    assert mode == json.loads((tmp_path / "chosen/manifest.json").read_text())["degraded_mode"]
    assert (mode["no_rgb"], mode["no_depth"], mode["measured"]["part"]) == ("predict", "abstain", "validation")
    assert "without RGB live predicts, with a warning: set at export" in chosen.stderr

    by_rule = edgefuse("export", runs["rgb"], "--out", tmp_path / "rule")
    assert "without RGB live abstains: the model uses rgb only" in by_rule.stderr
    assert "without depth live predicts, with a warning: the model uses rgb only" in by_rule.stderr


@pytest.mark.parametrize(
    ("fusion", "option", "code", "words"),
    [
        ("gated", "perhaps", 2, "'predict', 'abstain'"),
        ("gated", "no_decision", 2, "'predict', 'abstain'"),
        ("rgb", "predict", 1, "the model uses rgb only"),
    ],
)
def test_an_invalid_degraded_mode_is_refused_and_nothing_is_written(
    fusion: str, option: str, code: int, words: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    result = edgefuse("export", runs[fusion], "--out", tmp_path / "bundle", "--without-rgb", option)
    text = " ".join(result.stderr.replace("│", " ").split())
    assert (result.returncode, words in text) == (code, True), text
    assert list(tmp_path.iterdir()) == []
