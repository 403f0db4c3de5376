"""Reading run logs and boiling them down: means with honest errors, drift."""

from __future__ import annotations

import os

import numpy as np

from halberd.potentials.constants import EV_IN_KJ_PER_MOL
from halberd.potentials.errors import DataError

#: OpenMM's column titles -> ours.
_COLUMNS = {
    "Step": "step",
    "Time (ps)": "time_ps",
    "Potential Energy (kJ/mole)": "potential_kj_mol",
    "Kinetic Energy (kJ/mole)": "kinetic_kj_mol",
    "Total Energy (kJ/mole)": "total_kj_mol",
    "Temperature (K)": "temperature_K",
    "Box Volume (nm^3)": "volume_nm3",
    "Density (g/mL)": "density_g_cm3",
    "Pressure (bar)": "pressure_bar",
}


def read_log(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a log written by :class:`halberd.plugins.reporters.thermo.ThermoReporter`.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict
        Column name with unit -> values.

    Raises
    ------
    DataError
        If the file is missing or has no rows.
    """
    try:
        with open(path, encoding="utf-8") as handle:
            titles = [title.strip().strip('"') for title in handle.readline().lstrip("#").split(",")]
            lines = handle.readlines()
            rows = np.loadtxt(lines, delimiter=",", ndmin=2) if lines else np.zeros((0, len(titles)))
    except OSError as error:
        raise DataError(f"Run log '{path}' cannot be read: {error.strerror}.") from error
    if not rows.size:
        raise DataError(f"Run log '{path}' has no rows: the run is shorter than report_interval.")
    return {_COLUMNS.get(title, title): rows[:, i] for i, title in enumerate(titles)}


def sampled(log: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of a log without that of step 0: the start is no sample of the ensemble.

    Parameters
    ----------
    log : dict
        As :func:`read_log` returns it.

    Returns
    -------
    dict
        Columns, possibly empty.
    """
    return {name: values[log["step"] > 0] for name, values in log.items()}


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean of a correlated series and its standard error, by block averaging.

    Blocks are doubled in length until fewer than eight are left; the largest estimate counts (Flyvbjerg and
    Petersen, J. Chem. Phys. 91, 461 (1989)).

    Parameters
    ----------
    values : array, shape (T,)

    Returns
    -------
    mean, error : float
        ``error`` is NaN for fewer than eight values, ``mean`` for none.
    """
    series = np.asarray(values, dtype=float)
    if not len(series):
        return float("nan"), float("nan")
    mean, error = float(series.mean()), float("nan")
    while len(series) >= 8:
        estimate = float(series.std(ddof=1) / np.sqrt(len(series)))
        error = estimate if np.isnan(error) else max(error, estimate)
        pairs = series[: len(series) // 2 * 2]
        series = 0.5 * (pairs[0::2] + pairs[1::2])
    return mean, error


def energy_drift(log: dict[str, np.ndarray], n_atoms: int) -> float:
    """Slope of the total energy, eV per atom and ps, from a least-squares line; NaN for fewer than three rows."""
    if len(log["time_ps"]) < 3:
        return float("nan")
    slope = np.polyfit(log["time_ps"], log["total_kj_mol"], 1)[0]
    return float(slope / EV_IN_KJ_PER_MOL / n_atoms)
