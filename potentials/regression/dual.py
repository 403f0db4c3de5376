"""Bayesian ridge of very many functions: Cholesky factors of a kernel in place of a decomposition.

With A the n rows scaled by the prior, the posterior mean is ``A' (A A' + r^2)^-1 y``, r the ratio of noise and prior,
which is chosen by the evidence. What is held is one n x n matrix, n at most the number of functions: its upper triangle
keeps the kernel, its lower one the factor for the ratio at hand. A factor costs n^3 / 3 operations, where singular
vectors cost thirty times as much; a dozen are tried. Every solution is refined with the rows themselves, because the
squares in the kernel lose half of the digits. Committees are drawn by conditioning draws from the prior [1]_.

References
----------
.. [1] Wilson et al., J. Mach. Learn. Res. 22, 105 (2021): pathwise conditioning (Matheron's rule).
.. [2] Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), 2.1.2 and 5.4.1.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from scipy.linalg.blas import dtrsm
from scipy.linalg.lapack import dpotrf, dpotrs, dtrtrs

from halberd.potentials.errors import DataError
from halberd.potentials.regression.compressed_rows import BLOCK
from halberd.potentials.regression.linear_system import LinearSystem, Posterior, centred

#: Steps of refinement, and the relative residual they end at.
_REFINEMENTS, _RESIDUAL = 10, 1e-11
#: Factors that are tried for the ratio of noise and prior, and how exactly its logarithm is wanted.
_TRIES, _EXACTNESS = 12, 0.1
#: With more rows than this, every so many of them say first where to look, and how far around.
MANY, SOME, _AROUND = 8000, 4, 2.5
#: The ratio is looked for between these multiples of the root mean square size of a scaled row.
_LOWEST, _HIGHEST = 1e-7, 1e1


class Kernel:
    """Kernel of the rows of a linear system, and its factor for one ratio.

    Parameters
    ----------
    system : LinearSystem

    Attributes
    ----------
    ratio : float
        Of the standard deviations of noise and prior.
    log_determinant : float
        Of the kernel with the squared ratio on its diagonal.
    """

    def __init__(self, system: LinearSystem) -> None:
        self.matrix, self.scale = system.matrix, system.prior**-2
        n = len(self.matrix)
        self._held = np.empty((n, n), order="F")
        for i in range(0, n, BLOCK):
            scaled = self.matrix[i : i + BLOCK] * self.scale
            for j in range(i, n, BLOCK):
                self._held[i : i + BLOCK, j : j + BLOCK] = scaled @ self.matrix[j : j + BLOCK].T
        self.diagonal = self._held.diagonal().copy()
        self.ratio, self.log_determinant = 0.0, 0.0

    def factorise(self, ratio: float) -> None:
        """Factor the kernel for another ratio; one so small that rounding swallows it is raised."""
        square = ratio**2
        while not self._factor_with(square):
            square = max(10.0 * square, np.finfo(float).eps * float(self.diagonal.max()))
            if not np.isfinite(square):
                raise DataError("The rows of a fit are too large to be squared; check units, weights and labels.")
        self.ratio = float(np.sqrt(square))
        self.log_determinant = 2.0 * float(np.log(self._held.diagonal()).sum())

    def _factor_with(self, square: float) -> bool:
        """Whether the kernel with this on its diagonal is positive to rounding."""
        n = len(self._held)
        for i in range(0, n, BLOCK):
            own = np.triu(self._held[i : i + BLOCK, i : i + BLOCK], 1)
            self._held[i : i + BLOCK, i : i + BLOCK] = own + own.T
            for j in range(i + BLOCK, n, BLOCK):
                self._held[j : j + BLOCK, i : i + BLOCK] = self._held[i : i + BLOCK, j : j + BLOCK].T
        np.fill_diagonal(self._held, self.diagonal + square)
        return factored(self._held)

    def solve(self, right: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(A A' + r^2)^-1`` times columns (n, k), refined with the rows."""
        found = dpotrs(self._held, right, lower=1)[0]
        size = np.linalg.norm(right)
        before = np.inf
        for _ in range(_REFINEMENTS):
            left = right - self.matrix @ (self.scale[:, None] * (self.matrix.T @ found)) - self.ratio**2 * found
            now = float(np.linalg.norm(left))
            if now <= _RESIDUAL * size or now > 0.5 * before:
                break
            before = now
            found = found + dpotrs(self._held, left, lower=1)[0]
        return np.asarray(found)

    def halved(self, right: NDArray[np.float64]) -> NDArray[np.float64]:
        """``L^-1`` times columns (n, k), L the factor."""
        return np.asarray(dtrtrs(self._held, right, lower=1)[0])


