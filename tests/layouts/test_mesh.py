"""The VRML parser accepts what the format allows, and the z-buffer agrees with one computed pixel by pixel."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgefuse.data.layouts import mesh as mesh_module
from edgefuse.data.layouts.mesh import Mesh, read_vrml, render
from edgefuse.errors import UserError

SQUARE = """#VRML V2.0 utf8
# made by hand ] 9 9 9
Group { children [ Shape {
  appearance Appearance { texture ImageTexture { url [ "C:\\scans\\face.bmp" ] } }
  geometry IndexedFaceSet {
    coord Coordinate { point [ -50 -50 0, 50 -50 0,  # lower edge
                               50 50 1e1 -50 50 +10.0, ] }
    coordIndex [ %s ]
    texCoord TextureCoordinate { point [ 0 0, 1 0, 1 1, 0 1 ] }
    %s
  }
} ] }
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def flat_mesh(points_mm: NDArray[np.float64], triangles: NDArray[np.int64]) -> Mesh:
    return Mesh(
        points_mm=points_mm,
        triangles=triangles,
        texcoords=np.zeros((len(points_mm), 2)),
        texture_triangles=triangles,
        texture_name=None,
        num_split=0,
    )


GREY = np.full((2, 2, 3), 128, np.uint8)


def test_commas_comments_and_a_missing_last_separator_are_read(tmp_path: Path) -> None:
    mesh = read_vrml(written(tmp_path / "a.wrl", SQUARE % ("0,1,2,-1 0 2 3", "texCoordIndex [0 1 2 -1, 0, 2, 3, -1]")))
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3]] and mesh.num_split == 0
    assert mesh.points_mm[2:].tolist() == [[50, 50, 10], [-50, 50, 10]]
    assert mesh.texture_name == "C:\\scans\\face.bmp"


def test_larger_faces_become_fans_and_texture_follows_coord_index_by_default(tmp_path: Path) -> None:
    mesh = read_vrml(written(tmp_path / "a.wrl", SQUARE % ("0 1 2 3 -1", "")))
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3]] == mesh.texture_triangles.tolist()
    assert mesh.num_split == 1


def test_mixed_faces_keep_geometry_and_texture_together(tmp_path: Path) -> None:
    mesh = read_vrml(
        written(tmp_path / "a.wrl", SQUARE % ("0 1 2 3 -1 0 1 2 -1", "texCoordIndex [3 2 1 0 -1 3 2 1 -1]"))
    )
    assert len(mesh.triangles) == 3
    assert (mesh.texture_triangles == 3 - mesh.triangles).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#VRML V1.0 ascii\n", "not a VRML 2.0 file"),
        ("#VRML V2.0 utf8\nShape { }", "no mesh"),
        ((SQUARE % ("0 1 2 -1", "")).replace("TextureCoordinate", "Normal"), "no texture coordinates"),
        ((SQUARE % ("0 1 2 -1", "")).replace("[ 0 0, 1 0, 1 1, 0 1 ]", "[ ]"), "no texture coordinates"),
        (SQUARE % ("0 1 4 -1", ""), "three or more indices from 0 to 3"),
        (SQUARE % ("0 1 -2 -1", ""), "three or more indices from 0 to 3"),
        (SQUARE % ("0 1 -1", ""), "three or more indices"),
        (SQUARE % ("", ""), "coordIndex has invalid faces"),
        (SQUARE % ("0 1 x -1", ""), "something other than indices"),
        (SQUARE % ("0 1 2 -1", "texCoordIndex [0 1 2 3 -1]"), "different faces than coordIndex"),
        ((SQUARE % ("0 1 2 -1", "")).replace("+10.0", "nan"), "finite"),
        ((SQUARE % ("0 1 2 -1", "")).replace("+10.0", "ten"), "not all numbers"),
        ((SQUARE % ("0 1 2 -1", "")).replace("+10.0", ""), "11 numbers as points"),
        ((SQUARE % ("0 1 2 -1", "")).partition("+10.0")[0], "ends in the middle"),
        ((SQUARE % ("0 1 2 -1", "")) * 2, "2 meshes"),
    ],
)
def test_invalid_meshes_are_refused_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_vrml(written(tmp_path / "bad.wrl", text))
    assert "bad.wrl" in str(caught.value)


def test_parsing_takes_linear_time_even_if_truncated(tmp_path: Path) -> None:
    path = written(tmp_path / "long.wrl", "#VRML V2.0 utf8\nCoordinate { point [ " + "1.5 2.5 3.5, " * 400_000)
    start_s = time.process_time()
    with pytest.raises(UserError):
        read_vrml(path)
    assert time.process_time() - start_s < 2


