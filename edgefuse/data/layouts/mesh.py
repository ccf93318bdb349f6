"""Read a textured VRML 2.0 mesh, and render it from the front with a z-buffer.

Owns the parser of one IndexedFaceSet and the orthographic renderer; `edgefuse.data.layouts.bu3dfe` calls them. Coordinates are used
unchanged: x to the right, y up, z towards the viewer, in millimetres. Transform nodes are not applied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse.io.text_files import read_text_bytes

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

MAX_MESH_BYTES = 256 << 20
MAX_CANDIDATES = 300_000
"""Pixels tested in one step. Bounds the memory for triangles of any size."""

_EDGE = 1e-9
"""Tolerance for rounding: pixels on an edge belong to the triangles on both sides, so that edges have no holes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """One mesh with texture coordinates.

    Attributes:
        points_mm: [V, 3].
        triangles: [T, 3], indices into `points_mm`.
        texcoords: [U, 2], s to the right, t up, both 0 to 1 over the image.
        texture_triangles: [T, 3], indices into `texcoords`.
        texture_name: image file named in the mesh file, or None.
        num_split: number of faces with more than three corners, which were split into triangles.
    """

    points_mm: Floats
    triangles: Indices
    texcoords: Floats
    texture_triangles: Indices
    texture_name: str | None
    num_split: int


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """An orthographic view.

    Attributes:
        rgb: uint8 [S, S, 3], 0 outside the mesh.
        height_mm: float64 [S, S], z of the nearest surface, NaN outside the mesh.
        mm_per_px: side of a pixel.
    """

    rgb: NDArray[np.uint8]
    height_mm: Floats
    mm_per_px: float


def read_vrml(path: Path) -> Mesh:
    """Read the IndexedFaceSet of a VRML 2.0 file. Faces with four or more corners are split into fans of triangles.

    Raises:
        UserError: not VRML 2.0, no mesh or several, no texture coordinates, or invalid numbers or indices.
    """
    data = read_text_bytes(path, what="a VRML 2.0 file", max_bytes=MAX_MESH_BYTES)
    if not data.startswith(b"#VRML V2.0"):
        raise UserError(f"{path}: not a VRML 2.0 file: it begins with {data[:16]!r}, '#VRML V2.0 utf8' was expected")
    data = re.sub(rb"#[^\r\n]*", b"", data)
    points = _block(data, rb"\bCoordinate\s*\{\s*point\s*\[", path=path)
    corners = _block(data, rb"\bcoordIndex\s*\[", path=path)
    if points is None or corners is None:
        raise UserError(
            f"{path}: no mesh: an IndexedFaceSet with Coordinate {{ point [...] }} and coordIndex [...] was expected"
        )
    texcoords = _block(data, rb"\bTextureCoordinate\s*\{\s*point\s*\[", path=path)
    texture_corners = _block(data, rb"\btexCoordIndex\s*\[", path=path)
    if texcoords is None or not texcoords.split():
        raise UserError(
            f"{path}: the mesh has no texture coordinates (TextureCoordinate {{ point [...] }}), so its image cannot be mapped "
            "onto it: use the textured F3D files, not the raw ones"
        )
    points_mm = _vectors(points, width=3, what="points", path=path)
    st = _vectors(texcoords, width=2, what="texture coordinates", path=path)
    triangles, lengths = _triangles(corners, num_points=len(points_mm), what="coordIndex", path=path)
    if texture_corners is None or not texture_corners.split():
        texture_corners = corners  # VRML 2.0, 6.23: without texCoordIndex, coordIndex is used
    texture_triangles, texture_lengths = _triangles(
        texture_corners, num_points=len(st), what="texCoordIndex", path=path
    )
    if not np.array_equal(lengths, texture_lengths):
        raise UserError(
            f"{path}: texCoordIndex has different faces than coordIndex: the same number of corners in each was expected"
        )
    url = re.search(rb'\bImageTexture\s*\{[^}]*?\burl\s*\[?\s*"([^"]*)"', data)
    return Mesh(
        points_mm=points_mm,
        triangles=triangles,
        texcoords=st,
        texture_triangles=texture_triangles,
        texture_name=url.group(1).decode("utf-8", "replace") if url else None,
        num_split=int((lengths > 3).sum()),
    )


