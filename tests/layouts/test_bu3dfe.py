"""BU-3DFE: synthetic faces in the tree's exact format become RGB-D pairs in one view."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgefuse.data.dataset import load, scan
from edgefuse.data.layouts.bu3dfe import CAMERA_MM, DEPTH_UNIT_M, VIEW_MM, read_bu3dfe, read_face
from edgefuse.data.layouts.convert import convert
from edgefuse.errors import UserError


def write_face(root: Path, stem: str = "F0001_AN01WH", *, n: int = 12, scale: float = 1.0, quads: bool = False) -> Path:
    """A dome of 160 x 200 mm with a nose, triangles of a grid, and an image that is red to the right, green below."""
    folder = root / stem[:5]
    folder.mkdir(parents=True, exist_ok=True)
    x, y = np.meshgrid(np.linspace(-80, 80, n) + 5, np.linspace(-100, 100, n))
    z = 60 - 0.004 * (x**2 + y**2) + 20 * np.exp(-(x**2 + y**2) / 150)
    st = np.stack([(x + 75) / 160, (y + 100) / 200], -1).reshape(-1, 2)
    i = np.arange(n * n).reshape(n, n)
    faces = np.stack([i[:-1, :-1], i[:-1, 1:], i[1:, 1:], i[1:, :-1]], -1).reshape(-1, 4)
    if not quads:
        faces = np.concatenate([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]])
    points = ",\n".join(" ".join(f"{v:.4f}" for v in p) for p in np.stack([x, y, z], -1).reshape(-1, 3) * scale)
    texcoords = ",\n".join(" ".join(f"{v:.5f}" for v in p) for p in st)
    indices = ",\n".join(", ".join(map(str, face)) + ", -1" for face in faces)
    path = folder / f"{stem}_F3D.wrl"
    path.write_text(
        f"""#VRML V2.0 utf8
