"""What a run says when it ends: means with errors, drift, speed, a figure, and what is odd about it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from halberd.plugins.evaluation.run_figure import run_plot
from halberd.plugins.reporters.uncertainty_guard import UncertaintyGuard
from halberd.potentials.errors import DataError
from halberd.potentials.files import replacing
from halberd.samplers.md.folder import OUTPUTS, REPORT
from halberd.samplers.md.settings import MDSettings
from halberd.samplers.runs.log import energy_drift, mean_and_error, read_log, sampled

#: A thermostat whose mean temperature is off by more than this fraction, and by more than so many errors, has failed.
OFF_FRACTION, OFF_ERRORS = 0.1, 6.0


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes
    ----------
    step : int
        Where it is now.
    steps_done : int
        Since it was started or restarted.
    seconds : float
    stopped : str, optional
        Why before the last step.
    """

    step: int
    steps_done: int
    seconds: float
    stopped: str | None


def closing_report(
    settings: MDSettings,
    n_atoms: int,
    model: str,
    ending: Ending,
    *,
    guard: UncertaintyGuard | None,
    more_remarks: list[str],
) -> dict[str, Any]:
    """Report on a run, and write ``report.json`` and ``run.png`` into its folder.

    Parameters
    ----------
    settings : MDSettings
    n_atoms : int
    model : str
        Its name.
    ending : Ending
    guard : UncertaintyGuard, optional
        What watched the run.
    more_remarks : list of str
        What else must not be overlooked.

    Returns
    -------
    dict
        See :meth:`halberd.samplers.md.run.MolecularDynamics.run`.
    """
    folder = Path(settings.output)
    try:
        log = read_log(folder / OUTPUTS["csv"])
    except DataError:
        log = {}  # ended before the first row
    samples = sampled(log)
    means: dict[str, float | None] = {}
    errors: dict[str, float | None] = {}
    for key in ("temperature_K", "pressure_bar", "density_g_cm3"):
        mean, error = mean_and_error(samples[key]) if key in samples else (float("nan"), float("nan"))
        means[key] = None if math.isnan(mean) else mean
        errors[key] = None if math.isnan(error) else error
    drift = energy_drift(samples, n_atoms) if settings.ensemble == "NVE" and samples else float("nan")
    figure = folder / "run.png"
    target = None if settings.ensemble == "NVE" or settings.temperature_end is not None else settings.temperature
    uncertainty, curves = (None, {}) if guard is None else _uncertainty(folder, guard)
    shown = len(samples.get("step", ())) > 0
    if shown:
        pressure = float(np.mean(settings.pressure)) if settings.ensemble == "NPT" else None
        title = f"{settings.ensemble} of {n_atoms} atoms, {model}"
        run_plot(log, figure, title, target, curves, target_pressure=pressure)
    trajectories = {
        kind: str(folder / OUTPUTS[kind]) for kind in ("dcd", "xtc", "extxyz") if kind in settings.reporters
    }
    result = {
        "trajectory": next(iter(trajectories.values()), None),
        "trajectories": trajectories,
        "steps": ending.step,
        "complete": ending.step >= settings.steps,
        "stopped": ending.stopped,
        "us_per_atom_step": 1e6 * ending.seconds / max(1, ending.steps_done) / n_atoms,
        "ns_per_day": 86400.0 * ending.steps_done * settings.timestep * 1e-6 / max(ending.seconds, 1e-9),
        "mean": means,
        "error": errors,
        "drift": None if math.isnan(drift) else drift,
        "uncertainty": uncertainty,
        "remarks": _remarks(target, means["temperature_K"], errors["temperature_K"]) + more_remarks,
        "output": str(folder),
        "figure": str(figure) if shown else None,
        "seconds": ending.seconds,
    }
    with replacing(folder / REPORT) as temporary:
        content = json.dumps({**result, "settings": dataclasses.asdict(settings)}, indent=2)
        temporary.write_text(content, encoding="utf-8")
    return result


def _remarks(target: float | None, mean: float | None, error: float | None) -> list[str]:
    """What does not stop a run, but must not be overlooked."""
    if target is None or mean is None or error is None:
        return []
    off = abs(mean - target)
    if off <= max(OFF_FRACTION * target, OFF_ERRORS * error):
        return []
    return [
        f"The mean temperature is {mean:.4g} ± {error:.2g} K, the thermostat's {target:g} K: the timestep is too long, "
        "or the run was not equilibrated."
    ]


def _uncertainty(
    folder: Path, guard: UncertaintyGuard
) -> tuple[dict[str, Any], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Largest value and looks above the threshold, of the whole run, and the curve for its figure."""
    lines = (folder / OUTPUTS["uncertainty"]).read_text(encoding="utf-8").splitlines()[1:]
    watched = np.loadtxt(lines, delimiter=",", ndmin=2) if lines else np.zeros((0, 4))
    values = watched[:, 2]
    summary = {
        "quantity": guard.quantity,
        "largest": float(values.max(initial=0.0)),
        "n_above": int((~(values <= guard.threshold)).sum()),
    }
    return summary, {guard.quantity.replace("_", " "): (watched[:, 1], values)} if len(watched) else {}
