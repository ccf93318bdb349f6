from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgefuse.data.dataset import load, read_pair, scan, write_description, write_pair
from edgefuse.errors import UserError


def make_pair(root: Path, label: str = "cup", sequence: str = "a", name: str = "0") -> Path:
    rgb = np.full((12, 10, 3), (250, 20, 30), np.uint8)
    write_pair(root / label / sequence, name, rgb, np.full((12, 10), 1234, np.uint16))
    return root / label / sequence / f"{name}_rgb.png"


def test_a_pair_survives_a_round_trip(tmp_path: Path) -> None:
    path = make_pair(tmp_path)
    rgb, depth = read_pair(path, path.with_name("0_depth.png"))
    assert rgb[0, 0].tolist() == [250, 20, 30] and depth.dtype == np.uint16 and depth[0, 0] == 1234


def test_scan_finds_labels_sequences_and_units(colour_and_range: Path) -> None:
    dataset = scan([colour_and_range])
    assert dataset.labels == ("blue_near", "red_far", "red_near")
    assert len(dataset.samples) == 60 and set(dataset.groups()) == {f"take{i}" for i in range(4)}
    assert {sample.depth_unit_m for sample in dataset.samples} == {0.001}


def test_hidden_folders_are_unfinished_and_not_read(tmp_path: Path) -> None:
    make_pair(tmp_path, sequence="a")
    make_pair(tmp_path, sequence=".a-half-written")
    make_pair(tmp_path, label=".git")
    assert [(s.sequence, s.name) for s in scan([tmp_path]).samples] == [("a", "0")] and scan([tmp_path]).labels == (
        "cup",
    )


def test_several_roots_share_one_list_of_labels(tmp_path: Path) -> None:
    make_pair(tmp_path / "one", "cup")
    make_pair(tmp_path / "two", "ball")
    write_description(tmp_path / "two", depth_unit_m=0.0001)
    dataset = scan([tmp_path / "one", tmp_path / "two"])
    assert dataset.labels == ("ball", "cup")
    assert [(s.label, s.depth_unit_m) for s in dataset.samples] == [(1, 0.001), (0, 0.0001)]


def test_roots_of_different_alignment_are_refused(tmp_path: Path) -> None:
    make_pair(tmp_path / "one", "cup")
    make_pair(tmp_path / "two", "ball")
    write_description(tmp_path / "two", align="depth")
    with pytest.raises(UserError, match="differ in alignment"):
        scan([tmp_path / "one", tmp_path / "two"])


def test_all_incomplete_pairs_are_listed(tmp_path: Path) -> None:
    for i in range(3):
        make_pair(tmp_path, name=str(i))
    (tmp_path / "cup/a/0_depth.png").unlink()
    (tmp_path / "cup/a/2_rgb.png").unlink()
    with pytest.raises(UserError, match=r"(?s)2 bad.*0_rgb\.png: no 0_depth\.png.*2_depth\.png: no RGB"):
        scan([tmp_path])
    assert [s.name for s in scan([tmp_path], skip_bad=True).samples] == ["1"]


def test_all_bad_images_are_listed_and_can_be_skipped(tmp_path: Path) -> None:
    for i in range(5):
        make_pair(tmp_path, name=str(i))
    folder = tmp_path / "cup/a"
    cv2.imwrite(str(folder / "0_depth.png"), np.zeros((12, 10), np.uint8))
    cv2.imwrite(str(folder / "1_depth.png"), np.zeros((9, 10), np.uint16))
    (folder / "2_rgb.png").write_bytes((folder / "2_rgb.png").read_bytes()[:40])
    cv2.imwrite(str(folder / "3_depth.png"), np.zeros((12, 10, 3), np.uint16))
    dataset = scan([tmp_path])
    with pytest.raises(UserError) as caught:
        load(dataset)
    text = str(caught.value)
    assert "4 bad" in text and "--skip-bad" in text
    for words in (
        "0_depth.png: depth is 8-bit",
        "RGB is 10x12, but its depth is 10x9",
        "2_rgb.png: not a readable",
        "with 3 channel",
    ):
        assert words in text
    rgbd = load(dataset, skip_bad=True)
    assert [s.name for s in rgbd.dataset.samples] == ["4"] and len(rgbd.rgb) == 1
    assert len(rgbd.dataset.left_out) == 4 and "0_depth.png" in rgbd.dataset.left_out[0]


def test_the_digest_depends_on_bytes_and_place_but_not_on_the_root(colour_and_range: Path, tmp_path: Path) -> None:
    digest = load(scan([colour_and_range])).dataset.digest
    moved = tmp_path / "elsewhere"
    shutil.copytree(colour_and_range, moved)
    assert load(scan([moved])).dataset.digest == digest
    frame = moved / "red_far/take0/frame_0"
    write_pair(
        frame.parent,
        frame.name,
        *[image + 1 for image in read_pair(Path(f"{frame}_rgb.png"), Path(f"{frame}_depth.png"))],
    )  # type: ignore[arg-type]
    assert load(scan([moved])).dataset.digest != digest


@pytest.mark.parametrize(
    ("description", "word"),
    [
        ('{"unit": "cm"}', "the depth unit is called 'depth_unit_m'"),
        ('{"depth_unit_m": 7}', "depth unit 7"),
        ('{"depth_unit_m": "inch"}', "inch"),
        ('{"align": "ir"}', "align 'ir'"),
        ("{", "JSON"),
    ],
)
def test_bad_descriptions_are_refused(tmp_path: Path, description: str, word: str) -> None:
    make_pair(tmp_path)
    (tmp_path / "dataset.json").write_text(description)
    with pytest.raises(UserError, match=word):
        scan([tmp_path])


def test_named_units_are_understood(tmp_path: Path) -> None:
    make_pair(tmp_path)
    (tmp_path / "dataset.json").write_text('{"depth_unit_m": "mm"}')
    assert scan([tmp_path]).samples[0].depth_unit_m == 0.001


def test_empty_and_absent_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pairs"):
        scan([tmp_path])
    with pytest.raises(UserError, match="not a folder"):
        scan([tmp_path / "absent"])
