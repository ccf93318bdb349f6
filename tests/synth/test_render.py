"""The ray caster compared with geometry in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgefuse.synth.render import CARD_BORDER, Box2D, Camera, Card, Photo, Texture, World, image, look_at
from edgefuse.synth.shapes import Capsule, Disc, Frustum, Part, Shape, Solid

SIZE = 64
BOX = Box2D(0, 0, SIZE, SIZE)


def rays(count: int = 4000, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rays from a shell around the origin to points near it."""
    rng = np.random.default_rng(seed)
    outside = rng.normal(size=(count, 3))
    outside = 0.5 * outside / np.linalg.norm(outside, axis=1, keepdims=True)
    direction = rng.uniform(-0.12, 0.12, (count, 3)) - outside
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return outside.astype(np.float32), direction.astype(np.float32)


def marched(distance, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """t of the first change of sign of `distance`(points) along each ray, inf if there is none."""
    steps = np.linspace(0, 1, 2001)
    t = np.full(len(origin), np.inf)
    for i, (start, way) in enumerate(zip(origin.astype(float), direction.astype(float), strict=True)):
        values = distance(start + steps[:, None] * way)
        changes = np.flatnonzero((values[:-1] * values[1:] <= 0) & np.isfinite(values[:-1] * values[1:]))
        if len(changes):
            t[i] = steps[changes[0]]
    return t


def frustum_distance(points: np.ndarray) -> np.ndarray:
    x, y, z = points.T
    radius = 0.03 + (0.06 - 0.03) * (z + 0.05) / 0.12
    return np.where((z >= -0.05) & (z <= 0.07), np.hypot(x, y) - radius, np.nan)


def capsule_distance(points: np.ndarray) -> np.ndarray:
    start, axis = np.array([-0.04, 0.01, 0.02]), np.array([0.09, 0.02, -0.05])
    along = np.clip((points - start) @ axis / (axis @ axis), 0, 1)
    return np.linalg.norm(points - start - along[:, None] * axis, axis=1) - 0.02


def disc_distance(points: np.ndarray) -> np.ndarray:
    x, y, z = points.T
    return np.where((np.hypot(x, y) >= 0.02) & (np.hypot(x, y) <= 0.07), z - 0.03, np.nan)


@pytest.mark.parametrize(
    ("shape", "distance"),
    [
        (Frustum(-0.05, 0.03, 0.07, 0.06), frustum_distance),
        (Capsule((-0.04, 0.01, 0.02), (0.05, 0.03, -0.03), 0.02), capsule_distance),
        (Disc(0.03, 0.02, 0.07), disc_distance),
    ],
    ids=["frustum", "capsule", "disc"],
)
def test_hits_are_where_marching_along_the_ray_finds_them(shape: Shape, distance) -> None:
    origin, direction = rays(600)
    with np.errstate(divide="ignore", invalid="ignore"):
        t, normal = shape.hit(origin, direction)
    expected = marched(distance, origin, direction)
    both = np.isfinite(t) & np.isfinite(expected)
    assert both.sum() > 50
    assert np.mean(np.isfinite(t) != np.isfinite(expected)) < 0.01  # tangent rays
    apart = np.abs(t[both] - expected[both])
    assert np.median(apart) < 1e-3
    assert np.mean(apart > 2e-3) < 0.01
    step = 1e-4 * normal / np.linalg.norm(normal, axis=1, keepdims=True)
    point = (origin + np.where(both, t, 0)[:, None] * direction).astype(float)
    across = np.abs(distance(point + step) - distance(point - step))[both]
    assert np.nanmedian(across) > 1.7e-4  # along the normal, twice 1e-4 if the distance is exact


def solid() -> Solid:
    parts = (
        Part(Frustum(0, 0.04, 0.1, 0.05), (0.8, 0.1, 0.1), banded=True),
        Part(Disc(0.1, 0, 0.05), (0.8, 0.1, 0.1)),
        Part(Capsule((0.05, 0, 0.02), (0.09, 0, 0.06), 0.01), (0.1, 0.8, 0.1)),
    )
    return Solid(parts=parts, bands=(), gloss=0.3, yaw_rad=0.7)


def test_may_hit_includes_every_ray_that_hits_a_solid() -> None:
    origin, direction = rays()
    with np.errstate(divide="ignore", invalid="ignore"):
        t, normal, _ = solid().nearest(origin, direction)
    hit = np.isfinite(t)
    assert hit.sum() > 500
    assert solid().may_hit(origin, direction)[hit].all()
    assert not solid().may_hit(origin, direction).all()
    assert (np.einsum("ij,ij->i", normal, direction)[hit] <= 1e-6).all()
    np.testing.assert_allclose(np.linalg.norm(normal[hit], axis=1), 1, atol=1e-5)


def world(*, with_solid: bool = True) -> World:
    rng = np.random.default_rng(1)
    colours = {"dark": np.float32([0.2, 0.3, 0.2]), "light": np.float32([0.7, 0.6, 0.5])}
    texture = Texture(grid=rng.random((32, 32), dtype=np.float32), cells_per_m=(20, 30), **colours)
    light = np.float32([-0.48, -0.6, 0.64])
    parts = solid() if with_solid else None
    return World(table=texture, wall=texture, wall_y=0.8, cards=(), solid=parts, light=light, ambient=0.4, diffuse=0.6)


def camera(*, height_m: float = 0.4) -> Camera:
    position, target = np.float32([0.1, -0.6, height_m]), np.float32([0, 0, 0.05])
    rotation = look_at(position=position, target=target, roll_rad=0.05)
    return Camera(position=position, rotation=rotation, focal_px=120, centre_px=((SIZE - 1) / 2, (SIZE - 1) / 2))


def test_a_camera_projects_a_rays_points_onto_its_pixel() -> None:
    pixels = np.random.default_rng(0).uniform(0, SIZE, (100, 2)).astype(np.float32)
    direction = camera().directions(pixels)
    for t in (0.3, 1.7):
        np.testing.assert_allclose(camera().project(camera().position + t * direction), pixels, atol=2e-3)
    np.testing.assert_allclose(direction @ camera().rotation[:, 2], 1, atol=1e-5)
    np.testing.assert_allclose(camera().rotation.T @ camera().rotation, np.eye(3), atol=1e-6)
    assert np.linalg.det(camera().rotation) == pytest.approx(1, abs=1e-5)


def test_depth_of_the_table_is_its_distance_along_the_axis() -> None:
    view = camera()
    _, depth_m = image(world(with_solid=False), view, BOX)
    y, x = np.mgrid[:SIZE, :SIZE]
    way = view.directions(np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)).reshape(SIZE, SIZE, 3)
    point = view.position + depth_m[..., None] * way
    on_table = np.abs(point[..., 2]) < 1e-4
    on_wall = np.abs(point[..., 1] - 0.8) < 1e-4
    assert (on_table | on_wall).all()
    assert on_table.any()


