"""Random scenes: mugs, bottles and photographs of them on a table, camera poses and lighting.

Owns the built-in set's classes and all distributions of its scenes. `edgefuse.synth.rendered_set` imports it.

Two rules keep each sensor alone from distinguishing all classes:
- A photograph shows a scene from the same distribution as the real scenes, on a card larger than the region. Its colours differ
  from a real scene's only by a slight slant; only depth shows that the card is flat.
- Shape, size, pose and surroundings are independent of colour, and a photograph's size is independent of its content; only RGB
  shows the colour, and the content of a card.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from edgefuse.framing import Roi
from edgefuse.synth.render import Camera, Card, Photo, Texture, World, look_at
from edgefuse.synth.sensor_models import Degradation
from edgefuse.synth.shapes import Array, Band, Capsule, Disc, Frustum, Part, Solid

Rgb = tuple[float, float, float]

PHOTO_SUFFIX = "_photo"
OBJECTS = ("blue_mug", "bottle", "red_mug")
LABELS: tuple[str, ...] = tuple(sorted([*OBJECTS, *(name + PHOTO_SUFFIX for name in OBJECTS)]))
"""The classes: a red mug, a blue mug, a bottle, and a photograph of each."""

HUES_DEG = {"blue_mug": (205, 235), "red_mug": (-10, 10), "bottle": (95, 150)}
DISTANCE_M = (0.45, 1.2)
FOCAL_PER_WIDTH = 615 / 640
"""Focal length of a D435's colour stream, in image widths."""

CARD_MARGIN = 2.0
"""Half of the card's photograph, as a multiple of half of the object's box; more than the region's margin and slant need."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneObject:
    """One object, or photographs of one object, in its own surroundings.

    Attributes:
        room: the world without the object.
        photographed: the room in the photographs; None for a real object.
        solid: the object, without rotation.
    """

    room: World
    photographed: World | None
    solid: Solid


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One frame before the sensor models: a world, a camera in it, and the region of the object or of its photograph."""

    world: World
    camera: Camera
    roi: Roi
    distance_m: float


def object_of(rng: np.random.Generator, *, label: str) -> SceneObject:
    """Draw a random object of the class `label`, one of `LABELS`."""
    name = label.removesuffix(PHOTO_SUFFIX)
    hue = rng.uniform(*HUES_DEG[name]) / 360 % 1
    colour = _linear(hue, rng.uniform(0.65, 0.95), rng.uniform(0.5, 0.9))
    solid = _bottle(rng, colour) if name == "bottle" else _mug(rng, colour)
    room = _room(rng)
    return SceneObject(room=room, photographed=_room(rng) if label.endswith(PHOTO_SUFFIX) else None, solid=solid)


def view_of(rng: np.random.Generator, sequence: SceneObject, *, height: int, width: int) -> View:
    """Draw one frame's pose, camera and region for an image of `height` x `width` pixels."""
    pose = _pose(rng)
    solid = replace(sequence.solid, yaw_rad=rng.uniform(0, 2 * np.pi))
    outline = solid.outline()
    middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
    if sequence.photographed is None:
        world = replace(sequence.room, solid=solid, light=_swayed(rng, sequence.room.light))
        camera = _camera(pose, target=middle, height=height, width=width)
    else:
        inner = replace(sequence.photographed, solid=solid, light=_swayed(rng, sequence.photographed.light))
        photographer = _camera(_pose(rng), target=middle, height=height, width=width)
        pixels = photographer.project(outline)
        centre_px, half_px = _middle_and_half(pixels)
        photo = Photo(world=inner, camera=photographer, centre_px=centre_px, half_px=CARD_MARGIN * half_px)
        card = _card(rng, photo, pose)
        outline = card.point(photo.position_on_card(outline))
        world = replace(sequence.room, cards=(*sequence.room.cards, card))
        camera = _camera(pose, target=card.centre, height=height, width=width)
    roi = _region(rng, camera.project(outline), height=height, width=width)
    return View(world=world, camera=camera, roi=roi, distance_m=pose.distance_m)


def degradation_of(rng: np.random.Generator) -> Degradation:
    """Draw the sensors' degradation in one frame: mostly slight, often severe."""
    light = rng.choice(["well lit", "dim", "nearly dark"], p=[0.65, 0.2, 0.15])
    lowest, highest = {"well lit": (0.5, 1.3), "dim": (0.06, 0.5), "nearly dark": (0.001, 0.01)}[light]
    return Degradation(
        exposure=float(np.exp(rng.uniform(np.log(lowest), np.log(highest)))),
        warmth=float(np.clip(rng.normal(0, 0.05), -0.12, 0.12)),
        depth_missing=bool(rng.random() < 0.07),
        blob_fraction=float(rng.uniform(0.05, 0.4)) if rng.random() < 0.35 else 0.0,
        speckle_fraction=float(rng.uniform(0.001, 0.01)),
    )


