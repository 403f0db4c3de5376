"""Hydrogen mass repartitioning for systems without bonds: mass moves to a hydrogen from the heavy atom next to it."""

from __future__ import annotations

import numpy as np
import openmm
from ase import Atoms
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray
from openmm import app, unit

from halberd.plugins.forces.topology import symbols_of
from halberd.potentials.constants import NM_IN_ANGSTROM
from halberd.potentials.errors import ConfigurationError

#: Angstrom. A hydrogen farther from every heavy atom belongs to none and keeps its mass.
LONGEST_BOND = 1.5


def repartition_hydrogen_mass(
    system: openmm.System, topology: app.Topology, positions: NDArray[np.float64], mass: float
) -> int:
    """Make hydrogens heavier at the cost of the heavy atoms they are bound to; the total mass stays.

    Parameters
    ----------
    system : openmm.System
        Modified.
    topology : openmm.app.Topology
        Elements; its bonds are not used.
    positions : array, shape (N, 3), nm
        A hydrogen is bound to the nearest heavy atom, images included.
    mass : float, dalton
        Of hydrogens afterwards.

    Returns
    -------
    int
        Hydrogens that changed; those without a heavy atom within 1.5 angstrom do not.

    Raises
    ------
    ConfigurationError
        If a heavy atom would become lighter than its hydrogens.
    """
    if not mass > 0:
        raise ConfigurationError(f"hydrogen_mass is {mass}; it must be a positive mass in dalton.")
    box = topology.getPeriodicBoxVectors()
    atoms = Atoms(symbols_of(topology), np.asarray(positions) * NM_IN_ANGSTROM)
    if box is not None:
        atoms.set_cell(np.array(box.value_in_unit(unit.nanometer)) * NM_IN_ANGSTROM)
        atoms.pbc = True
    first, second, distances = neighbor_list("ijd", atoms, LONGEST_BOND)
    pairs = (atoms.numbers[first] == 1) & (atoms.numbers[second] > 1)
    parents: dict[int, int] = {}
    for k in np.argsort(distances[pairs])[::-1]:  # the nearest one comes last and stays
        parents[int(first[pairs][k])] = int(second[pairs][k])
    masses = {i: system.getParticleMass(i).value_in_unit(unit.dalton) for i in {*parents, *parents.values()}}
    for hydrogen, parent in parents.items():
        masses[parent] -= mass - masses[hydrogen]
        masses[hydrogen] = mass
    for parent in set(parents.values()):
        if masses[parent] < mass:
            raise ConfigurationError(
                f"With hydrogen_mass {mass}, atom {parent} ({atoms.symbols[parent]}) would be left with "
                f"{masses[parent]:.2f} dalton, less than a hydrogen. Choose a smaller one."
            )
    for atom, value in masses.items():
        system.setParticleMass(atom, value)
    return len(parents)
