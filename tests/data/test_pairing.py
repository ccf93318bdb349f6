"""Every file below a root that looks like an image is in a pair or is reported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgefuse.data.dataset import Dataset, has_pairs, scan, write_description, write_pair
from edgefuse.data.detect_layout import split_folders
from edgefuse.data.pairing import find_pairs
from edgefuse.data.similar_names import alike_names
from edgefuse.data.tree import is_skipped
from edgefuse.errors import UserError
from edgefuse.io.text import name_problem, printable

CHECK = (sys.executable, "-c", "from edgefuse.app.main import main; main()", "data", "check")


def pair(root: Path, label: str = "cup", sequence: str = "s0", name: str = "f0") -> Path:
    rng = np.random.default_rng(len(list(root.rglob("*"))))
    folder = root / label / sequence
    write_pair(
        folder, name, rng.integers(0, 255, (8, 8, 3), np.uint8), rng.integers(500, 900, (8, 8)).astype(np.uint16)
    )
    return folder


def left_out(root: Path) -> list[str]:
    return [text.replace(f"{root}/", "").replace(str(root), "ROOT") for text in scan([root], skip_bad=True).left_out]


def test_images_without_a_sequence_folder_are_counted(tmp_path: Path) -> None:
    pair(tmp_path)
    for path in list(pair(tmp_path, "bowl", name="a").iterdir()):
        path.rename(tmp_path / "bowl" / path.name)
    (tmp_path / "bowl/s0").rmdir()
    (text,) = left_out(tmp_path)
    assert (
        text.startswith("bowl: 2 images (first a_depth.png) are directly in the class folder") and "--sequence" in text
    )
    with pytest.raises(UserError, match=r"2 bad.*--skip-bad"):
        scan([tmp_path])
    dataset = scan([tmp_path], skip_bad=True)
    assert dataset.labels == ("cup",) and dataset.num_left_out == 2


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_images_too_deep_are_named(tmp_path: Path, levels: int) -> None:
    pair(tmp_path)
    pair(tmp_path / "bowl" / "/".join("x" * (levels - 1)), "y")
    (text,) = left_out(tmp_path)
    assert text.startswith(f"bowl/{'x' if levels > 1 else 'y'}: 2 images") and "too deep" in text


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        (".PNG", "--layout pairs"),
        (".Png", "--layout pairs"),
        (".tiff", "--layout pairs"),
        (".jpg", "8 bits"),
        (".npy", "--layout npy"),
    ],
)
def test_other_suffixes_are_reported_with_the_next_command(tmp_path: Path, suffix: str, words: str) -> None:
    pair(tmp_path)
    for path in list(pair(tmp_path, "bowl").iterdir()):
        path.rename(path.with_suffix(suffix))
    (text,) = left_out(tmp_path)
    assert text.startswith("bowl/s0: 2 images") and words in text


@pytest.mark.parametrize(
    "name", ["f0_rgb.png.part", "f0_rgb.png~", "f0_RGB.png", "f1.jpeg", "f0_depth.exr", "f0_depth.bin", "x.heic"]
)
def test_a_sequence_without_a_pair_reports_its_images(tmp_path: Path, name: str) -> None:
    pair(tmp_path)
    (tmp_path / "bowl/s0").mkdir(parents=True)
    (tmp_path / "bowl/s0" / name).write_bytes(b"x")
    (text,) = left_out(tmp_path)
    assert text.startswith("bowl/s0: 1 image") and name in text


def test_images_that_accompany_pairs_are_a_warning(tmp_path: Path) -> None:
    folder = pair(tmp_path)
    for name in ("f0_mask.png", "f0_rgb.jpg", "overview.png"):
        (folder / name).write_bytes(b"x")
    (tmp_path / "map.png").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("no image")
    dataset = scan([tmp_path])
    assert len(dataset.samples) == 1 and [text.split(": ")[1][:8] for text in dataset.warnings] == [
        "3 images",
        "1 image ",
    ]
    (folder / "f1_rgb.jpg").write_bytes(b"x")  # no pair has this name, so it may belong to a lost pair
    with pytest.raises(UserError, match="f1_rgb"):
        scan([tmp_path])


def test_class_folders_without_a_pair_are_named(tmp_path: Path) -> None:
    pair(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts/s0").mkdir(parents=True)
    (tmp_path / "texts/s0/a.txt").write_text("x")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "run").mkdir()
    for name in ("run.json", "confusion.png"):
        (tmp_path / "run" / name).write_text("{}")
    (tmp_path / "cup/s1").mkdir()
    assert [text.split(":")[0] for text in left_out(tmp_path)] == ["empty", "texts"]
    assert [text for text in scan([tmp_path], skip_bad=True).warnings if "cup/s1: no image" in text]


def test_links_are_followed_but_not_in_cycles(tmp_path: Path) -> None:
    pair(tmp_path / "elsewhere", "x", "s1")
    pair(tmp_path / "d", "cup", "s0")
    (tmp_path / "d/cup/s1").symlink_to(tmp_path / "elsewhere/x/s1")
    (tmp_path / "d/cup/s0/up").symlink_to(tmp_path / "d")
    (tmp_path / "d/cup/me").symlink_to(tmp_path / "d/cup")
    assert [sample.sequence for sample in scan([tmp_path / "d"]).samples] == ["s0", "s1"]
    for name in ("a", "b"):
        (tmp_path / "d/cup/s0" / name).symlink_to(tmp_path / "elsewhere/x")
    assert [problem.count for problem in find_pairs(tmp_path / "d").problems] == [2]  # once, not for each link
    (tmp_path / "d/bowl").symlink_to(tmp_path / "unplugged")
    with pytest.raises(UserError, match="broken link.*, first bowl"):
        scan([tmp_path / "d"])


@pytest.mark.parametrize(
    "name", ["._f0_rgb.png", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir", "lost+found"]
)
def test_system_files_are_skipped_at_every_level(tmp_path: Path, name: str) -> None:
    folder = pair(tmp_path)
    for place in (folder, folder.parent, tmp_path):
        (place / name / "x").mkdir(parents=True)
        (place / name / "x" / "f0_rgb.png").write_bytes(b"x")
    assert is_skipped(name)
    dataset = scan([tmp_path])
    assert len(dataset.samples) == 1 and dataset.labels == ("cup",) and not dataset.warnings


def _without_rights(*command: object) -> subprocess.CompletedProcess[str]:
    drop: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("run by root, without setpriv to give its rights up")
        drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    return subprocess.run([*drop, *map(str, command)], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("place", ["bowl", "bowl/s0", "bowl/s0/f0_rgb.png"])
@pytest.mark.parametrize("rights", [0o000, 0o444])
def test_unreadable_files_and_folders_are_reported(tmp_path: Path, place: str, rights: int) -> None:
    pair(tmp_path, "cup")
    pair(tmp_path, "bowl")
    if place.endswith(".png") and rights:
        pytest.skip("a file that can be read")
    (tmp_path / place).chmod(rights)
    try:
        done = _without_rights(*CHECK, tmp_path)
    finally:
        (tmp_path / place).chmod(0o755)
    assert done.returncode == 1 and f"{place}" in done.stdout and "Permission denied" in done.stdout, (
        done.stdout + done.stderr
    )


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"), ("Training", "Validation"), ("train2017", "val2017"), ("train_set", "test_set"), ("X_train", "X_test"),
        ("trainset", "testset"), ("dev", "test"), ("fold_0", "fold_1"), ("split1", "split2"), ("train",), ("train-1", "train-2"),
    ],
)  # fmt: skip
def test_parts_of_a_split_are_not_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        pair(tmp_path / name, "cup")
        pair(tmp_path / name, "bowl")
    with pytest.raises(UserError, match=f"parts of a split, not classes.*edgefuse train {tmp_path}/"):
        scan([tmp_path], skip_bad=True)
    assert scan([tmp_path / name for name in names]).labels == ("bowl", "cup")  # as the message suggests


def test_parts_without_sequences_are_converted_one_by_one(tmp_path: Path) -> None:
    for part in ("train", "test"):
        pair(tmp_path, part, "cup")
    with pytest.raises(
        UserError,
        match=rf"data convert {tmp_path}/\w+ OUT/\w+ --layout pairs.*edgefuse train OUT/train.*evaluate RUN OUT/test",
    ):
        scan([tmp_path])


@pytest.mark.parametrize(
    "names",
    [
        ("Training set", "held-out"),
        ("entrainement", "essai"),
        ("Jeu d'entraînement", "jeu de test"),
        ("Trainingsdaten", "Testdaten"),
        ("Trainings-Daten", "Test-Daten"),
        ("train", "hold out"),
        ("training_data", "testing_data"),
        ("TrainSet", "ValSet", "TestSet"),
        ("trainset", "valset"),
        ("train set", "test set"),
        ("conjunto de entrenamiento", "conjunto de prueba"),
        ("訓練", "テスト"),
    ],
)
def test_parts_of_a_split_are_recognised_in_other_languages(names: tuple[str, ...]) -> None:
    assert tuple(split_folders(names)) == names
    assert "train" in split_folders(names).values()


def test_a_held_out_folder_next_to_classes_is_a_part_of_a_split() -> None:
    assert split_folders(["holdout", "cup", "ball"]) == {"holdout": "test"}
    assert split_folders(["test set", "cup", "ball"]) == {"test set": "test"}
    assert split_folders(["valset", "cup", "ball"]) == {"valset": "validation"}


@pytest.mark.parametrize(
    "names",
    [
        ("train", "car", "bus"),
        ("left", "right"),
        ("trainer", "tester"),
        ("a", "b"),
        ("test",),
        ("dev", "mug"),
        ("set1", "set2"),
    ],
)
def test_names_that_may_be_classes_are_accepted(names: tuple[str, ...]) -> None:
    assert split_folders(names) == {}


def test_a_root_at_the_wrong_level_is_recognised(tmp_path: Path) -> None:
    pair(tmp_path / "d", "cup", "s0")
    pair(tmp_path / "d", "bowl", "s0")
    for wrong, step in (
        ("d/cup", f"one class folder of a data set: give {tmp_path}/d"),
        ("d/cup/s0", f"two levels up ({tmp_path}/d)"),
        (".", f"there are pairs one level down: give {tmp_path}/d"),
    ):
        with pytest.raises(UserError) as caught:
            scan([tmp_path / wrong])
        assert step in str(caught.value)
    shutil.rmtree(tmp_path / "d/bowl")
    with pytest.raises(UserError, match=r"If they are classes: edgefuse data convert .* --sequence-pattern '\(\.\+\)'"):
        scan([tmp_path / "d/cup"])


def test_a_root_given_twice_or_inside_another_is_refused(tmp_path: Path) -> None:
    pair(tmp_path / "d")
    (tmp_path / "link").symlink_to(tmp_path / "d")
    for other in ("d", "link", "d/../d"):
        with pytest.raises(UserError, match="are the same folder"):
            scan([tmp_path / "d", tmp_path / other])
    with pytest.raises(UserError, match="is inside"):
        scan([tmp_path / "d/cup", tmp_path / "d"])


def test_depth_in_another_format_is_reported_with_the_next_command(tmp_path: Path) -> None:
    folder = pair(tmp_path)
    (folder / "f0_depth.png").unlink()
    for suffix, words in (
        ("npy", "--layout npy"),
        ("exr", "save its array as f0_depth.npy"),
        ("tif", "--layout pairs"),
        ("jpg", "8 bits"),
    ):
        (folder / f"f0_depth.{suffix}").write_bytes(b"x")
        (text,) = left_out(tmp_path)
        assert (
            text.startswith(f"cup/s0/f0_rgb.png: no f0_depth.png next to it; f0_depth.{suffix} exists")
            and words in text
        )
        (folder / f"f0_depth.{suffix}").unlink()


def test_differences_between_roots_and_names_that_look_alike_are_warned_of(tmp_path: Path) -> None:
    for root, label in (("a", "café"), ("b", "cafe\u0301"), ("b", "Mug"), ("b", "mug")):
        pair(tmp_path / root, label)
    write_description(tmp_path / "a", region="1,2,3,4")
    write_description(tmp_path / "b", region="whole")
    dataset = scan([tmp_path / "a", tmp_path / "b"])
    assert dataset.region is None and scan([tmp_path / "a"]).region == "1,2,3,4"
    text = "\n".join(dataset.warnings)
    assert "differ in the recorded region" in text and "'caf\\xe9' and 'cafe\\u0301'" in text.replace(
        "'cafe\\u0301' and 'caf\\xe9'", "'caf\\xe9' and 'cafe\\u0301'"
    )
    assert "'Mug' and 'mug'" in text and len(dataset.warnings) == 2


@pytest.mark.parametrize(
    ("names", "num_alike"),
    [
        (["red mug", "red_mug", "red-mug", "redmug"], 1),
        (["mug", "mugs"], 1),
        (["box", "boxes", "cherry", "Cherries"], 2),
        (["mug", "m\u0430g", "mag"], 1),
        (["class_1_2", "class_12", "tilt_-10", "tilt_10", "bus", "bu", "c+", "c"], 0),
        (["glass", "glas", "кот", "код", "<", ">"], 0),
    ],
)
def test_similar_class_names_are_reported_in_one_line(names: list[str], num_alike: int) -> None:
    found = list(alike_names(names))
    assert len(found) == min(num_alike, 1)
    assert all(
        text.startswith(f"{num_alike} class(es) have several names: {names[0]!r} and")
        for text in found
        if "m\u0430g" not in names
    )


@pytest.mark.parametrize("place", ["cup", "cup/s0", "cup/s0/x"])
def test_a_description_below_the_root_is_refused(tmp_path: Path, place: str) -> None:
    pair(tmp_path)
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "dataset.json").write_text('{"depth_unit_m": 0.0001}')
    (text,) = left_out(tmp_path)
    assert text.startswith(f"{place}: its dataset.json would be ignored")


def test_a_folder_has_pairs_once_it_has_one_file_of_a_pair(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "README.txt").touch()
    assert not has_pairs(tmp_path) and not has_pairs(tmp_path / "absent")
    pair(tmp_path)
    assert has_pairs(tmp_path)


NAME = st.one_of(
    st.text(min_size=1, max_size=12),
    st.binary(min_size=1, max_size=12).map(os.fsdecode),
    st.sampled_from(["[red]", "a\nb", "x" * 230, "\u202etxt", "a b", "ü", "$x$", "100%", "-v", "con"]),
).filter(
    lambda name: "/" not in name and "\0" not in name and name not in (".", "..") and len(os.fsencode(name)) <= 240
)


@given(label=NAME, sequence=NAME)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_any_name_of_a_class_or_sequence_is_used_or_reported(tmp_path: Path, label: str, sequence: str) -> None:
    root = tmp_path / str(len(list(tmp_path.iterdir())))
    pair(root, "cup_0", "s_0")
    folder = root / label / sequence
    try:
        folder.mkdir(parents=True)
    except (OSError, UnicodeEncodeError):
        return
    for path in (root / "cup_0/s_0").iterdir():
        shutil.copy(path, folder)
    dataset: Dataset = scan([root], skip_bad=True)
    if is_skipped(label):
        assert len(dataset.samples) == 1 and not dataset.left_out
    elif is_skipped(sequence):  # then the class folder is empty
        assert len(dataset.samples) == 1 and all("no pair" in line for line in dataset.left_out)
    elif name_problem(label) or name_problem(sequence):
        assert len(dataset.samples) == 1 and printable(dataset.left_out[0]).count("cannot be used") == 1
    else:
        assert {(dataset.labels[sample.label], sample.sequence) for sample in dataset.samples} == {
            ("cup_0", "s_0"),
            (label, sequence),
        }


def test_a_pipe_or_a_folder_is_not_an_image(tmp_path: Path) -> None:
    folder = pair(tmp_path)
    for name in ("f1", "f2"):
        pair(tmp_path, name=name)
    (folder / "f1_rgb.png").unlink()
    os.mkfifo(folder / "f1_rgb.png")
    (folder / "f2_depth.png").unlink()
    (folder / "f2_depth.png").symlink_to("/dev/zero")
    done = subprocess.run([*CHECK, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and done.stdout.count("not a regular file") == 2
