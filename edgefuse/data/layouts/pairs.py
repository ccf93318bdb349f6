"""Folders of RGB and depth images that are paired by name. `npy` has the same folders with depth as NumPy arrays.

Owns how files are paired by name. The reader returns a `Source`; images are read later.
"""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

from edgefuse.data.collection import num_to_review
from edgefuse.data.dataset import decode_pair
from edgefuse.data.detect_layout import is_made_by_edgefuse
from edgefuse.data.image_cache import one_at_a_time
from edgefuse.data.layouts.source import Item, Pair, Source
from edgefuse.data.pairing import MAX_LINES, Problem, Tree, pair_up, refuse_split_folders, report_misplaced, to_review
from edgefuse.data.tree import Folder, walk
from edgefuse.errors import UserError
from edgefuse.io.images import has_orientation, read_bytes

RGB_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")

MM_M = 0.001
ORIENTATION_IGNORED = "the EXIF orientation was ignored: RGB and depth are written as stored"
_Found = tuple[str, str, str, Path, Path]


def read_pairs(root: Path, *, unit_m: float = MM_M, sequence_pattern: str | None = None) -> Source:
    """A folder of `<name>_rgb` and `<name>_depth` images in <class>/<sequence>/, or directly in <class>/; see `find_pairs_of_files`.

    Args:
        unit_m: metres per depth code.
        sequence_pattern: for images directly in <class>/: expression whose first group, searched in the file name, is the sequence.
    """
    found, seen, notes = find_pairs_of_files(root, depth_suffixes=(".png", ".tif", ".tiff"), pattern=sequence_pattern)
    items = [
        Item(label=label, sequence=sequence, name=name, read=partial(read_pair, rgb, depth))
        for label, sequence, name, rgb, depth in found
    ]
    return source_of(items, unit_m, seen, notes)


def source_of(items: list[Item], unit_m: float, seen: Tree, notes: list[str]) -> Source:
    problems = tuple(problem.text for problem in seen.problems)
    return Source(
        items=tuple(items), depth_unit_m=unit_m, problems=problems, notes=tuple(notes), warnings=tuple(seen.warnings)
    )


def find_pairs_of_files(
    root: Path, *, depth_suffixes: tuple[str, ...], pattern: str | None
) -> tuple[list[_Found], Tree, list[str]]:
    """The pairs (class, sequence, name, RGB file and depth file), the tree with its problems, and notes.

    Raises:
        UserError: no pairs, folders of a split, or an invalid expression.
    """
    expected = f"<class>/<sequence>/<name>_rgb.png with <name>_depth{depth_suffixes[0]} was expected"
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: {expected}")
    expression = _compiled(pattern)
    found: list[_Found] = []
    tree, folders = Tree(root=root), list(walk(root))
    refuse_split_folders(root, folders)
    direct = False
    for folder in folders:
        if len(folder.parts) not in (1, 2):
            continue
        rgb = _by_name(folder, "_rgb", RGB_SUFFIXES, tree)
        depth = _by_name(folder, "_depth", depth_suffixes, tree)
        in_class = len(folder.parts) == 1
        if in_class and not rgb and not depth and is_made_by_edgefuse(folder.files):
            continue
        names = pair_up(folder, rgb, depth, tree, names=folder.parts, depth_suffix=f"_depth{depth_suffixes[0]}")
        for name in names:
            sequence = folder.parts[-1]
            if in_class and expression is not None:
                match = expression.search(name)
                if match is None or not match.group(1):
                    text = f"{folder.path / rgb[name]}: --sequence-pattern {pattern} does not match the name"
                    tree.problems.append(Problem(text, 1, is_half=True))
                    continue
                sequence = match.group(1)
            direct |= in_class and expression is None
            found.append((folder.parts[0], sequence, name, folder.path / rgb[name], folder.path / depth[name]))
    report_misplaced(folders, tree, in_classes=True)
    if not found and not any(problem.is_half for problem in tree.problems):
        reasons = "".join(f"\n  {problem.text}" for problem in tree.problems[:MAX_LINES])
        raise UserError(f"{root} has no pairs: {expected}{reasons}")
    notes = []
    if num := num_to_review(root):
        notes.append(to_review(root, num))
    if direct:
        notes.append(
            "without sequence folders each class is one sequence, which cannot be split: use --sequence-pattern REGEX, whose first group "
            "names the sequence, such as '(.*)_[0-9]+$', or '(.+)' to make each image a sequence"
        )
    return found, tree, notes


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--sequence-pattern {pattern!r} is not a regular expression ({error})") from error
    if expression.groups < 1:
        raise UserError(
            f"--sequence-pattern {pattern!r} has no group: put the part that names the sequence in parentheses"
        )
    return expression


def _by_name(folder: Folder, ending: str, suffixes: tuple[str, ...], tree: Tree) -> dict[str, str]:
    """File by the name of its pair. Two files with one name are a problem, and neither is used."""
    by_name: dict[str, list[str]] = {}
    for file in folder.files:
        stem, suffix = os.path.splitext(file)  # noqa: PTH122
        if stem.lower().endswith(ending) and suffix.lower() in suffixes:
            by_name.setdefault(stem[: -len(ending)], []).append(file)
    for name, files in by_name.items():
        if len(files) > 1:
            text = f"{folder.path}: {' and '.join(files)} are both named {name}{ending}: remove one"
            tree.problems.append(Problem(text, len(files)))
    return {name: files[0] for name, files in by_name.items() if len(files) == 1}


def read_pair(rgb_path: Path, depth_path: Path) -> Pair:
    rgb_bytes, depth_bytes = read_bytes(rgb_path), read_bytes(depth_path)
    with one_at_a_time(rgb_bytes, depth_bytes):
        rgb, depth = decode_pair(rgb_path, depth_path, rgb_bytes, depth_bytes)
    return Pair(
        rgb=rgb,
        depth=depth,
        note=ORIENTATION_IGNORED if has_orientation(rgb_bytes) or has_orientation(depth_bytes) else None,
    )