class _Pose(NamedTuple):
    """A camera's position relative to its target; `offset` is the target's position in the image, in widths."""

    distance_m: float
    azimuth_rad: float
    elevation_rad: float
    roll_rad: float
    offset: tuple[float, float]


def _pose(rng: np.random.Generator) -> _Pose:
    return _Pose(
        distance_m=rng.uniform(*DISTANCE_M),
        azimuth_rad=np.deg2rad(rng.uniform(-30, 30)),
        elevation_rad=np.deg2rad(rng.uniform(12, 42)),
        roll_rad=np.deg2rad(rng.uniform(-3, 3)),
        offset=(rng.uniform(-0.12, 0.12), rng.uniform(-0.05, 0.05)),
    )


def _camera(pose: _Pose, *, target: Array, height: int, width: int) -> Camera:
    """The camera of a pose, `distance_m` from `target`."""
    azimuth, elevation = pose.azimuth_rad, pose.elevation_rad
    towards_camera = np.array(
        [np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)], np.float32
    )
    position = target + np.float32(pose.distance_m) * towards_camera
    metres_per_width = pose.distance_m / FOCAL_PER_WIDTH
    rotation = look_at(position=position, target=target, roll_rad=pose.roll_rad)
    aside = rotation[:, 0] * pose.offset[0] + rotation[:, 1] * pose.offset[1]
    rotation = look_at(position=position, target=target - metres_per_width * aside, roll_rad=pose.roll_rad)
    return Camera(
        position=position.astype(np.float32),
        rotation=rotation,
        focal_px=FOCAL_PER_WIDTH * width,
        centre_px=((width - 1) / 2, (height - 1) / 2),
    )


def _card(rng: np.random.Generator, image: Photo | Texture, pose: _Pose) -> Card:
    """A card on the table at the origin that leans back and roughly faces the camera of a pose."""
    half_m = rng.uniform(0.12, 0.165)
    return _standing(
        image,
        half_m=half_m,
        yaw_rad=pose.azimuth_rad + np.deg2rad(rng.uniform(-15, 15)),
        lean_rad=pose.elevation_rad * rng.uniform(0.5, 1),
        foot=(0.0, 0.0),
    )


def _standing(
    image: Photo | Texture, *, half_m: float, yaw_rad: float, lean_rad: float, foot: tuple[float, float]
) -> Card:
    normal = np.array(
        [np.sin(yaw_rad) * np.cos(lean_rad), -np.cos(yaw_rad) * np.cos(lean_rad), np.sin(lean_rad)], np.float32
    )
    right = np.array([np.cos(yaw_rad), np.sin(yaw_rad), 0], np.float32)
    return Card(
        centre=np.array([*foot, half_m * np.cos(lean_rad)], np.float32),
        right=right,
        down=np.cross(-normal, right),
        half_m=half_m,
        image=image,
    )


def _region(rng: np.random.Generator, pixels: Array, *, height: int, width: int) -> Roi:
    """A square with a margin around the projected outline, moved into the image."""
    centre, half = _middle_and_half(pixels)
    side = min(round(2 * half * rng.uniform(1.15, 1.4)), height, width)
    left, top = np.rint(centre + rng.uniform(-0.05, 0.05, 2) * side - side / 2)
    return Roi(int(np.clip(left, 0, width - side)), int(np.clip(top, 0, height - side)), side, side)


def _middle_and_half(pixels: Array) -> tuple[Array, float]:
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    return (low + high) / 2, float((high - low).max() / 2)


def _mug(rng: np.random.Generator, colour: Rgb) -> Solid:
    height, top = rng.uniform(0.085, 0.105), rng.uniform(0.038, 0.047)
    bottom, wall = top * rng.uniform(0.8, 1.0), 0.003
    inside = colour if rng.random() < 0.5 else _linear(0.12, 0.08, rng.uniform(0.8, 0.95))
    parts = [
        Part(Frustum(0, bottom, height, top), colour, banded=True),
        Part(Frustum(wall, bottom - wall, height, top - wall), inside),
        Part(Disc(height, top - wall, top), colour),
        Part(Disc(wall, 0, bottom - wall), inside),
    ]
    reach, rise, thickness = rng.uniform(0.024, 0.034), height * rng.uniform(0.26, 0.34), rng.uniform(0.0045, 0.0065)
    angles = np.linspace(-np.pi / 2, np.pi / 2, 7)
    joints = []
    for angle in angles:
        z = height / 2 + rise * np.sin(angle)
        side = bottom + (top - bottom) * z / height + 0.6 * thickness
        joints.append((side + reach * np.cos(angle), 0.0, z))
    parts += [Part(Capsule(a, b, thickness), colour) for a, b in pairwise(joints)]
    bands = [_band(rng, low=0.12, high=0.9, height=height, thickest=0.22) for _ in range(rng.integers(0, 3))]
    return Solid(parts=tuple(parts), bands=tuple(bands), gloss=rng.uniform(0.1, 0.5))