def test_the_view_shows_x_to_the_right_y_up_and_the_texture_upright(tmp_path: Path) -> None:
    mesh = read_vrml(written(tmp_path / "a.wrl", SQUARE % ("0 1 2 3 -1", "")))
    texture = np.array([[[10, 0, 0], [20, 0, 0]], [[30, 0, 0], [40, 0, 0]]], np.uint8)
    view = render(mesh, texture, side_px=20, side_mm=200, centre_mm=(0, 0))
    assert view.mm_per_px == 10 and (view.rgb[:5] == 0).all() and np.isnan(view.height_mm[:5]).all()
    corners = [view.rgb[row, column, 0] for row in (5, 14) for column in (5, 14)]
    assert corners == [10, 20, 30, 40]
    np.testing.assert_allclose(view.height_mm[5:15, 7], np.arange(9.5, 0, -1))  # rises by 10 mm from below to above
    shifted = render(mesh, texture, side_px=20, side_mm=200, centre_mm=(20, 0))
    assert np.isfinite(shifted.height_mm[10]).nonzero()[0].tolist() == list(range(3, 13))


def test_a_fine_texture_is_averaged_not_skipped(tmp_path: Path) -> None:
    mesh = read_vrml(written(tmp_path / "a.wrl", SQUARE % ("0 1 2 3 -1", "")))
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    view = render(mesh, noise, side_px=20, side_mm=200, centre_mm=(0, 0))
    assert (
        np.abs(view.rgb[5:15, 5:15].astype(int) - 128).max() < 15
    )  # the mean of 40 x 40 texels; a single one could have any value


def by_hand(points: NDArray[np.float64], triangles: NDArray[np.int64], side: int) -> NDArray[np.float64]:
    """Pixel by pixel: the highest z of all triangles over its centre; the view is `side` mm and pixels, around 0."""
    height = np.full((side, side), np.nan)
    for row in range(side):
        for column in range(side):
            here = np.array([column + 0.5 - side / 2, side / 2 - row - 0.5, 1.0])
            for triangle in triangles:
                corners = points[triangle]
                system = np.vstack([corners[:, :2].T, np.ones(3)])
                if abs(np.linalg.det(system)) < 1e-9:
                    continue
                weights = np.linalg.solve(system, here)
                if (weights >= -1e-9).all():
                    height[row, column] = np.fmax(height[row, column], weights @ corners[:, 2])
    return height


coordinate = st.integers(-70, 70).map(lambda number: number / 10)
soup = st.lists(st.tuples(*[st.tuples(coordinate, coordinate, coordinate)] * 3), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(soup=soup)
def test_the_nearest_surface_wins_for_any_triangles(soup: list[tuple[tuple[float, float, float], ...]]) -> None:
    points = np.array(soup).reshape(-1, 3)
    triangles = np.arange(len(points)).reshape(-1, 3)
    seen = render(flat_mesh(points, triangles), GREY, side_px=10, side_mm=10, centre_mm=(0, 0))
    np.testing.assert_allclose(seen.height_mm, by_hand(points, triangles, 10), atol=1e-6)
    assert ((seen.rgb == 128).all(2) == np.isfinite(seen.height_mm)).all()


def test_rendering_in_parts_gives_the_same_image(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform(-16, 16, (300, 3))
    mesh = flat_mesh(points, np.arange(300).reshape(-1, 3))
    whole = render(mesh, GREY, side_px=32, side_mm=32, centre_mm=(0, 0))
    monkeypatch.setattr(mesh_module, "MAX_CANDIDATES", 100)
    parts = render(mesh, GREY, side_px=32, side_mm=32, centre_mm=(0, 0))
    np.testing.assert_array_equal(whole.height_mm, parts.height_mm)


def test_neighbouring_triangles_leave_no_gap() -> None:
    n = 30
    x, y = np.meshgrid(np.linspace(-40, 40, n), np.linspace(-40, 40, n))
    points = np.stack([x + 0.1 * np.sin(y), y, np.cos(x)], -1).reshape(-1, 3)
    i = np.arange(n * n).reshape(n, n)
    quads = np.stack([i[:-1, :-1], i[:-1, 1:], i[1:, 1:], i[1:, :-1]], -1).reshape(-1, 4)
    mesh = flat_mesh(points, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))
    assert np.isfinite(render(mesh, GREY, side_px=97, side_mm=78, centre_mm=(0, 0)).height_mm).all()
