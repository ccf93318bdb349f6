"""What a folder looks like, by the names in it: for messages that say what to do with it.

Owns the telling names: of the layouts that are not the folder layout, of the parts of a split, of depth in other formats. No
image is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edgefuse.io.text import printable, quoted

TITLES = {"washington": "the Washington RGB-D Object Dataset", "bu3dfe": "BU-3DFE"}
"""`--layout` of `edgefuse data convert` -> the data set's name."""
_TELLING = {
    "washington": ("*/*/*_depthcrop.png", "rgbd-dataset*/*/*/*_depthcrop.png"),
    "bu3dfe": ("*/*_F3D.wrl", "*/*_f3d.wrl"),
}


def recognised(root: Path) -> str | None:
    """The layout that the names below `root` speak of; None where they speak of none."""
    for layout, patterns in _TELLING.items():
        if any(next(root.glob(pattern), None) is not None for pattern in patterns):
            return layout
    return None


def other_layout(root: Path, *, expected: str | None = None) -> str:
    """The end of a message on a folder that has no pairs of the `expected` layout (None = the folder layout), or ""."""
    layout = recognised(root)
    if layout in (None, expected):
        return ""
    command = (
        f"edgefuse data convert {quoted(root)} OUT --layout {layout}"
        if expected is None
        else f"give {layout} for {expected}"
    )
    return f"; it looks like {TITLES[layout]}: {command}"


_SPLIT_WORDS = {
    "train": {"train", "training", "trn", "trainval", "learn", "entrainement", "entrenamiento", "addestramento"},
    "validation": {"val", "valid", "validate", "validation", "dev", "devel", "development", "minival", "validierung"},
    "test": {"test", "testing", "tst", "eval", "evaluation", "holdout", "heldout", "prueba", "testdev"},
    "fold": {"fold", "split", "cv", "subset"},
}
_FILLERS = {"set", "data", "dataset", "split", "part", "images", "imgs", "img", "folder", "files", "x"}


def split_folders(names: Sequence[str]) -> dict[str, str]:
    """Names that are the parts of a split -> "train", "validation", "test" or "fold"; empty where they may as well be classes.

    One such name alone may be a class (a toy train); two kinds of them are not, nor folders that are all folds.
    """
    kinds = {name: kind for name in names if (kind := _split_kind(name))}
    parts = {name: kind for name, kind in kinds.items() if kind != "fold"}
    if len(set(parts.values())) > 1 or (parts and len(parts) == len(names) > 1):
        return parts
    if "train" in parts.values() and len(names) == 1:
        return parts
    return kinds if len(kinds) == len(names) > 1 else {}


def _split_kind(name: str) -> str | None:
    words = re.findall("[a-z]+", name.lower())
    words = [word.removesuffix("set") if word != "set" else word for word in words]
    telling = [word for word in words if word not in _FILLERS] or [word for word in words if word == "split"]
    if len(telling) != 1:
        return None
    return next((kind for kind, known in _SPLIT_WORDS.items() if telling[0] in known), None)


def is_made_by_edgefuse(files: Sequence[str]) -> bool:
    """Is it the folder of a run or a bundle? Those have images of their own."""
    return "run.json" in files or "manifest.json" in files


_AS_PAIRS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def depth_elsewhere(names: Sequence[str], *, root: Path) -> str:
    """The end of a message on a half whose other half lies there in another format: the step that works; "" without names."""
    if not names:
        return ""
    first = printable(min(names))
    suffixes = {Path(name).suffix.lower() for name in names}
    if suffixes & {".jpg", ".jpeg", ".bmp"} and "_depth" in first.lower():
        return f"; {first} lies there, a format of 8 bits: 16-bit PNG or TIFF was expected"
    if suffixes <= set(_AS_PAIRS):
        return f"; {first} lies there: edgefuse data convert {quoted(root)} OUT --layout pairs"
    step = f"edgefuse data convert {quoted(root)} OUT --layout npy"
    if suffixes == {".npy"}:
        return f"; {first} lies there: {step}"
    stem = Path(first).stem
    return f"; {first} lies there: save its array as {stem}.npy (floats in metres, or uint16 codes), then {step}"
