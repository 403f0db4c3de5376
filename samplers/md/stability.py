"""When a run counts as blown up: limits on its temperature, its energy, and on distances between atoms.

An explosion need not end in numbers that are none: with too long a step a run may reach a million kelvin and go on. So
the frames that are remembered as good, and those that checkpoints are made of, are looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import openmm
import scipy.sparse
import scipy.stats
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from numpy.typing import NDArray
from openmm import app, unit

from halberd.plugins.forces.topology import describe_atoms, elements_of, symbols_of
from halberd.plugins.reporters.thermo import degrees_of_freedom
from halberd.potentials.constants import GAS_CONSTANT_KJ_PER_MOL_K, NM_IN_ANGSTROM
from halberd.potentials.errors import ConfigurationError, StabilityError
from halberd.potentials.frames.distance_guard import DistanceGuard
from halberd.potentials.validation import conform

#: K. Limits count from this temperature at least: a relaxation from rest heats up.
LEAST_TEMPERATURE = 300.0
#: Chance that thermal motion of a few atoms passes the limit in one look.
_CHANCE = 1e-15
#: Steps between looks at distances, which cost more than the others, where no checkpoint is written.
_DISTANCE_STRIDE = 250


@dataclasses.dataclass(frozen=True)
class StabilitySettings:
    """Limits beyond which a run has blown up; ``None`` leaves one out.

    Attributes
    ----------
    temperature : float, optional
        Largest kinetic temperature, in units of the highest temperature that is asked for (of 300 K at least).
        Few atoms, whose temperature fluctuates more, get more.
    energy : float, optional
        Largest change of the total energy of an NVE run, in units of kT per degree of freedom (of 300 K at least).
    distance : float, optional
        Smallest distance of two atoms, in units of their covalent bond length.
    bond : float, optional
        Longest that a bond of the structure file may become, in units of its length there. Not looked at by default:
        with a learned potential bonds may break by right.

    Raises
    ------
    ConfigurationError
        Names the value that makes no sense.
    """

    temperature: float | None = 10.0
    energy: float | None = 1.0
    distance: float | None = 0.5
    bond: float | None = None

    def __post_init__(self) -> None:
        conform(self)
        for name, least in (("temperature", 1.0), ("energy", 0.0), ("distance", 0.0), ("bond", 1.0)):
            value = getattr(self, name)
            if value is not None and not least < value < np.inf:
                raise ConfigurationError(
                    f"{name} of stability is {value}; it must be above {least:g}, or null to leave it out."
                )
        if self.distance is not None and self.distance >= 1.0:
            raise ConfigurationError(f"distance of stability is {self.distance}; it is a fraction of a bond, below 1.")


def fragments(atoms: Atoms) -> NDArray[np.int64]:
    """Sizes of the groups of atoms that hold together, largest first.

    Parameters
    ----------
    atoms : ase.Atoms

    Returns
    -------
    array of int
        Atoms of each group: neighbours are within 1.5 of their covalent bond length.
    """
    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.5))
    bonds = scipy.sparse.coo_array((np.ones(len(first)), (first, second)), shape=(len(atoms), len(atoms)))
    return np.sort(np.bincount(scipy.sparse.csgraph.connected_components(bonds)[1]))[::-1]


def remark_on_fragments(start: Atoms, end: Atoms) -> list[str]:
    """A sentence if a structure has come apart: an explosion that a thermostat has cooled looks like any gas.

    Parameters
    ----------
    start, end : ase.Atoms
    """
    before, after = fragments(start), fragments(end)
    if len(after) < 2 * len(before) or 2 * after[0] > before[0]:
        return []
    return [
        f"The structure has come apart: its largest group of neighbouring atoms had {before[0]} atoms, now it has "
        f"{after[0]}. If that is not meant, the timestep is too long, or the model does not hold here."
    ]


class StabilityCheck:
    """Looks at frames of one run.

    Parameters
    ----------
    settings : StabilitySettings
    system : openmm.System
    topology : openmm.app.Topology
    positions : array, shape (N, 3), nm
        Of the structure file, which bonds are compared with.
    temperature : float, K
        Highest that is asked for.
    conserves_energy : bool
        Whether the total energy must stay.
    """

    def __init__(
        self,
        settings: StabilitySettings,
        system: openmm.System,
        topology: app.Topology,
        positions: NDArray[np.float64],
        *,
        temperature: float,
        conserves_energy: bool,
    ) -> None:
        self.settings = settings
        self._symbols = symbols_of(topology)
        self._numbers = elements_of(topology)
        n = len(self._numbers)
        self._masses = np.array([system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(n)])
        self._freedom = degrees_of_freedom(system)
        self._reference = max(temperature, LEAST_TEMPERATURE)
        spread = float(scipy.stats.chi2.isf(_CHANCE, self._freedom)) / self._freedom
        self._hottest = np.inf
        if settings.temperature is not None:
            self._hottest = self._reference * max(settings.temperature, spread)
        self._conserves = conserves_energy and settings.energy is not None
        self.first_energy: float | None = None
        self._close: DistanceGuard | None = None
        if settings.distance is not None:
            self._close = DistanceGuard(self._numbers, fraction=settings.distance)
        self._looked_at: int | None = None
        self._bonds = np.zeros((0, 2), dtype=int)
        if settings.bond is not None:
            self._bonds = np.array([[a.index, b.index] for a, b in topology.bonds()], dtype=int).reshape(-1, 2)
        vectors = topology.getPeriodicBoxVectors()
        box = None if vectors is None else np.array(vectors.value_in_unit(unit.nanometer))
        self._lengths = self._bond_lengths(self._atoms(positions, box))

    def check_motion(self, velocities: NDArray[np.float64]) -> None:
        """Look at the temperature.

        Parameters
        ----------
        velocities : array, shape (N, 3), nm/ps

        Raises
        ------
        StabilityError
            Names the fastest atoms.
        """
        energies = self._masses * (velocities**2).sum(axis=1)  # twice the kinetic ones
        temperature = energies.sum() / (self._freedom * GAS_CONSTANT_KJ_PER_MOL_K)
        if not temperature <= self._hottest:
            worst = np.argsort(energies)[::-1][:3]
            raise StabilityError(
                f"its temperature is {temperature:.4g} K, above the limit of {self._hottest:.4g} K; the fastest atoms "
                f"are {describe_atoms(self._symbols, worst)}. A shorter timestep, or a relaxed start (minimize), may "
                "help; the limit is stability: {temperature: ...}."
            )

    def check_energy(self, energy: float | None) -> None:
        """Look at the total energy, kJ/mol, of a run that conserves it.

        Raises
        ------
        StabilityError
            If it has left its first value by too much.
        """
        if not self._conserves or energy is None:
            return
        if self.first_energy is None:
            self.first_energy = energy
        assert self.settings.energy is not None
        change = (energy - self.first_energy) / (self._freedom * GAS_CONSTANT_KJ_PER_MOL_K * self._reference)
        if not abs(change) <= self.settings.energy:
            raise StabilityError(
                f"its total energy has changed by {change:.3g} kT per degree of freedom, above the limit of "
                f"{self.settings.energy:g}, though NVE conserves it. Take a shorter timestep; the limit is stability: "
                "{energy: ...}."
            )

    def check_distances(
        self, step: int, positions: NDArray[np.float64], box: NDArray[np.float64] | None, always: bool = False
    ) -> bool:
        """Look at distances and bonds, unless that was done a few steps ago.

        Parameters
        ----------
        step : int
        positions : array, shape (N, 3), nm
        box : array, shape (3, 3), nm, or None
        always : bool
            Look in any case.

        Returns
        -------
        bool
            Whether it has looked.

        Raises
        ------
        StabilityError
            Names a pair of atoms.
        """
        if not always and self._looked_at is not None and 0 <= step - self._looked_at < _DISTANCE_STRIDE:
            return False
        self._looked_at = step
        atoms = self._atoms(positions, box)
        problem = None if self._close is None else self._close.violation(atoms)
        if problem is not None:
            raise StabilityError(f"{problem}. The limit is stability: {{distance: ...}}.")
        if len(self._bonds):
            self._check_bonds(atoms)
        return True

    def _atoms(self, positions: NDArray[np.float64], box: NDArray[np.float64] | None) -> Atoms:
        cell = None if box is None else box * NM_IN_ANGSTROM
        return Atoms(self._numbers, positions * NM_IN_ANGSTROM, cell=cell, pbc=box is not None)

    def _bond_lengths(self, atoms: Atoms) -> NDArray[np.float64]:
        vectors = atoms.positions[self._bonds[:, 1]] - atoms.positions[self._bonds[:, 0]]
        if atoms.pbc.any():
            fractional = vectors @ np.linalg.inv(atoms.cell.array)
            vectors = (fractional - np.rint(fractional)) @ atoms.cell.array
        return np.asarray(np.linalg.norm(vectors, axis=1))

    def _check_bonds(self, atoms: Atoms) -> None:
        lengths = self._bond_lengths(atoms)
        assert self.settings.bond is not None
        ratio = lengths / self._lengths
        worst = int(ratio.argmax())
        if ratio[worst] > self.settings.bond:
            pair: Sequence[int] = [int(i) for i in self._bonds[worst]]
            raise StabilityError(
                f"the bond between {describe_atoms(self._symbols, np.array(pair))} is {lengths[worst]:.2f} angstrom "
                f"long, {ratio[worst]:.1f} times its length in the structure file. The limit is stability: "
                "{bond: ...}."
            )
