"""What is left of a run that explodes: a clear message, and the last frame that was in order."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
import openmm
from ase import Atoms
from openmm import app, unit

from halberd.plugins.forces.topology import describe_atoms, symbols_of
from halberd.potentials.constants import EV_PER_ANGSTROM_IN_KJ_PER_MOL_NM, NM_IN_ANGSTROM
from halberd.potentials.errors import HalberdError, OutputError, StabilityError
from halberd.potentials.files import replacing
from halberd.samplers.md.stability import StabilityCheck

#: What OpenMM, torch and numpy say of numbers that are none; "nanometer" is not among it.
_NOT_FINITE = re.compile(r"\bnan\b|not finite|\binfinit|\binf\b|non-finite", re.IGNORECASE)


class LastGood:
    """Keeps the last good positions of a simulation.

    Parameters
    ----------
    simulation : openmm.app.Simulation
    folder : path
        Where ``last_good.extxyz`` goes.
    periodic : bool
    check : StabilityCheck, optional
        What else must hold of a good frame.
    """

    def __init__(
        self, simulation: app.Simulation, folder: Path, periodic: bool, check: StabilityCheck | None = None
    ) -> None:
        self._simulation = simulation
        self._folder = folder
        self._periodic = periodic
        self._check = check
        self._keep(*self._state())
        self._any = check is None

    def remember(self, energy: float | None = None, thorough: bool = True) -> None:
        """Keep the positions if they and the velocities are good; find out early if they are not.

        Parameters
        ----------
        energy : float, optional
            Total energy, kJ/mol, if it is known.
        thorough : bool
            Look at distances, too, as before a checkpoint. Otherwise that is done now and then, and frames are not kept
            where it is not.

        Raises
        ------
        StabilityError
            Names atoms.
        """
        positions, velocities, box = self._state()
        if self._check is not None:
            self._check.check_motion(velocities)
            self._check.check_energy(energy)
            cell = box if self._periodic else None
            if not self._check.check_distances(self._simulation.currentStep, positions, cell, thorough):
                return
        self._keep(positions, velocities, box)
        self._any = True

    def _state(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        state = self._simulation.context.getState(positions=True, velocities=True)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        velocities = state.getVelocities(asNumpy=True)._value
        for values, what in ((positions, "Positions"), (velocities, "Velocities")):
            if not np.isfinite(values).all():
                raise_not_finite(self._simulation.topology, values, "the run", what)
        return positions, velocities, state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)

    def _keep(self, positions: np.ndarray, velocities: np.ndarray, box: np.ndarray) -> None:
        self.positions = np.array(positions)
        self.velocities = np.array(velocities)
        self.box = box
        self.step = self._simulation.currentStep

    @contextlib.contextmanager
    def naming_atoms(self) -> Iterator[None]:
        """Turn an explosion into a StabilityError that names atoms, and leave the last good frame behind.

        Raises
        ------
        StabilityError
            If a position, energy or force is no number.
        OutputError
            If a file could not be written.
        """
        try:
            yield
        except OSError as error:
            if isinstance(error, HalberdError):
                raise
            raise OutputError(
                f"Cannot write to '{self._folder}': {error.strerror or error}. Make room or mend it, then go on from "
                "the last checkpoint with --restart."
            ) from error
        except (openmm.OpenMMException, ValueError, StabilityError) as error:
            text = str(error)
            if not isinstance(error, StabilityError) and not _NOT_FINITE.search(text):
                raise
            detail = text[text.rindex("halberd:") + 8 :].strip() if "halberd:" in text else text.split(" For more")[0]
            detail = detail[:1].lower() + detail[1:] if isinstance(error, StabilityError) else detail
            if not self._any:
                raise StabilityError(f"The run cannot start: {detail} {self._suspects()}Mend the structure.") from error
            raise StabilityError(
                f"The run exploded at step {self._simulation.currentStep}: {detail} {self._suspects()}"
                f"The last good frame (step {self.step}) is in '{self._write()}'."
            ) from error

    def _suspects(self) -> str:
        """Name the atoms behind an explosion: those whose forces are worst in the last good frame.

        By the time positions are not finite, all are: the centre-of-mass correction spreads them.
        """
        try:
            context = self._simulation.context
            context.setPositions(self.positions)
            forces = context.getState(forces=True).getForces(asNumpy=True)._value
        except openmm.OpenMMException:
            return ""
        symbols = symbols_of(self._simulation.topology)
        bad = np.nonzero(~np.isfinite(forces).all(axis=1))[0]
        if len(bad):
            return f"Forces are not finite on atoms {describe_atoms(symbols, bad)}. "
        with np.errstate(over="ignore"):
            sizes = np.linalg.norm(forces, axis=1) / EV_PER_ANGSTROM_IN_KJ_PER_MOL_NM
        worst = np.argsort(sizes)[::-1][:3]
        return (
            f"The largest forces before it, up to {sizes[worst[0]]:.3g} eV/angstrom, were on atoms "
            f"{describe_atoms(symbols, worst)}. "
        )

    def _write(self) -> Path:
        path = self._folder / "last_good.extxyz"
        atoms = Atoms(symbols_of(self._simulation.topology), positions=self.positions * NM_IN_ANGSTROM)
        if self._periodic:
            atoms.set_cell(self.box * NM_IN_ANGSTROM)
            atoms.pbc = True
        with replacing(path) as temporary:
            ase.io.write(temporary, atoms, format="extxyz")
        return path


def raise_not_finite(topology: app.Topology, values: np.ndarray, where: str, what: str = "Positions") -> None:
    """Raise a StabilityError that names the atoms whose positions or velocities are not finite."""
    bad = np.nonzero(~np.isfinite(values).all(axis=1))[0]
    symbols = symbols_of(topology)
    raise StabilityError(
        f"{what} in {where} are not finite for {len(bad)} of {len(symbols)} atoms: {describe_atoms(symbols, bad)}."
    )
