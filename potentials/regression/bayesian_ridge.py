"""Bayesian ridge regression on compressed rows: one decomposition, then noise and prior from the evidence.

In the directions of the singular vectors all is a product, so that an iteration costs as much as there are functions.
(Eigenvectors of the Gramian would take half as long, and lose directions that matter: singular values of a basis span
ten orders of magnitude.) Beyond a few thousand functions a factor of the kernel takes the place of the decomposition.

References
----------
.. [1] MacKay, Neural Computation 4, 415 (1992): the evidence and its fixed point.
.. [2] Tipping, Journal of Machine Learning Research 1, 211 (2001): with Gamma priors of both scales.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from halberd.potentials.regression.dual import MANY, SOME, dual_ridge
from halberd.potentials.regression.linear_system import LinearSystem, Posterior

#: More functions than this go by :mod:`halberd.potentials.regression.dual`.
DIRECT = 4000
#: Shape and rate of the Gamma priors of both scales: as good as flat.
_FLAT = 1e-6
#: Where iterations end, relative change of both scales.
_TOLERANCE = 1e-7


def bayesian_ridge(system: LinearSystem, iterations: float = 1000) -> Posterior:
    """Posterior under the noise and the prior that have the largest evidence.

    Parameters
    ----------
    system : LinearSystem
    iterations : float
        At most so many.

    Returns
    -------
    Posterior
        ``details`` holds ``noise`` and ``prior_scale``, standard deviations of the rows and of the scaled coefficients.
    """
    if system.matrix.shape[1] > DIRECT:
        return dual_ridge(system)
    singular, vectors, seen = _decomposed(system)
    unseen = max(float(system.target @ system.target - seen @ seen), 0.0)
    alpha, lam = _scales(singular, seen, unseen, system.n_rows, int(iterations))
    scaled = singular * seen / (singular**2 + lam / alpha)
    mean = (vectors @ scaled) / system.prior
    evidence = log_evidence(system, alpha**-0.5, lam**-0.5, singular, mean)
    vectors /= np.sqrt(lam) * system.prior[:, None]
    return Posterior(
        mean,
        vectors,
        noise=alpha**-0.5,
        log_evidence=evidence,
        n_effective=len(mean),
        details={"noise": alpha**-0.5, "prior_scale": lam**-0.5},
        information=alpha / lam * singular**2,
    )


def noise_of(system: LinearSystem) -> float:
    """Standard deviation of the rows, from the evidence; of very many, some stand for all."""
    step = SOME if system.matrix.shape[1] > DIRECT and len(system.target) == system.n_rows > MANY else 1
    matrix, target = system.matrix[::step], system.target[::step]
    return bayesian_ridge(dataclasses.replace(system, matrix=matrix, target=target, n_rows=system.n_rows // step)).noise


def _decomposed(system: LinearSystem) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Singular values of the scaled matrix, its right vectors as columns, and the targets along the left ones.

    All M of them: those that no row sees have the value zero, and keep the prior.
    """
    matrix = system.matrix / system.prior
    n, m = matrix.shape
    u, s, vt = scipy.linalg.svd(matrix, full_matrices=n < m, overwrite_a=True, check_finite=False)
    singular, seen = np.zeros(m), np.zeros(m)
    singular[: len(s)], seen[: len(s)] = s, u[:, : len(s)].T @ system.target
    return singular, vt.T, seen


def _scales(
    singular: NDArray[np.float64], seen: NDArray[np.float64], unseen: float, n_rows: int, iterations: int
) -> tuple[float, float]:
    """Precisions of the noise and of the prior: the fixed point of reference [1]_ from where noise explains all."""
    squares = singular**2
    alpha, lam = n_rows / max(float(seen @ seen) + unseen, 1e-300), 1.0
    for _ in range(iterations):
        scaled = singular * seen / (squares + lam / alpha)
        determined = float((alpha * squares / (lam + alpha * squares)).sum())
        misfit = float(((seen - singular * scaled) ** 2).sum()) + unseen
        new_lam = (determined + 2 * _FLAT) / (float(scaled @ scaled) + 2 * _FLAT)
        new_alpha = (n_rows - determined + 2 * _FLAT) / (misfit + 2 * _FLAT)
        change = max(abs(np.log(new_alpha / alpha)), abs(np.log(new_lam / lam)))
        alpha, lam = new_alpha, new_lam
        if change < _TOLERANCE:
            break
    return alpha, lam


def log_evidence(
    system: LinearSystem,
    noise: float,
    prior_scale: float,
    singular: NDArray[np.float64],
    mean: NDArray[np.float64],
) -> float:
    """Logarithm of the marginal likelihood of all rows under an isotropic prior [1]_.

    Parameters
    ----------
    system : LinearSystem
    noise, prior_scale : float
        Standard deviations of the rows and of the scaled coefficients.
    singular : array, shape (M,)
        Singular values of the scaled matrix.
    mean : array, shape (M,)
        Posterior mean at these scales.
    """
    m = system.matrix.shape[1]
    precision = prior_scale**-2 + (singular / noise) ** 2
    scaled = mean * system.prior
    misfit = system.residual(mean) / noise**2 + (scaled**2).sum() / prior_scale**2
    return float(
        -0.5 * misfit
        - 0.5 * np.log(precision).sum()
        - m * np.log(prior_scale)
        - 0.5 * system.n_rows * np.log(2.0 * np.pi * noise**2)
    )
