"""The figure of a run: energies, temperature and what else was logged, against time."""

from __future__ import annotations

import os

import numpy as np

from halberd.plugins.evaluation.figures import BLUE, GREY, RED, new_figure, save_figure


def run_plot(
    log: dict[str, np.ndarray],
    path: str | os.PathLike[str],
    title: str,
    target_temperature: float | None = None,
    extra: dict[str, tuple[np.ndarray, np.ndarray]] | None = None,
    target_pressure: float | None = None,
) -> None:
    """Draw energies, temperature and, where there are any, pressure, density and other series against time.

    All panels show the same times.

    Parameters
    ----------
    log : dict
        Columns of a run log, as :func:`halberd.samplers.runs.log.read_log` returns them.
    path : path
    title : str
    target_temperature : float, optional
        Drawn as a line, K.
    extra : dict, optional
        Axis label -> (time in ps, values).
    target_pressure : float, optional
        bar. With it the pressure is drawn, of every row and as the mean of all rows until then: single values
        fluctuate by thousands of bar.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    time = log["time_ps"]
    series: list[tuple[str, list[tuple[np.ndarray, np.ndarray, str]]]] = [
        (
            "energy − first value, kJ/mol",
            [
                (time, log["potential_kj_mol"] - log["potential_kj_mol"][0], "potential"),
                (time, log["total_kj_mol"] - log["total_kj_mol"][0], "total"),
            ],
        ),
        ("temperature, K", [(time, log["temperature_K"], "")]),
    ]
    if target_pressure is not None and "pressure_bar" in log:
        pressure = log["pressure_bar"]
        mean = np.cumsum(pressure) / np.arange(1, len(pressure) + 1)
        series.append(("pressure, bar", [(time, pressure, "of a row"), (time, mean, "mean so far")]))
    if "density_g_cm3" in log:
        series.append(("density, g/cm³", [(time, log["density_g_cm3"], "")]))
    for label, (times, values) in (extra or {}).items():
        series.append((label, [(times, values, "")]))
    figure, axes = new_figure(1, len(series), width=7.0, height=1.9)
    for axis, (label, lines) in zip(axes[:, 0], series, strict=True):
        for (x, y, name), color in zip(lines, (BLUE, RED), strict=False):
            axis.plot(x, y, color=color, linewidth=1.0, label=name or None)
        axis.set_ylabel(label, fontsize=8)
        axis.tick_params(labelsize=8)
        if lines[0][2]:
            axis.legend(fontsize=8, frameon=False, ncols=2)
    targets = {"temperature, K": target_temperature, "pressure, bar": target_pressure}
    ends = [x[at] for _, lines in series for x, _, _ in lines if len(x) for at in (0, -1)]
    for axis, (label, _) in zip(axes[:, 0], series, strict=True):
        if targets.get(label) is not None:
            axis.axhline(targets[label], color=GREY, linewidth=1, linestyle="--")
        if min(ends) < max(ends):
            axis.set_xlim(min(ends), max(ends))
    axes[-1, 0].set_xlabel("time, ps", fontsize=8)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)
