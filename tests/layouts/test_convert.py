"""Pairs, NumPy depth and TUM sequences become data set folders; faults are reported, and nothing is written in part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.data.dataset import load, scan
from edgefuse.data.layouts.convert import convert, unit_in_metres
from edgefuse.data.layouts.tum import nearest_times
from edgefuse.errors import UserError

SHAPE = (8, 10)


def write_rgb(path: Path, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*SHAPE, 3), value, np.uint8))


def write_depth(path: Path, value: int = 1234) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full(SHAPE, value, np.uint16))


def loaded(out: Path) -> dict[str, tuple[Any, Any, float]]:
    """RGB, depth and unit of a data set by "label/sequence/name"; it must pass scan and load."""
    images = load(scan([out]))
    return {
        f"{images.dataset.labels[s.label]}/{s.sequence}/{s.name}": (rgb, depth, s.depth_unit_m)
        for s, rgb, depth in zip(images.dataset.samples, images.rgb, images.depth, strict=True)
    }


def test_pairs_in_sequences_keep_their_codes_and_get_their_unit(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_rgb(source / "cup/blue/1_rgb.png")
    write_depth(source / "cup/blue/1_depth.png", 4321)
    write_rgb(source / "ball/red/1_rgb.JPG", 7)
    write_depth(source / "ball/red/1_depth.tiff")
    done = convert(source, tmp_path / "out", layout="pairs", unit="0.0001")
    found = loaded(tmp_path / "out")
    assert done.num_pairs == 2 and done.notes == () and sorted(found) == ["ball/red/1", "cup/blue/1"]
    assert (found["cup/blue/1"][1] == 4321).all() and found["cup/blue/1"][2] == 0.0001
    assert json.loads((tmp_path / "out/dataset.json").read_text())["source"] == {
        "layout": "pairs",
        "folder": "in",
        "unit": "0.0001",
        "pairs": 2,
        "left_out": 0,
    }


def test_pairs_without_sequences_are_one_sequence_per_class_or_named_by_an_expression(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for label in ("cup", "ball"):
        for name in ("a_1", "a_2", "b_1"):
            write_rgb(source / label / f"{name}_rgb.png")
            write_depth(source / label / f"{name}_depth.png")
    done = convert(source, tmp_path / "whole", layout="pairs")
    assert {name.rpartition("/")[0] for name in loaded(tmp_path / "whole")} == {"cup/cup", "ball/ball"}
    assert "--sequence" in done.notes[0]
    assert convert(source, tmp_path / "named", layout="pairs", sequence_pattern=r"(.*)_\d+$").notes == ()
    groups = {name.rpartition("/")[0] for name in loaded(tmp_path / "named")}
    assert groups == {"cup/a", "cup/b", "ball/a", "ball/b"}
    with pytest.raises(UserError, match=r"(?s)6 bad.*--sequence-pattern"):
        convert(source, tmp_path / "none", layout="pairs", sequence_pattern="(z)")
    for bad, message in (("(", "not a regular"), ("a", "no group")):
        with pytest.raises(UserError, match=message):
            convert(source, tmp_path / "none", layout="pairs", sequence_pattern=bad)


def test_incomplete_and_invalid_pairs_are_all_listed(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for name in "1234":
        write_rgb(source / f"cup/a/{name}_rgb.png")
        write_depth(source / f"cup/a/{name}_depth.png")
    (source / "cup/a/1_depth.png").unlink()
    with pytest.raises(UserError, match=r"1_rgb\.png: no 1_depth\.png"):
        convert(source, tmp_path / "out", layout="pairs")
    cv2.imwrite(str(source / "cup/a/2_depth.png"), np.ones(SHAPE, np.uint8))
    cv2.imwrite(str(source / "cup/a/3_depth.png"), np.ones((4, 4), np.uint16))
    done = convert(source, tmp_path / "out", layout="pairs", skip_bad=True)
    assert done.num_pairs == 1 and list(loaded(tmp_path / "out")) == ["cup/a/4"]
    text = "\n".join(done.left_out)
    assert len(done.left_out) == 3 and "8-bit" in text and "RGB is 10x8, but its depth is 4x4" in text


def test_a_failed_conversion_leaves_the_old_output(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_rgb(source / "cup/a/1_rgb.png")
    write_depth(source / "cup/a/1_depth.png")
    convert(source, out, layout="pairs")
    (source / "cup/a/1_depth.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match="nothing was written: 1 bad"):
        convert(source, out, layout="pairs")
    assert list(loaded(out)) == ["cup/a/1"] and sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    with pytest.raises(UserError, match="none of the 1 pairs"):
        convert(source, out, layout="pairs", skip_bad=True)


def test_two_pairs_of_one_name_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for folder in ("cup", "cup/cup"):
        write_rgb(source / folder / "1_rgb.png")
        write_depth(source / folder / "1_depth.png")
    with pytest.raises(UserError, match="cup/cup/1"):
        convert(source, tmp_path / "out", layout="pairs")


def test_float_arrays_become_codes_of_a_millimetre(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_rgb(source / "cup/a/1_rgb.png")
    depth = np.full(SHAPE, 1.2344, np.float32)
    depth[0, :5] = [np.nan, np.inf, -1, 0, 0.0007]
    np.save(source / "cup/a/1_depth.npy", depth)
    convert(source, tmp_path / "out", layout="npy")
    codes, unit_m = loaded(tmp_path / "out")["cup/a/1"][1:]
    assert unit_m == 0.001 and codes[0, :5].tolist() == [0, 0, 0, 0, 1] and (codes[1:] == 1234).all()
    np.save(source / "cup/a/1_depth.npy", depth * 1000)
    with pytest.raises(UserError, match=r"1234.*--unit mm"):
        convert(source, tmp_path / "out", layout="npy")
    convert(source, tmp_path / "out", layout="npy", unit="mm")
    assert (loaded(tmp_path / "out")["cup/a/1"][1] == codes).all()


def test_integers_keep_their_codes(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_rgb(source / "cup/a/1_rgb.png")
    np.save(source / "cup/a/1_depth.npy", np.full(SHAPE, 30_000, np.uint16))
    convert(source, tmp_path / "out", layout="npy", unit="0.0001")
    _, codes, unit_m = loaded(tmp_path / "out")["cup/a/1"]
    assert (codes == 30_000).all() and unit_m == 0.0001
    with pytest.raises(UserError, match=r"at most 0\.1 m"):
        convert(source, tmp_path / "out", layout="npy", unit="m")


@pytest.mark.parametrize(
    ("metres_of_one", "words"),
    [(0.01, "centimetres, --unit cm"), (0.001, "millimetres, --unit mm"), (1e-6, "micrometres, --unit um")],
)
def test_floats_of_another_unit_are_refused_with_the_likely_unit(
    metres_of_one: float, words: str, tmp_path: Path
) -> None:
    write_rgb(tmp_path / "in/cup/a/1_rgb.png")
    depth = np.full(SHAPE, 1.003 / metres_of_one, np.float32)
    depth[0], depth[1] = np.nan, 0
    np.save(tmp_path / "in/cup/a/1_depth.npy", depth)
    with pytest.raises(UserError, match=f"are these {words}"):
        convert(tmp_path / "in", tmp_path / "out", layout="npy")


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.int64, np.bool_])
def test_integers_other_than_uint16_are_refused_with_the_way_to_save_them(kind: type, tmp_path: Path) -> None:
    write_rgb(tmp_path / "in/cup/a/1_rgb.png")
    np.save(tmp_path / "in/cup/a/1_depth.npy", np.ones(SHAPE, kind))
    with pytest.raises(UserError, match=r"uint16 was expected: save it with .*astype\(np\.uint16\)"):
        convert(tmp_path / "in", tmp_path / "out", layout="npy")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 3), np.uint16), r"depth is \(3, 3\)"),
        (np.ones(SHAPE, np.float32), "float32, uint16 were expected"),
        (np.ones(SHAPE, np.int32), "int32, uint16 was expected"),
        (np.array([{}]), "not a readable .npy file"),
    ],
)
def test_invalid_arrays_are_reported(tmp_path: Path, array: Any, message: str) -> None:
    source = tmp_path / "in"
    for name, depth in (("1", np.ones(SHAPE, np.uint16)), ("2", array)):
        write_rgb(source / f"cup/a/{name}_rgb.png")
        np.save(source / f"cup/a/{name}_depth.npy", depth)
    with pytest.raises(UserError, match=message):
        convert(source, tmp_path / "out", layout="npy")


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    """Five RGB frames at 30 a second; depth is 5 ms late, the third one 30 ms, the fourth missing."""
    root = tmp_path / "rgbd_desk"
    rgb_lines, depth_lines = ["# color images", "# timestamp filename"], ["# depth maps"]
    for i, late_s in enumerate((0.005, 0.005, 0.030, None, 0.005)):
        time_s = 1305031102.1 + i * 0.1
        write_rgb(root / f"rgb/{i}.png", 10 * i)
        rgb_lines.append(f"{time_s:.6f} rgb/{i}.png")
        if late_s is not None:
            write_depth(root / f"depth/{i}.png", 5000 + i)
            depth_lines.append(f"{time_s + late_s:.6f} depth/{i}.png")
    (root / "rgb.txt").write_text("\n".join(rgb_lines) + "\n")
    (root / "depth.txt").write_text("\n".join(depth_lines) + "\n")
    return root


def test_tum_frames_are_paired_by_time(sequence: Path, tmp_path: Path) -> None:
    done = convert(sequence, tmp_path / "out", layout="tum", label="desk")
    found = loaded(tmp_path / "out")
    assert [name.rpartition("/")[0] for name in found] == ["desk/rgbd_desk"] * 3
    assert [int(depth[0, 0]) for _, depth, _ in found.values()] == [5000, 5001, 5004]
    assert [int(rgb[0, 0, 0]) for rgb, _, _ in found.values()] == [0, 10, 40]
    assert {unit_m for _, _, unit_m in found.values()} == {0.0002}  # 5000 codes are one metre
    assert done.notes == ("2 of 5 RGB frames have no depth frame within 20 ms: left out",)


@pytest.mark.parametrize("order", ["rgb first", "depth first"])
def test_tum_associations_are_used_unchanged(sequence: Path, tmp_path: Path, order: str) -> None:
    rgb, depth = "1.0 rgb/3.png", "1.5 depth/2.png"
    lines = [f"{rgb} {depth}"] if order == "rgb first" else [f"{depth} {rgb}"]
    (sequence / "associations.txt").write_text("\n".join(lines))
    convert(sequence, tmp_path / "out", layout="tum", label="desk", sequence="take1", unit="mm")
    found = loaded(tmp_path / "out")
    assert list(found) == ["desk/take1/1.0"] and found["desk/take1/1.0"][1][0, 0] == 5002
    assert found["desk/take1/1.0"][2] == 0.001


def test_invalid_tum_lists_are_reported(sequence: Path, tmp_path: Path) -> None:
    (sequence / "depth/1.png").unlink()
    with pytest.raises(UserError, match=r"no depth/1\.png"):
        convert(sequence, tmp_path / "out", layout="tum", label="desk")
    (sequence / "rgb.txt").write_text("first rgb/1.png\n")
    with pytest.raises(UserError, match=r"rgb\.txt, line 1"):
        convert(sequence, tmp_path / "out", layout="tum", label="desk")
    (sequence / "rgb.txt").write_text("5.0 rgb/1.png\n")
    with pytest.raises(UserError, match="within 20 ms"):
        convert(sequence, tmp_path / "out", layout="tum", label="desk")
    (sequence / "rgb.txt").unlink()
    with pytest.raises(UserError, match=r"rgb\.txt is missing"):
        convert(sequence, tmp_path / "out", layout="tum", label="desk")


times = st.lists(st.integers(0, 300).map(lambda number: number / 1000), max_size=12)


@given(first=times, second=times)
def test_times_are_paired_once_within_the_limit_and_as_many_as_possible(
    first: list[float], second: list[float]
) -> None:
    pairs = nearest_times(first, second)
    assert len({i for i, _ in pairs}) == len(pairs) == len({j for _, j in pairs})
    assert all(abs(first[i] - second[j]) <= 0.02 + 1e-9 for i, j in pairs)
    free_first = set(range(len(first))) - {i for i, _ in pairs}
    free_second = set(range(len(second))) - {j for _, j in pairs}
    assert all(abs(first[i] - second[j]) > 0.02 - 1e-9 for i in free_first for j in free_second)


def test_the_closest_time_is_used_not_the_first() -> None:
    assert nearest_times([0.0, 0.02], [0.019, 0.5]) == [(1, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "kitti"}, "washington, bu3dfe, pairs, npy, tum"),
        ({"layout": "pairs", "label": "a"}, r"--label cannot be used with --layout pairs"),
        ({"layout": "washington", "unit": "mm", "neutral": True}, "--unit and --neutral"),
        ({"layout": "tum"}, "--label is ''"),
        ({"layout": "tum", "label": "../x"}, "plain name"),
        ({"layout": "tum", "label": "x", "sequence": "a/b"}, "--sequence is 'a/b'"),
        ({"layout": "pairs", "unit": "inch"}, "the depth unit is 'inch'"),
        ({"layout": "pairs", "unit": "m"}, r"at most 0\.1 m"),
        ({"layout": "pairs"}, "has no pairs"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "in", tmp_path / "out", **options)


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    write_rgb(tmp_path / "in/cup/a/1_rgb.png")
    for out in (tmp_path / "in", tmp_path):
        with pytest.raises(UserError, match="would replace the source"):
            convert(tmp_path / "in", out, layout="pairs")


def test_units_have_names_and_numbers() -> None:
    assert [unit_in_metres(text) for text in ("mm", "m", "0.0002")] == [0.001, 1.0, 0.0002]
    for text in ("0", "nan", "-1", "inf"):
        with pytest.raises(UserError, match="depth unit"):
            unit_in_metres(text)
