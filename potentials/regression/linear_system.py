"""A regularised least-squares problem in compressed form, and the Gaussian posterior that a solver makes of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class LinearSystem:
    """A least-squares problem in compressed form.

    Attributes
    ----------
    matrix : array, shape (n, M)
        Rows with the same Gramian as the weighted design matrix; n <= M + 1.
    target : array, shape (n,)
    n_rows : int
        How many rows there were.
    prior : array, shape (M,)
        Diagonal P of the smoothness prior.
    """

    matrix: NDArray[np.float64]
    target: NDArray[np.float64]
    n_rows: int
    prior: NDArray[np.float64]

    def subset(self, columns: NDArray[np.bool_]) -> LinearSystem:
        """The same problem with some of the columns only."""
        return dataclasses.replace(self, matrix=self.matrix[:, columns], prior=self.prior[columns])

    def residual(self, coefficients: NDArray[np.float64]) -> float:
        """Sum of squared weighted residuals over all rows."""
        return float(((self.matrix @ coefficients - self.target) ** 2).sum())


@dataclasses.dataclass(frozen=True)
class Posterior:
    """Gaussian posterior of the coefficients.

    Attributes
    ----------
    mean : array, shape (M,)
    directions : array, shape (M, r), or None
        In which the posterior is a product; ``None`` for solvers without one.
    noise : float
        Standard deviation of the weighted residuals that the solver assumed or found.
    log_evidence : float or None
    n_effective : int
        Coefficients that are not exactly zero.
    details : dict
        What the solver chose.
    information : array, shape (r,), or None
        What the rows say of every direction, as a multiple of what the prior does, which has a standard deviation of 1
        along it. Without it there is no prior, and ``directions`` are those of the posterior.
    temperature : float
        Power 1 / T that the likelihood has in the posterior, see :meth:`tempered`.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64] | None
    noise: float
    log_evidence: float | None
    n_effective: int
    details: dict[str, Any]
    information: NDArray[np.float64] | None = None
    temperature: float = 1.0

    @property
    def factor(self) -> NDArray[np.float64] | None:
        """L of the covariance ``L L'`` of the coefficients, shape (M, r); ``None`` for solvers without one."""
        if self.directions is None or self.information is None:
            return self.directions
        return self.directions / np.sqrt(1.0 + self.information)

    @property
    def has_spread(self) -> bool:
        """Whether there is a posterior, and not a mean alone."""
        return self.directions is not None

    def seen(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows (k, M) along the directions, shape (k, r)."""
        assert self.directions is not None
        return np.asarray(rows @ self.directions)

    def tempered(self, temperature: float) -> Posterior:
        """The same mean with the covariance of rows that count for 1 / T each, of noise ``sqrt(T)`` times as large.

        A posterior takes its family of models to be right and shrinks with every row; the errors of a family that is
        too small do not. What rows leave open keeps the spread of the prior.

        Parameters
        ----------
        temperature : float
            T, positive, on top of what the posterior has.
        """
        root = float(np.sqrt(temperature))
        changed: dict[str, Any] = {"noise": self.noise * root, "temperature": self.temperature * temperature}
        if self.information is not None:
            changed["information"] = self.information / temperature
        elif self.directions is not None:
            changed["directions"] = self.directions * root
        return dataclasses.replace(self, **changed)

    def draw(self, count: int, seed: int) -> NDArray[np.float64]:
        """Draw a committee whose average is the mean exactly.

        The draws are centred and scaled by ``sqrt(K / (K - 1))``: their variance as a population (divided by K) is
        then an unbiased estimate of the posterior's.

        Parameters
        ----------
        count : int
            K, at least 2.
        seed : int

        Returns
        -------
        array, shape (M, K)

        Raises
        ------
        ConfigurationError
            If the solver has no posterior, or K is below 2.
        """
        if not self.has_spread:
            raise ConfigurationError("This solver has no posterior to draw a committee from; use 'blr' or 'ard'.")
        if count < 2:
            raise ConfigurationError(f"A committee of {count} has no spread; ask for 2 members or more.")
        scale = float(np.sqrt(count / (count - 1)))
        return np.asarray(self.mean[:, None] + self._deviations(np.random.default_rng(seed), count, scale))

    def _deviations(self, generator: np.random.Generator, count: int, scale: float) -> NDArray[np.float64]:
        """Draws less the mean, centred and scaled, shape (M, count)."""
        factor = self.factor
        assert factor is not None
        return np.asarray(factor @ centred(generator, factor.shape[1], count, scale))


def centred(generator: np.random.Generator, size: int, count: int, scale: float) -> NDArray[np.float64]:
    """Standard normal numbers, shape (size, count), less their mean over the columns, scaled."""
    normal = generator.standard_normal((size, count))
    normal -= normal.mean(axis=1, keepdims=True)
    return np.asarray(normal * scale)
