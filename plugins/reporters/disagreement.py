"""OpenMM reporter of a committee's disagreement: a CSV log, and frames with the uncertainty of every atom."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from ase.io.extxyz import write_xyz
from openmm import app, unit

from halberd.plugins.forces.options import HAL_TAU
from halberd.plugins.forces.topology import elements_of
from halberd.plugins.reporters.committee_monitor import FRAME_COLUMNS, CommitteeMonitor, Observation, predicted_frame
from halberd.plugins.reporters.output import open_output, steps_to_next
from halberd.plugins.reporters.thermo import degrees_of_freedom
from halberd.potentials.constants import GAS_CONSTANT_KJ_PER_MOL_K, KJ_PER_MOL_NM3_IN_BAR, NM_IN_ANGSTROM
from halberd.potentials.loading import ModelSource, load

#: Columns of the log.
COLUMNS = (
    "step",
    "time_ps",
    "energy_eV",
    "sigma_eV",
    "tau",
    "max_f",
    "atom",
    "temperature_K",
    "pressure_bar",
    "volume_A3",
    "mean_force_eV_A",
    "mean_sigma_force_eV_A",
)


class DisagreementReporter:
    """Log how far the members of a committee disagree, and optionally write frames.

    The relative force uncertainty of atom i is ``f_i = dF_i / (|F_i| + epsilon)``, with forces of the mean, bias
    excluded. Pressure is that of the mean model and includes the kinetic part.

    Parameters
    ----------
    file : path
        CSV; see ``COLUMNS``.
    reportInterval : int
        Steps between rows. A row costs one evaluation and one backward pass per member.
    model : path, name, SiteModel, or a sequence of these
        The committee.
    epsilon : float, eV/angstrom
        Keeps f_i finite where forces vanish.
    form : {'rms', 'mean'}
        See :func:`halberd.potentials.committees.disagreement.disagreement`.
    frames : path, optional
        Extended XYZ with ``forces``, ``force_std`` and ``relative_uncertainty`` of every atom.
    after : callable, optional
        Called with the simulation, the observation and f_i (N,) once a row is written: the place to change
        ``hal_tau``.
    append : bool
        Continue existing files.

    Raises
    ------
    OutputError
        If a file cannot be opened.
    ConfigurationError
        If the model is no committee; found at the first report.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        reportInterval: int,
        model: ModelSource | list[ModelSource],
        *,
        epsilon: float = 0.2,
        form: str = "rms",
        frames: str | os.PathLike[str] | None = None,
        after: Callable[[app.Simulation, Observation, np.ndarray], None] | None = None,
        append: bool = False,
    ) -> None:
        self._interval = reportInterval
        self._model = load(model)
        self._form = form
        self._after = after
        self._monitor: CommitteeMonitor | None = None
        self.epsilon = epsilon
        self._out = open_output(file, append)
        self._frames = None if frames is None else open_output(frames, append)
        if not append or Path(file).stat().st_size == 0:
            self._out.write(",".join(COLUMNS) + "\n")

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when the next row is due and what it needs."""
        include = ["positions", "energy"]
        return {"steps": steps_to_next(simulation, self._interval), "periodic": None, "include": include}

    def monitor(self, simulation: app.Simulation) -> CommitteeMonitor:
        """The monitor of a simulation's atoms, made on first use."""
        if self._monitor is None:
            numbers = elements_of(simulation.topology)
            periodic = simulation.system.usesPeriodicBoundaryConditions()
            self._monitor = CommitteeMonitor(self._model, numbers, periodic, self._form)
        return self._monitor

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Evaluate the committee, write a row, and a frame if asked for."""
        monitor = self.monitor(simulation)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        seen = monitor.observe(positions, box)
        uncertainty = seen.spread.relative(self.epsilon)
        self._write_row(simulation, state, seen, uncertainty, float(np.linalg.det(box)))
        if self._frames is not None:
            write_xyz(
                self._frames, [predicted_frame(seen, uncertainty, int(simulation.currentStep))], columns=FRAME_COLUMNS
            )
            self._frames.flush()
        if self._after is not None:
            self._after(simulation, seen, uncertainty)

    def _write_row(
        self, simulation: app.Simulation, state: openmm.State, seen: Observation, f: np.ndarray, volume: float
    ) -> None:
        kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoules_per_mole)
        freedom = degrees_of_freedom(simulation.system)
        temperature = 2 * kinetic / (freedom * GAS_CONSTANT_KJ_PER_MOL_K)
        periodic = bool(seen.atoms.pbc.all())
        pressure = (2 * kinetic + seen.virial_trace) / (3 * volume) * KJ_PER_MOL_NM3_IN_BAR if periodic else np.nan
        values = (
            int(simulation.currentStep),
            state.getTime().value_in_unit(unit.picosecond),
            seen.energy,
            seen.spread.sigma,
            dict(simulation.context.getParameters()).get(HAL_TAU, 0.0),
            float(f.max()),
            int(f.argmax()),
            temperature,
            pressure,
            volume * NM_IN_ANGSTROM**3 if periodic else np.nan,
            float(np.linalg.norm(seen.spread.forces, axis=1).mean()),
            float(np.linalg.norm(seen.spread.sigma_forces, axis=1).mean()),
        )
        self._out.write(",".join(f"{value:.10g}" for value in values) + "\n")
        self._out.flush()

    def close(self) -> None:
        """Close the files."""
        self._out.close()
        if self._frames is not None:
            self._frames.close()
