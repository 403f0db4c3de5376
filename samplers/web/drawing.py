"""What people draw, as the points of a shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

from halberd.plugins.molecules.shapes import MOST_POINTS, circle
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.validation import conform
from halberd.samplers.web.settings import MOST_DRAWN, MOST_KNOTS

#: Points of a curve per angstrom, and the spacing of those that fill a sphere, angstrom.
_DENSITY, _SPACING = 5.0, 0.8
#: angstrom. Points nearer to an atom of the fragment are left out.
_CLEAR = 0.8
#: angstrom, from the origin; and the largest radius.
_FARTHEST, _LARGEST = 100.0, 20.0

#: Points of one curve at most.
_MOST_OF_ONE = 4 * MOST_POINTS

Point = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One thing on the page.

    Attributes
    ----------
    kind : {'curve', 'sphere', 'ring'}
    points : tuple of points
        angstrom; knots of a curve, else the centre alone.
    radius : float
        angstrom, of a sphere or ring.
    normal : point
        Of a ring's plane.
    """

    kind: Literal["curve", "sphere", "ring"]
    points: tuple[Point, ...]
    radius: float = 0.0
    normal: Point = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        conform(self)
        if not self.points or len(self.points) > MOST_KNOTS:
            raise ConfigurationError(f"A {self.kind} has {len(self.points)} points; it takes 1 to {MOST_KNOTS}.")
        if max(abs(x) for point in self.points for x in point) > _FARTHEST:
            raise ConfigurationError(f"A {self.kind} lies more than {_FARTHEST:g} angstrom from the origin.")
        if self.kind != "curve" and (len(self.points) != 1 or not 0 < self.radius <= _LARGEST):
            raise ConfigurationError(f"A {self.kind} takes one centre and a radius of 0 to {_LARGEST:g} angstrom.")
        if not 1e-6 < float(np.linalg.norm(self.normal)) < 1e6:
            raise ConfigurationError("The normal of a ring is zero, or far too long.")

    def cloud(self) -> NDArray[np.float64]:
        """Points on it, or in it, shape (K, 3), angstrom."""
        points = np.array(self.points, dtype=np.float64)
        if self.kind == "curve":
            return curve(points)
        return points + (ball(self.radius) if self.kind == "sphere" else turned(circle(self.radius), self.normal))


def curve(knots: ArrayLike) -> NDArray[np.float64]:
    """Evenly spaced points on the cubic spline through some knots; one knot is itself, two give a line.

    Parameters
    ----------
    knots : array, shape (K, 3), angstrom

    Returns
    -------
    array, shape (P, 3), angstrom
    """
    given = np.asarray(knots, dtype=np.float64)
    steps = np.linalg.norm(np.diff(given, axis=0), axis=1)
    points = given[np.concatenate([[True], steps > 1e-6])]  # without what was clicked twice
    if len(points) == 1:
        return np.asarray(points)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    fine = np.linspace(0.0, along[-1], 20 * len(points))
    path = CubicSpline(along, points)(fine) if len(points) > 2 else np.linspace(points[0], points[1], len(fine))
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    places = np.linspace(0.0, length[-1], min(_MOST_OF_ONE, max(2, round(length[-1] * _DENSITY) + 1)))
    return np.stack([np.interp(places, length, path[:, k]) for k in range(3)], axis=1)


def ball(radius: float) -> NDArray[np.float64]:
    """Points that fill a sphere around the origin, shape (K, 3), angstrom."""
    spacing = max(_SPACING, radius * (4.19 / MOST_POINTS) ** (1 / 3))
    reach = np.arange(0.0, radius + spacing, spacing)
    axis = np.concatenate([-reach[:0:-1], reach])
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(grid[np.linalg.norm(grid, axis=1) <= radius])


def turned(points: NDArray[np.float64], normal: Point) -> NDArray[np.float64]:
    """Points whose plane was xy, with another normal; shape (K, 3), angstrom."""
    z = np.asarray(normal, dtype=np.float64) / np.linalg.norm(normal)
    x = np.cross(z, [1.0, 0.0, 0.0] if abs(z[0]) < 0.9 else [0.0, 1.0, 0.0])
    x /= np.linalg.norm(x)
    return np.asarray(points @ np.stack([x, np.cross(z, x), z]))


def cloud(drawn: Sequence[Drawn], atoms: ArrayLike = ()) -> NDArray[np.float64]:
    """Points of all that was drawn, clear of a fragment's atoms.

    Parameters
    ----------
    drawn : sequence of Drawn
    atoms : array, shape (A, 3), angstrom
        Points nearer than 0.8 angstrom to one of them are left out, unless none would stay.

    Returns
    -------
    array, shape (K, 3), angstrom

    Raises
    ------
    ConfigurationError
        If there is nothing, or too much.
    """
    if not drawn or len(drawn) > MOST_DRAWN:
        raise ConfigurationError(f"{len(drawn)} things are drawn; draw 1 to {MOST_DRAWN}.")
    points = _thinned(np.concatenate([each.cloud() for each in drawn]), _MOST_OF_ONE)
    places = np.asarray(atoms, dtype=np.float64).reshape(-1, 3)
    if len(places):
        clear = np.linalg.norm(points[:, None] - places[None], axis=2).min(axis=1) > _CLEAR
        points = points[clear] if clear.any() else points
    return _thinned(points, MOST_POINTS)


def _thinned(points: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Every so many of them, if they are too many."""
    return points[np.linspace(0, len(points) - 1, most).astype(int)] if len(points) > most else points
