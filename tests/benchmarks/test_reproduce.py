"""The paper's tables from small generated folders with the layouts of the data sets."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgefuse.data.check import check
from edgefuse.errors import UserError
from edgefuse_benchmarks.paper.reproduce import PROTOCOLS, paper_config, reproduce
from edgefuse_benchmarks.paper.variants import PAPER_ROWS

EDGEFUSE = (sys.executable, "-c", "from edgefuse.app.main import main; main()")
CATEGORIES = ("apple", "cell_phone", "food_bag")


@pytest.fixture(scope="module")
def washington_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three categories, two object instances each, six frames per instance, and the file of the official trials."""
    root = tmp_path_factory.mktemp("washington") / "rgbd-dataset_eval"
    rng = np.random.default_rng(0)
    for number, category in enumerate(CATEGORIES):
        for n in (1, 2):
            folder = root / category / f"{category}_{n}"
            folder.mkdir(parents=True)
            for frame in range(1, 31, 5):
                stem = folder / f"{category}_{n}_1_{frame}"
                colour = np.full((24, 30, 3), 40, np.uint8)
                colour[..., number] = rng.integers(180, 250)
                cv2.imwrite(f"{stem}_crop.png", colour)
                cv2.imwrite(f"{stem}_depthcrop.png", rng.integers(600, 900, (24, 30)).astype(np.uint16))
    blocks = [
        "\n".join([f"****** trial {t} ******", *(f"{c}_{1 + t % 2}" for c in CATEGORIES), ""]) for t in range(1, 11)
    ]
    (root / "testinstance_ids.txt").write_text("\n".join(blocks))
    return root


