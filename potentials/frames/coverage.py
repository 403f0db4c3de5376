"""Whether predicted standard deviations are those of the errors: coverage, and whether they tell large from small."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Shares of a normal distribution within one and two standard deviations.
NORMAL = (0.683, 0.954)
#: Deviations that are so small a part of their mean are zeros with the rounding of a computation.
_ROUNDING = 1e-6


def coverage(errors: NDArray[np.float64], deviations: NDArray[np.float64]) -> dict[str, float | None]:
    """Compare errors with the standard deviations that were predicted for them.

    Parameters
    ----------
    errors, deviations : array, shape (n,)
        In the same unit.

    Returns
    -------
    dict
        ``within_one``, ``within_two``: shares of the errors, 0.683 and 0.954 of a normal distribution;
        ``ratio``: root mean square of the errors over the mean deviation; ``rank``: Spearman's correlation of both,
        0 for deviations that tell nothing; ``gain``: mean logarithm of the density of the errors above that under one
        deviation for all, after both were given the size that fits best, of all that is not known to rounding, as are
        forces that symmetry makes zero. One deviation for all has the right coverage as well: what it lacks are rank
        and gain. ``None`` where there is nothing to tell.
    """
    size = np.abs(errors)
    rms = float(np.sqrt(np.mean(size**2)))
    mean = float(deviations.mean())
    unknown = deviations > _ROUNDING * mean
    gain = None
    if (size[unknown] > 0).any():
        rest, given = size[unknown], deviations[unknown]
        own = float(np.log(np.mean((rest / given) ** 2)))
        gain = float(0.5 * np.log(np.mean(rest**2)) - 0.5 * own - np.mean(np.log(given)))
    return {
        "within_one": float((size <= deviations).mean()),
        "within_two": float((size <= 2 * deviations).mean()),
        "ratio": rms / mean if mean > 0 else None,
        "rank": _spearman(size, deviations),
        "gain": gain,
    }


def curve(errors: NDArray[np.float64], deviations: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the errors within z deviations.

    Parameters
    ----------
    errors, deviations : array, shape (n,)
    z : array, shape (m,)

    Returns
    -------
    array, shape (m,)
    """
    size = np.abs(errors)
    return np.array([(size <= factor * deviations).mean() for factor in z])


def _spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    from scipy.stats import spearmanr

    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)
