"""Solvers of regularised linear least squares on compressed rows, with the posterior of the coefficients.

All of them see ``[X | y]`` only through its triangular factor, so none depends on how many rows there were. Weights
are in the rows already; the smoothness prior scales the columns, ``c = c~ / P``, so that every solver works with an
isotropic prior on ``c~`` (except ARD, which learns one scale per coefficient).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from halberd.potentials.errors import ConfigurationError, DataError, did_you_mean

#: Of a committee: more tell no more, and a number by mistake would fill the memory.
MOST_MEMBERS = 10_000
#: Solvers and the options each takes.
SOLVERS = {"blr": ("iterations",), "ridge": ("ridge",), "svd": ("rtol",), "ard": ("threshold", "iterations")}


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
        factor = self.factor
        if factor is None:
            raise ConfigurationError("This solver has no posterior to draw a committee from; use 'blr' or 'ard'.")
        if count < 2:
            raise ConfigurationError(f"A committee of {count} has no spread; ask for 2 members or more.")
        normal = np.random.default_rng(seed).standard_normal((factor.shape[1], count))
        normal -= normal.mean(axis=1, keepdims=True)
        return np.asarray(self.mean[:, None] + factor @ (normal * np.sqrt(count / (count - 1))))


def check_solver(solver: str, options: Mapping[str, float], committee: int = 0) -> None:
    """Check a choice of solver before there is anything to solve.

    Raises
    ------
    ConfigurationError
        If there is no such solver or option, or it cannot give such a committee.
    """
    if solver not in SOLVERS:
        raise ConfigurationError(
            f"There is no solver '{solver}'; there are {', '.join(SOLVERS)}.{did_you_mean(solver, SOLVERS)}"
        )
    for option in options:
        if option not in SOLVERS[solver]:
            raise ConfigurationError(
                f"Solver '{solver}' has no option '{option}'; it has {', '.join(SOLVERS[solver])}."
            )
    if committee == 1 or committee < 0:
        raise ConfigurationError(f"A committee of {committee} has no spread; ask for 2 members or more, or for 0.")
    if committee > MOST_MEMBERS:
        raise ConfigurationError(f"A committee of {committee} is too many; {MOST_MEMBERS} members are the most.")


def solve(system: LinearSystem, solver: str = "blr", **options: float) -> Posterior:
    """Solve a linear system.

    Parameters
    ----------
    system : LinearSystem
    solver : {'blr', 'ridge', 'svd', 'ard'}
        ``blr``: Bayesian ridge, prior and noise scale from the evidence. ``ridge``: ``|X c - y|^2 +
        |ridge P c|^2``; with ``ridge=0`` plain QR. ``svd``: singular values below ``rtol`` times the largest are
        dropped. ``ard``: one prior scale per coefficient from the evidence, irrelevant ones are removed.
    **options
        ``ridge`` (1e-3) for ``ridge``; ``rtol`` (1e-9) for ``svd``; ``threshold`` (1e6) for ``ard``: coefficients of
        a precision above it are removed; ``iterations`` for ``blr`` (1000) and ``ard`` (100).

    Returns
    -------
    Posterior

    Raises
    ------
    ConfigurationError
        If there is no such solver or option.
    DataError
        If there are more unknowns than rows and the solver has no regularisation, or the system is singular.
    """
    check_solver(solver, options)
    if not np.isfinite(system.matrix).all() or not np.isfinite(system.target).all():
        raise DataError("The design matrix holds values that are not finite; a frame or its labels are damaged.")
    return {"blr": _bayesian_ridge, "ridge": _ridge, "svd": _truncated_svd, "ard": _relevance}[solver](
        system, **options
    )


def _ridge(system: LinearSystem, ridge: float = 1e-3) -> Posterior:
    m = system.matrix.shape[1]
    if ridge < 0:
        raise ConfigurationError(f"ridge is {ridge}; it must be 0 or positive.")
    if ridge == 0 and system.n_rows < m:
        raise DataError(
            f"There are {m} unknowns but only {system.n_rows} rows of data, and no regularisation. Use solver 'blr' "
            "or 'ridge' with ridge > 0, lower the degree, or add data."
        )
    # R of [X | y] with the regularisation below it: the last column is Q'y, and Q itself is never formed.
    rows = np.column_stack([system.matrix / system.prior, system.target])
    if ridge > 0:
        rows = np.concatenate([rows, ridge * np.eye(m, m + 1)])
    triangle = torch.linalg.qr(torch.from_numpy(rows), mode="r").R.numpy()
    r, projected = triangle[:m, :m], triangle[:m, m]
    diagonal = np.abs(np.diag(r))
    if ridge == 0 and diagonal.min() < 1e-13 * diagonal.max():
        raise DataError(
            f"The system is singular: {int((diagonal < 1e-13 * diagonal.max()).sum())} of {m} functions are not "
            "determined by the data. Use solver 'blr', 'svd', or 'ridge' with ridge > 0, or lower the degree."
        )
    scaled = scipy.linalg.solve_triangular(r, projected)
    mean = scaled / system.prior
    freedom = max(system.n_rows - m, 1)
    noise = float(np.sqrt(system.residual(mean) / freedom)) if system.n_rows > m else 0.0
    factor = None
    if noise > 0:
        factor = noise * scipy.linalg.solve_triangular(r, np.eye(m)) / system.prior[:, None]
    return Posterior(mean, factor, noise=noise, log_evidence=None, n_effective=m, details={"ridge": ridge})


def _truncated_svd(system: LinearSystem, rtol: float = 1e-9) -> Posterior:
    u, s, vt = scipy.linalg.svd(system.matrix / system.prior, full_matrices=False)
    keep = s > rtol * s[0] if len(s) and s[0] > 0 else np.zeros(len(s), dtype=bool)
    if not keep.any():
        raise DataError("The design matrix is zero: no atom has a neighbour within the cutoff. Enlarge the cutoff.")
    mean = (vt[keep].T @ ((u[:, keep].T @ system.target) / s[keep])) / system.prior
    rank = int(keep.sum())
    noise = float(np.sqrt(system.residual(mean) / (system.n_rows - rank))) if system.n_rows > rank else 0.0
    factor = (vt[keep].T / s[keep]) * noise / system.prior[:, None] if noise > 0 else None
    return Posterior(
        mean, factor, noise=noise, log_evidence=None, n_effective=len(mean), details={"rank": rank, "rtol": rtol}
    )


def _bayesian_ridge(system: LinearSystem, iterations: float = 1000) -> Posterior:
    from sklearn.linear_model import BayesianRidge

    matrix = system.matrix / system.prior
    # With fewer rows than columns, the directions that no row sees are needed too: they keep the prior.
    u, s, vt = scipy.linalg.svd(matrix, full_matrices=matrix.shape[0] < matrix.shape[1])
    seen = u.T @ system.target
    unseen = np.sqrt(max(float(system.target @ system.target - seen @ seen), 0.0))
    # The same problem in the basis of singular vectors, where scikit-learn's own decomposition is cheap. The rows
    # stand for n_rows: the missing ones fit exactly, and count in the noise through alpha_1.
    diagonal = np.zeros((len(s) + 1, len(s)))
    np.fill_diagonal(diagonal, s)
    n = min(len(s) + 1, system.n_rows)
    model = BayesianRidge(
        fit_intercept=False, max_iter=int(iterations), tol=1e-6, alpha_1=1e-6 + 0.5 * (system.n_rows - n)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns where it has not converged; the answer is usable
        model.fit(diagonal[:n], np.append(seen, unseen)[:n])
    alpha, lam = float(model.alpha_), float(model.lambda_)
    information = np.zeros(matrix.shape[1])
    information[: len(s)] = alpha / lam * s**2
    mean = (vt[: len(s)].T @ model.coef_) / system.prior
    evidence = log_evidence(system, 1.0 / np.sqrt(alpha), 1.0 / np.sqrt(lam), s, mean)
    return Posterior(
        mean,
        vt.T / np.sqrt(lam) / system.prior[:, None],
        noise=1.0 / np.sqrt(alpha),
        log_evidence=evidence,
        n_effective=len(mean),
        details={"noise": alpha**-0.5, "prior_scale": lam**-0.5},
        information=information,
    )


def log_evidence(
    system: LinearSystem,
    noise: float,
    prior_scale: float,
    singular: NDArray[np.float64],
    mean: NDArray[np.float64],
) -> float:
    """Logarithm of the marginal likelihood of all rows under an isotropic prior (MacKay 1992).

    Parameters
    ----------
    system : LinearSystem
    noise, prior_scale : float
        Standard deviations of the rows and of the scaled coefficients.
    singular : array
        Singular values of the scaled matrix.
    mean : array
        Posterior mean at these scales.
    """
    m = system.matrix.shape[1]
    precision = np.full(m, prior_scale**-2)
    precision[: len(singular)] += (singular / noise) ** 2
    scaled = mean * system.prior
    misfit = system.residual(mean) / noise**2 + (scaled**2).sum() / prior_scale**2
    return float(
        -0.5 * misfit
        - 0.5 * np.log(precision).sum()
        - m * np.log(prior_scale)
        - 0.5 * system.n_rows * np.log(2.0 * np.pi * noise**2)
    )


def _relevance(system: LinearSystem, threshold: float = 1e6, iterations: float = 100) -> Posterior:
    from sklearn.linear_model import ARDRegression

    n = len(system.matrix)
    matrix = system.matrix / system.prior
    # Columns of unit size: the threshold then means the same for every function.
    size = np.sqrt((matrix**2).sum(axis=0) / max(system.n_rows, 1))
    size[size == 0] = 1.0
    model = ARDRegression(
        fit_intercept=False,
        max_iter=int(iterations),
        threshold_lambda=threshold,
        alpha_1=1e-6 + 0.5 * (system.n_rows - n),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(matrix / size, system.target)
    kept = model.lambda_ < threshold
    mean = model.coef_ / size / system.prior
    factor = np.zeros((len(mean), int(kept.sum())))
    lower = scipy.linalg.cholesky(
        np.linalg.inv(
            model.alpha_ * (matrix / size)[:, kept].T @ (matrix / size)[:, kept] + np.diag(model.lambda_[kept])
        ),
        lower=True,
    )
    factor[kept] = lower / (size * system.prior)[kept, None]
    noise = float(model.alpha_) ** -0.5
    return Posterior(
        mean,
        factor,
        noise=noise,
        log_evidence=None,
        n_effective=int(kept.sum()),
        details={"noise": noise, "kept": int(kept.sum())},
    )