def render(
    mesh: Mesh, texture: NDArray[np.uint8], *, side_px: int, side_mm: float, centre_mm: tuple[float, float]
) -> View:
    """Render a mesh from the front, unlit: colours are the texture's.

    Args:
        texture: uint8 [H, W, 3].
        side_px, side_mm: side of the square view in pixels and in millimetres.
        centre_mm: x and y of the view's centre.
    """
    mm_per_px = side_mm / side_px
    xyz = mesh.points_mm[mesh.triangles]
    # Pixel (row, column) has its centre at (row + 0.5, column + 0.5); rows go down, y goes up.
    columns = (xyz[..., 0] - centre_mm[0]) / mm_per_px + side_px / 2 - 0.5
    rows = (centre_mm[1] - xyz[..., 1]) / mm_per_px + side_px / 2 - 0.5
    winner, weights, height_mm = _rasterise(rows, columns, xyz[..., 2], side_px=side_px)
    seen = winner >= 0
    st = np.einsum("nk,nkc->nc", weights[seen], mesh.texcoords[mesh.texture_triangles[winner[seen]]])
    rgb = np.zeros((side_px, side_px, 3), np.uint8)
    shrunk = _shrunk(texture, mesh, mm_per_px=mm_per_px)
    rgb[seen] = _sampled(shrunk, st)
    return View(rgb=rgb, height_mm=height_mm, mm_per_px=mm_per_px)


def _rasterise(rows: Floats, columns: Floats, z: Floats, *, side_px: int) -> tuple[Indices, Floats, Floats]:
    """Nearest triangle of each pixel [S, S] (-1 = none), the weights of its corners [S, S, 3], and its z [S, S].

    Args:
        rows, columns, z: corners of the triangles [T, 3], in pixels; larger z is nearer.
    """
    top, left = (np.clip(np.ceil(v.min(1)), 0, side_px).astype(np.int64) for v in (rows, columns))
    bottom, right = (np.clip(np.floor(v.max(1)), -1, side_px - 1).astype(np.int64) for v in (rows, columns))
    heights, widths = np.maximum(bottom - top + 1, 0), np.maximum(right - left + 1, 0)
    edge1 = np.stack([rows[:, 1] - rows[:, 0], columns[:, 1] - columns[:, 0]])
    edge2 = np.stack([rows[:, 2] - rows[:, 0], columns[:, 2] - columns[:, 0]])
    area = edge1[0] * edge2[1] - edge1[1] * edge2[0]
    boxes = np.where(np.abs(area) > 1e-12, heights * widths, 0)  # a triangle seen edge-on covers nothing
    winner = np.full(side_px * side_px, -1, np.int64)
    weights = np.zeros((side_px * side_px, 3))
    nearest = np.full(side_px * side_px, np.nan)
    for chosen in _chunks(boxes):
        triangle = np.repeat(chosen, boxes[chosen])
        place = np.arange(len(triangle)) - np.repeat(np.cumsum(boxes[chosen]) - boxes[chosen], boxes[chosen])
        row, column = top[triangle] + place // widths[triangle], left[triangle] + place % widths[triangle]
        dr, dc = row - rows[triangle, 0], column - columns[triangle, 0]
        w1 = (dr * edge2[1, triangle] - dc * edge2[0, triangle]) / area[triangle]
        w2 = (dc * edge1[0, triangle] - dr * edge1[1, triangle]) / area[triangle]
        corner_weights = np.stack([1 - w1 - w2, w1, w2], axis=1)
        inside = (corner_weights >= -_EDGE).all(1)
        triangle, corner_weights = triangle[inside], corner_weights[inside]
        pixel = (row * side_px + column)[inside]
        height = (corner_weights * z[triangle]).sum(1)
        in_front = ~(height <= nearest[pixel])  # True also for NaN, an empty pixel
        # In an assignment with repeated indices the last one wins, so sort from far to near.
        order = np.flatnonzero(in_front)[np.argsort(height[in_front], kind="stable")]
        winner[pixel[order]], weights[pixel[order]] = triangle[order], corner_weights[order]
        nearest[pixel[order]] = height[order]
    shape = (side_px, side_px)
    return winner.reshape(shape), weights.reshape(*shape, 3), nearest.reshape(shape)


