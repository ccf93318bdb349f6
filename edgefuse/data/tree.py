"""What lies below a folder: one walk for check, training, live and the conversions, so that they see the same.

Owns which names are passed over, which files look like images, and what is said of folders that cannot be read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgefuse.data.incomplete_pairs import settled
from edgefuse.io.text import printable

_PASSED_OVER = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found",
}  # fmt: skip
_IMAGES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pnm", ".jp2",
    ".heic", ".heif", ".avif", ".dng", ".exr", ".hdr", ".pfm", ".npy", ".npz",
}  # fmt: skip
HALF = re.compile(r"_(rgb|depth)(\.|$)", re.IGNORECASE)
_MAX_LEVELS = 12
"""Folders below each other that are looked into: more is no data set."""


def is_passed_over(name: str) -> bool:
    """Is it hidden, or one of the files and folders that systems leave behind (`.DS_Store`, `._f0_rgb.png`, `__MACOSX`)?"""
    return name.startswith(".") or name.lower() in _PASSED_OVER


def looks_like_image(name: str) -> bool:
    """By its suffix, or because it is called like a half of a pair, whatever its suffix."""
    return os.path.splitext(name)[1].lower() in _IMAGES or HALF.search(name) is not None  # noqa: PTH122


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


def at_level(
    root: Path, level: int, *, is_meant: Callable[[str], bool], expected: str
) -> tuple[list[Folder], list[str]]:
    """Folders so many names below `root`, and what is wrong elsewhere: folders that cannot be read, files in the wrong place.

    Args:
        is_meant: whether a file of this name is one of those that are looked for.
        expected: the place where they were expected, for the message.
    """
    found, problems = [], []
    for folder in walk(root):
        if folder.problem is not None:
            problems.append(f"{folder.path}: {folder.problem}")
        if len(folder.parts) == level:
            found.append(folder)
        elif meant := [name for name in folder.files if is_meant(name)]:
            problems.append(
                f"{folder.path}: {len(meant)} file(s) lie here, first {printable(meant[0])}; {expected} was expected"
            )
    return found, problems