def factored(matrix: NDArray[np.float64]) -> bool:
    """Cholesky factor of the lower triangle, in its place; whether the matrix is positive to rounding.

    A block of columns at a time: LAPACK's own of OpenBLAS 0.3 dies of a segmentation fault beyond some 15,000 rows on
    several threads (OpenBLAS issues 352, 1413 and 2821).

    Parameters
    ----------
    matrix : array, shape (n, n)
        In Fortran order; its upper triangle is left as it is.
    """
    n = len(matrix)
    for i in range(0, n, BLOCK):
        j = min(i + BLOCK, n)
        if i:
            before = matrix[i:j, :i].T
            own = matrix[i:j, i:j] - matrix[i:j, :i] @ before
            if j < n:
                matrix[j:, i:j] -= matrix[j:, :i] @ before
        else:
            own = matrix[:j, :j].copy()
        factor, failed = dpotrf(own, lower=1, clean=1)
        if failed:
            return False
        lower = np.tril_indices(j - i)
        matrix[i:j, i:j][lower] = factor[lower]
        if j < n:
            matrix[j:, i:j] = dtrsm(1.0, factor, matrix[j:, i:j], side=1, lower=1, trans_a=1)
    return True


@dataclasses.dataclass(frozen=True)
class DualPosterior(Posterior):
    """A posterior whose covariance is never formed; tempering widens all of it alike.

    Attributes
    ----------
    kernel : Kernel
    prior : array, shape (M,)
        Diagonal of the smoothness prior.
    prior_scale : float
        Standard deviation of the scaled coefficients before any row was seen.
    """

    kernel: Kernel = None  # type: ignore[assignment]
    prior: NDArray[np.float64] = None  # type: ignore[assignment]
    prior_scale: float = 1.0

    @property
    def has_spread(self) -> bool:
        """Whether there is a posterior."""
        return True

    def seen(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """A square root of the covariance of rows (k, M), shape (k, k)."""
        scaled = rows / self.prior**2
        halves = self.kernel.halved(self.kernel.matrix @ scaled.T)
        covariance = scaled @ rows.T - halves.T @ halves
        values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
        spread = self.prior_scale * np.sqrt(self.temperature)
        return np.asarray(spread * vectors * np.sqrt(np.maximum(values, 0.0)))

    def _deviations(self, generator: np.random.Generator, count: int, scale: float) -> NDArray[np.float64]:
        """What the rows leave of draws from the prior and of the noise."""
        own = centred(generator, len(self.prior), count, scale) / self.prior[:, None]
        noise = self.kernel.ratio * centred(generator, len(self.kernel.matrix), count, scale)
        weights = self.kernel.solve(self.kernel.matrix @ own + noise)
        left = own - (self.kernel.matrix.T @ weights) / self.prior[:, None] ** 2
        return np.asarray(self.prior_scale * np.sqrt(self.temperature) * left)


def dual_ridge(system: LinearSystem) -> DualPosterior:
    """Posterior under the noise and the prior that have the largest evidence.

    Parameters
    ----------
    system : LinearSystem

    Returns
    -------
    DualPosterior
        ``details`` as of :func:`halberd.potentials.regression.bayesian_ridge.bayesian_ridge`.
    """
    kernel = Kernel(system)
    typical = float(np.sqrt(kernel.diagonal.mean())) or 1.0
    low, high = np.log(typical * _LOWEST), np.log(typical * _HIGHEST)
    if len(system.target) == system.n_rows > MANY:
        # Some of the rows say about where to look.
        some = dataclasses.replace(
            system, matrix=system.matrix[::SOME], target=system.target[::SOME], n_rows=len(system.target[::SOME])
        )
        about = _most_evident(Kernel(some), some, low, high)
        narrow = max(low, about - _AROUND), min(high, about + _AROUND)
        best = _most_evident(kernel, system, *narrow)
        if not min(best - narrow[0], narrow[1] - best) > 2 * _EXACTNESS:
            best = _most_evident(kernel, system, low, high)
    else:
        best = _most_evident(kernel, system, low, high)
    evidence, prior_scale, weights = _judged(kernel, system, float(np.exp(best)))
    noise = kernel.ratio * prior_scale
    return DualPosterior(
        mean=(system.matrix.T @ weights)[:, 0] / system.prior**2,
        directions=None,
        noise=noise,
        log_evidence=evidence,
        n_effective=len(system.prior),
        details={"noise": noise, "prior_scale": prior_scale},
        kernel=kernel,
        prior=system.prior,
        prior_scale=prior_scale,
    )


def _judged(kernel: Kernel, system: LinearSystem, ratio: float) -> tuple[float, float, NDArray[np.float64]]:
    """Logarithm of the evidence at a ratio, the prior's scale that makes it largest, and the weights of the rows."""
    kernel.factorise(ratio)
    target = system.target[:, None]
    weights = kernel.solve(target)
    square = max(float((target * weights).sum()), 1e-300) / system.n_rows
    # Rows that were folded away have no target left, and the ratio alone on their diagonal.
    determinant = kernel.log_determinant + 2.0 * (system.n_rows - len(target)) * np.log(kernel.ratio)
    evidence = -0.5 * (system.n_rows * (1.0 + np.log(2.0 * np.pi * square)) + determinant)
    return evidence, float(np.sqrt(square)), weights


def _most_evident(kernel: Kernel, system: LinearSystem, low: float, high: float) -> float:
    """Logarithm of the ratio with the largest evidence between two."""
    found: Any = scipy.optimize.minimize_scalar(
        lambda logarithm: -_judged(kernel, system, float(np.exp(logarithm)))[0],
        bounds=(low, high),
        method="bounded",
        options={"maxiter": _TRIES, "xatol": _EXACTNESS},
    )
    return float(found.x)