def _chunks(boxes: Indices) -> list[Indices]:
    """Indices of the triangles with a box, split into parts of about `MAX_CANDIDATES` pixels."""
    drawn = np.flatnonzero(boxes)
    if not len(drawn):
        return []
    part = np.cumsum(boxes[drawn]) // MAX_CANDIDATES
    return np.split(drawn, np.flatnonzero(np.diff(part)) + 1)


def _shrunk(texture: NDArray[np.uint8], mesh: Mesh, *, mm_per_px: float) -> NDArray[np.uint8]:
    """The texture reduced to about the view's resolution. Sampling a finer one would skip texels."""
    height, width = texture.shape[:2]
    texels = _area(mesh.texcoords[mesh.texture_triangles]) * height * width
    pixels = _area(mesh.points_mm[mesh.triangles][..., :2]) / mm_per_px**2
    ratio = float(np.sqrt(texels / pixels)) if pixels > 0 else 1.0
    if ratio <= 1:
        return texture
    size = (max(1, round(width / ratio)), max(1, round(height / ratio)))
    return np.asarray(cv2.resize(texture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _area(corners: Floats) -> float:
    """Sum of the areas of triangles [T, 3, 2]."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return float(np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / 2)


def _sampled(texture: NDArray[np.uint8], st: Floats) -> NDArray[np.uint8]:
    """Colours [N, 3] at texture coordinates [N, 2], interpolated between the four nearest texels; t goes up."""
    height, width = texture.shape[:2]
    x = np.clip(st[:, 0] * width - 0.5, 0, width - 1)
    y = np.clip((1 - st[:, 1]) * height - 0.5, 0, height - 1)
    x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    above = texture[y0, x0] * (1 - fx) + texture[y0, x1] * fx
    below = texture[y1, x0] * (1 - fx) + texture[y1, x1] * fx
    return np.asarray(np.rint(above * (1 - fy) + below * fy), np.uint8)


def _block(data: bytes, opening: bytes, *, path: Path) -> bytes | None:
    """The text between `opening`, which ends in "[", and the next "]"; None if it does not occur."""
    found = list(re.finditer(opening, data))
    if not found:
        return None
    if len(found) > 1:
        raise UserError(f"{path}: {len(found)} meshes in one file, one was expected")
    end = data.find(b"]", found[0].end())
    if end < 0:
        raise UserError(f"{path}: the file ends in the middle of a list: is the copy complete?")
    return data[found[0].end() : end].replace(b",", b" ")


def _vectors(text: bytes, *, width: int, what: str, path: Path) -> Floats:
    try:
        values = np.array([float(token) for token in text.split()])
    except ValueError as error:
        raise UserError(f"{path}: the {what} are not all numbers ({error})") from error
    if not len(values) or len(values) % width or not np.isfinite(values).all():
        raise UserError(f"{path}: {len(values)} numbers as {what}, finite numbers in groups of {width} were expected")
    return values.reshape(-1, width)


def _triangles(text: bytes, *, num_points: int, what: str, path: Path) -> tuple[Indices, Indices]:
    """Triangles [T, 3] of faces that end in -1, grouped by their number of corners; and the number of corners of each face [F]."""
    try:
        values = np.array([int(token) for token in text.split()], np.int64)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: {what} contains something other than indices ({error})") from error
    if len(values) and values[-1] != -1:
        values = np.append(values, -1)  # the last -1 may be left out
    ends = np.flatnonzero(values == -1)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts
    indices = values[values != -1]
    if not len(ends) or lengths.min() < 3 or indices.min() < 0 or indices.max() >= num_points:
        raise UserError(
            f"{path}: {what} has invalid faces: three or more indices from 0 to {num_points - 1} before each -1 were expected"
        )
    fans = []
    for length in np.unique(lengths):
        faces = values[starts[lengths == length][:, None] + np.arange(length)]
        fans += [faces[:, [0, i, i + 1]] for i in range(1, length - 1)]
    return np.concatenate(fans), lengths
