"""A small ray caster: a solid and cards on a table in front of a wall, with photographs on the cards.

Owns geometry and light, independent of classes and sensors. `edgefuse.synth.rendered_set` and its scenes import it.

World: metres, z up, the table is z = 0, the wall is the plane y = wall_y. Camera: x right, y down, z forward (OpenCV).
N = number of rays. A ray is origin + t * direction; directions have length 1 along the camera's axis, so t is depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse.synth.shapes import NEAREST_T, Array, Solid, dot, turned

CARD_BORDER = 0.95
"""Fraction of a card's half side that the image covers; the rest is white paper."""

PAPER = 0.85
"""Reflectance of white paper."""


class Box2D(NamedTuple):
    """Pixels [left, right) x [top, bottom) of a camera image."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Camera:
    """A pinhole camera.

    Attributes:
        position: [3], metres.
        rotation: [3, 3], columns = the camera's right, down and forward axes in the world.
        focal_px: both focal lengths.
        centre_px: principal point (x, y).
    """

    position: Array
    rotation: Array
    focal_px: float
    centre_px: tuple[float, float]

    def directions(self, pixels: Array) -> Array:
        """Rays through pixel positions [N, 2] (x, y; pixel centres are integers) -> [N, 3]."""
        in_camera = np.ones((len(pixels), 3), np.float32)
        in_camera[:, :2] = (pixels - np.array(self.centre_px, np.float32)) / np.float32(self.focal_px)
        return turned(in_camera, self.rotation.T)

    def project(self, points: Array) -> Array:
        """Pixel positions [M, 2] of points [M, 3] in front of the camera."""
        in_camera = turned(points - self.position, self.rotation)
        return in_camera[:, :2] / in_camera[:, 2:] * np.float32(self.focal_px) + np.array(self.centre_px, np.float32)


def look_at(*, position: Array, target: Array, roll_rad: float) -> Array:
    """A rotation for `Camera` whose axis points from `position` to `target`, rolled about that axis."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, np.array([0, 0, 1], np.float32))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = np.cos(roll_rad), np.sin(roll_rad)
    return np.stack([cos * right + sin * down, cos * down - sin * right, forward], axis=1).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Texture:
    """Two colours, mixed by smooth noise.

    Attributes:
        grid: [G, G] in 0..1, repeated periodically.
        cells_per_m: noise cells in each direction; different values give a grain, as in wood.
    """

    grid: Array
    dark: Array
    light: Array
    cells_per_m: tuple[float, float]
    angle_rad: float = 0.0

    def paint(self, where: Array) -> Array:
        """Colours [N, 3] at positions [N, 2] in metres."""
        cos, sin = np.float32(np.cos(self.angle_rad)), np.float32(np.sin(self.angle_rad))
        x = (cos * where[:, 0] + sin * where[:, 1]) * np.float32(self.cells_per_m[0])
        y = (cos * where[:, 1] - sin * where[:, 0]) * np.float32(self.cells_per_m[1])
        mix = np.float32(0.65) * _noise(self.grid, x, y) + np.float32(0.35) * _noise(self.grid, y * 3.7, x * 3.7)
        return self.dark + (self.light - self.dark) * mix[:, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Photo:
    """A photograph of another world: the square of side 2 * half_px around centre_px of a camera's image."""

    world: World
    camera: Camera
    centre_px: Array
    half_px: float

    def position_on_card(self, points: Array) -> Array:
        """Positions [M, 2] in the photograph of points [M, 3] of the photographed world: -1..1 from edge to edge."""
        return (self.camera.project(points) - self.centre_px) / np.float32(self.half_px)


@dataclass(frozen=True, kw_only=True, eq=False)
class Card:
    """A square sheet with a white border.

    Attributes:
        centre, right, down: [3]; the last two are unit vectors in the sheet.
        half_m: half of its side.
        image: a `Photo`, or a pattern (`Texture`).
    """

    centre: Array
    right: Array
    down: Array
    half_m: float
    image: Photo | Texture

    def point(self, on_photo: Array) -> Array:
        """World points [M, 3] of positions [M, 2] in the photograph."""
        on_card = on_photo * np.float32(CARD_BORDER * self.half_m)
        return self.centre + on_card[:, :1] * self.right + on_card[:, 1:] * self.down

    def hit(self, origin: Array, direction: Array) -> tuple[Array, Array]:
        """First hits of rays [N, 3]: t [N] (inf if none) and positions in the photograph [N, 2] (beyond 1 is the border)."""
        normal = np.cross(self.right, self.down)
        from_centre = origin - self.centre
        t = -dot(from_centre, normal) / dot(direction, normal)
        point = from_centre + t[:, None] * direction
        on_card = np.stack([dot(point, self.right), dot(point, self.down)], axis=1) / np.float32(self.half_m)
        good = (t > NEAREST_T) & (np.abs(on_card).max(axis=1) <= 1)
        return np.where(good, t, np.float32(np.inf)), on_card / np.float32(CARD_BORDER)


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """All surfaces and the light.

    Attributes:
        light: unit vector [3] towards the lamp.
        ambient, diffuse: fractions of the ambient light and of the lamp's light.
    """

    table: Texture
    wall: Texture
    wall_y: float
    cards: tuple[Card, ...]
    solid: Solid | None
    light: Array
    ambient: float
    diffuse: float


def image(world: World, camera: Camera, box: Box2D) -> tuple[Array, Array]:
    """Render a part of a camera's image.

    Returns:
        radiance [H, W, 3], linear, about 0..1, and depth [H, W] in metres along the camera's axis.
    """
    y, x = np.mgrid[box.top : box.bottom, box.left : box.right].astype(np.float32)
    directions = camera.directions(np.stack([x.ravel(), y.ravel()], axis=1))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        radiance, depth_m = _trace(world, camera.position, directions)
    return radiance.reshape(*x.shape, 3), depth_m.reshape(x.shape)


class _Seen(NamedTuple):
    """The first surfaces hit by rays.

    t [N], unit normals [N, 3] on the ray's side, colours [N, 3], gloss [N], the number of the card whose photograph was hit
    (-1 elsewhere) [N], and the position in that photograph [N, 2].
    """

    t: Array
    normal: Array
    albedo: Array
    gloss: Array
    card: NDArray[np.int8]
    on_photo: Array


def _trace(world: World, eye: Array, direction: Array) -> tuple[Array, Array]:
    """Radiance [N, 3] and t [N] of rays from `eye`."""
    origin = np.broadcast_to(eye, direction.shape)
    seen = _room(world, origin, direction)
    for number, card in enumerate(world.cards):
        _put_card(seen, card, number=number, origin=origin, direction=direction)
    if world.solid is not None:
        _put_solid(seen, world.solid, origin=origin, direction=direction)
    radiance = _light(world, seen, origin=origin, direction=direction)
    for number, card in enumerate(world.cards):
        if isinstance(card.image, Photo):
            rays = np.flatnonzero(seen.card == number)
            photo = card.image
            taken = photo.camera.directions(photo.centre_px + seen.on_photo[rays] * np.float32(photo.half_px))
            radiance[rays] = _trace(photo.world, photo.camera.position, taken)[0]
    return radiance, seen.t


def _room(world: World, origin: Array, direction: Array) -> _Seen:
    """Table and wall."""
    t_table = np.where(direction[:, 2] < 0, -origin[:, 2] / direction[:, 2], np.float32(np.inf))
    t_wall = np.where(direction[:, 1] > 0, (world.wall_y - origin[:, 1]) / direction[:, 1], np.float32(np.inf))
    on_table = t_table < t_wall
    t = np.where(on_table, t_table, t_wall)
    point = origin + t[:, None] * direction
    normal, albedo = np.zeros_like(direction), np.empty_like(direction)
    normal[on_table, 2], normal[~on_table, 1] = 1, -1
    albedo[on_table] = world.table.paint(point[on_table, :2])
    albedo[~on_table] = world.wall.paint(point[~on_table][:, [0, 2]])
    return _Seen(t, normal, albedo, np.zeros_like(t), np.full(len(t), -1, np.int8), np.zeros_like(direction[:, :2]))


def _put_card(seen: _Seen, card: Card, *, number: int, origin: Array, direction: Array) -> None:
    """Add a card in front of the surfaces behind it."""
    t, on_photo = card.hit(origin, direction)
    rays = np.flatnonzero(t < seen.t)
    normal = np.cross(card.right, card.down)
    on_photo = on_photo[rays]
    inside = np.abs(on_photo).max(axis=1, initial=0) <= 1
    seen.t[rays], seen.on_photo[rays] = t[rays], on_photo
    seen.normal[rays] = normal if normal @ (origin[0] - card.centre) > 0 else -normal
    seen.albedo[rays], seen.card[rays] = PAPER, np.where(inside, number, -1)
    if isinstance(card.image, Texture):
        seen.albedo[rays[inside]] = card.image.paint(on_photo[inside] * np.float32(card.half_m))


def _put_solid(seen: _Seen, solid: Solid, *, origin: Array, direction: Array) -> None:
    """Add the solid in front of the surfaces behind it."""
    asked = np.flatnonzero(solid.may_hit(origin, direction))
    t, normal, albedo = solid.nearest(origin[asked], direction[asked])
    nearer = t < seen.t[asked]
    rays = asked[nearer]
    seen.t[rays], seen.normal[rays], seen.albedo[rays] = t[nearer], normal[nearer], albedo[nearer]
    seen.gloss[rays], seen.card[rays] = solid.gloss, -1


def _light(world: World, seen: _Seen, *, origin: Array, direction: Array) -> Array:
    """Radiance [N, 3]: Lambert with shadows, and a Blinn-Phong highlight on glossy surfaces."""
    facing = np.maximum(dot(seen.normal, world.light), 0)
    start = origin + seen.t[:, None] * direction + seen.normal * np.float32(1e-3)
    to_lamp = np.broadcast_to(world.light, start.shape)
    for card in world.cards:
        facing[np.isfinite(card.hit(start, to_lamp)[0])] = 0
    if world.solid is not None:
        asked = np.flatnonzero(world.solid.may_hit(start, to_lamp) & (facing > 0))
        t, _, _ = world.solid.nearest(start[asked], to_lamp[asked])
        facing[asked[np.isfinite(t)]] = 0
    radiance = seen.albedo * (np.float32(world.ambient) + np.float32(world.diffuse) * facing)[:, None]
    shiny = np.flatnonzero((seen.gloss > 0) & (facing > 0))
    half_way = world.light - direction[shiny] / np.linalg.norm(direction[shiny], axis=1, keepdims=True)
    half_way /= np.linalg.norm(half_way, axis=1, keepdims=True)
    radiance[shiny] += (seen.gloss[shiny] * np.maximum(dot(half_way, seen.normal[shiny]), 0) ** 60)[:, None]
    return radiance


def _noise(grid: Array, x: Array, y: Array) -> Array:
    """Smooth noise: the grid, repeated and interpolated."""
    side = len(grid)
    column, row = np.floor(x), np.floor(y)
    fx, fy = x - column, y - row
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    left, top = column.astype(np.int64) % side, row.astype(np.int64) % side
    right, bottom = (left + 1) % side, (top + 1) % side
    upper = grid[top, left] * (1 - fx) + grid[top, right] * fx
    lower = grid[bottom, left] * (1 - fx) + grid[bottom, right] * fx
    mixed: Array = upper * (1 - fy) + lower * fy
    return mixed
