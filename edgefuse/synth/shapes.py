"""Surfaces with closed-form ray intersections, and solids made of them: the geometry of the built-in objects.

Owns hits and normals; `edgefuse.synth.render` casts rays at solids, `edgefuse.synth.scenes` builds them.
Metres, z up, a solid's base is at z = 0. N = number of rays, origin + t * direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
"""float32 at run time; NumPy's stubs do not preserve it through arithmetic."""

NEAREST_T = 1e-4
"""Smaller t are hits of the surface where the ray starts, and are ignored."""


class Shape(Protocol):
    """A surface in a solid's coordinates."""

    def hit(self, origin: Array, direction: Array) -> tuple[Array, Array]:
        """First hits of rays [N, 3]: t [N] (inf if none) and normals [N, 3] of any length."""
        ...

    def outline(self) -> Array:
        """Points [M, 3] whose convex hull contains the surface."""
        ...


@dataclass(frozen=True)
class Frustum:
    """The lateral surface of an upright cone between two heights, open at both ends and visible from both sides."""

    z0: float
    r0: float
    z1: float
    r1: float

    def hit(self, origin: Array, direction: Array) -> tuple[Array, Array]:
        slope = (self.r1 - self.r0) / (self.z1 - self.z0)
        radius, growth = self.r0 + slope * (origin[:, 2] - self.z0), slope * direction[:, 2]
        a = direction[:, 0] ** 2 + direction[:, 1] ** 2 - growth**2
        b = origin[:, 0] * direction[:, 0] + origin[:, 1] * direction[:, 1] - radius * growth
        c = origin[:, 0] ** 2 + origin[:, 1] ** 2 - radius**2
        root = np.sqrt(b * b - a * c)
        t = np.full(len(origin), np.inf, np.float32)
        for candidate in ((-b - root) / a, (-b + root) / a):
            z = origin[:, 2] + candidate * direction[:, 2]
            good = (candidate > NEAREST_T) & (z >= self.z0) & (z <= self.z1) & (candidate < t)
            t = np.where(good, candidate, t)
        normal = origin + _finite(t)[:, None] * direction
        normal[:, 2] = -slope * (self.r0 + slope * (normal[:, 2] - self.z0))
        return t, normal

    def outline(self) -> Array:
        return np.concatenate([_ring(self.z0, self.r0), _ring(self.z1, self.r1)])


@dataclass(frozen=True)
class Disc:
    """A horizontal ring: height, inner and outer radius."""

    z: float
    inner: float
    outer: float

    def hit(self, origin: Array, direction: Array) -> tuple[Array, Array]:
        t = (self.z - origin[:, 2]) / direction[:, 2]
        squared = np.sum((origin[:, :2] + t[:, None] * direction[:, :2]) ** 2, axis=1)
        good = (t > NEAREST_T) & (squared >= self.inner**2) & (squared <= self.outer**2)
        normal = np.zeros_like(direction)
        normal[:, 2] = 1
        return np.where(good, t, np.float32(np.inf)), normal

    def outline(self) -> Array:
        return _ring(self.z, self.outer)


@dataclass(frozen=True)
class Capsule:
    """A rod with round ends, visible from outside."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius: float

    def hit(self, origin: Array, direction: Array) -> tuple[Array, Array]:
        start, end = np.array(self.start, np.float32), np.array(self.end, np.float32)
        axis = end - start
        squared = float(axis @ axis)
        from_start = origin - start
        along_direction, along_origin = dot(direction, axis), dot(from_start, axis)
        dd, do, oo = dot(direction, direction), dot(direction, from_start), dot(from_start, from_start)
        t_side = _entry(
            squared * dd - along_direction**2,
            squared * do - along_origin * along_direction,
            squared * oo - along_origin**2 - self.radius**2 * squared,
        )
        entered = np.isfinite(t_side)
        along = along_origin + np.where(entered, t_side, 0) * along_direction
        from_cap = origin - np.where((along <= 0)[:, None], start, end)
        t_cap = _entry(dd, dot(direction, from_cap), dot(from_cap, from_cap) - np.float32(self.radius**2))
        t = np.where((along > 0) & (along < squared), t_side, t_cap)
        t = np.where(entered & (t > NEAREST_T), t, np.float32(np.inf))
        point = from_start + _finite(t)[:, None] * direction
        return t, point - np.clip(dot(point, axis) / squared, 0, 1)[:, None] * axis

    def outline(self) -> Array:
        offsets = self.radius * np.concatenate([np.eye(3), -np.eye(3)])
        return np.concatenate([self.start + offsets, self.end + offsets]).astype(np.float32)


class Part(NamedTuple):
    """One surface of a solid with its colour; `banded` parts show the solid's bands."""

    shape: Shape
    rgb: tuple[float, float, float]
    banded: bool = False


