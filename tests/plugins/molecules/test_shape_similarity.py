"""Shape similarity: one for a shape and itself in any place, less for others."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from halberd.plugins.molecules.shapes import circle, line
from tests.benchmarks.shape_similarity import shape_similarity


def test_turned_and_moved_shapes_are_the_same():
    cloud = np.random.default_rng(2).normal(size=(9, 3)) * [3.0, 2.0, 1.0]
    turned = cloud @ Rotation.from_rotvec([1.0, 0.4, -2.0]).as_matrix().T + 7.0
    assert shape_similarity(cloud, turned) == pytest.approx(1.0, abs=0.01)


def test_numbers_of_points_do_not_matter():
    assert shape_similarity(line(8.0), line(8.0)[::4]) > 0.98


def test_other_shapes_are_less_similar():
    values = [shape_similarity(line(8.0), other) for other in (line(7.0), line(4.0), circle(2.0), circle(4.0))]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.9
    assert values[-1] < 0.5
    assert shape_similarity(line(8.0), circle(2.0)) == pytest.approx(shape_similarity(circle(2.0), line(8.0)), abs=0.02)
