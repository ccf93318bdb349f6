"""What a conversion keeps, and the warnings of what it loses; any file of a source gives a result or an error message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgefuse.data.dataset import scan, write_description, write_pair
from edgefuse.data.description import Description, describe
from edgefuse.data.layouts.convert import convert
from edgefuse.data.layouts.mesh import read_vrml
from edgefuse.data.layouts.washington import read_trials, trial_splits
from edgefuse.errors import UserError

SHAPE = (8, 10)
CONVERT = (sys.executable, "-c", "from edgefuse.app.main import main; main()", "data", "convert")


def source_of(root: Path, *depths: Any, suffix: str = ".npy") -> Path:
    """A data set with these depth arrays, in class cup, one sequence each."""
    for number, depth in enumerate(depths):
        folder = root / "cup" / f"s{number}"
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "0_rgb.png"), np.full((*SHAPE, 3), number, np.uint8))
        if suffix == ".npy":
            np.save(folder / "0_depth.npy", depth)
        else:
            cv2.imwrite(str(folder / f"0_depth{suffix}"), depth)
    return root


def test_the_description_is_carried_over(tmp_path: Path) -> None:
    source = source_of(tmp_path / "in", np.full(SHAPE, 5000, np.uint16), suffix=".png")
    more = {"camera": {"serial": "7"}, "source": {"layout": "washington", "trials": [["cup_1"]], "unit": "mm"}}
    write_description(source, depth_unit_m=0.0001, align="depth", region="1,2,3,4", **more)
    expected = Description(depth_unit_m=0.0001, align="depth", region="1,2,3,4")
    for number, unit in enumerate((None, "0.0001", "1e-4")):
        convert(source, tmp_path / f"out{number}", layout="pairs", unit=unit)
        assert describe(tmp_path / f"out{number}") == expected
    convert(tmp_path / "out0", tmp_path / "again", layout="pairs")
    found = json.loads((tmp_path / "again/dataset.json").read_text())
    assert describe(tmp_path / "again") == expected and found["camera"] == {"serial": "7"}
    assert found["source"]["trials"] == [["cup_1"]] and found["source"]["source"]["source"]["layout"] == "washington"
    with pytest.raises(UserError, match=r"--unit is mm, but .*dataset\.json has 0\.0001 m per depth code"):
        convert(source, tmp_path / "other", layout="pairs", unit="mm")
    (source / "dataset.json").write_text('{"depth_units": 0.0001}')
    with pytest.raises(UserError, match="would be ignored"):
        convert(source, tmp_path / "other", layout="pairs")
    assert not (tmp_path / "other").exists()


def test_a_description_applies_to_arrays_and_sequences_too(tmp_path: Path) -> None:
    source = source_of(tmp_path / "npy", np.full(SHAPE, 5000, np.uint16))
    write_description(source, depth_unit_m=0.0001, align="depth")
    convert(source, tmp_path / "a", layout="npy")
    assert describe(tmp_path / "a") == Description(depth_unit_m=0.0001, align="depth")
    tum = tmp_path / "tum"
    tum.mkdir()
    for name, image in (("r.png", np.zeros((*SHAPE, 3), np.uint8)), ("d.png", np.full(SHAPE, 900, np.uint16))):
        cv2.imwrite(str(tum / name), image)
    (tum / "associations.txt").write_text("1.0 r.png 1.0 d.png\n")
    (tum / "dataset.json").write_text('{"align": "depth"}')
    convert(tum, tmp_path / "b", layout="tum", label="x")
    assert describe(tmp_path / "b") == Description(depth_unit_m=0.0002, align="depth")
    write_description(tum, depth_unit_m=0.001)
    convert(tum, tmp_path / "c", layout="tum", label="x")
    assert describe(tmp_path / "c") == Description()


@pytest.mark.parametrize(
    ("depths", "unit", "words"),
    [
        ([np.full(SHAPE, 1.5, np.float32)], None, []),
        ([np.full(SHAPE, 1.5, np.float32)], "mm", ["half of the depth is below 0.002 m"]),
        ([np.full(SHAPE, 0.4, np.float32)], "mm", ["no pair has any depth"]),
        ([np.full(SHAPE, -1.5, np.float32)], None, ["no pair has any depth"]),
        ([np.full(SHAPE, np.nan, np.float32)], None, ["no pair has any depth"]),
        ([np.where(np.arange(80).reshape(SHAPE) < 40, 1.5, -1.5)], None, ["50% of the measurements became 0"]),
        ([np.full(SHAPE, 1.5), np.zeros(SHAPE)], None, ["1 of 2 pairs have no depth at all"]),
        ([np.full(SHAPE, 65535, np.uint16)], "0.0001", ["100% of the measurements have the largest code"]),
        ([np.full(SHAPE, 1500, ">u2")], None, []),
        ([np.full(SHAPE, 1.5, ">f8")], None, []),
    ],
)
def test_a_conversion_reports_its_losses(tmp_path: Path, depths: list[Any], unit: str | None, words: list[str]) -> None:
    source = source_of(tmp_path / "in", *depths)
    done = convert(source, tmp_path / "out", layout="npy", unit=unit)
    assert len(done.warnings) == len(words) and all(
        word in text for word, text in zip(words, done.warnings, strict=True)
    )
    if words:
        with pytest.raises(UserError, match=r"(?s)nothing was written: 1 warning\(s\), which --strict makes errors"):
            convert(source, tmp_path / "strict", layout="npy", unit=unit, strict=True)
        assert not (tmp_path / "strict").exists()


def test_the_command_prints_warnings_and_strict_is_its_exit_code(tmp_path: Path) -> None:
    source = source_of(tmp_path / "in", np.zeros(SHAPE, np.uint16), suffix=".png")
    arguments = [*CONVERT, str(source), str(tmp_path / "out"), "--layout", "pairs"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "warning: no pair has any depth" in done.stderr
    done = subprocess.run([*arguments, "--force", "--strict"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "which --strict makes errors" in done.stderr


def test_a_damaged_first_array_does_not_decide_the_kind_of_the_others(tmp_path: Path) -> None:
    source = source_of(tmp_path / "in", np.ones(SHAPE, np.uint16), np.full(SHAPE, 1.5))
    (source / "cup/s0/0_depth.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(UserError, match="1 bad"):
        convert(source, tmp_path / "out", layout="npy")
    done = convert(source, tmp_path / "out", layout="npy", skip_bad=True)
    assert done.num_pairs == 1 and "0_depth.npy" in done.left_out[0]


def test_a_conversion_finds_the_same_files_as_check(tmp_path: Path) -> None:
    source = source_of(tmp_path / "in", np.full(SHAPE, 900, np.uint16), suffix=".png")
    for path in ("cup/s0/._0_rgb.png", "__MACOSX/s/0_rgb.png", ".DS_Store"):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(b"x")
    assert convert(source, tmp_path / "clean", layout="pairs").num_pairs == 1
    write_pair(source / "bowl/deeper/s0", "0", np.zeros((*SHAPE, 3), np.uint8), np.ones(SHAPE, np.uint16))
    write_pair(source / "bowl/s1", "a", np.zeros((*SHAPE, 3), np.uint8), np.ones(SHAPE, np.uint16))
    (source / "bowl/s1/a_rgb.jpg").write_bytes(b"x")
    (source / "f_rgb.png").write_bytes(b"x")
    with pytest.raises(UserError) as caught:
        convert(source, tmp_path / "out", layout="pairs")
    for words in (
        "bowl/deeper: 2 images",
        "a_rgb.jpg and a_rgb.png are both named a_rgb",
        "in: 1 image (f_rgb.png) is directly in the root",
    ):
        assert words in str(caught.value)
    with pytest.raises(UserError, match="parts of a split"):
        (source / "cup").rename(source / "train")
        (source / "bowl").rename(source / "val")
        convert(source, tmp_path / "out", layout="pairs")


def test_an_exif_orientation_is_noted(tmp_path: Path) -> None:
    source = source_of(tmp_path / "in", np.full(SHAPE, 900, np.uint16), suffix=".png")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0"
    plain = cv2.imencode(".jpg", np.zeros((*SHAPE, 3), np.uint8))[1].tobytes()
    (source / "cup/s0/0_rgb.png").unlink()
    (source / "cup/s0/0_rgb.jpg").write_bytes(
        plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
    )
    assert "EXIF orientation was ignored" in convert(source, tmp_path / "out", layout="pairs").notes[0]


@given(
    data=st.binary(max_size=200),
    start=st.sampled_from([b"", b"#VRML V2.0 utf8\n", b"****** trial 1 ******\n", b"1.0 a.png\n", b"\xef\xbb\xbf"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_in_a_list_or_mesh_are_one_user_error(tmp_path: Path, data: bytes, start: bytes) -> None:
    for name in ("trials.txt", "mesh.wrl", "rgb.txt", "depth.txt"):
        (tmp_path / name).write_bytes(start + data)
    for read in (
        lambda: read_trials(tmp_path / "trials.txt"),
        lambda: read_vrml(tmp_path / "mesh.wrl"),
        lambda: convert(tmp_path, tmp_path / "out/o", layout="tum", label="x"),
    ):
        try:
            read()
        except UserError as error:
            assert str(tmp_path) in str(error)


@pytest.mark.parametrize("trials", ["abc", 5, [[1]], [5], [["a"], None], {"a": 1}])
def test_edited_trials_are_refused(tmp_path: Path, trials: Any) -> None:
    for sequence in ("a", "b"):
        write_pair(tmp_path / "cup" / sequence, "0", np.zeros((*SHAPE, 3), np.uint8), np.ones(SHAPE, np.uint16))
    write_description(tmp_path, source={"trials": trials})
    with pytest.raises(UserError, match=r"dataset\.json.*trials"):
        trial_splits(scan([tmp_path]))


def test_names_that_cannot_be_folders_are_reported(tmp_path: Path) -> None:
    source = source_of(tmp_path / "in", np.full(SHAPE, 900, np.uint16), suffix=".png")
    (source / "cup/s0").rename(source / "cup/a\nb")
    with pytest.raises(UserError, match=r"cannot be used: it contains a control character"):
        convert(source, tmp_path / "out", layout="pairs")