class Band(NamedTuple):
    """A painted ring around a solid, between two heights."""

    z0: float
    z1: float
    rgb: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Solid:
    """Surfaces on the table, rotated about the vertical by `yaw_rad`.

    Attributes:
        gloss: strength of the highlight, 0..1.
    """

    parts: tuple[Part, ...]
    bands: tuple[Band, ...]
    gloss: float
    yaw_rad: float = 0.0

    def outline(self) -> Array:
        """World points [M, 3] whose convex hull contains the solid."""
        points = np.concatenate([part.shape.outline() for part in self.parts])
        return turned(points, _turn(self.yaw_rad).T)

    def nearest(self, origin: Array, direction: Array) -> tuple[Array, Array, Array]:
        """First hits of rays [N, 3]: t [N] (inf if none), unit normals towards the ray [N, 3], colours [N, 3]."""
        turn = _turn(self.yaw_rad)
        origin, direction = turned(origin, turn), turned(direction, turn)
        t = np.full(len(origin), np.inf, np.float32)
        normal, albedo = np.ones_like(direction), np.zeros_like(direction)
        banded = np.zeros(len(origin), bool)
        for part in self.parts:
            t_part, normal_part = part.shape.hit(origin, direction)
            nearer = t_part < t
            t[nearer], normal[nearer], albedo[nearer], banded[nearer] = (
                t_part[nearer],
                normal_part[nearer],
                part.rgb,
                part.banded,
            )
        z = origin[:, 2] + _finite(t) * direction[:, 2]
        for band in self.bands:
            albedo[banded & (z >= band.z0) & (z < band.z1)] = band.rgb
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + np.float32(1e-12)
        normal *= np.where(dot(normal, direction) > 0, np.float32(-1), np.float32(1))[:, None]
        return t, turned(normal, turn.T), albedo

    def may_hit(self, origin: Array, direction: Array) -> NDArray[np.bool_]:
        """Which rays [N, 3] hit the sphere around the solid. The others need no `nearest`."""
        outline = self.outline()
        centre = (outline.min(axis=0) + outline.max(axis=0)) / 2
        radius = np.linalg.norm(outline - centre, axis=1).max() * np.float32(1.02)
        from_centre = origin - centre
        b, dd = dot(direction, from_centre), dot(direction, direction)
        return np.asarray(b * b >= dd * (dot(from_centre, from_centre) - radius**2))


def _ring(z: float, radius: float, *, count: int = 24) -> Array:
    angle = np.arange(count) * (2 * np.pi / count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(count, z)], axis=1).astype(np.float32)


def _turn(yaw_rad: float) -> Array:
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float32)


def dot(vectors: Array, others: Array) -> Array:
    """Products [N] of vectors [N, 3] with others [N, 3], or with one [3].

    Not `@`: BLAS would start threads in every worker, and its rounding depends on their number.
    """
    product: Array = np.einsum("...j,...j->...", vectors, others)
    return product


def turned(vectors: Array, matrix: Array) -> Array:
    """Vectors [N, 3] times a matrix [3, 3]; without BLAS, see `dot`."""
    product: Array = np.einsum("ij,jk->ik", vectors, matrix)
    return product


def _entry(a: Array, b: Array, c: Array) -> Array:
    """The smaller root of a t^2 + 2 b t + c, inf if there is none."""

    discriminant = b * b - a * c
    return np.where(discriminant >= 0, (-b - np.sqrt(discriminant)) / a, np.float32(np.inf))


def _finite(t: Array) -> Array:
    return np.where(np.isfinite(t), t, np.float32(0))
