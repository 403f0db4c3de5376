"""Structures between files, ASE and OpenMM."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import openmm
from ase import Atoms
from ase.cell import Cell
from openmm import app, unit

from halberd.potentials.constants import NM_IN_ANGSTROM
from halberd.potentials.errors import (
    ConfigurationError,
    DataError,
    GeometryError,
    UnknownElementError,
)
from halberd.potentials.frames.images import read_images


def topology_from_atoms(atoms: Atoms) -> tuple[app.Topology, np.ndarray]:
    """Make an OpenMM topology and positions from an ASE structure.

    Parameters
    ----------
    atoms : ase.Atoms
        Periodic in three directions or none. The cell may have any orientation and shape.

    Returns
    -------
    topology : openmm.app.Topology
        One residue, no bonds: a learned potential needs none, and without bonds a barostat scales atoms one by one,
        as a reactive model wants.
    positions : array, shape (N, 3), nm
        Turned into OpenMM's orientation of the box where the cell asks for it.

    Raises
    ------
    GeometryError
        If positions are not finite or the cell is degenerate.
    ConfigurationError
        If the structure is periodic in one or two directions.
    """
    check_positions(atoms)
    positions = atoms.positions.copy()
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    counts: dict[str, int] = {}
    for symbol in atoms.get_chemical_symbols():
        counts[symbol] = counts.get(symbol, 0) + 1
        topology.addAtom(f"{symbol}{counts[symbol]}", app.Element.getBySymbol(symbol), residue)
    if any(atoms.pbc):
        if not all(atoms.pbc):
            raise ConfigurationError(
                f"The structure is periodic along {[bool(p) for p in atoms.pbc]}; OpenMM knows all three directions "
                "or none. Make a slab or wire periodic everywhere, with vacuum between the images."
            )
        if not np.isfinite(atoms.cell.array).all() or atoms.cell.rank < 3 or not atoms.get_volume() > 1e-6:
            raise GeometryError(f"The cell {atoms.cell.array.tolist()} has no volume, or is no number.")
        # A left-handed cell and its negative span the same lattice; turning the negative mirrors nothing.
        handed = atoms.cell if atoms.cell.handedness > 0 else Cell(-atoms.cell.array)
        cell, rotation = handed.standard_form()
        positions = positions @ rotation.T
        vectors = app.internal.unitcell.reducePeriodicBoxVectors(
            [openmm.Vec3(*row) for row in np.tril(cell.array) / NM_IN_ANGSTROM] * unit.nanometer
        )
        topology.setPeriodicBoxVectors(vectors)
    return topology, positions / NM_IN_ANGSTROM


def read_structure(path: str | os.PathLike[str]) -> tuple[app.Topology, np.ndarray]:
    """Read a structure file for OpenMM.

    Parameters
    ----------
    path : path-like
        PDB and PDBx/mmCIF are read by OpenMM and keep their residues; everything else by ASE (last frame), and
        so are PDB files in which atom names repeat. A cell of 1 angstrom is the PDB's word for none.

    Returns
    -------
    topology : openmm.app.Topology
    positions : array, shape (N, 3), nm

    Raises
    ------
    DataError
        If the file is missing or cannot be read.
    GeometryError, ConfigurationError
        As :func:`topology_from_atoms`.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"Structure file '{file}' does not exist.")
    try:
        if file.suffix.lower() in (".pdb", ".pdbx"):
            with open(file, encoding="utf-8") as handle, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                pdb = (app.PDBFile if file.suffix.lower() == ".pdb" else app.PDBxFile)(handle)
            # OpenMM drops atoms whose names repeat within a residue; ASE, which is asked next, keeps them.
            if not any("duplicate atom" in str(warning.message) for warning in caught):
                _without_placeholder(pdb.topology)
                return pdb.topology, np.array(pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    except Exception as error:  # readers raise anything
        first = (str(error).strip().splitlines() or [""])[0]
        raise DataError(f"'{file}' cannot be read as a structure: {type(error).__name__}: {first}") from error
    topology, positions = topology_from_atoms(read_images(file, "-1")[0])
    if file.suffix.lower() == ".pdb":
        _without_placeholder(topology)
    return topology, positions


def _without_placeholder(topology: app.Topology) -> None:
    """Forget a cell of 1 angstrom, which files of the PDB hold where there is none (solution NMR, microscopy)."""
    vectors = topology.getPeriodicBoxVectors()
    if vectors is not None and np.allclose(vectors.value_in_unit(unit.angstrom), np.eye(3), atol=1e-6):
        topology.setPeriodicBoxVectors(None)


def symbols_of(topology: app.Topology) -> list[str]:
    """Chemical symbols of a topology's atoms; ``X`` for those without an element, as virtual sites are."""
    return [atom.element.symbol if atom.element else "X" for atom in topology.atoms()]


def check_positions(atoms: Atoms) -> None:
    """Raise if positions are not finite.

    Raises
    ------
    GeometryError
        Names the atoms.
    """
    bad = np.nonzero(~np.isfinite(atoms.positions).all(axis=1))[0]
    if len(bad):
        raise GeometryError(
            f"Positions of {len(bad)} atoms are not finite, the first are {describe_atoms(atoms.symbols, bad)}."
        )


def describe_atoms(symbols: object, indices: np.ndarray, most: int = 10) -> str:
    """Write atoms as ``12 (O), 13 (H)``, at most ten of them."""
    names = list(symbols)  # type: ignore[call-overload]
    text = ", ".join(f"{int(i)} ({names[int(i)]})" for i in indices[:most])
    return text + (" ..." if len(indices) > most else "")


def checked_atoms(atoms: Iterable[int], topology: app.Topology) -> list[int]:
    """Return atom indices as a list, checked against a topology.

    Raises
    ------
    ConfigurationError
        If there is none, one is out of range, or one comes twice.
    """
    indices = [int(atom) for atom in atoms]
    n_atoms = topology.getNumAtoms()
    if not indices:
        raise ConfigurationError("atoms is empty; name at least one atom.")
    outside = [atom for atom in indices if not 0 <= atom < n_atoms]
    if outside:
        raise ConfigurationError(f"atoms has index {outside[0]}, but the topology has {n_atoms} atoms, from 0.")
    if len(set(indices)) != len(indices):
        raise ConfigurationError("atoms names an atom twice.")
    return indices


def elements_of(topology: app.Topology, atoms: Sequence[int] | None = None) -> list[int]:
    """Atomic numbers of (some of) the atoms of a topology.

    Raises
    ------
    UnknownElementError
        If an atom has no element, as virtual sites have none.
    """
    every = list(topology.atoms())
    numbers = []
    for atom in every if atoms is None else [every[index] for index in atoms]:
        if atom.element is None:
            raise UnknownElementError(
                f"Atom {atom.index} ({atom.name} in residue {atom.residue.name}) has no element; virtual sites "
                "cannot be part of a learned region. Choose the real atoms with atoms=."
            )
        numbers.append(int(atom.element.atomic_number))
    return numbers
