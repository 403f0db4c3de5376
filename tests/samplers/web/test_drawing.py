"""What people draw."""

from __future__ import annotations

import numpy as np
import pytest

from halberd.potentials.errors import ConfigurationError
from halberd.samplers.web.drawing import Drawn, ball, cloud, curve, turned


def test_a_curve_passes_through_its_knots_at_an_even_pace():
    angles = np.linspace(0, 1.5, 6)
    knots = 4.0 * np.stack([np.cos(angles), np.sin(angles), 0.2 * angles], axis=1)
    points = curve(knots)
    gaps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=0.02)
    assert abs(gaps.mean() - 0.2) < 0.01
    assert np.linalg.norm(points[:, None] - knots[None], axis=2).min(axis=0).max() < 0.11
    # Not its chords: between knots it lies on the circle to which they belong.
    radii = np.linalg.norm(points[:, :2], axis=1)
    np.testing.assert_allclose(radii, 4.0, atol=0.01)


def test_curves_of_one_and_two_points_and_of_points_clicked_twice():
    np.testing.assert_array_equal(curve([[1.0, 2.0, 3.0]]), [[1.0, 2.0, 3.0]])
    line = curve([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    np.testing.assert_allclose(line[[0, -1]], [[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]], atol=1e-12)
    assert len(line) == 16
    assert not line[:, 1:].any()


@pytest.mark.parametrize("radius", [0.5, 3.0, 15.0])
def test_a_ball_is_filled_to_its_edge(radius):
    points = ball(radius)
    distances = np.linalg.norm(points, axis=1)
    assert distances.max() <= radius
    assert len(points) <= 700
    np.testing.assert_allclose(points.mean(axis=0), 0.0, atol=1e-12)
    if radius > 2:  # of an even density: mean square of the distance from the middle
        np.testing.assert_allclose(np.mean(distances**2), 0.6 * radius**2, rtol=0.1)


@pytest.mark.parametrize("normal", [(0.0, 0.0, 2.0), (1.0, 0.0, 0.0), (-1.0, 2.0, 0.5)])
def test_rings_lie_in_their_plane(normal):
    points = Drawn("ring", ((1.0, -2.0, 0.5),), radius=3.0, normal=normal).cloud() - [1.0, -2.0, 0.5]
    np.testing.assert_allclose(points @ normal, 0.0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 3.0)


def test_turning_keeps_hands():
    frame = turned(np.eye(3), (1.0, 2.0, -1.0))
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(frame) > 0


def test_points_at_atoms_are_left_out_unless_none_would_stay():
    line = Drawn("curve", ((0.0, 0.0, 0.0), (4.0, 0.0, 0.0)))
    points = cloud([line], [[0.0, 0.0, 0.0]])
    assert points[:, 0].min() > 0.8
    np.testing.assert_allclose(points[:, 0].max(), 4.0)
    alone = Drawn("curve", ((0.1, 0.0, 0.0),))
    assert len(cloud([alone], [[0.0, 0.0, 0.0]])) == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "blob", "points": ((0, 0, 0),)}, "kind"),
        ({"kind": "curve", "points": ()}, "0 points"),
        ({"kind": "curve", "points": ((0, 0),)}, "points"),
        ({"kind": "curve", "points": ((0, 0, float("nan")),)}, "points"),
        ({"kind": "curve", "points": ((0, 0, 1e6),)}, "100 angstrom from the origin"),
        ({"kind": "sphere", "points": ((0, 0, 0),)}, "radius"),
        ({"kind": "sphere", "points": ((0, 0, 0),), "radius": 1e3}, "radius"),
        ({"kind": "ring", "points": ((0, 0, 0), (1, 0, 0)), "radius": 2.0}, "one centre"),
        ({"kind": "ring", "points": ((0, 0, 0),), "radius": 2.0, "normal": (0, 0, 0)}, "normal"),
    ],
)
def test_drawings_that_are_none(values, said):
    with pytest.raises(ConfigurationError, match=said):
        Drawn(**values)


def test_nothing_and_too_much():
    point = Drawn("curve", ((0.0, 0.0, 0.0),))
    for many in (0, 101):
        with pytest.raises(ConfigurationError, match=f"{many} things"):
            cloud([point] * many)
