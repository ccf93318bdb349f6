"""The Washington data set: synthetic trees in its exact format; sampling, official trials, and optional files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.data.dataset import load, scan
from edgefuse.data.layouts.convert import convert
from edgefuse.data.layouts.washington import read_trials, read_washington, sample_evenly, trial_splits
from edgefuse.errors import UserError

CATEGORIES = ("apple", "cell_phone", "food_bag")
HEIGHT, WIDTH = 9, 11


def write_tree(root: Path, *, num_sequences: int = 2, num_frames: int = 3) -> Path:
    """`num_frames` frames of two videos of each instance; the depth's centre encodes instance, video and frame."""
    rng = np.random.default_rng(3)
    for category in CATEGORIES:
        for n in range(1, num_sequences + 1):
            folder = root / category / f"{category}_{n}"
            folder.mkdir(parents=True)
            for video in (1, 4):
                for frame in range(1, 5 * num_frames, 5):
                    stem = folder / f"{category}_{n}_{video}_{frame}"
                    depth = rng.integers(500, 900, (HEIGHT, WIDTH)).astype(np.uint16)
                    depth[0] = 0
                    depth[4, 5] = 10_000 + 1000 * n + 100 * video + frame
                    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
                    mask[2:7, 3:9] = 255
                    rgb = rng.integers(1, 255, (HEIGHT, WIDTH, 3), np.uint8)
                    for suffix, image in (("crop", rgb), ("depthcrop", depth), ("maskcrop", mask)):
                        cv2.imwrite(f"{stem}_{suffix}.png", image)
                    Path(f"{stem}_loc.txt").write_text(f"{200 + n}, {150 + frame}\n")
    return root


def write_trials(path: Path, *, num_sequences: int = 2) -> None:
    """The official file's format: a heading, the names, two empty lines."""
    blocks = []
    for trial in range(1, 11):
        names = [f"{category}_{1 + (trial + i) % num_sequences}" for i, category in enumerate(CATEGORIES)]
        blocks.append("\n".join([f"****** trial {trial} ******", *names, "", ""]))
    path.write_text("\n".join(blocks))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = write_tree(tmp_path / "rgbd-dataset_eval")
    write_trials(root / "testinstance_ids.txt")
    return root


def test_every_pair_is_converted_with_its_values(tree: Path, tmp_path: Path) -> None:
    done = convert(tree, tmp_path / "out", layout="washington")
    images = load(scan([tmp_path / "out"]))
    assert done.num_pairs == 36 == len(images.dataset.samples) and images.dataset.labels == CATEGORIES
    for sample, rgb, depth in zip(images.dataset.samples, images.rgb, images.depth, strict=True):
        source = tree / images.dataset.labels[sample.label] / sample.sequence / sample.name
        n, video, frame = map(int, sample.name.split("_")[-3:])
        assert sample.sequence.endswith(f"_{n}") and sample.depth_unit_m == 0.001
        assert depth[4, 5] == 10_000 + 1000 * n + 100 * video + frame and (depth[0] == 0).all()
        assert (rgb[..., ::-1] == cv2.imread(f"{source}_crop.png")).all()


def test_the_description_has_the_origin_and_no_path(tree: Path, tmp_path: Path) -> None:
    convert(tree, tmp_path / "out", layout="washington", samples=9, seed=5)
    description = json.loads((tmp_path / "out/dataset.json").read_text())
    origin = description["source"]
    assert (origin["layout"], origin["folder"], origin["samples"], origin["seed"]) == ("washington", tree.name, 9, 5)
    assert str(tmp_path) not in json.dumps(description)
    crops = json.loads((tmp_path / "out/crops.json").read_text())
    assert len(crops) == 9 and all(place[0] == 200 + int(name.split("_")[-3]) for name, place in crops.items())


def test_masks_and_positions_are_optional(tree: Path, tmp_path: Path) -> None:
    for path in [*tree.glob("*/*/*_maskcrop.png"), *tree.glob("*/*/*_loc.txt")]:
        path.unlink()
    done = convert(tree, tmp_path / "out", layout="washington")
    assert done.num_pairs == 36 and len(load(scan([tmp_path / "out"])).rgb) == 36
    assert any("36 pair(s) have no _loc.txt, such as apple_1_1_1" in note for note in done.notes)
    assert not (tmp_path / "out/crops.json").exists()


def test_missing_masks_are_reported_with_masked(tree: Path, tmp_path: Path) -> None:
    (tree / "apple/apple_2/apple_2_4_6_maskcrop.png").unlink()
    with pytest.raises(UserError, match=r"apple_2_4_6: no apple_2_4_6_maskcrop\.png, or leave out --masked"):
        convert(tree, tmp_path / "out", layout="washington", masked=True)
    done = convert(tree, tmp_path / "out", layout="washington", masked=True, skip_bad=True)
    assert done.num_pairs == 35
    images = load(scan([tmp_path / "out"]))
    outside = np.ones((HEIGHT, WIDTH), bool)
    outside[2:7, 3:9] = False
    assert all((rgb[outside] == 0).all() and (rgb[~outside] > 0).all() for rgb in images.rgb)
    assert all((depth[outside] == 0).all() and (depth[~outside] > 0).all() for depth in images.depth)


