"""How much a cloud of atoms has the shape of another, whatever their numbers of points, places and orientations."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

#: Width of the Gaussian on every point, angstrom: about the size of an atom.
WIDTH = 1.0


def shape_similarity(first: NDArray[np.float64], second: NDArray[np.float64], width: float = WIDTH) -> float:
    """Tanimoto similarity of two clouds of Gaussians, each of unit mass, at their best overlap.

    Parameters
    ----------
    first, second : array, shape (n, 3) and (m, 3), angstrom
    width : float
        Of the Gaussian on every point, angstrom.

    Returns
    -------
    float
        1 for the same shape, towards 0 for shapes that do not overlap. Mirror images count as different.
    """
    a, b = _in_principal_axes(first), _in_principal_axes(second)
    own_a, own_b = _overlap(a, a, width), _overlap(b, b, width)
    starts = []
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            matrix = np.eye(3)[list(order)] * np.array(signs)[:, None]
            if np.linalg.det(matrix) > 0:
                starts.append((_overlap(a, b @ matrix.T, width), matrix))
    starts.sort(key=lambda start: -start[0])

    def loss(motion: NDArray[np.float64], matrix: NDArray[np.float64]) -> float:
        moved = b @ (Rotation.from_rotvec(motion[:3]).as_matrix() @ matrix).T + motion[3:]
        return -_overlap(a, moved, width)

    best = max(
        -minimize(loss, np.zeros(6), args=(matrix,), method="Powell", options={"maxiter": 8, "xtol": 1e-2}).fun
        for _, matrix in starts[:2]
    )
    return float(best / (own_a + own_b - best))


def _in_principal_axes(points: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = np.asarray(points, dtype=np.float64) - np.mean(points, axis=0)
    axes = np.linalg.eigh(centred.T @ centred)[1]
    axes[:, 0] *= np.sign(np.linalg.det(axes))  # no mirror image
    return np.asarray(centred @ axes)


def _overlap(a: NDArray[np.float64], b: NDArray[np.float64], width: float) -> float:
    squares = ((a[:, None] - b[None]) ** 2).sum(2)
    return float(np.exp(-squares / (4 * width**2)).mean())
