"""Read the evaluation set of the Washington RGB-D Object Dataset: cropped pairs, every fifth frame of each video.

    <category>/<category>_<n>/<category>_<n>_<video>_<frame>_crop.png         colour
                                                           ..._depthcrop.png  16-bit, mm, 0 = none
                                                           ..._maskcrop.png   0 = not the object; optional
                                                           ..._loc.txt        "x, y": corner of the crop in the full frame
    testinstance_ids.txt                                   ten blocks "****** trial 1 ******" and the instances to test on

Owns the tree's names, the official trials and the sampling. Sequence = `<category>_<n>`, which the paper calls an instance.
Source: Lai et al., "A large-scale hierarchical multi-view RGB-D object dataset", 2011; format of the trials from public readers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from edgefuse.data.dataset import DATASET_NAME, Dataset, read_pair
from edgefuse.data.detect_layout import other_layout
from edgefuse.data.layouts.source import Item, Pair, Source
from edgefuse.data.splits import Split
from edgefuse.data.tree import at_level
from edgefuse.errors import UserError
from edgefuse.io.images import read_rgb
from edgefuse.io.json_files import Optional, check_fields, read_json
from edgefuse.io.text import printable
from edgefuse.io.text_files import read_lines

NUM_CATEGORIES = 51
PAPER_NUM_SAMPLES = 4500
DEPTH_UNIT_M = 0.001
TRIALS_NAME = "testinstance_ids.txt"
CROPS_NAME = "crops.json"
"""Corner [x, y] of each pair in its full frame, by "<class>/<sequence>/<name>". Training does not use it."""

_RGB, _DEPTH, _MASK, _LOC = "_crop.png", "_depthcrop.png", "_maskcrop.png", "_loc.txt"
_TRIAL = re.compile(r"\*+\s*trial\s+(\d+)\s*\*+", re.IGNORECASE)


def read_washington(root: Path, *, num_samples: int | None = None, seed: int = 0, masked: bool = False) -> Source:
    """Find the pairs below `root` (or its folder `rgbd-dataset...`) without reading images.

    Missing masks are a fault only with `masked`. Missing `_loc.txt` files are never one; a note reports them.

    Args:
        num_samples: choose this many pairs with `sample_evenly`; all by default.
        masked: set RGB and depth to 0 outside the object.

    Raises:
        UserError: not such a tree, fewer pairs than requested, or invalid trials.
    """
    top = _top(root)
    folders, problems = at_level(
        top, 2, is_meant=lambda name: name.endswith((_RGB, _DEPTH)), expected="<category>/<category>_<n>/"
    )
    items = []
    for folder in folders:
        found, bad = _read_sequence(folder.path, set(folder.files), masked=masked)
        items += found
        problems += bad
    if not items and not problems:
        raise UserError(
            f"{root} has no pairs: apple/apple_1/apple_1_1_1_crop.png with apple_1_1_1_depthcrop.png and so on were expected, "
            f"the evaluation set{other_layout(root, expected='washington')}"
        )
    if num_samples is not None:
        keys = [(item.label, item.sequence) for item in items]
        items = [items[i] for i in sample_evenly(keys, num_samples=num_samples, seed=seed)]
    crops, without_loc, bad = _read_crops(top, items)
    notes = []
    num_categories = len({item.label for item in items})
    if num_categories != NUM_CATEGORIES:
        notes.append(f"{num_categories} categories, of {NUM_CATEGORIES} in the complete set")
    if without_loc:
        notes.append(
            f"{len(without_loc)} pair(s) have no {_LOC}, such as {without_loc[0]}: only {CROPS_NAME} lacks their positions"
        )
    trials_path = next((path for path in (top / TRIALS_NAME, top.parent / TRIALS_NAME) if path.is_file()), None)
    trials = read_trials(trials_path) if trials_path else ()
    if not trials:
        notes.append(f"no {TRIALS_NAME} in the tree or next to it: without the official trials")
    return Source(
        items=tuple(items),
        depth_unit_m=DEPTH_UNIT_M,
        problems=tuple(problems + bad),
        notes=tuple(notes),
        origin={"samples": num_samples, "seed": seed, "masked": masked, "trials": [list(names) for names in trials]},
        more_files={CROPS_NAME: crops} if crops else {},
    )


def sample_evenly(keys: Sequence[tuple[str, str]], *, num_samples: int, seed: int) -> list[int]:
    """Choose pairs evenly over the categories, in each over its instances, in each at random; returns ascending indices.

    The paper used 4,500 samples that "span the different 51 categories" and does not state how; this is one way to do it. A
    category (or instance) with too few pairs contributes all of them, and the others the rest. The same seed gives the same choice.

    Args:
        keys: category and instance of each pair, in an order that does not depend on the machine.

    Raises:
        UserError: fewer than `num_samples` pairs.
    """
    if not 1 <= num_samples <= len(keys):
        raise UserError(
            f"{num_samples} samples were requested, but the set has {len(keys)} pairs: give --samples {len(keys)} or fewer; "
            "edgefuse reproduce also has --samples all, and --quick for a few"
        )
    rng = np.random.default_rng(seed)
    members: dict[str, dict[str, list[int]]] = {}
    for i, (category, sequence) in enumerate(keys):
        members.setdefault(category, {}).setdefault(sequence, []).append(i)
    chosen: list[int] = []
    categories = [members[name] for name in sorted(members)]
    fractions = _even_fractions(
        [sum(map(len, by_sequence.values())) for by_sequence in categories], total=num_samples, rng=rng
    )
    for by_sequence, fraction in zip(categories, fractions, strict=True):
        sequences = [by_sequence[name] for name in sorted(by_sequence)]
        numbers = _even_fractions([len(indices) for indices in sequences], total=fraction, rng=rng)
        for indices, number in zip(sequences, numbers, strict=True):
            chosen += rng.permutation(indices)[:number].tolist()
    return sorted(chosen)


def read_trials(path: Path) -> tuple[tuple[str, ...], ...]:
    """The official trials: the instances to test on, in the order of the trials' numbers.

    Raises:
        UserError: not of the form "****** trial 1 ******", then one instance per line.
    """
    trials: dict[int, list[str]] = {}
    names: list[str] | None = None
    for number, line in enumerate(read_lines(path, what="a list of instances by trial"), start=1):
        text = line.strip()
        heading = _TRIAL.fullmatch(text)
        if heading:
            names = trials.setdefault(int(heading.group(1)), [])
        elif text:
            if names is None or not re.fullmatch(r"\w+_\d+", text):
                raise UserError(
                    f"{path}, line {number}: {printable(text[:60])!r}; '****** trial 1 ******' and then names such as apple_1 were expected"
                )
            names.append(text)
    if not trials or not all(trials.values()):
        raise UserError(
            f"{path} has {len(trials)} trial(s), or empty ones: ten with {NUM_CATEGORIES} instances were expected"
        )
    return tuple(tuple(trials[number]) for number in sorted(trials))


def trial_splits(dataset: Dataset) -> tuple[Split, ...]:
    """The official trials of a converted set as splits: test on a trial's instances, train on all others.

    Raises:
        UserError: the set was converted without trials, or a trial has nothing to test on.
    """
    trials: list[list[str]] = []
    for root in dataset.roots:
        path = root / DATASET_NAME
        origin = read_json(path, what="the data set's description").get("source") if path.exists() else None
        if isinstance(origin, Mapping):
            check_fields(origin, {"trials": Optional([[str]])}, what=f"{path}, its source,")
            trials = origin.get("trials") or trials
    if not trials:
        raise UserError(
            f"the data set has no official trials: put {TRIALS_NAME} into the Washington tree, then "
            "edgefuse data convert TREE OUT --layout washington"
        )
    splits = []
    for number, names in enumerate(trials, start=1):
        tested = set(names)
        test = tuple(i for i, sample in enumerate(dataset.samples) if sample.sequence in tested)
        train = tuple(i for i, sample in enumerate(dataset.samples) if sample.sequence not in tested)
        if not test or not train:
            raise UserError(f"trial {number} has {len(train)} training pairs and {len(test)} test pairs")
        splits.append(Split(train=train, validation=(), test=test))
    return tuple(splits)


def _top(root: Path) -> Path:
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give the folder with apple, ball, banana ... in it")
    return next((path for path in sorted(root.glob("rgbd-dataset*")) if path.is_dir()), root)


def _read_sequence(folder: Path, names: set[str], *, masked: bool) -> tuple[list[Item], list[str]]:
    """The complete pairs of one sequence folder, and the problems of the others."""
    stems = {name.removesuffix(suffix) for suffix in (_RGB, _DEPTH) for name in names if name.endswith(suffix)}
    items, problems = [], []
    for stem in sorted(stems, key=_natural):
        missing = [
            stem + suffix for suffix in (_RGB, _DEPTH, *([_MASK] if masked else [])) if stem + suffix not in names
        ]
        named = folder.name.startswith(f"{folder.parent.name}_") and re.fullmatch(
            re.escape(folder.name) + r"_\d+_\d+", stem
        )
        if not named:
            problems.append(
                f"{folder / stem}{_RGB}: a name such as {folder.parent.name}/{folder.parent.name}_1/{folder.parent.name}_1_1_1{_RGB} was expected"
            )
        elif missing:
            hint = ", or leave out --masked" if missing == [stem + _MASK] else ""
            problems.append(f"{folder / stem}: no {' and no '.join(missing)}{hint}")
        else:
            read = partial(_read, folder, stem, masked=masked)
            files = tuple(folder / (stem + suffix) for suffix in (_RGB, _DEPTH, *([_MASK] if masked else [])))
            items.append(Item(label=folder.parent.name, sequence=folder.name, name=stem, read=read, files=files))
    return items, problems


def _read(folder: Path, stem: str, *, masked: bool) -> Pair:
    rgb, depth = read_pair(folder / (stem + _RGB), folder / (stem + _DEPTH))
    if masked:
        path = folder / (stem + _MASK)
        inside = read_rgb(path).max(axis=2) > 0
        if inside.shape != depth.shape:
            raise UserError(f"{path}: a mask of {depth.shape[1]}x{depth.shape[0]} was expected")
        rgb, depth = rgb * inside[..., None], depth * inside
    return Pair(rgb=rgb, depth=depth)


def _read_crops(top: Path, items: Sequence[Item]) -> tuple[dict[str, list[int]], list[str], list[str]]:
    """Positions of the crops, pairs without one, and problems of invalid files."""
    crops: dict[str, list[int]] = {}
    missing, problems = [], []
    for item in items:
        path = top / item.label / item.sequence / (item.name + _LOC)
        try:
            text = "\n".join(read_lines(path, what="'x, y' in whole pixels"))
        except UserError as error:
            if os.path.lexists(path):
                problems.append(f"{error}; remove the file to convert without it")
            else:
                missing.append(item.name)
            continue
        place = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text)
        if place is None:
            problems.append(
                f"{path}: has {printable(text[:40])!r}, 'x, y' in whole pixels was expected; remove the file to convert without it"
            )
        else:
            crops[f"{item.label}/{item.sequence}/{item.name}"] = [int(place.group(1)), int(place.group(2))]
    return crops, missing, problems


def _even_fractions(sizes: Sequence[int], *, total: int, rng: np.random.Generator) -> list[int]:
    """Divide `total` over parts of at most `sizes`, as equally as possible; the remainder goes to parts drawn at random."""
    fractions = np.zeros(len(sizes), np.int64)
    room = np.array(sizes, np.int64)
    while (left := total - int(fractions.sum())) > 0:
        open_parts = np.flatnonzero(fractions < room)
        each = left // len(open_parts)
        if each == 0:
            fractions[rng.permutation(open_parts)[:left]] += 1
        else:
            fractions[open_parts] = np.minimum(fractions[open_parts] + each, room[open_parts])
    return [int(fraction) for fraction in fractions]


def _natural(text: str) -> list[str | int]:
    """A sort key that orders apple_1_2_10 after apple_1_2_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]
