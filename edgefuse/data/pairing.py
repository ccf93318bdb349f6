"""Find the pairs below a data set's root, and every file that is probably meant as one but is not found.

Owns the folder layout: what makes a pair, and the messages for incomplete pairs, misplaced images and folders without any. Reads no
image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from edgefuse.data.collection import REVIEW, num_to_review
from edgefuse.data.description import DATASET_NAME
from edgefuse.data.detect_layout import depth_elsewhere, is_made_by_edgefuse, other_layout, split_folders
from edgefuse.data.incomplete_pairs import DEPTH_SUFFIX, RGB_SUFFIX
from edgefuse.data.tree import HALF, Folder, is_skipped, walk
from edgefuse.errors import UserError
from edgefuse.io.images import has_mark
from edgefuse.io.text import name_problem, printable, quoted

MARK = "edgefuse data check"
"""Mark of a montage, which may be in the root."""
MAX_LINES = 20
"""Lines of a list in a message."""


class Found(NamedTuple):
    """One pair: class, sequence, name, and its two files."""

    label: str
    sequence: str
    name: str
    rgb_path: Path
    depth_path: Path


@dataclass(frozen=True)
class Problem:
    """A fault that is skipped or refused: one sentence that begins with the path, and the number of files that it counts for.

    `is_half`: a file of a pair in the right place, so the layout is correct.
    """

    text: str
    count: int
    is_half: bool = False


@dataclass(kw_only=True)
class Tree:
    """The folder layout below a root.

    Attributes:
        problems: incomplete pairs, misplaced images, folders that cannot be read or have no pair.
        warnings: oddities next to complete pairs, one sentence each.
    """

    root: Path
    pairs: list[Found] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def find_pairs(root: Path) -> Tree:
    """The pairs in root/<class>/<sequence>/, and everything else that looks like an image.

    Raises:
        UserError: the folders are the parts of a split (train, val, test), not classes.
    """
    tree = Tree(root=root)
    folders = list(walk(root))
    refuse_split_folders(root, folders)
    for folder in folders:
        if len(folder.parts) == 2:
            _pair_sequence(folder, tree)
    report_misplaced(folders, tree)
    _report_empty_folders(folders, tree)
    _report_split_sequences(tree)
    if num := num_to_review(root):
        tree.warnings.append(to_review(root, num))
    return tree


def to_review(root: Path, num_pairs: int) -> str:
    """The message about pairs of a collection that are left out."""
    return (
        f"{root / REVIEW}: {num_pairs} pairs are left out, because nobody has checked their classes: edgefuse data browse "
        f"{quoted(root)}"
    )


def report_misplaced(folders: Sequence[Folder], tree: Tree, *, in_classes: bool = False) -> None:
    """Report folders that cannot be read, and images that are not in root/<class>/<sequence>/.

    Args:
        in_classes: images may also be in root/<class>/ itself.
    """
    too_deep: dict[tuple[str, ...], list[str]] = {}
    for folder in folders:
        if folder.problem is not None:
            tree.problems.append(Problem(f"{folder.path}: {folder.problem}", 1))
        if folder.parts and DATASET_NAME in folder.files and not is_made_by_edgefuse(folder.files):
            text = f"{folder.path}: its {DATASET_NAME} would be ignored, because that of {tree.root} applies to all: remove it, or use "
            tree.problems.append(Problem(f"{text}{quoted(folder.path)} as a separate data set", 1))
        if len(folder.parts) > 2:
            images = ["/".join((*folder.parts[2:], name)) for name in folder.images()]
            too_deep.setdefault(folder.parts[:2], []).extend(images)
        elif len(folder.parts) < (1 if in_classes else 2) and not is_made_by_edgefuse(folder.files):
            _report_outside_sequences(folder, tree)
    for parts, images in too_deep.items():
        if images:
            text = (
                f"{tree.root.joinpath(*parts)}: {_counted(images)} too deep, {tree.root}/<class>/<sequence>/ was expected: "
                "move the folders up"
            )
            tree.problems.append(Problem(text, len(images)))


def refuse_split_folders(root: Path, folders: Sequence[Folder]) -> None:
    """Refuse train/, val/ and test/ where classes were expected.

    Raises:
        UserError: the message has the commands for such a tree.
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
            f"edgefuse data convert {quoted(root / next(iter(names)))} {quoted(top / next(iter(names)))} --layout pairs --sequence-pattern '(.+)' and so on "
            "('(.+)' makes each image a sequence of its own, '(.*)_[0-9]+$' keeps the frames of a sequence together), then "
        )
    steps += f"edgefuse train {' '.join(quoted(top / name) for name in for_training or for_test)} --out RUN"
    if for_training and for_test:
        steps += f", then edgefuse evaluate RUN {' '.join(quoted(top / name) for name in for_test)}"
    raise UserError(
        f"{root} has the folders {', '.join(printable(name) for name in names)}: they are the parts of a split, not classes. "
        f"Each is a separate data set: {steps}"
    )


