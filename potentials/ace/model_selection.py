"""Choosing order and degree of a linear ACE by an information criterion, from one assembly.

Functions of a smaller basis are functions of the larger one, so its design matrix is some of the columns. What
compressed rows hold of the largest basis therefore judges all smaller ones, without looking at a frame again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.ace.fit import AceFit
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.regression.solvers import solve


@dataclasses.dataclass(frozen=True)
class BasisChoice:
    """A basis and how it was judged.

    Attributes
    ----------
    order : int
    degree : float
    n_functions : int
        Coefficients, k.
    residual : float
        Sum of squared weighted residuals.
    bic : float
        ``n ln(residual / n) + k ln n``, n the number of rows (Schwarz 1978); smaller is better.
    """

    order: int
    degree: float
    n_functions: int
    residual: float
    bic: float


def columns_of(fit: AceFit, order: int, degree: float) -> NDArray[np.bool_]:
    """Which functions of a fit's basis belong to a smaller order and degree."""
    basis = fit.basis
    return (basis.function_order <= order) & (basis.function_degree <= degree + 1e-9)


def select_degree(
    fit: AceFit,
    degrees: Sequence[float],
    orders: Sequence[int] | None = None,
    *,
    max_functions: int = 3000,
    ridge: float = 1e-8,
) -> list[BasisChoice]:
    """Rank smaller bases by the Bayesian information criterion.

    Parameters
    ----------
    fit : AceFit
        Of the largest basis, with its frames added.
    degrees : sequence of float
        Total degrees to compare.
    orders : sequence of int, optional
        Correlation orders to compare; that of the fit if omitted.
    max_functions : int
        Larger bases are not considered.
    ridge : float
        Regularisation, so that directions without data do not matter.

    Returns
    -------
    list of BasisChoice
        Best first.

    Raises
    ------
    ConfigurationError
        If a degree or order exceeds the fit's basis, or nothing is left to compare.
    DataError
        If no frame has been added.
    """
    settings = fit.basis.settings
    orders = (settings.order,) if orders is None else orders
    if max(orders) > settings.order or max(degrees) > min(settings.degrees):
        raise ConfigurationError(
            f"Orders {tuple(orders)} and degrees {tuple(degrees)} are compared within the basis of the fit, which has "
            f"order {settings.order} and degree {settings.degree}. Fit with a larger basis, or ask for less."
        )
    system = fit.system(prior_power=0.0, restraint=False)
    choices = []
    for order in orders:
        for degree in degrees:
            columns = columns_of(fit, order, degree)
            k = int(columns.sum())
            if not 0 < k <= max_functions:
                continue
            part = system.subset(columns)
            residual = part.residual(solve(part, "ridge", ridge=ridge).mean)
            n = system.n_rows
            bic = n * np.log(max(residual, 1e-300) / n) + k * np.log(n)
            choices.append(BasisChoice(order, degree, k, residual, float(bic)))
    if not choices:
        raise ConfigurationError(f"No basis of at least one and at most {max_functions} functions to compare.")
    return sorted(choices, key=lambda choice: choice.bic)
