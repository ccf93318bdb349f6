"""The kind of a folder (run, bundle or data set), by the file that edgefuse puts into it, for error messages.

Owns the names of these files and the next command for each kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgefuse.io.text import quoted

MARKERS = {"bundle": "manifest.json", "run": "run.json", "data set": "dataset.json"}
"""Kind of a folder -> the file that identifies it."""

_MAKES = {"bundle": "edgefuse export RUN --out BUNDLE", "run": "edgefuse train DATA --out RUN"}
_NEXT = {
    "bundle": "a bundle, which is exported already: edgefuse live {}",
    "run": "a run: edgefuse export {} --out BUNDLE",
    "data set": "a data set: edgefuse train {} --out RUN",
}
MAX_SEEN = 1000


def kind_of(folder: Path) -> str | None:
    """ "bundle", "run" or "data set"; None for any other folder."""
    return next((kind for kind, name in MARKERS.items() if (folder / name).is_file()), None)


def not_a(wanted: str, path: Path) -> str:
    """The message that `path` is not a folder of the wanted kind, with its actual kind and the next command.

    Args:
        wanted: "bundle" or "run".
    """
    problem = f"{path} is not a {wanted}"
    marker = MARKERS[wanted]
    if not path.exists():
        return f"{problem}: it does not exist; make one with {_MAKES[wanted]}"
    if not path.is_dir():
        inside = kind_of(path.parent) == wanted
        return f"{problem}, it is a file" + (
            f" of one: give the folder, {path.parent}" if inside else f": {_MAKES[wanted]}"
        )
    kind = kind_of(path)
    if kind is not None:
        return f"{problem}: it has no {marker}; it looks like {_NEXT[kind].format(quoted(path))}"
    below = next((folder for folder in _below(path) if kind_of(folder) == wanted), None)
    if below is not None:
        return f"{problem}: it has no {marker}, but {below} is one: give that"
    return f"{problem}: it has no {marker}; make one with {_MAKES[wanted]}"


def no_kind(path: Path) -> str:
    """The message that `path` is neither a bundle, a run, a recording nor a data set, with what was looked for."""
    problem = f"{path} is not a bundle, run, recording or data set"
    if not path.exists():
        return f"{problem}: it does not exist"
    if not path.is_dir():
        kind = kind_of(path.parent)
        step = (
            f"it belongs to a {kind}: edgefuse info {quoted(path.parent)}"
            if kind
            else "a recording ends in .db3 or .bag"
        )
        return f"{problem}: {step}"
    below = next((folder for folder in _below(path) if kind_of(folder)), None)
    if below is not None:
        return f"{problem}, but {below} is a {kind_of(below)}: edgefuse info {quoted(below)}"
    return f"{problem}: it has no {', '.join(MARKERS.values())}, and no folders CLASS/SEQUENCE with pairs of images"


def _below(folder: Path, depth: int = 2) -> Iterator[Path]:
    """Folders in `folder` and in its subfolders, a limited number of them."""
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))[:MAX_SEEN]
    except OSError:
        return
    yield from inside
    if depth > 1:
        for one in inside[:20]:
            yield from _below(one, depth - 1)