def test_a_part_of_an_image_equals_that_part_of_the_complete_one() -> None:
    radiance, depth_m = image(world(), camera(), BOX)
    part, part_m = image(world(), camera(), Box2D(10, 20, 50, 45))
    np.testing.assert_allclose(part, radiance[20:45, 10:50], atol=1e-6)
    np.testing.assert_allclose(part_m, depth_m[20:45, 10:50], atol=1e-6)


def test_the_solid_is_visible_in_depth_and_casts_a_shadow() -> None:
    radiance, depth_m = image(world(), camera(), BOX)
    empty, empty_m = image(world(with_solid=False), camera(), BOX)
    nearer = depth_m < empty_m - 1e-4
    assert 0.02 < nearer.mean() < 0.6
    shadow = (radiance.sum(axis=2) < empty.sum(axis=2) * 0.9) & ~nearer
    assert shadow.sum() > 20


def test_a_photograph_held_before_its_camera_looks_like_the_scene_and_is_flat() -> None:
    view, away_m = camera(), 0.3
    half_px = SIZE * 0.3
    photo = Photo(world=world(), camera=view, centre_px=np.float32(view.centre_px), half_px=half_px)
    right, down, forward = view.rotation.T
    card = Card(
        centre=view.position + np.float32(away_m) * forward,
        right=right,
        down=down,
        half_m=half_px / view.focal_px * away_m / CARD_BORDER,
        image=photo,
    )
    scene, scene_m = image(world(), view, BOX)
    seen, seen_m = image(replace(world(), cards=(card,)), view, BOX)
    inside = slice(int(SIZE / 2 - half_px) + 2, int(SIZE / 2 + half_px) - 2)
    np.testing.assert_allclose(seen_m[inside, inside], away_m, atol=1e-5)
    assert scene_m[inside, inside].std() > 0.02
    assert np.mean(np.abs(seen - scene)[inside, inside] > 0.01) < 0.02  # rays on the other side of an edge