def _pair_sequence(folder: Folder, tree: Tree) -> None:
    """Pair the files of root/<class>/<sequence>/."""
    rgb, depth = (
        {name.removesuffix(suffix): name for name in folder.files if name.endswith(suffix)}
        for suffix in (RGB_SUFFIX, DEPTH_SUFFIX)
    )
    label, sequence = folder.parts
    names = pair_up(folder, rgb, depth, tree, names=(label, sequence))
    tree.pairs += [Found(label, sequence, name, folder.path / rgb[name], folder.path / depth[name]) for name in names]


def pair_up(
    folder: Folder,
    rgb: Mapping[str, str],
    depth: Mapping[str, str],
    tree: Tree,
    *,
    names: Sequence[str],
    depth_suffix: str = DEPTH_SUFFIX,
) -> list[str]:
    """Names of the complete pairs in a folder, in the order of their RGB files. Adds the faults of the other files to `tree`.

    Args:
        rgb, depth: RGB and depth file by the pair's name.
        names: class and sequence, which must be valid names.
        depth_suffix: the expected suffix, for messages.
    """
    images = folder.images()
    problem = next((found for name in names if (found := name_problem(name))), None)
    if problem and images:
        text = f"{folder.path}: the folder's name cannot be used: {problem}; rename it"
        tree.problems.append(Problem(text, len(images)))
        return []
    bad = {name: found for name in sorted(rgb.keys() | depth.keys()) if (found := name_problem(name))}
    if bad:
        first = next(iter(bad))
        text = (
            f"{folder.path}: {len(bad)} name(s) cannot be used, first {printable(first)!r}: {bad[first]}; rename them"
        )
        tree.problems.append(Problem(text, len(bad)))
    complete = sorted((rgb.keys() & depth.keys()) - bad.keys(), key=lambda name: rgb[name])
    alone_rgb = sorted(rgb.keys() - depth.keys() - bad.keys())
    alone_depth = sorted(depth.keys() - rgb.keys() - bad.keys())
    for alone, files, missing in ((alone_rgb, rgb, depth_suffix), (alone_depth, depth, RGB_SUFFIX)):
        if alone:
            tree.problems.append(_incomplete(folder, alone, files, missing, tree.root))
    explained = {*rgb.values(), *depth.values()} | {
        name for name in images if _stem(name) in {*alone_rgb, *alone_depth}
    }
    _report_others(folder, [name for name in images if name not in explained], complete, tree)
    return complete


def _stem(name: str) -> str:
    """The name of the pair of a file: the part before _rgb or _depth."""
    return HALF.split(name)[0]


def _incomplete(folder: Folder, alone: Sequence[str], files: Mapping[str, str], missing: str, root: Path) -> Problem:
    first, kind = alone[0], missing.split(".", maxsplit=1)[0]
    existing = [name for name in folder.images() if name.lower().startswith(f"{first.lower()}{kind}.")]
    what = "no RGB image" if missing == RGB_SUFFIX else f"no {first}{missing}"
    more = f" ({len(alone)} such in this folder)" if len(alone) > 1 else ""
    hint = depth_elsewhere(existing, root=root)
    return Problem(f"{folder.path / files[first]}: {what} next to it{hint}{more}", len(alone), is_half=True)


def _report_others(folder: Folder, others: list[str], complete: list[str], tree: Tree) -> None:
    """Other images in a sequence folder. A warning if they only accompany complete pairs, else a problem."""
    accompany = [name for name in others if complete and (not HALF.search(name) or _stem(name) in complete)]
    lost = [name for name in others if name not in accompany]
    if accompany:
        tree.warnings.append(f"{folder.path}: {_counted(accompany)} next to the pairs and not used")
    if lost:
        hint = depth_elsewhere([name for name in lost if HALF.search(name)], root=tree.root)
        tree.problems.append(
            Problem(
                f"{folder.path}: {_counted(lost)} here and not in a pair, <name>{RGB_SUFFIX} with <name>{DEPTH_SUFFIX} was "
                f"expected{hint}",
                len(lost),
            )
        )