Shape {{
 appearance Appearance {{ material Material {{ diffuseColor 1 1 1 }} texture ImageTexture {{ url "{stem}_F2D.bmp" }} }}
 geometry IndexedFaceSet {{
  coord Coordinate {{ point [ {points} ] }}
  coordIndex [ {indices} ]
  texCoord TextureCoordinate {{ point [ {texcoords} ] }}
  texCoordIndex [ {indices} ]
 }}
}}
""",
        encoding="utf-8",
    )
    image = np.zeros((128, 128, 3), np.uint8)
    image[..., 2] = np.arange(128)[None, :] + 100
    image[..., 1] = np.arange(128)[:, None] + 100
    cv2.imwrite(str(folder / f"{stem}_F2D.bmp"), image)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "BU_3DFE"
    for subject in ("F0001", "M0044"):
        for code in ("AN01", "AN04", "HA02", "NE00"):
            write_face(root, f"{subject}_{code}WH")
    return root


def test_colour_and_depth_share_one_view(tmp_path: Path) -> None:
    pair = read_face(write_face(tmp_path), size_px=96)
    face = pair.depth > 0
    assert ((pair.rgb > 0).any(2) == face).all()
    rows, columns = face.any(1).nonzero()[0], face.any(0).nonzero()[0]
    mm_per_px = VIEW_MM / 96
    assert abs(len(rows) - 200 / mm_per_px) <= 1 and abs(len(columns) - 160 / mm_per_px) <= 1
    assert abs(rows.mean() - 47.5) <= 0.5 and abs(columns.mean() - 47.5) <= 0.5  # centred, although the mesh is not
    inner = (slice(rows[2], rows[-2]), slice(columns[2], columns[-2]))
    assert (np.diff(pair.rgb[inner][..., 0].astype(int), axis=1) >= 0).all()
    assert (np.diff(pair.rgb[inner][..., 1].astype(int), axis=0) >= 0).all()


def test_nearer_is_smaller_and_in_the_recorded_unit(tmp_path: Path) -> None:
    depth_m = read_face(write_face(tmp_path, n=41), size_px=96).depth * DEPTH_UNIT_M
    nose = np.unravel_index(np.where(depth_m > 0, depth_m, 9).argmin(), depth_m.shape)
    assert abs(nose[0] - 47.5) <= 2 and abs(nose[1] - (47.5 - 5 / 2.5)) <= 2
    measured = depth_m[depth_m > 0]
    assert measured.min() < CAMERA_MM / 1000 < measured.max()
    assert depth_m[0, 0] == 0
    relief_m = depth_m[47, 75] - depth_m[nose]
    assert 0.030 < relief_m < 0.050  # 20 mm of nose and about 20 mm of curve


def test_a_mesh_of_ten_thousand_triangles_takes_less_than_a_second(tmp_path: Path) -> None:
    path = write_face(tmp_path, n=73)
    start_s = time.process_time()
    assert read_face(path).depth.any()
    assert time.process_time() - start_s < 1


def test_the_tree_becomes_a_data_set_with_subjects_as_groups(tree: Path, tmp_path: Path) -> None:
    done = convert(tree, tmp_path / "out", layout="bu3dfe", size=48)
    dataset = scan([tmp_path / "out"])
    assert dataset.labels == ("anger", "happiness") and done.num_pairs == 6
    assert sorted(set(dataset.groups())) == ["F0001", "M0044"]
    assert {sample.depth_unit_m for sample in dataset.samples} == {DEPTH_UNIT_M}
    assert [image.shape for image in load(dataset).rgb] == [(48, 48, 3)] * 6
    description = json.loads((tmp_path / "out/dataset.json").read_text())
    assert description["source"]["folder"] == "BU_3DFE" and str(tmp_path) not in json.dumps(description)


def test_neutral_faces_and_levels_are_chosen(tree: Path) -> None:
    source = read_bu3dfe(tree, neutral=True, levels=[1, 2])
    assert sorted({(item.label, item.name[6:10]) for item in source.items}) == [
        ("anger", "AN01"),
        ("happiness", "HA02"),
        ("neutral", "NE00"),
    ]
    assert len(source.items) == 6
    with pytest.raises(UserError, match="1, 2, 3, 4 were expected"):
        read_bu3dfe(tree, levels=[5])
    with pytest.raises(UserError, match="none of the levels 3"):
        read_bu3dfe(tree, levels=[3])


def test_quads_are_rendered_with_a_note(tmp_path: Path) -> None:
    write_face(tmp_path / "in", quads=True)
    done = convert(tmp_path / "in", tmp_path / "out", layout="bu3dfe", size=32)
    assert any("cut into triangles" in note for note in done.notes)
    triangles = read_face(write_face(tmp_path / "other"), size_px=32)
    quads = read_face(tmp_path / "in/F0001/F0001_AN01WH_F3D.wrl", size_px=32)
    assert (quads.depth == triangles.depth).all() and quads.note and not triangles.note


def test_faces_without_texture_are_all_listed_and_can_be_skipped(tree: Path, tmp_path: Path) -> None:
    (tree / "F0001/F0001_AN01WH_F2D.bmp").unlink()
    bare = tree / "M0044/M0044_HA02WH_F3D.wrl"
    bare.write_text(bare.read_text().replace("TextureCoordinate", "Normal"))
    (tree / "F0001/F0001_XX01WH_F3D.wrl").write_bytes(b"")
    with pytest.raises(UserError, match=r"(?s)XX01WH_F3D\.wrl: a name such as") as caught:
        convert(tree, tmp_path / "out", layout="bu3dfe", size=32)
    (tree / "F0001/F0001_XX01WH_F3D.wrl").unlink()
    with pytest.raises(
        UserError, match=r"(?s)2 bad.*F0001_AN01WH_F2D\.bmp was expected.*M0044_HA02WH.*no texture coord"
    ):
        convert(tree, tmp_path / "out", layout="bu3dfe", size=32)
    assert "--skip-bad" in str(caught.value) and not (tmp_path / "out").exists()
    assert convert(tree, tmp_path / "out", layout="bu3dfe", size=32, skip_bad=True).num_pairs == 4


def test_a_mesh_that_is_not_in_millimetres_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0\.16 x 0\.2 x .* millimetres was expected"):
        read_face(write_face(tmp_path, scale=0.001))
    with pytest.raises(UserError, match="millimetres was expected"):
        read_face(write_face(tmp_path, scale=10))


def test_a_larger_mesh_gets_a_larger_view(tmp_path: Path) -> None:
    face = read_face(write_face(tmp_path, scale=1.5), size_px=64).depth > 0
    assert not face[0].any() and not face[-1].any() and 60 <= face.any(1).sum() <= 61  # 64 / 1.05


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no faces"):
        read_bu3dfe(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        read_bu3dfe(tmp_path / "absent")
