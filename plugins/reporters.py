"""OpenMM reporters: extended XYZ, thermodynamic log, progress bar."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import numpy as np
import openmm
from ase import Atoms
from ase.io.extxyz import write_xyz
from openmm import app, unit
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from halberd.plugins.committee_monitor import CommitteeMonitor
from halberd.plugins.structures import symbols_of
from halberd.potentials.bias import check_committee
from halberd.potentials.constants import (
    EV_IN_KJ_PER_MOL,
    EV_PER_ANGSTROM_IN_KJ_PER_MOL_NM,
    KJ_PER_MOL_NM3_IN_BAR,
    NM_IN_ANGSTROM,
)
from halberd.potentials.errors import OutputError
from halberd.potentials.loading import ModelSource, load


def steps_to_next(simulation: app.Simulation, interval: int) -> int:
    """Steps until a multiple of an interval."""
    return int(interval - simulation.currentStep % interval)


def open_output(file: str | os.PathLike[str], append: bool) -> TextIO:
    """Open a text file for writing.

    Raises
    ------
    OutputError
        If that cannot be done.
    """
    try:
        return open(file, "a" if append else "w", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"Cannot write '{file}': {error.strerror}.") from error


class ExtXYZReporter:
    """Write frames with energy and forces, and what a committee says about them, as extended XYZ in ASE's units.

    Parameters
    ----------
    file : path
    reportInterval : int
        Steps between frames.
    append : bool
        Continue an existing file.
    forces : bool
        Write forces too. Energy and forces, those of the whole System, cost one more evaluation per frame.
    model : path, name, SiteModel, or a sequence of these, optional
        A committee. Frames then carry ``sigma`` (eV, standard deviation of its energy) and, per atom, ``force_std``
        (eV/angstrom), at the price of one backward pass per member and frame.

    Raises
    ------
    OutputError
        If the file cannot be opened.
    ConfigurationError
        If the model has no members.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        reportInterval: int,
        append: bool = False,
        forces: bool = True,
        model: ModelSource | Sequence[ModelSource] | None = None,
    ) -> None:
        self._interval = reportInterval
        self._forces = forces
        self._symbols: list[str] | None = None
        self._model = None if model is None else load(model)
        self._monitor: CommitteeMonitor | None = None
        if self._model is not None:
            check_committee(self._model)
        self._out = open_output(file, append)

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when the next frame is due and what it needs."""
        include = ["positions", "energy"] + (["forces"] if self._forces else [])
        return {"steps": steps_to_next(simulation, self._interval), "periodic": None, "include": include}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Write one frame."""
        if self._symbols is None:
            self._symbols = symbols_of(simulation.topology)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer) * NM_IN_ANGSTROM
        periodic = simulation.system.usesPeriodicBoundaryConditions()
        cell = None
        if periodic:
            cell = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer) * NM_IN_ANGSTROM
        atoms = Atoms(self._symbols, positions=positions, cell=cell, pbc=periodic)
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole)
        atoms.info["energy"] = energy / EV_IN_KJ_PER_MOL
        atoms.info["step"] = int(simulation.currentStep)
        atoms.info["time_ps"] = state.getTime().value_in_unit(unit.picosecond)
        if self._forces:
            forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoules_per_mole / unit.nanometer)
            atoms.arrays["forces"] = np.asarray(forces) / EV_PER_ANGSTROM_IN_KJ_PER_MOL_NM
        columns = ["symbols", "positions"] + (["forces"] if self._forces else [])
        if self._model is not None:
            if self._monitor is None:
                self._monitor = CommitteeMonitor(self._model, [int(z) for z in atoms.numbers], bool(periodic))
            spread = self._monitor.observe(positions / NM_IN_ANGSTROM, None if cell is None else cell / NM_IN_ANGSTROM)
            atoms.info["sigma"] = spread.spread.sigma
            atoms.arrays["force_std"] = spread.spread.deviation
            columns.append("force_std")
        write_xyz(self._out, [atoms], columns=columns)
        self._out.flush()

    def close(self) -> None:
        """Close the file."""
        self._out.close()


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
    """

    def __init__(
        self,
        file: Any,
        reportInterval: int,
        virial: Callable[[np.ndarray, np.ndarray], float] | None = None,
        append: bool = False,
    ) -> None:
        self._virial = virial
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


class ProgressReporter:
    """A progress bar on standard error.

    Parameters
    ----------
    totalSteps : int
        Step number at which the bar is full.
    description : str
    reportInterval : int
        Steps between updates; asks for nothing, so it costs nothing.
    """

    def __init__(self, totalSteps: int, description: str = "MD", reportInterval: int = 50) -> None:
        self._interval = reportInterval
        self._total = totalSteps
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(description, total=totalSteps)
        self._progress.start()

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when to call again."""
        steps = min(steps_to_next(simulation, self._interval), max(1, self._total - simulation.currentStep))
        return {"steps": steps, "periodic": None, "include": []}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:  # noqa: ARG002  (OpenMM passes it)
        """Move the bar."""
        self._progress.update(self._task, completed=simulation.currentStep)

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        self._progress.stop()
