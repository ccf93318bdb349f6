"""What lies below a data set's root: its pairs, and everything that could be meant as one and is not seen.

One walk serves check, training, live and the conversions, so that they see the same. Owns which names are passed over, which
files look like images, and the words for what lies in the wrong place. No image is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from edgefuse.data.arriving import settled
from edgefuse.data.recognise import depth_elsewhere, is_made_by_edgefuse, other_layout, quoted, split_folders
from edgefuse.errors import UserError
from edgefuse.io.text import name_problem, printable

RGB_SUFFIX = "_rgb.png"
DEPTH_SUFFIX = "_depth.png"

_PASSED_OVER = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found",
}  # fmt: skip
_IMAGES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pnm", ".jp2",
    ".heic", ".heif", ".avif", ".dng", ".exr", ".hdr", ".pfm", ".npy", ".npz",
}  # fmt: skip
_HALF = re.compile(r"_(rgb|depth)(\.|$)", re.IGNORECASE)
MAX_LINES = 20
"""Lines of a list in a message."""
_MAX_LEVELS = 12
"""Folders below each other that are looked into: more is no data set."""


def is_passed_over(name: str) -> bool:
    """Is it hidden, or one of the files and folders that systems leave behind (`.DS_Store`, `._f0_rgb.png`, `__MACOSX`)?"""
    return name.startswith(".") or name.lower() in _PASSED_OVER


def looks_like_image(name: str) -> bool:
    """By its suffix, or because it is called like a half of a pair, whatever its suffix."""
    return os.path.splitext(name)[1].lower() in _IMAGES or _HALF.search(name) is not None  # noqa: PTH122


@dataclass(frozen=True, kw_only=True)
class Folder:
    """One folder of a walk.

    Attributes:
        parts: names from the root down; empty for the root itself.
        files: names of the files, sorted; no links to nowhere but those that look like images.
        problem: why it, or something in it, cannot be seen; None where all of it was.
    """

    path: Path
    parts: tuple[str, ...]
    files: tuple[str, ...] = ()
    problem: str | None = None

    def images(self) -> list[str]:
        return [name for name in self.files if looks_like_image(name)]


def walk(root: Path) -> Iterator[Folder]:
    """Every folder below `root`, itself first, then by name; links are followed, and none that leads back to a folder above it.

    A folder that cannot be read comes with its `problem`.
    """
    yield from _walk(root, (), above=frozenset(), seen_below=set())


def _walk(
    path: Path, parts: tuple[str, ...], *, above: frozenset[tuple[int, int]], seen_below: set[tuple[int, int]]
) -> Iterator[Folder]:
    files, folders, lost = [], [], []
    try:
        state = path.stat()
        with os.scandir(path) as entries:
            for entry in entries:
                if is_passed_over(entry.name):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_symlink() and not os.path.exists(entry.path) and not looks_like_image(entry.name):  # noqa: PTH110
                    lost.append(entry.name)
                else:
                    files.append(entry.name)
    except OSError as error:
        yield Folder(path=path, parts=parts, problem=f"the folder cannot be read ({error.strerror})")
        return
    key = (state.st_dev, state.st_ino)
    # Down to the sequences a folder may be linked to from several places; below, once is enough to name what lies there.
    if key in above or (len(parts) > 2 and key in seen_below):
        return
    seen_below.add(key)
    problem = f"{len(lost)} link(s) lead to what is not there, first {printable(min(lost))}" if lost else None
    if len(parts) >= _MAX_LEVELS and folders:
        problem, folders = f"more than {_MAX_LEVELS} folders below each other", []
    yield Folder(path=path, parts=parts, files=settled(path, sorted(files)), problem=problem)
    for name in sorted(folders):
        yield from _walk(path / name, (*parts, name), above=above | {key}, seen_below=seen_below)


class Found(NamedTuple):
    """One pair: class, sequence, name, and its two files."""

    label: str
    instance: str
    name: str
    rgb_path: Path
    depth_path: Path


@dataclass(frozen=True)
class Problem:
    """Something that is left out or refused: one sentence that begins with its path, and for how many files it stands.

    `is_half`: a half of a pair in its right place, so the layout is the right one.
    """

    text: str
    count: int
    is_half: bool = False


@dataclass(kw_only=True)
class Tree:
    """The folder layout below a root.

    Attributes:
        problems: what a training lacks: halves of pairs, images in the wrong place, folders that cannot be read or have no pair.
        warnings: what looks odd beside pairs that are complete, one sentence each.
    """

    root: Path
    pairs: list[Found] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def find_pairs(root: Path) -> Tree:
    """The pairs in root/<class>/<sequence>/, and everything else that lies there and looks like an image.

    Raises:
        UserError: the folders are those of a split (train, val, test), not classes.
    """
    tree = Tree(root=root)
    folders = list(walk(root))
    refuse_split_folders(root, folders)
    too_deep: dict[tuple[str, ...], list[str]] = {}
    for folder in folders:
        if folder.problem is not None:
            tree.problems.append(Problem(f"{folder.path}: {folder.problem}", 1))
        if len(folder.parts) == 2:
            _look_into_sequence(folder, tree)
        elif len(folder.parts) > 2:
            images = ["/".join((*folder.parts[2:], name)) for name in folder.images()]
            too_deep.setdefault(folder.parts[:2], []).extend(images)
        elif folder.images() and not is_made_by_edgefuse(folder.files):
            _look_above_sequences(folder, tree)
    for parts, images in too_deep.items():
        if images:
            tree.problems.append(
                Problem(
                    f"{root.joinpath(*parts)}: {_counted(images)} too deep, {root}/<class>/<sequence>/ was expected: "
                    "move the folders up",
                    len(images),
                )
            )
    _name_empty_folders(folders, tree)
    _name_split_sequences(tree)
    return tree


def refuse_split_folders(root: Path, folders: Sequence[Folder]) -> None:
    """Refuse train/, val/ and test/ where classes were expected.

    Raises:
        UserError: the message has the commands that take such a tree.
    """
    names = split_folders([folder.parts[0] for folder in folders if len(folder.parts) == 1])
    if not names:
        return
    inside = [folder for folder in folders if folder.parts and folder.parts[0] in names]
    has_sequences = any(len(folder.parts) == 3 and folder.images() for folder in inside)
    for_training = [name for name, kind in names.items() if kind != "test"]
    for_test = [name for name, kind in names.items() if kind == "test"]
    top = root
    steps = ""
    if not has_sequences:
        top = Path("OUT")
        steps = (
            f"edgefuse data convert {quoted(root / next(iter(names)))} {top / next(iter(names))} --layout pairs --take '(.+)' and so on "
            "('(.+)' makes each image a sequence of its own, '(.*)_[0-9]+$' keeps the frames of a take together), then "
        )
    steps += f"edgefuse train {' '.join(quoted(top / name) for name in for_training or for_test)} --out RUN"
    if for_training and for_test:
        steps += f", then edgefuse evaluate RUN {' '.join(quoted(top / name) for name in for_test)}"
    raise UserError(
        f"{root} has the folders {', '.join(printable(name) for name in names)}: they are the parts of a split, not classes. "
        f"Each is a data set of its own: {steps}"
    )


def _look_into_sequence(folder: Folder, tree: Tree) -> None:
    """Pair the files of root/<class>/<sequence>/."""
    label, instance = folder.parts
    for what, name in (("class", label), ("sequence", instance)):
        problem = name_problem(name)
        if problem and folder.images():
            tree.problems.append(
                Problem(
                    f"{folder.path}: the name of the {what} cannot be used: {problem}; rename it", len(folder.images())
                )
            )
            return
    names = set(folder.files)
    rgb = {name.removesuffix(RGB_SUFFIX) for name in names if name.endswith(RGB_SUFFIX)}
    depth = {name.removesuffix(DEPTH_SUFFIX) for name in names if name.endswith(DEPTH_SUFFIX)}
    bad_names = {name: problem for name in rgb | depth if (problem := name_problem(name))}
    if bad_names:
        first = min(bad_names)
        tree.problems.append(
            Problem(
                f"{folder.path}: {len(bad_names)} name(s) cannot be used, first {printable(first)!r}: {bad_names[first]}; rename",
                len(bad_names),
            )
        )
    complete = sorted((rgb & depth) - bad_names.keys(), key=lambda name: name + RGB_SUFFIX)
    for name in complete:
        tree.pairs.append(
            Found(label, instance, name, folder.path / f"{name}{RGB_SUFFIX}", folder.path / f"{name}{DEPTH_SUFFIX}")
        )
    explained = {f"{name}{suffix}" for name in rgb | depth for suffix in (RGB_SUFFIX, DEPTH_SUFFIX)}
    for alone, suffix, missing in ((rgb - depth, RGB_SUFFIX, DEPTH_SUFFIX), (depth - rgb, DEPTH_SUFFIX, RGB_SUFFIX)):
        alone_names = sorted(alone - bad_names.keys())
        if alone_names:
            tree.problems.append(_half_alone(folder, alone_names, suffix, missing, tree.root))
            explained |= {
                name for name in folder.images() if _HALF.split(name)[0] in alone
            }  # the other half in another format
    _look_at_others(folder, [name for name in folder.images() if name not in explained], complete, tree)


def _half_alone(folder: Folder, alone: list[str], suffix: str, missing: str, root: Path) -> Problem:
    first = alone[0]
    kind = missing.removesuffix(".png")
    lies_there = [name for name in folder.images() if name.lower().startswith(f"{first.lower()}{kind}.")]
    what = f"no {first}{missing}" if missing == DEPTH_SUFFIX else "no RGB image"
    more = f" ({len(alone)} such in this folder)" if len(alone) > 1 else ""
    hint = depth_elsewhere(lies_there, root=root) if lies_there else ""
    return Problem(f"{folder.path / first}{suffix}: {what} beside it{hint}{more}", len(alone), is_half=True)


def _look_at_others(folder: Folder, others: list[str], complete: list[str], tree: Tree) -> None:
    """Images in a sequence's folder that are called otherwise: a fault, but where they only accompany complete pairs."""
    accompany = [name for name in others if complete and (not _HALF.search(name) or _HALF.split(name)[0] in complete)]
    lost = [name for name in others if name not in accompany]
    if accompany:
        tree.warnings.append(f"{folder.path}: {_counted(accompany)} beside the pairs and not used")
    if lost:
        hint = depth_elsewhere([name for name in lost if _HALF.search(name)], root=tree.root)
        tree.problems.append(
            Problem(
                f"{folder.path}: {_counted(lost)} here and belong to no pair, <name>{RGB_SUFFIX} with <name>{DEPTH_SUFFIX} was "
                f"expected{hint}",
                len(lost),
            )
        )


