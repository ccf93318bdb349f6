"""Read BU-3DFE: textured face meshes of 100 people, rendered as RGB-D pairs.

    F0001/F0001_AN01WH_F3D.wrl      subject F0001-F0058 or M0001-M0044, expression, level 01-04, ethnicity; VRML 2.0, mm
    F0001/F0001_AN01WH_F2D.bmp      image of the same face from both sides: the mesh's texture

The image does not show the mesh from the front, so RGB and depth are both rendered from the mesh, in one view: orthographic, from
the front, 1 px = `VIEW_MM` / size. Class = expression, sequence (and group) = subject. Owns the tree's names and the view.
Source: Yin et al., "A 3D facial expression database for facial behavior research", 2006, and the file names in public readers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgefuse.data.detect_layout import other_layout
from edgefuse.data.layouts.mesh import Mesh, read_vrml, render
from edgefuse.data.layouts.source import Item, Pair, Source
from edgefuse.data.tree import at_level
from edgefuse.errors import UserError
from edgefuse.io.images import read_rgb
from edgefuse.io.text import printable

EXPRESSIONS = {
    "AN": "anger",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happiness",
    "SA": "sadness",
    "SU": "surprise",
    "NE": "neutral",
}
LEVELS = (1, 2, 3, 4)
NUM_SUBJECTS = 100

DEPTH_UNIT_M = 1e-4
"""0.1 mm, because whole millimetres would turn the relief of a face into steps."""
CAMERA_MM = 600.0
"""Distance from the virtual camera to the mesh's median point: nearer is a smaller code, and code 0 is free."""
VIEW_MM = 240.0
"""Side of the view, the same for all faces, so that sizes are comparable. A larger mesh gets a view 5 % larger than its extent."""
SIZE_PX = 256

_MODEL = re.compile(r"([FM]\d{4})_([A-Z]{2})(\d{2})([A-Z]{2})_F3D\.wrl", re.IGNORECASE)
_EXTENT_MM = (30.0, 1000.0)


def read_bu3dfe(root: Path, *, neutral: bool = False, levels: Sequence[int] = LEVELS, size_px: int = SIZE_PX) -> Source:
    """Find the faces below `root`. The meshes are read and rendered later, one by one.

    Args:
        neutral: include the neutral faces (NE00) as a seventh class.
        levels: intensities of the six expressions to include, 1 (low) to 4 (highest).
        size_px: side of the pairs.

    Raises:
        UserError: not such a tree, or no face of the requested kinds.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give the folder with F0001 ... M0044 in it")
    if not levels or not set(levels) <= set(LEVELS):
        raise UserError(f"the levels are {', '.join(map(str, levels)) or 'none'}: some of 1, 2, 3, 4 were expected")
    folders, problems = at_level(root, 1, is_meant=_is_model, expected="<subject>/")
    models = [folder.path / name for folder in folders for name in folder.files if _is_model(name)]
    items = []
    for path in models:
        parts = _MODEL.fullmatch(path.name)
        code = parts.group(2).upper() if parts else ""
        if parts is None or code not in EXPRESSIONS or parts.group(1).upper() != path.parent.name.upper():
            problems.append(f"{path}: a name such as {path.parent.name}_AN01WH_F3D.wrl was expected")
        elif neutral if code == "NE" else int(parts.group(3)) in levels:
            name = path.name[: -len("_F3D.wrl")]
            read = partial(read_face, path, size_px=size_px)
            files = (path, path.with_name(f"{name}_F2D.bmp"))
            items.append(Item(label=EXPRESSIONS[code], sequence=path.parent.name, name=name, read=read, files=files))
    if not models:
        raise UserError(
            f"{root} has no faces: F0001/F0001_AN01WH_F3D.wrl with F0001_AN01WH_F2D.bmp and so on were expected"
            f"{other_layout(root, expected='bu3dfe')}"
        )
    if not items and not problems:
        raise UserError(f"{root} has {len(models)} faces, but none of the levels {', '.join(map(str, levels))}")
    subjects = {item.sequence for item in items}
    return Source(
        items=tuple(items),
        depth_unit_m=DEPTH_UNIT_M,
        problems=tuple(problems),
        notes=() if len(subjects) == NUM_SUBJECTS else (f"{len(subjects)} subject(s) of {NUM_SUBJECTS}",),
        origin={
            "neutral": neutral,
            "levels": sorted(set(levels)),
            "size_px": size_px,
            "camera_mm": CAMERA_MM,
            "view_mm": VIEW_MM,
        },
    )


def _is_model(name: str) -> bool:
    return name.lower().endswith("_f3d.wrl")


def read_face(path: Path, *, size_px: int = SIZE_PX) -> Pair:
    """Render one F3D file: RGB and depth [size_px, size_px] in one view, depth in codes of `DEPTH_UNIT_M`.

    Raises:
        UserError: the mesh or its image cannot be used.
    """
    mesh = read_vrml(path)
    low, high = mesh.points_mm.min(0), mesh.points_mm.max(0)
    extent_mm = float((high - low)[:2].max())
    if extent_mm < _EXTENT_MM[0] or float((high - low).max()) > _EXTENT_MM[1]:
        extents = " x ".join(f"{value:g}" for value in high - low)
        raise UserError(f"{path}: the mesh has a size of {extents}, a face in millimetres was expected")
    view = render(
        mesh,
        _read_texture(path, mesh),
        side_px=size_px,
        side_mm=max(VIEW_MM, 1.05 * extent_mm),
        centre_mm=(float(low[0] + high[0]) / 2, float(low[1] + high[1]) / 2),
    )
    distance_mm = CAMERA_MM + np.median(mesh.points_mm[:, 2]) - view.height_mm
    if not np.isfinite(distance_mm).any() or np.nanmin(distance_mm) <= 0:
        raise UserError(
            f"{path}: the mesh extends behind the camera, {CAMERA_MM:g} mm in front of its median point, or is not visible"
        )
    codes = np.rint(np.nan_to_num(distance_mm) * 1e-3 / DEPTH_UNIT_M)
    note = "faces with four or more corners were cut into triangles" if mesh.num_split else None
    return Pair(rgb=view.rgb, depth=codes.astype(np.uint16), note=note)


def _read_texture(path: Path, mesh: Mesh) -> NDArray[np.uint8]:
    """The texture image next to the mesh, uint8 [H, W, 3] in RGB order: the F2D file, else the file named in the mesh."""
    stem = path.name[: -len("_F3D.wrl")]
    wanted = [f"{stem}_F2D.bmp", f"{stem}_F2D.BMP", *_base_names(mesh)]
    for name in wanted:
        if os.path.isfile(path.parent / name):  # noqa: PTH113  (accepts invalid names too)
            return read_rgb(path.parent / name)
    names = " or ".join(dict.fromkeys([wanted[0], *_base_names(mesh)]))
    raise UserError(f"{path}: its texture is missing: {printable(names)} was expected next to it")


def _base_names(mesh: Mesh) -> list[str]:
    """The texture's file name without folders, which are those of the machine where the mesh was made."""
    return [re.split(r"[/\\]", mesh.texture_name)[-1]] if mesh.texture_name else []