def _report_outside_sequences(folder: Folder, tree: Tree) -> None:
    """Images in the root or in a class folder itself."""
    images = [name for name in folder.images() if folder.parts or not has_mark(folder.path / name, MARK)]
    if not images:
        return
    if not folder.parts and not any(HALF.search(name) for name in images):
        tree.warnings.append(f"{folder.path}: {_counted(images)} in the root and not used")
        return
    place = "in the class folder" if folder.parts else "in the root"
    hint = ""
    if folder.parts and any(HALF.search(name) for name in images):
        hint = f": edgefuse data convert {quoted(tree.root)} OUT --layout pairs --sequence-pattern '(.+)' makes each image a sequence"
    tree.problems.append(
        Problem(
            f"{folder.path}: {_counted(images)} directly {place}, {tree.root}/<class>/<sequence>/ was expected{hint}",
            len(images),
        )
    )


def _report_empty_folders(folders: Sequence[Folder], tree: Tree) -> None:
    """Class folders without a pair that have no problem yet, and sequences without any image."""
    with_pairs = {pair.label for pair in tree.pairs}
    reported = [problem.text for problem in tree.problems]
    for folder in folders:
        if len(folder.parts) == 1 and folder.parts[0] not in with_pairs and not is_made_by_edgefuse(folder.files):
            if not any(text.startswith((f"{folder.path}:", f"{folder.path}/")) for text in reported):
                tree.problems.append(
                    Problem(
                        f"{folder.path}: no pair in this class folder: fill it, remove it, or start its name with a dot",
                        1,
                    )
                )
        elif len(folder.parts) == 2 and folder.parts[0] in with_pairs and not folder.images() and not folder.problem:
            below = f"{folder.path}/"
            if not any(str(other.path).startswith(below) and other.images() for other in folders):
                tree.warnings.append(f"{folder.path}: no image in this sequence folder")


def _report_split_sequences(tree: Tree) -> None:
    names = split_folders(sorted({pair.sequence for pair in tree.pairs}))
    if names:
        test = next((name for name, kind in names.items() if kind == "test"), next(iter(names)))
        tree.warnings.append(
            f"{tree.root}: the sequence folders are called {', '.join(names)}, and each counts as one sequence; edgefuse train "
            f"--exclude {quoted(test)} holds one out"
        )


def _counted(names: Sequence[str]) -> str:
    """ "6 images are", with the name of the first."""
    first = printable(min(names))
    return f"{len(names)} images (first {first}) are" if len(names) > 1 else f"1 image ({first}) is"


def no_pairs(tree: Tree) -> str:
    """The error message for a root without any pair: what it looks like, and the next command."""
    root, folders = tree.root, list(walk(tree.root))
    with_pairs = {folder.parts for folder in folders if _has_pair(folder)}
    expected = f"<class>/<sequence>/<name>{RGB_SUFFIX} with <name>{DEPTH_SUFFIX} was expected"
    start = f"{root} has no pairs: {expected}"
    num = num_to_review(root)
    other = other_layout(root) or (f"; {to_review(root, num)}" if num else "")
    if other:
        return start + other
    absolute = root.absolute()
    if () in with_pairs:
        return (
            f"{start}; pairs are directly in it. If it is one sequence of a data set, give the folder two levels up "
            f"({quoted(absolute.parent.parent)}); else sort them into folders <class>/<sequence>/"
        )
    if any(len(parts) == 1 for parts in with_pairs):
        if _is_data_set(absolute.parent, beside=absolute.name):
            return f"{start}; it looks like one class folder of a data set: give {quoted(absolute.parent)}"
        return (
            f"{start}; its folders contain pairs directly. If they are classes: edgefuse data convert {quoted(root)} OUT --layout "
            f"pairs --sequence-pattern '(.+)'. If they are the sequences of one class: give {quoted(absolute.parent)}"
        )
    tops = sorted({parts[0] for parts in with_pairs if len(parts) == 3})
    if tops and all(len(parts) == 3 for parts in with_pairs):
        return f"{start}; there are pairs one level down: give {' '.join(quoted(root / name) for name in tops)}"
    reasons = "".join(f"\n  {problem.text}" for problem in tree.problems[:MAX_LINES])
    return start + reasons


def _has_pair(folder: Folder) -> bool:
    depth = {name for name in folder.files if name.endswith(DEPTH_SUFFIX)}
    return any(
        name.removesuffix(RGB_SUFFIX) + DEPTH_SUFFIX in depth for name in folder.files if name.endswith(RGB_SUFFIX)
    )


def _is_data_set(root: Path, *, beside: str) -> bool:
    """Whether `root` has another class folder than `beside` with pairs in sequences, and its folders are not parts of a split."""
    try:
        names = [path.name for path in root.iterdir() if path.is_dir() and not is_skipped(path.name)]
        others = any(next((root / name).glob(f"*/*{RGB_SUFFIX}"), None) for name in names if name != beside)
    except OSError:
        return False
    return not split_folders(names) and others