def _bottle(rng: np.random.Generator, colour: Rgb) -> Solid:
    height, body, neck = rng.uniform(0.125, 0.15), rng.uniform(0.026, 0.034), rng.uniform(0.009, 0.013)
    shoulder, throat, cap = height * rng.uniform(0.5, 0.6), height * rng.uniform(0.72, 0.8), height * 0.9
    between = (shoulder + throat) / 2
    cap_colour = _plain(rng)
    parts = (
        Part(Frustum(0, body, shoulder, body), colour, banded=True),
        Part(Frustum(shoulder, body, between, body * 0.8), colour),
        Part(Frustum(between, body * 0.8, throat, neck), colour),
        Part(Frustum(throat, neck, cap, neck), colour),
        Part(Frustum(cap, neck * 1.2, height, neck * 1.2), cap_colour),
        Part(Disc(height, 0, neck * 1.2), cap_colour),
        Part(Disc(cap, neck, neck * 1.2), cap_colour),
    )
    bands = [_band(rng, low=0.1, high=0.5, height=height, thickest=0.25) for _ in range(rng.integers(0, 2))]
    return Solid(parts=parts, bands=tuple(bands), gloss=rng.uniform(0.1, 0.5))


def _band(rng: np.random.Generator, *, low: float, high: float, height: float, thickest: float) -> Band:
    start, thickness = rng.uniform(low, high), rng.uniform(0.04, thickest)
    return Band(height * start, height * min(start + thickness, high), _plain(rng))


def _room(rng: np.random.Generator) -> World:
    """A table, a wall and, mostly, a card with a pattern, in colours that are independent of the classes."""
    light = rng.uniform([-1, -1.2, 0.7], [1, 0.1, 1.6])
    cards: tuple[Card, ...] = ()
    if rng.random() < 0.6:
        poster = _texture(rng, saturation=(0.1, 0.8), value=(0.3, 0.95), cells_per_m=(8, 50))
        cards = (
            _standing(
                poster,
                half_m=rng.uniform(0.08, 0.16),
                yaw_rad=rng.uniform(-0.5, 0.5),
                lean_rad=rng.uniform(0.05, 0.35),
                foot=(rng.uniform(-0.25, 0.25), rng.uniform(0.16, 0.35)),
            ),
        )
    return World(
        table=_texture(rng, saturation=(0.05, 0.55), value=(0.4, 0.98), cells_per_m=(6, 60)),
        wall=_texture(rng, saturation=(0.0, 0.4), value=(0.5, 0.98), cells_per_m=(1, 8)),
        wall_y=rng.uniform(0.5, 1.1),
        cards=cards,
        solid=None,
        light=(light / np.linalg.norm(light)).astype(np.float32),
        ambient=rng.uniform(0.35, 0.6),
        diffuse=rng.uniform(0.55, 0.9),
    )


def _texture(
    rng: np.random.Generator,
    *,
    saturation: tuple[float, float],
    value: tuple[float, float],
    cells_per_m: tuple[float, float],
) -> Texture:
    hue, strength = rng.uniform(), rng.uniform(*value)
    return Texture(
        grid=rng.random((32, 32), dtype=np.float32),
        dark=np.array(_linear(hue, rng.uniform(*saturation), strength * rng.uniform(0.5, 0.95)), np.float32),
        light=np.array(_linear(hue + rng.normal(0, 0.04), rng.uniform(*saturation), strength), np.float32),
        cells_per_m=(rng.uniform(*cells_per_m), rng.uniform(*cells_per_m)),
        angle_rad=rng.uniform(0, np.pi),
    )


def _swayed(rng: np.random.Generator, light: Array) -> Array:
    """The direction of the lamp with a small random change."""
    moved = light + rng.normal(0, 0.15, 3)
    return np.asarray(moved / np.linalg.norm(moved), np.float32)


def _plain(rng: np.random.Generator) -> Rgb:
    return _linear(rng.uniform(), rng.uniform(0, 0.15), rng.choice([rng.uniform(0.1, 0.3), rng.uniform(0.75, 0.95)]))


def _linear(hue: float, saturation: float, value: float) -> Rgb:
    """Linear light of a colour; hue in turns."""
    red, green, blue = (channel**2.2 for channel in colorsys.hsv_to_rgb(hue % 1, saturation, value))
    return red, green, blue