def _look_above_sequences(folder: Folder, tree: Tree) -> None:
    """Images in the root or in a class folder itself."""
    images = folder.images()
    if not folder.parts and not any(_HALF.search(name) for name in images):
        tree.warnings.append(f"{folder.path}: {_counted(images)} in the root and not used")
        return
    place = "in the class folder" if folder.parts else "in the root"
    hint = ""
    if folder.parts and any(_HALF.search(name) for name in images):
        hint = f": edgefuse data convert {quoted(tree.root)} OUT --layout pairs --take '(.+)' makes a sequence of each image"
    tree.problems.append(
        Problem(
            f"{folder.path}: {_counted(images)} directly {place}, {tree.root}/<class>/<sequence>/ was expected{hint}",
            len(images),
        )
    )


def _name_empty_folders(folders: Sequence[Folder], tree: Tree) -> None:
    """Class folders without a pair of which nothing was said yet, and sequences without any image."""
    with_pairs = {pair.label for pair in tree.pairs}
    blamed = [problem.text for problem in tree.problems]
    for folder in folders:
        if len(folder.parts) == 1 and folder.parts[0] not in with_pairs and not is_made_by_edgefuse(folder.files):
            if not any(text.startswith((f"{folder.path}:", f"{folder.path}/")) for text in blamed):
                tree.problems.append(
                    Problem(
                        f"{folder.path}: no pair in this class folder: fill it, remove it, or begin its name with a dot",
                        1,
                    )
                )
        elif len(folder.parts) == 2 and folder.parts[0] in with_pairs and not folder.images() and not folder.problem:
            below = f"{folder.path}/"
            if not any(str(other.path).startswith(below) and other.images() for other in folders):
                tree.warnings.append(f"{folder.path}: no image in this sequence folder")


