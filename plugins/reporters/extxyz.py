"""OpenMM reporters: extended XYZ, thermodynamic log, progress bar."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import openmm
from ase import Atoms
from ase.io.extxyz import write_xyz
from openmm import app, unit

from halberd.plugins.forces.topology import symbols_of
from halberd.plugins.reporters.committee_monitor import CommitteeMonitor
from halberd.plugins.reporters.output import open_output, steps_to_next
from halberd.potentials.committees.bias import check_committee
from halberd.potentials.constants import (
    EV_IN_KJ_PER_MOL,
    EV_PER_ANGSTROM_IN_KJ_PER_MOL_NM,
    NM_IN_ANGSTROM,
)
from halberd.potentials.loading import ModelSource, load


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
