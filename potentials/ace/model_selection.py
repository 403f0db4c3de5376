"""Choosing order and degree of a linear ACE, from one assembly: by an information criterion, or by frames left out.

Functions of a smaller basis are functions of the larger one, so its design matrix is some of the columns. What
compressed rows hold of the largest basis therefore judges all smaller ones, without looking at a frame again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.ace.fit import AceFit
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.regression.bayesian_ridge import bayesian_ridge
from halberd.potentials.regression.calibration import FEWEST_FRAMES, Calibration, LeftOut
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


@dataclasses.dataclass(frozen=True)
class SizeChoice:
    """A size of basis and what became of frames that were left out.

    Attributes
    ----------
    settings : AceSettings
    n_functions : int
    worse : float
        By how much the mean squared weighted residual of these frames is above that of the best size, in parts of the
        latter.
    uncertain : float
        Standard error of that difference, from its scatter between frames.
    left_out : dict of str to LeftOut
        Errors by kind of label.
    """

    settings: AceSettings
    n_functions: int
    worse: float
    uncertain: float
    left_out: dict[str, LeftOut]


def compare_sizes(fit: AceFit, sizes: Sequence[AceSettings], prior_power: float = 4.0) -> list[SizeChoice]:
    """Leave frames out of Bayesian ridge regressions with smaller bases, one by one and in closed form.

    Parameters
    ----------
    fit : AceFit
        Of the largest basis, with its frames added.
    sizes : sequence of AceSettings
        Those of the fit with other degrees, none above the fit's.
    prior_power : float

    Returns
    -------
    list of SizeChoice
        By number of functions. :func:`smallest_as_good` picks one.

    Raises
    ------
    ConfigurationError
        If a size is not part of the fit's basis, or there are too few frames to leave any out.
    DataError
        If no frame has been added.
    """
    frames = fit.sample()
    if len(frames) < FEWEST_FRAMES:
        raise ConfigurationError(
            f"{len(frames)} labelled frames are too few to choose a degree by leaving some out; there must be "
            f"{FEWEST_FRAMES}. Name the degree."
        )
    system = fit.system(prior_power)
    judged = []
    for size in sizes:
        columns = _columns_of_size(fit, size)
        posterior = bayesian_ridge(system.subset(columns))
        chosen = np.append(columns, True)
        without = Calibration(posterior, [frame._replace(rows=frame.rows[:, chosen]) for frame in frames])
        judged.append((size, int(columns.sum()), without.squares(), without.left_out(without.temperature())))
    best = min((squares for _, _, squares, _ in judged), key=np.mean)
    scale = float(best.mean()) or 1.0
    root = np.sqrt(len(best))
    return [
        SizeChoice(
            size,
            count,
            float((squares - best).mean()) / scale,
            float((squares - best).std(ddof=1)) / root / scale,
            left_out,
        )
        for size, count, squares, left_out in sorted(judged, key=lambda each: each[1])
    ]


def smallest_as_good(choices: Sequence[SizeChoice]) -> SizeChoice:
    """The smallest size that is not worse than the best by more than the standard error of the difference."""
    return next(choice for choice in choices if choice.worse <= choice.uncertain)


def _columns_of_size(fit: AceFit, size: AceSettings) -> NDArray[np.bool_]:
    """Which functions of a fit's basis those settings have, too."""
    own = fit.basis.settings
    same = dataclasses.replace(size, degree=own.degree, pair_degree=own.pair_degree)
    wanted, there = (np.array([*each.degrees, each.pair_degree or 0]) for each in (size, own))
    if same != own or (wanted > there).any():
        raise ConfigurationError("Sizes to compare have the settings of the fit, but for degrees that are not larger.")
    basis, order = fit.basis, fit.basis.function_order.astype(int)
    limits = np.array(size.degrees)[order - 1]
    if basis.n_pair:
        limits = np.where(order == 1, float(size.pair_degree or 0), limits)
    return np.asarray(basis.function_degree <= limits + 1e-9)