def _name_split_sequences(tree: Tree) -> None:
    names = split_folders(sorted({pair.instance for pair in tree.pairs}))
    if names:
        test = next((name for name, kind in names.items() if kind == "test"), next(iter(names)))
        tree.warnings.append(
            f"{tree.root}: the sequence folders are called {', '.join(names)}: each counts as one sequence; --exclude {test} of "
            "train holds one out"
        )


def _counted(names: Sequence[str]) -> str:
    """ "6 images lie", with the first of them."""
    first = printable(min(names))
    return f"{len(names)} images (first {first}) lie" if len(names) > 1 else f"1 image ({first}) lies"


def no_pairs(tree: Tree) -> str:
    """The message on a root without any pair: what it looks like, and the step that works."""
    root, folders = tree.root, list(walk(tree.root))
    with_pairs = {folder.parts for folder in folders if _has_pair(folder)}
    expected = f"<class>/<sequence>/<name>{RGB_SUFFIX} with <name>{DEPTH_SUFFIX} was expected"
    start = f"{root} has no pairs: {expected}"
    other = other_layout(root)
    if other:
        return start + other
    absolute = root.absolute()
    if () in with_pairs:
        return f"{start}; pairs lie directly in it, so it looks like a sequence folder: give {quoted(absolute.parent.parent)}, or move them"
    if any(len(parts) == 1 for parts in with_pairs):
        if _is_data_set(absolute.parent, beside=absolute.name):
            return f"{start}; it looks like one class folder of a data set: give {quoted(absolute.parent)}"
        return (
            f"{start}; its folders hold pairs directly. Where they are classes: edgefuse data convert {quoted(root)} OUT --layout "
            f"pairs --take '(.+)'. Where they are the sequences of one class: give {quoted(absolute.parent)}"
        )
    tops = sorted({parts[0] for parts in with_pairs if len(parts) == 3})
    if tops and all(len(parts) == 3 for parts in with_pairs):
        return f"{start}; a level down there are some: give {' '.join(quoted(root / name) for name in tops)}"
    reasons = "".join(f"\n  {problem.text}" for problem in tree.problems[:MAX_LINES])
    return start + reasons


def _has_pair(folder: Folder) -> bool:
    depth = {name for name in folder.files if name.endswith(DEPTH_SUFFIX)}
    return any(
        name.removesuffix(RGB_SUFFIX) + DEPTH_SUFFIX in depth for name in folder.files if name.endswith(RGB_SUFFIX)
    )


def _is_data_set(root: Path, *, beside: str) -> bool:
    """Has `root` a class folder besides `beside` with pairs in sequences, and are they no parts of a split?"""
    try:
        names = [path.name for path in root.iterdir() if path.is_dir() and not is_passed_over(path.name)]
        others = any(next((root / name).glob(f"*/*{RGB_SUFFIX}"), None) for name in names if name != beside)
    except OSError:
        return False
    return not split_folders(names) and others
