"""Solvers of regularised linear least squares on compressed rows, with the posterior of the coefficients.

All of them see ``[X | y]`` only through its triangular factor, so none depends on how many rows there were. Weights
are in the rows already; the smoothness prior scales the columns, ``c = c~ / P``, so that every solver works with an
isotropic prior on ``c~`` (except ARD, which learns one scale per coefficient).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import scipy.linalg
import torch

from halberd.potentials.errors import ConfigurationError, DataError, did_you_mean
from halberd.potentials.regression.bayesian_ridge import bayesian_ridge
from halberd.potentials.regression.linear_system import LinearSystem, Posterior

#: Of a committee: more tell no more, and a number by mistake would fill the memory.
MOST_MEMBERS = 10_000
#: Solvers and the options each takes.
SOLVERS = {"blr": ("iterations",), "ridge": ("ridge",), "svd": ("rtol",), "ard": ("threshold", "iterations")}


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
        ``blr``: Bayesian ridge, prior and noise scale from the evidence; beyond 4000 functions by a kernel of the rows,
        see :mod:`halberd.potentials.regression.dual`. ``ridge``: ``|X c - y|^2 +
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
    blocks = range(0, len(system.matrix), 1024)
    if not all(np.isfinite(system.matrix[i : i + 1024]).all() for i in blocks) or not np.isfinite(system.target).all():
        raise DataError("The design matrix holds values that are not finite; a frame or its labels are damaged.")
    return {"blr": bayesian_ridge, "ridge": _ridge, "svd": _truncated_svd, "ard": _relevance}[solver](system, **options)


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
