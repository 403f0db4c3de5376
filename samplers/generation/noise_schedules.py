"""Noise levels of annealing, from broad to narrow, in angstrom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import ArrayLike, NDArray

from halberd.potentials.errors import ConfigurationError

#: Of a schedule; each is an evaluation of all forces, or several.
Levels = Annotated[int, Ge(1), Le(1_000_000)]


def simgen_schedule(n_levels: int = 50) -> NDArray[np.float64]:
    """Levels of the SiMGen release: half of them linear from 1 to 0.05, the rest logarithmic from 10^-1.31 to 10^-3.

    Raises
    ------
    ConfigurationError
        If there are fewer than four.
    """
    if n_levels < 4:
        raise ConfigurationError(f"A noise schedule of {n_levels} levels is too short; it needs 4.")
    half = n_levels // 2
    return np.concatenate([np.linspace(1.0, 0.05, half), np.logspace(-1.31, -3.0, n_levels - half)])


def karras_schedule(
    n_levels: int = 50, sigma_max: float = 1.0, sigma_min: float = 1e-3, rho: float = 7.0
) -> NDArray[np.float64]:
    """Levels of Karras et al., NeurIPS 2022, eq. 5: equal steps in ``sigma^(1/rho)``.

    Raises
    ------
    ConfigurationError
        If there are fewer than two, or not ``sigma_max > sigma_min > 0``, or rho is not positive.
    """
    if n_levels < 2 or not sigma_max > sigma_min > 0 or not rho > 0:
        raise ConfigurationError(
            f"Karras' schedule needs two levels, sigma_max > sigma_min > 0 and rho > 0; got {n_levels}, {sigma_max}, "
            f"{sigma_min} and {rho}."
        )
    roots = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n_levels)
    return np.asarray(roots**rho)


def geometric_schedule(n_levels: int = 50, sigma_max: float = 1.0, sigma_min: float = 1e-3) -> NDArray[np.float64]:
    """Levels in a constant ratio, as in annealed Langevin sampling (Song and Ermon, NeurIPS 2019).

    Raises
    ------
    ConfigurationError
        If there are fewer than two, or not ``sigma_max > sigma_min > 0``.
    """
    if n_levels < 2 or not sigma_max > sigma_min > 0:
        raise ConfigurationError(
            f"A geometric schedule needs two levels and sigma_max > sigma_min > 0; got {n_levels}, {sigma_max} and "
            f"{sigma_min}."
        )
    return np.geomspace(sigma_max, sigma_min, n_levels)


def checked_schedule(levels: ArrayLike) -> NDArray[np.float64]:
    """Check levels of the user's own.

    Raises
    ------
    ConfigurationError
        If there are fewer than two, or they are not finite, positive and falling.
    """
    array = np.asarray(levels, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise ConfigurationError(f"A noise schedule is a list of two or more finite levels, got {levels!r}.")
    if array.min() <= 0 or not (np.diff(array) < 0).all():
        raise ConfigurationError("Noise levels must be positive and fall from each to the next.")
    return array


_SCHEDULES = {"simgen": simgen_schedule, "karras": karras_schedule, "geometric": geometric_schedule}


def schedule(name: str | Sequence[float], n_levels: int) -> NDArray[np.float64]:
    """Levels by the name of a schedule (``simgen``, ``karras``, ``geometric``), or checked ones of the user's own.

    Raises
    ------
    ConfigurationError
        If there is no such schedule, or as the functions above.
    """
    if not isinstance(name, str):
        return checked_schedule(name)
    if name not in _SCHEDULES:
        raise ConfigurationError(f"There is no noise schedule '{name}'; there is {', '.join(_SCHEDULES)}.")
    return _SCHEDULES[name](n_levels)
