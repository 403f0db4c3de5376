"""Which of several uncertain frames to label: each must still be uncertain once those before it are known.

The posterior of a linear model does not depend on the labels. So the uncertainty that a frame would have after
labelling another one can be computed before anything is labelled: with the rows ``X`` of the other frame and noise of
variance ``s^2``, the covariance ``L L'`` becomes ``L (1 + L'X'X L / s^2)^-1 L'``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
from ase import Atoms
from numpy.typing import NDArray

from halberd.potentials.frames.labelled import Frame

#: A frame counts as known when its uncertainty has fallen below this part of what it was, and below the tolerance.
STILL_UNCERTAIN = 0.7


def select_frames(
    candidates: Sequence[Atoms],
    rows_of: Callable[[Frame], NDArray[np.float64]],
    force_weight: float,
    factor: NDArray[np.float64],
    noise: float,
    tolerance: float,
    epsilon: float,
) -> list[int]:
    """Choose frames greedily, the most uncertain first.

    Parameters
    ----------
    candidates : sequence of ase.Atoms
        With ``forces`` of the mean model in their arrays.
    rows_of : callable
        Weighted rows of a frame, as ``frame_rows`` of a fit.
    force_weight : float
        Weight of force rows, positive.
    factor : array, shape (M, r)
        The covariance of the coefficients is ``factor @ factor.T``.
    noise : float
        Standard deviation of the weighted rows.
    tolerance : float
        On the relative force uncertainty.
    epsilon : float, eV/angstrom

    Returns
    -------
    list of int
        Candidates to label, most uncertain first; never empty if there is one.
    """
    if len(candidates) < 2:
        return list(range(len(candidates)))
    seen, force_rows, sizes = [], [], []
    for atoms in candidates:
        n = len(atoms)
        virial = np.zeros((3, 3)) if atoms.pbc.all() else None
        rows = rows_of(Frame(atoms, 0.0, np.zeros((n, 3)), virial, "default"))[:, :-1] @ factor
        seen.append(rows / noise)
        first = len(rows) - 3 * n - (6 if virial is not None else 0)
        force_rows.append(rows[first : first + 3 * n] / force_weight)
        sizes.append(np.linalg.norm(atoms.arrays["forces"], axis=1) + epsilon)

    left = list(range(len(candidates)))
    change = np.eye(factor.shape[1])  # of the factor, by the frames chosen so far

    def uncertainty(k: int) -> float:
        spread = np.sqrt((force_rows[k] @ change) ** 2 @ np.ones(change.shape[1]))
        return float((np.linalg.norm(spread.reshape(-1, 3), axis=1) / sizes[k]).max())

    before = [uncertainty(k) for k in left]
    chosen: list[int] = []
    while left:
        now = {k: uncertainty(k) for k in left}
        best = max(left, key=lambda k: now[k])
        if chosen and now[best] < min(tolerance, STILL_UNCERTAIN * before[best]):
            break
        chosen.append(best)
        left.remove(best)
        rows = seen[best] @ change
        # (1 + R'R)^-1 = C C' with a triangular C, for the next factor L C.
        lower = scipy.linalg.cholesky(np.eye(rows.shape[1]) + rows.T @ rows, lower=True)
        change = scipy.linalg.solve_triangular(lower, change.T, lower=True).T
    return chosen
