"""The thermodynamic log of a run, pressure included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from halberd.plugins.reporters.output import steps_to_next
from halberd.potentials.constants import KJ_PER_MOL_NM3_IN_BAR


class ThermoReporter(app.StateDataReporter):
    """OpenMM's ``StateDataReporter`` with the columns of a run log, and the pressure of periodic systems.

    Parameters
    ----------
    file : path or file object
    reportInterval : int
    virial : callable, optional
        Takes positions (N, 3) and box (3, 3) in nm, returns the trace of the virial in kJ/mol. With it, volume,
        density and pressure are logged; the pressure is the atomic one, (2 K + tr W) / 3 V.
        (``MonteCarloBarostat.computeCurrentPressure`` cannot be used: OpenMM holds the GIL in it, and torch refuses
        to differentiate then.)
    append : bool

    Attributes
    ----------
    total_energy : float or None
        kJ/mol, of the last row.
    """

    def __init__(
        self,
        file: Any,
        reportInterval: int,
        virial: Callable[[np.ndarray, np.ndarray], float] | None = None,
        append: bool = False,
    ) -> None:
        self._virial = virial
        self.total_energy: float | None = None
        periodic = virial is not None
        super().__init__(
            file,
            reportInterval,
            step=True,
            time=True,
            potentialEnergy=True,
            kineticEnergy=True,
            totalEnergy=True,
            temperature=True,
            volume=periodic,
            density=periodic,
            append=append,
        )

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when the next row is due and what it needs."""
        steps = {"steps": steps_to_next(simulation, self._reportInterval), "periodic": None}
        return {**steps, "include": ["energy"] + (["positions"] if self._virial is not None else [])}

    def _constructHeaders(self) -> list[str]:
        headers: list[str] = super()._constructHeaders()
        return headers + (["Pressure (bar)"] if self._virial is not None else [])

    def _constructReportValues(self, simulation: app.Simulation, state: openmm.State) -> list[Any]:
        values: list[Any] = super()._constructReportValues(simulation, state)
        self.total_energy = (state.getPotentialEnergy() + state.getKineticEnergy())._value
        if self._virial is not None:
            positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
            box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
            kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoules_per_mole)
            pressure = (2 * kinetic + self._virial(positions, box)) / (3 * np.linalg.det(box))
            values.append(pressure * KJ_PER_MOL_NM3_IN_BAR)
        return values

    def close(self) -> None:
        """Close the log, if this reporter opened it."""
        if self._openedFile:
            self._out.close()


def degrees_of_freedom(system: openmm.System) -> int:
    """Degrees of freedom of the massive particles, less constraints and the centre of mass if that is held."""
    massive = sum(system.getParticleMass(i).value_in_unit(unit.dalton) > 0 for i in range(system.getNumParticles()))
    held = any(isinstance(force, openmm.CMMotionRemover) for force in system.getForces())
    return int(max(3 * massive - system.getNumConstraints() - (3 if held and massive > 1 else 0), 1))
