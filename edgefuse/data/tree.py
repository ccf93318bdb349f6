"""Walk the folders of a data set: one implementation for check, training, live and conversions, so that they find the same files.

Owns which names are skipped, which files look like images, and the messages for folders that cannot be read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgefuse.data.collection import REVIEW
from edgefuse.data.incomplete_pairs import settled
from edgefuse.io.text import printable

_SKIPPED = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found",
}  # fmt: skip
_IMAGES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pnm", ".jp2",
    ".heic", ".heif", ".avif", ".dng", ".exr", ".hdr", ".pfm", ".npy", ".npz",
}  # fmt: skip
HALF = re.compile(r"_(rgb|depth)(\.|$)", re.IGNORECASE)
_MAX_LEVELS = 12
"""Maximum depth of nested folders. A deeper tree is not a data set."""


def is_skipped(name: str) -> bool:
    """Whether a name is hidden, or one that operating systems create (`.DS_Store`, `._f0_rgb.png`, `__MACOSX`)."""
    return name.startswith(".") or name.lower() in _SKIPPED


def looks_like_image(name: str) -> bool:
    """Whether a file looks like an image: by its suffix, or because it is named like a file of a pair."""
    return os.path.splitext(name)[1].lower() in _IMAGES or HALF.search(name) is not None  # noqa: PTH122


@dataclass(frozen=True, kw_only=True)
class Folder:
    """One folder of a walk.

    Attributes:
        parts: names from the root down; empty for the root itself.
        files: sorted file names, without broken links unless they look like images.
        problem: why it, or something in it, cannot be read; None if all of it was.
    """

    path: Path
    parts: tuple[str, ...]
    files: tuple[str, ...] = ()
    problem: str | None = None

    def images(self) -> list[str]:
        return [name for name in self.files if looks_like_image(name)]


def walk(root: Path) -> Iterator[Folder]:
    """Every folder below `root`, itself first, then by name. Links are followed, except to a folder above them.

    The part of a collection that is to be checked is left out, unless it is `root`.
    A folder that cannot be read has a `problem`.
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
                if is_skipped(entry.name) or (not parts and entry.name == REVIEW):
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
    # Down to the sequences, a folder may be linked from several places. Below, it is visited once.
    if key in above or (len(parts) > 2 and key in seen_below):
        return
    seen_below.add(key)
    problem = f"{len(lost)} broken link(s), first {printable(min(lost))}" if lost else None
    if len(parts) >= _MAX_LEVELS and folders:
        problem, folders = f"more than {_MAX_LEVELS} nested folders", []
    yield Folder(path=path, parts=parts, files=settled(path, sorted(files)), problem=problem)
    for name in sorted(folders):
        yield from _walk(path / name, (*parts, name), above=above | {key}, seen_below=seen_below)


def at_level(
    root: Path, level: int, *, is_meant: Callable[[str], bool], expected: str
) -> tuple[list[Folder], list[str]]:
    """Folders at a level below `root`, and problems elsewhere: folders that cannot be read, misplaced files.

    Args:
        is_meant: whether a file of this name is one of the wanted files.
        expected: the expected place, for messages.
    """
    found, problems = [], []
    for folder in walk(root):
        if folder.problem is not None:
            problems.append(f"{folder.path}: {folder.problem}")
        if len(folder.parts) == level:
            found.append(folder)
        elif meant := [name for name in folder.files if is_meant(name)]:
            problems.append(
                f"{folder.path}: {len(meant)} file(s) are here, first {printable(meant[0])}; {expected} was expected"
            )
    return found, problems