@pytest.fixture(scope="module")
def bu3dfe_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five subjects, six expressions, levels 1 and 4: two textured triangles each."""
    root = tmp_path_factory.mktemp("bu3dfe") / "BU_3DFE"
    for subject in ("F0001", "F0002", "F0003", "M0001", "M0002"):
        folder = root / subject
        folder.mkdir(parents=True)
        for code in ("AN", "DI", "FE", "HA", "SA", "SU"):
            for level in ("01", "04"):
                stem = f"{subject}_{code}{level}WH"
                indices = "0, 1, 2, -1, 0, 2, 3, -1"
                (folder / f"{stem}_F3D.wrl").write_text(
                    f'#VRML V2.0 utf8\nShape {{ appearance Appearance {{ texture ImageTexture {{ url "{stem}_F2D.bmp" }} }}\n'
                    "geometry IndexedFaceSet { coord Coordinate { point [ -80 -90 0, 80 -90 10, 80 90 0, -80 90 10 ] }\n"
                    f"coordIndex [ {indices} ]\ntexCoord TextureCoordinate {{ point [ 0 0, 1 0, 1 1, 0 1 ] }}\n"
                    f"texCoordIndex [ {indices} ] }} }}\n"
                )
                cv2.imwrite(str(folder / f"{stem}_F2D.bmp"), np.full((16, 16, 3), 90 + 20 * int(level), np.uint8))
    return root


def test_washington_becomes_a_table_with_the_papers_accuracies(washington_tree: Path, tmp_path: Path) -> None:
    run = partial(reproduce, "washington", washington_tree, tmp_path / "out", quick=True, epochs=1, size=32)
    made = run(variants=["depth-scratch"])
    assert made.folder.name == "table3-by-frame" and made.done.num_leaking == 2
    text = made.report.read_text()
    assert re.search(r"- Commit: ([0-9a-f]{12}(-dirty)?|not a checkout)\.", text)
    assert (
        "| depth-scratch (DepthMap-scratch) | 77.07 |" in text
        and "# Table 3: Washington, 2 folds by frame (quick)" in text
    )
    assert "**Leaks**" in text and "--by sequence" in text and "These accuracies say nothing about the method" in text
    assert run(variants=["depth-scratch"]).done.num_resumed == 2
    # Another table and another protocol use the same converted data, and have their own folders.
    converted = (tmp_path / "out/data/dataset.json").stat().st_mtime_ns
    fourth = run(variants=["depth-scratch"], table=4, by="sequence")
    assert fourth.folder.name == "table4-by-sequence" and fourth.done.num_leaking == 0
    assert "| 73.87 |" in fourth.report.read_text() and "Leaks" not in fourth.report.read_text()
    trials = run(variants=["depth-scratch"], by="trials").done
    assert trials.num_folds == 10 and trials.num_leaking == 0
    assert [result.num_test for result in trials.results["depth-scratch"]] == [18] * 10
    assert (tmp_path / "out/data/dataset.json").stat().st_mtime_ns == converted
    with pytest.raises(UserError, match=r"exists already and was converted from something else \(seed was 0, now 1\)"):
        run(variants=["depth-scratch"], seed=1)


@pytest.fixture
def small_tree(washington_tree: Path, tmp_path: Path) -> Path:
    """A copy that tests may change; copied again with its times it counts as the same data set."""
    return Path(shutil.copytree(washington_tree, tmp_path / "tree"))


def test_a_conversion_of_a_changed_tree_is_not_used(small_tree: Path, tmp_path: Path) -> None:
    run = partial(reproduce, "washington", small_tree, tmp_path / "out", quick=True, epochs=1, size=32)
    depth = partial(run, variants=["depth-scratch"])
    depth()
    moved = Path(shutil.copytree(small_tree, tmp_path / "elsewhere/tree"))
    assert partial(reproduce, "washington", moved, *depth.args[2:], **depth.keywords)().done.num_resumed == 2
    image = small_tree / "apple/apple_1/apple_1_1_1_crop.png"
    cv2.imwrite(str(image), np.full((24, 30, 3), 99, np.uint8))
    with pytest.raises(UserError, match=r"\(files of the tree were added, removed or changed\): give another --out"):
        depth()
    assert depth(force=True).done.num_resumed == 0
    assert depth().done.num_resumed == 2


def test_pairs_that_were_left_out_are_in_the_report_and_need_skip_bad(small_tree: Path, tmp_path: Path) -> None:
    (small_tree / "apple/apple_1/apple_1_1_1_depthcrop.png").write_bytes(b"nothing")
    (small_tree / "apple/apple_2/apple_2_1_6_depthcrop.png").unlink()
    run = partial(reproduce, "washington", small_tree, tmp_path / "out", epochs=1, size=32, variants=["depth-scratch"])
    made = run(quick=True, skip_bad=True)
    text = made.report.read_text()
    assert made.done.data["num_pairs"] == 34 and "--quick --skip-bad" in text.splitlines()[2]
    remark = next(
        line
        for line in text.splitlines()
        if "2 bad pair(s) of the tree were left out (all in data/left_out.json)" in line
    )
    assert all(f" apple/apple_{name}" in remark for name in ("1/apple_1_1_1_depthcrop.png", "2/apple_2_1_6"))
    assert len(json.loads((tmp_path / "out/data/left_out.json").read_text())["left_out"]) == 2
    with pytest.raises(UserError, match=r"2 bad pair\(s\) were left out, and --skip-bad is not given"):
        run(quick=True)
    assert run(quick=True, skip_bad=True).done.num_resumed == 2


def test_the_number_of_pairs_and_early_stopping_can_be_set_and_are_reported(
    washington_tree: Path, tmp_path: Path
) -> None:
    run = partial(reproduce, "washington", washington_tree, epochs=1, size=32, variants=["depth-scratch"])
    made = run(tmp_path / "some", samples=30, by="trials")
    assert made.done.data["num_pairs"] == 30 and "--samples 30" in made.report.read_text()
    made = run(tmp_path / "every", samples="all", early_stop=1, table=4)
    text = made.report.read_text()
    assert made.done.data["num_pairs"] == 36 and made.done.num_folds == 5
    assert "--samples all --early-stop 1" in text and "early stopping on 15% of the training pairs" in text
    assert "at most 1 epoch (early stopping after 1 without" in text
    results = [json.loads(path.read_text()) for path in (tmp_path / "every/table4-by-frame/folds").glob("*.json")]
    assert all(result["num_train"] + result["num_test"] < 36 for result in results)  # the others are validation pairs
    with pytest.raises(
        UserError, match="fold 1 has only one group of each class for training .*or turn early stopping off"
    ):
        run(tmp_path / "every", samples="all", early_stop=1, by="trials")  # one instance of each class trains


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variants": ["gated-lenet"]}, "<fusion>-<backbone> was expected"),
        ({"weights": ["absent.pth"], "variants": ["rgb-resnet18"]}, "absent.pth does not exist"),
        ({"size": 16, "variants": ["rgb-resnet18"], "weights": ["none"]}, "cannot process 16 x 16 pixels"),
    ],
)
def test_settings_are_refused_before_the_tree_is_converted(
    options: dict[str, Any], words: str, washington_tree: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        reproduce("washington", washington_tree, tmp_path / "out", samples="all", epochs=1, **options)
    assert not (tmp_path / "out").exists()


def test_a_tree_of_the_other_layout_is_recognised(washington_tree: Path, bu3dfe_tree: Path, tmp_path: Path) -> None:
    for name, tree, words in (
        ("washington", bu3dfe_tree, "it looks like BU-3DFE: give bu3dfe for washington"),
        ("bu3dfe", washington_tree, "it looks like the Washington RGB-D Object Dataset: give washington for bu3dfe"),
    ):
        with pytest.raises(UserError, match=words):
            reproduce(name, tree, tmp_path / "out", quick=True, variants=["depth-scratch"])
    for tree, layout in (
        (washington_tree, "washington"),
        (washington_tree.parent, "washington"),
        (bu3dfe_tree, "bu3dfe"),
    ):
        with pytest.raises(UserError, match=rf"edgefuse data convert {tree} OUT --layout {layout}"):
            check([tree])


@pytest.mark.slow
def test_washington_by_one_command(washington_tree: Path, tmp_path: Path) -> None:
    command = [
        *EDGEFUSE,
        "reproduce",
        "washington",
        str(washington_tree),
        "--out",
        str(tmp_path / "out"),
        "--quick",
        "--json",
    ]
    command += ["--variants", "naive-resnet50,gated-resnet50", "--epochs", "1", "--size", "32", "--samples", "18"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr
    value = json.loads(ended.stdout)
    assert list(value["results"]) == ["naive-resnet50", "gated-resnet50"] and not value["failures"]
    assert {len(results) for results in value["results"].values()} == {2}
    assert [test["variant"] for test in value["paired_tests"]] == ["gated-resnet50"]
    with (tmp_path / "out/table3-by-frame/report.csv").open() as file:
        assert {row["variant"]: row["paper"] for row in csv.DictReader(file)}["gated-resnet50"] == "0.9932"


@pytest.mark.slow
def test_bu3dfe_by_one_command(bu3dfe_tree: Path, tmp_path: Path) -> None:
    command = [*EDGEFUSE, "reproduce", "bu3dfe", str(bu3dfe_tree), "--out", str(tmp_path / "out"), "--quick", "--json"]
    command += ["--variants", "depth-scratch,gated-small,naive-small", "--epochs", "1", "--size", "32"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr
    value = json.loads(ended.stdout)
    assert value["num_leaking_folds"] == 0 and [test["baseline"] for test in value["paired_tests"]] == ["naive-small"]
    description = json.loads((tmp_path / "out/data/dataset.json").read_text())["source"]
    assert len(description["subjects"]) == 4 and description["levels"] == [3, 4] and description["pairs"] == 4 * 6
    with (tmp_path / "out/table1-by-sequence/report.csv").open() as file:
        paper = {row["variant"]: row["paper"] for row in csv.DictReader(file)}
    assert paper == {"depth-scratch": "0.8472", "gated-small": "", "naive-small": ""}


def test_protocols_that_the_paper_does_not_have_are_refused(
    washington_tree: Path, bu3dfe_tree: Path, tmp_path: Path
) -> None:
    for name, tree, options, words in (
        ("washington", washington_tree, {"table": 1}, "washington has no table 1: 3 or 4"),
        ("bu3dfe", bu3dfe_tree, {"by": "trials"}, "sequence, or, for washington, trials was expected"),
        ("imagenet", bu3dfe_tree, {}, "washington or bu3dfe was expected|bu3dfe or washington was expected"),
        (
            "washington",
            washington_tree,
            {},
            "4500 samples were requested, but the set has 36 pairs: give --samples 36 or fewer; .*--quick",
        ),
        ("bu3dfe", bu3dfe_tree, {}, "5 subject.*60 were expected as in the paper; use fewer with --samples N or"),
    ):
        with pytest.raises(UserError, match=words):
            reproduce(name, tree, tmp_path / "out", weights=["none"], **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_protocols_are_the_papers() -> None:
    found = {p.table: (name, p.num_folds, p.by) for name, protocols in PROTOCOLS.items() for p in protocols}
    assert found == {1: ("bu3dfe", 10, "sequence"), 3: ("washington", 10, "frame"), 4: ("washington", 5, "frame")}
    config = paper_config(PROTOCOLS["washington"][0])
    assert (config.learning_rate, config.final_learning_rate, config.pretrained_rate_scale) == (1e-3, 1e-5, 1.0)
    assert not any(vars(config.augmentation).values()) and len(PAPER_ROWS) == 9
    assert replace(config, seed=1) != config
