"""The check finds planted faults, lists bad pairs without stopping, and its montage shows all classes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgefuse.contract import MAX_DEPTH_CODE
from edgefuse.data.check import THUMBNAIL, check, closest_twins
from edgefuse.data.dataset import load, scan, write_description, write_pair
from edgefuse.data.montage import CAPTION_PX, HEAD_PX, coloured, depth_limits, montage
from edgefuse.errors import UserError

EDGEFUSE = (sys.executable, "-c", "from edgefuse.app.main import main; main()")
GESTURES = Path(__file__).resolve().parents[3] / "shared/data/gestures"


def scene(seed: int, *, side: int = 48) -> NDArray[np.uint8]:
    """An image of large patches; another seed gives another scene."""
    patches = np.random.default_rng(seed).integers(30, 200, (6, 6, 3), np.uint8)
    return np.asarray(cv2.resize(patches, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def ramp(*, side: int = 48) -> NDArray[np.uint16]:
    return np.tile(np.linspace(1000, 2000, side).astype(np.uint16), (side, 1))


def write(root: Path, label: str, sequence: str, name: str, rgb: NDArray[np.uint8], depth: NDArray[np.uint16]) -> None:
    write_pair(root / label / sequence, name, rgb, depth)


def test_counts_sizes_and_depth(tmp_path: Path) -> None:
    write(tmp_path, "ball", "b1", "0", scene(1), ramp())
    write(tmp_path, "ball", "b2", "0", scene(2), ramp())
    write(tmp_path, "ball", "b2", "1", scene(3), np.zeros((48, 48), np.uint16))
    half = ramp(side=64)
    half[:32] = 0
    half[63, :32] = 65535
    write(tmp_path, "cup", "c1", "0", scene(4, side=64), half)
    write_description(tmp_path, depth_unit_m=0.0005)
    report, _ = check([tmp_path])
    assert report.num_pairs == 4 and report.num_groups == 3 and not report.problems
    assert {count.label: count.sequences for count in report.classes} == {"ball": {"b1": 1, "b2": 2}, "cup": {"c1": 1}}
    assert report.sizes == {"48x48": 3, "64x64": 1} and report.depth_unit_m == (0.0005,)
    assert report.valid_depth == {
        "mean": pytest.approx(2.5 / 4),
        "lowest": 0.0,
        "pairs_without": 1,
        "at_limit": pytest.approx(32 / 64**2 / 4),
    }
    assert report.depth_m["p50"] == pytest.approx(0.75, abs=0.01) and report.depth_m["p1"] == pytest.approx(
        0.5, abs=0.02
    )
    assert report.depth_m["p99"] == pytest.approx(1.0, abs=0.02)


def test_bad_pairs_are_listed_without_stopping(tmp_path: Path) -> None:
    for name in "012345":
        write(tmp_path, "cup", "a", name, scene(int(name)), ramp())
    folder = tmp_path / "cup/a"
    cv2.imwrite(str(folder / "0_depth.png"), np.ones((48, 48), np.uint8))
    (folder / "1_depth.png").unlink()
    (folder / "2_rgb.png").unlink()
    (folder / "3_rgb.png").write_bytes(b"nothing")
    cv2.imwrite(str(folder / "4_depth.png"), np.ones((9, 9), np.uint16))
    report, dataset = check([tmp_path])
    assert report.num_pairs == 1 == len(dataset.samples)
    text = "\n".join(report.problems)
    assert len(report.problems) == 5
    for part in (
        "0_depth.png: depth is 8-bit",
        "1_rgb.png: no 1_depth.png",
        "2_depth.png: no RGB",
        "3_rgb.png: not a",
        "9x9",
    ):
        assert part in text


def test_the_same_scene_in_two_sequences_is_found_in_different_light_and_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "01":
        write(tmp_path, "cup", "a", name, scene(1), ramp())
    darker = np.clip(scene(1) * 0.7 + rng.normal(0, 3, (48, 48, 3)), 0, 255).astype(np.uint8)
    write(tmp_path, "cup", "b", "0", darker, ramp())
    write(tmp_path, "ball", "c", "0", scene(2), ramp())
    write(tmp_path, "ball", "a", "0", scene(3), ramp())
    report, _ = check([tmp_path])
    assert [leak.groups for leak in report.leaks] == [("a", "b")] and report.num_leaking == 3
    leak = report.leaks[0]
    assert leak.frames == 3 and leak.correlation > 0.98
    assert {leak.first.rsplit("/", 1)[0], leak.second.rsplit("/", 1)[0]} == {"cup/a", "cup/b"}


def test_frames_of_one_sequence_are_no_leak_in_any_class(tmp_path: Path) -> None:
    for label in ("cup", "ball"):
        for name in "01":
            write(tmp_path, label, "take1", name, scene(1), ramp())
    write(tmp_path, "cup", "take2", "0", scene(2), ramp())
    assert check([tmp_path])[0].leaks == ()


def test_near_duplicates_can_be_counted_only_across_people(tmp_path: Path) -> None:
    """The same scene in two sequences of one person, and another one in sequences of two people."""
    for sequence, seed in (("s1_a", 1), ("s1_b", 1), ("s1_c", 2), ("s2_a", 2), ("s2_b", 3)):
        write(tmp_path, "cup", sequence, "0", scene(seed), ramp())
    assert check([tmp_path])[0].num_leaking == 4
    report = check([tmp_path], by=r"^(s\d+)_")[0]
    assert [leak.groups for leak in report.leaks] == [("s1", "s2")]
    assert (report.num_leaking, report.num_groups) == (2, 2)
    for by, words in (("frame", "was expected"), (r"^(p\d+)_", "finds no group in 5 sequence name")):
        with pytest.raises(UserError, match=words):
            check([tmp_path], by=by)


@pytest.mark.parametrize(
    ("unit_m", "limit_fraction", "words"),
    [
        (0.001, 0.0, []),
        (0.001, 0.02, ["2.1% of the pixels have the largest code 65535"]),
        (0.1, 0.0, ["half of the depth is below 14"]),
        (1e-6, 0.0, ["is depth_unit_m in dataset.json right"]),
    ],
)
def test_depth_that_is_probably_wrong_is_warned_of(
    unit_m: float, limit_fraction: float, words: list[str], tmp_path: Path
) -> None:
    depth = ramp()
    depth[: round(limit_fraction * 48)] = 65535
    write(tmp_path, "cup", "a", "0", scene(1), depth)
    write_description(tmp_path, depth_unit_m=unit_m)
    found = check([tmp_path])[0].warnings
    assert len(found) == len(words) and all(word in text for word, text in zip(words, found, strict=True))


def test_dark_images_are_no_near_duplicates() -> None:
    dark = np.random.default_rng(0).normal(2, 0.5, (4, THUMBNAIL**2)).astype(np.float32)
    dark[1] = dark[0]
    assert closest_twins(dark, ["a", "b", "c", "d"]) == []


def test_near_duplicates_are_found_across_blocks() -> None:
    thumbnails = np.random.default_rng(0).uniform(0, 255, (2500, 64)).astype(np.float32)
    thumbnails[2400] = thumbnails[3]
    groups = ["a"] * 1200 + ["b"] * 1300
    assert [(i, j) for i, j, _ in closest_twins(thumbnails, groups)] == [(3, 2400), (2400, 3)]


def test_depth_is_coloured_near_red_far_blue_missing_black() -> None:
    depth = ramp()
    depth[:4] = 0
    bgr = coloured(depth).astype(int)
    assert (bgr[:4] == 0).all()
    assert (bgr[4:, 2, 2] > 2 * bgr[4:, 2, 0]).all()
    assert (bgr[4:, 36, 0] > 2 * bgr[4:, 36, 2]).all()
    assert (coloured(np.zeros((3, 3), np.uint16)) == 0).all()


def test_far_outliers_take_no_colours_from_what_is_near() -> None:
    """A hand at 0.6 to 0.75 m before a background of noise up to the largest code."""
    depth = np.random.default_rng(0).integers(20_000, 65_000, (40, 40)).astype(np.uint16)
    depth[:10] = MAX_DEPTH_CODE
    depth[20:, :20] = np.linspace(600, 750, 20)
    near, far = depth_limits(depth) or (0, 0)
    assert 600 <= near < 620 and far < MAX_DEPTH_CODE
    hand = coloured(depth)[20:, :20].reshape(-1, 3).astype(int)
    background = coloured(depth)[10:20].reshape(-1, 3).astype(int)
    assert np.ptp(hand, axis=0).max() > 100 > np.ptp(background, axis=0).max()


def test_the_montage_cuts_no_names(tmp_path: Path) -> None:
    for label in ("ball", "instant_noodles"):
        write(tmp_path / label, label, f"{label}_number_12", "0", scene(1), ramp())
    images = []
    for label in ("ball", "instant_noodles"):
        _, dataset = check([tmp_path / label])
        montage(dataset, tmp_path / "m.png", side_px=40)
        image = cv2.imread(str(tmp_path / "m.png"))
        right_edge = np.flatnonzero(image[: HEAD_PX + CAPTION_PX].any((0, 2))).max()
        images.append((image.shape[1], right_edge))
    (narrow, _), (wide, _) = images
    assert wide > narrow + 40 and all(edge < width - 4 for width, edge in images)


def test_the_montage_has_every_class_with_rgb_above_depth(tmp_path: Path) -> None:
    colours = {"a": (250, 0, 0), "b": (0, 250, 0), "c": (0, 0, 250)}
    for label, colour in colours.items():
        write(tmp_path / "data", label, label, "0", np.full((48, 24, 3), colour, np.uint8), ramp()[:, :24].copy())
    _, dataset = check([tmp_path / "data"])
    montage(dataset, tmp_path / "m.png", side_px=40, per_class=2, columns=2)
    image = cv2.imread(str(tmp_path / "m.png"))[..., ::-1]
    height, width = HEAD_PX + 4 * (40 + CAPTION_PX) + 6, image.shape[1] // 2
    assert image.shape[0] == 2 * height
    top = HEAD_PX + CAPTION_PX
    middles = {"a": (top + 20, 20), "b": (top + 20, width + 20), "c": (height + top + 20, 20)}
    assert image[HEAD_PX:top, :40].max() > 100  # the sequence's name
    assert image[top + 80 : top + 80 + CAPTION_PX, :40].max() > 100  # and which depths the colours stand for
    for label, (row, column) in middles.items():
        assert image[row, column].tolist() == list(colours[label])
        assert image[row, column - 18].tolist() == [0, 0, 0]  # next to the narrow image
        assert len(np.unique(image[row + 40, column - 8 : column + 8], axis=0)) > 5  # the ramp's colours
    with pytest.raises(UserError, match="no pair"):
        montage(dataset.subset([]), tmp_path / "m.png")


def edgefuse(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EDGEFUSE, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_commands_convert_and_check(tmp_path: Path) -> None:
    for seed in range(6):
        write(tmp_path / "in", "cup" if seed < 3 else "ball", f"t{seed % 3}", "0", scene(seed), ramp())
    arguments = ("data", "convert", tmp_path / "in", tmp_path / "out", "--layout", "pairs", "--unit", "mm")
    done = edgefuse(*arguments)
    assert done.returncode == 0, done.stderr
    assert "6 pairs; next: edgefuse data check" in done.stderr and "converting: 6 of 6 pairs" in done.stderr
    assert edgefuse(*arguments).returncode == 1 and edgefuse(*arguments, "--force").returncode == 0
    checked = edgefuse("data", "check", tmp_path / "out", "--json", "--montage", tmp_path / "m.png")
    assert checked.returncode == 0 and json.loads(checked.stdout)["num_pairs"] == 6
    assert cv2.imread(str(tmp_path / "m.png")) is not None
    (tmp_path / "out/cup/t1/0_depth.png").unlink()
    spoilt = edgefuse("data", "check", tmp_path / "out")
    assert spoilt.returncode == 1 and "bad pairs: 1" in spoilt.stdout and "0_rgb.png: no 0_depth.png" in spoilt.stdout
    assert "cup" in spoilt.stdout and "depth: p1" in spoilt.stdout and "Traceback" not in spoilt.stderr


def test_recorded_sequences_have_no_near_duplicates_in_other_sequences() -> None:
    if not GESTURES.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{GESTURES} is absent, and CI must have it")
        pytest.skip(f"the recorded gestures are absent: {GESTURES}")
    report, _ = check([GESTURES])
    assert report.num_pairs == 1200 and report.num_groups == 8 and not report.problems
    assert report.num_leaking == 0 and report.sizes == {"128x128": 1200}


def test_depth_outside_the_range_of_the_training_is_warned_of(tmp_path: Path) -> None:
    write(tmp_path, "ball", "b1", "0", scene(1), ramp() + 1500)
    write(tmp_path, "cup", "c1", "0", scene(2), ramp())
    (warning,) = check([tmp_path])[0].warnings
    assert warning.startswith("50% of the measured depth is beyond 2 m") and "--far" in warning
    assert check([tmp_path], far_m=4.0)[0].warnings == ()
    (warning,) = check([tmp_path], near_m=1.5, far_m=4.0)[0].warnings
    assert "nearer than 1.5 m" in warning and "--near" in warning


@pytest.mark.parametrize("kind", ["none", "few", "constant", "black", "grey"])
def test_a_sensor_missing_in_most_pairs_of_a_class_is_warned_of(kind: str, tmp_path: Path) -> None:
    rgb, depth = scene(1), ramp()
    if kind in ("black", "grey"):
        rgb = np.full((48, 48, 3), 0 if kind == "black" else 120, np.uint8)
    else:
        depth = np.full((48, 48), 1000 if kind == "constant" else 0, np.uint16)
        depth[0, : 20 if kind == "few" else 0] = np.arange(20)[: 20 if kind == "few" else 0] + 1000
    for number in range(4):
        write(tmp_path, "ball", "b", str(number), scene(10 + number), ramp() + number)
        available = number == 0
        write(
            tmp_path,
            "cup",
            "c",
            str(number),
            scene(20) if available else rgb,
            ramp() + 9 if available else depth + number * (kind == "constant"),
        )
    found = [text for text in check([tmp_path])[0].warnings if "missing" in text]
    assert len(found) == 1 and "3 of 4 pairs of 1 of 2 classes (cup), first " in found[0] and "cup/c/1_" in found[0]
    assert found[0].startswith("RGB is missing" if kind in ("black", "grey") else "depth is missing")


def test_one_class_out_of_range_is_reported_even_if_the_set_is_in_range(tmp_path: Path) -> None:
    for number in range(24):
        write(tmp_path, "cup", f"c{number}", "0", scene(number), ramp())
    write(tmp_path, "ball", "b1", "0", scene(99), ramp() + 1500)
    (warning,) = check([tmp_path])[0].warnings
    assert warning.startswith(
        "1 class(es) are out of the depth range, first ball: 100% of the measured depth is beyond 2 m"
    )


def test_the_same_pixels_under_two_names_are_warned_of_by_check_and_by_load(tmp_path: Path) -> None:
    for label, sequence, seed in (
        ("cup", "t", 1),
        ("ball", "t", 1),
        ("cup", "t2", 2),
        ("cup", "t3", 2),
        ("ball", "t4", 3),
    ):
        write(tmp_path / "a", label, sequence, "0", scene(seed), ramp())
    write(tmp_path / "b", "ball", "t4", "0", scene(3), ramp())
    other = cv2.imencode(".png", scene(1)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()
    assert other != (tmp_path / "a/ball/t/0_rgb.png").read_bytes()
    (tmp_path / "a/ball/t/0_rgb.png").write_bytes(other)  # the same pixels in a different file
    for found in (
        check([tmp_path / "a", tmp_path / "b"])[0].warnings,
        load(scan([tmp_path / "a", tmp_path / "b"])).dataset.warnings,
    ):
        assert len(found) == 3 and all(text.startswith("1 pair(s) have the same pixels") for text in found)
        for text, words in zip(found, ("in two classes", "in two sequences", "of two folders"), strict=True):
            assert words in text
        assert "ball/t/0_rgb.png" in found[0] and "cup/t3/0_rgb.png" in found[1]


def test_one_rgb_image_under_two_classes_with_another_depth_is_warned_of_by_check_and_by_load(tmp_path: Path) -> None:
    for label, seed, more in (("cup", 1, 0), ("ball", 1, 7), ("ball", 1, 9), ("cup", 2, 0)):
        write(tmp_path, label, "t", f"{seed}{more}", scene(seed), ramp() + more)
    for found in (check([tmp_path])[0].warnings, load(scan([tmp_path])).dataset.warnings):
        (text,) = found
        assert text.startswith("1 pair(s) have the same RGB image as another") and "with different depth" in text


def test_an_exif_orientation_is_counted(tmp_path: Path) -> None:
    write(tmp_path, "cup", "a", "0", scene(1), ramp())
    path = tmp_path / "cup/a/0_rgb.png"
    data = path.read_bytes()
    body = b"eXIf" + b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    path.write_bytes(
        data[:33] + (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big") + data[33:]
    )
    (warning,) = check([tmp_path])[0].warnings
    assert warning.startswith("1 pair(s) have an EXIF orientation") and "0_rgb.png" in warning


def test_strict_makes_warnings_and_near_duplicates_errors(tmp_path: Path) -> None:
    write(tmp_path / "far", "cup", "a", "0", scene(1), ramp() + 1500)
    assert edgefuse("data", "check", tmp_path / "far").returncode == 0
    done = edgefuse("data", "check", tmp_path / "far", "--strict")
    assert done.returncode == 1 and "1 warning(s), which --strict makes errors" in done.stderr
    assert edgefuse("data", "check", tmp_path / "far", "--strict", "--far", "4").returncode == 0
    for name, value in (("--far", "nan"), ("--near", "-1"), ("--far", "0.1"), ("--far", "1e9")):
        assert edgefuse("data", "check", tmp_path / "far", name, value).returncode == 2
    write(tmp_path / "twins", "cup", "a", "0", scene(1), ramp())
    write(tmp_path / "twins", "cup", "b", "0", scene(1) + 1, ramp())
    assert edgefuse("data", "check", tmp_path / "twins").returncode == 0
    assert edgefuse("data", "check", tmp_path / "twins", "--strict").returncode == 1


def test_a_montage_replaces_nothing_without_force_and_no_data_ever(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, "cup", "a", "0", scene(1), ramp())
    (data / "own.png").write_bytes(b"mine")
    (tmp_path / "photo.png").write_bytes(b"mine")
    (tmp_path / "link.png").symlink_to(data / "cup/a/0_rgb.png")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*.png"))}
    for name in (
        "data/cup/a/0_rgb.png",
        "data/cup/a/0_depth.png",
        "data/own.png",
        "data/cup/a/new.png",
        "data/cup/new.png",
        "link.png",
    ):
        for force in ((), ("--force",)):
            done = edgefuse("data", "check", data, "--montage", tmp_path / name, *force)
            assert done.returncode == 2, name
    assert edgefuse("data", "check", data, "--montage", tmp_path / "photo.png").returncode == 2
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*.png"))} == before
    assert edgefuse("data", "check", data, "--montage", tmp_path / "photo.png", "--force").returncode == 0
    assert (tmp_path / "photo.png").read_bytes() != b"mine"
    (data / "own.png").unlink()
    for force in ((), ("--force",)):  # also in the root, where it is not an image of the data
        done = edgefuse("data", "check", data, "--montage", data / "montage.png", "--strict", *force)
        assert done.returncode == 0, done.stdout + done.stderr
    assert edgefuse("data", "check", data, "--montage", data / "montage.png").returncode == 2
