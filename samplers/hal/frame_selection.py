"""Which of several uncertain frames to label: each must still be uncertain once those before it are known.

The posterior of a linear model does not depend on the labels. So the uncertainty that a frame would have after
labelling another one can be computed before anything is labelled: with the rows ``X`` of the other frame and noise of
variance ``s^2``, the covariance ``L L'`` becomes ``L (1 + L'X'X L / s^2)^-1 L'``.

How much less uncertain a frame would be is what the posterior itself says; how uncertain it is now, what the tempered
one does (:meth:`halberd.potentials.regression.linear_system.Posterior.tempered`), which is as wide as errors are. To
that one a label tells little: it takes the error that the family of models is left with for noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
from ase import Atoms
from numpy.typing import NDArray

from halberd.potentials.frames.labelled import Frame
from halberd.potentials.regression.linear_system import Posterior

#: A frame counts as known when its uncertainty has fallen below this part of what it was, and below the tolerance.
STILL_UNCERTAIN = 0.7


def select_frames(
    candidates: Sequence[Atoms],
    rows_of: Callable[[Frame], NDArray[np.float64]],
    force_weight: float,
    posterior: Posterior,
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
    posterior : Posterior
        With a factor and noise.
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
    plain = posterior.tempered(1.0 / posterior.temperature)
    factor, wide = plain.factor, posterior.factor
    assert factor is not None
    assert wide is not None
    seen, force_rows, sizes, before = [], [], [], []
    for atoms in candidates:
        n = len(atoms)
        virial = np.zeros((3, 3)) if atoms.pbc.all() else None
        design = rows_of(Frame(atoms, 0.0, np.zeros((n, 3)), virial, "default"))[:, :-1]
        first = len(design) - 3 * n - (6 if virial is not None else 0)
        of_forces = design[first : first + 3 * n] / force_weight
        seen.append(design @ factor / plain.noise)
        force_rows.append(of_forces @ factor)
        sizes.append(np.linalg.norm(atoms.arrays["forces"], axis=1) + epsilon)
        before.append(_largest(of_forces @ wide, sizes[-1]))

    left = list(range(len(candidates)))
    change = np.eye(factor.shape[1])  # of the factor, by the frames chosen so far

    narrow = [_largest(force_rows[k], sizes[k]) for k in left]
    chosen: list[int] = []
    while left:
        now = {k: before[k] * _largest(force_rows[k] @ change, sizes[k]) / max(narrow[k], 1e-300) for k in left}
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


def _largest(rows: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    """Largest f_i, from rows of forces times a factor of the covariance."""
    spread = np.linalg.norm(rows, axis=1).reshape(-1, 3)
    return float((np.linalg.norm(spread, axis=1) / sizes).max())