def test_bad_files_are_all_listed_and_nothing_is_written(tree: Path, tmp_path: Path) -> None:
    (tree / "apple/apple_1/apple_1_1_1_depthcrop.png").unlink()
    (tree / "apple/apple_1/apple_1_1_6_loc.txt").write_text("12;7")
    (tree / "apple/apple_1/banana_1_1_6_crop.png").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        convert(tree, tmp_path / "out", layout="washington")
    text = str(caught.value)
    assert "3 bad" in text and "apple_1_1_1: no apple_1_1_1_depthcrop.png" in text and "'12;7'" in text
    assert "banana_1_1_6_crop.png: a name such as apple/apple_1/" in text and not (tmp_path / "out").exists()


def test_an_8_bit_depth_image_is_reported(tree: Path, tmp_path: Path) -> None:
    bad = tree / "food_bag/food_bag_1/food_bag_1_1_1_depthcrop.png"
    cv2.imwrite(str(bad), np.ones((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(UserError, match=r"food_bag_1_1_1_depthcrop\.png: depth is 8-bit"):
        convert(tree, tmp_path / "out", layout="washington")


def test_the_official_trials_become_splits_by_sequence(tree: Path, tmp_path: Path) -> None:
    convert(tree, tmp_path / "out", layout="washington")
    dataset = scan([tmp_path / "out"])
    splits = trial_splits(dataset)
    assert len(splits) == 10
    official = read_trials(tree / "testinstance_ids.txt")
    for split, names in zip(splits, official, strict=True):
        assert {dataset.samples[i].sequence for i in split.test} == set(names)
        assert {dataset.samples[i].sequence for i in split.train}.isdisjoint(names)
        assert sorted(split.train + split.test) == list(range(36))


def test_trials_next_to_the_tree_are_found_too(tmp_path: Path) -> None:
    write_tree(tmp_path / "rgbd-dataset")
    write_trials(tmp_path / "testinstance_ids.txt")
    assert len(read_washington(tmp_path).origin["trials"]) == 10
    assert len(read_washington(tmp_path / "rgbd-dataset").origin["trials"]) == 10


def test_without_trials_the_error_says_what_is_missing(tree: Path, tmp_path: Path) -> None:
    (tree / "testinstance_ids.txt").unlink()
    done = convert(tree, tmp_path / "out", layout="washington")
    assert any("testinstance_ids.txt" in note for note in done.notes)
    with pytest.raises(UserError, match=r"no official trials: put testinstance_ids\.txt"):
        trial_splits(scan([tmp_path / "out"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("apple_1\n", "line 1: 'apple_1'"),
        ("****** trial 1 ******\napple 1\n", "line 2"),
        ("****** trial 1 ******\napple_1\n\n\n****** trial 2 ******\n", "empty ones"),
        ("", "0 trial"),
    ],
)
def test_other_lists_of_trials_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "testinstance_ids.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_trials(path)


def test_other_trees_are_refused(tmp_path: Path, colour_and_range: Path) -> None:
    for root, message in ((tmp_path / "absent", "not a folder"), (colour_and_range, "evaluation set")):
        with pytest.raises(UserError, match=message):
            read_washington(root)


def test_more_samples_than_there_are_is_refused(tree: Path) -> None:
    with pytest.raises(UserError, match="37 samples were requested, but the set has 36"):
        read_washington(tree, num_samples=37)


sizes = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=8)


@given(sizes=sizes, data=st.data())
def test_samples_are_even_repeatable_and_drawn_once(sizes: list[list[int]], data: st.DataObject) -> None:
    keys = [
        (f"c{c}", f"c{c}_{i}") for c, parts in enumerate(sizes) for i, size in enumerate(parts) for _ in range(size)
    ]
    num_samples = data.draw(st.integers(1, len(keys)))
    chosen = sample_evenly(keys, num_samples=num_samples, seed=2)
    assert chosen == sorted(set(chosen)) == sample_evenly(keys, num_samples=num_samples, seed=2)
    assert len(chosen) == num_samples
    for level in (0, 1):
        room = Counter(key[level] for key in keys)
        taken = Counter(keys[i][level] for i in chosen)
        parents = {key[level]: key[0] if level else "" for key in keys}
        for parent in set(parents.values()):
            parts = [name for name in room if parents[name] == parent]
            # Even: a part with fewer than another has no more.

            most = max(taken[name] for name in parts)
            assert all(taken[name] == room[name] or taken[name] >= most - 1 for name in parts)


def test_another_seed_chooses_others() -> None:
    keys = [("a", f"a_{i}") for i in range(5) for _ in range(40)]
    assert sample_evenly(keys, num_samples=50, seed=1) != sample_evenly(keys, num_samples=50, seed=2)
