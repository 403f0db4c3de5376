"""Molecules with bonds: from skeletons and geometries to RDKit, and back to ASE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from halberd.potentials.errors import missing_dependency
from halberd.potentials.simgen.valence import (
    MOST_HYDROGENS,
    VALENCE,
    Valences,
    assign_valences,
    certain_hydrogens,
    hydrogen_parents,
)

#: Angstrom. Hydrogens farther from every heavy atom are loose.
LONGEST_HYDROGEN_BOND = 1.3


def import_rdkit() -> Any:
    """RDKit's ``Chem`` module, with its log silenced.

    Raises
    ------
    MissingDependencyError
        If RDKit is not installed.
    """
    try:
        from rdkit import Chem, rdBase
    except ImportError:
        raise missing_dependency("rdkit", "molecules", "work with molecules") from None
    for level in ("debug", "info", "warning", "error"):
        rdBase.DisableLog(f"rdApp.{level}")
    return Chem


def unbonded(numbers: NDArray[np.int64], positions: NDArray[np.float64]) -> Any:
    """Atoms in their places without bonds or implicit hydrogens, as an ``RWMol`` to add bonds to.

    Parameters
    ----------
    numbers : array of int, shape (n,)
    positions : array, shape (n, 3), angstrom
    """
    Chem = import_rdkit()
    editable = Chem.RWMol()
    for number in numbers:
        atom = Chem.Atom(int(number))
        atom.SetNoImplicit(True)
        editable.AddAtom(atom)
    conformer = Chem.Conformer(len(numbers))
    conformer.SetPositions(np.ascontiguousarray(positions, dtype=np.float64))
    editable.AddConformer(conformer)
    return editable


def add_bonds(editable: Any, bonds: Mapping[tuple[int, int], int]) -> None:
    """Add bonds, pair of atoms -> order 1, 2 or 3, to an ``RWMol``."""
    kinds = import_rdkit().BondType
    orders = [None, kinds.SINGLE, kinds.DOUBLE, kinds.TRIPLE]
    for (first, second), order in bonds.items():
        editable.AddBond(int(first), int(second), orders[order])


def heavy_bonds(mol: Any) -> tuple[NDArray[np.int64], dict[tuple[int, int], int]]:
    """Heavy atoms of a Kekulised molecule, and the bonds among them.

    Returns
    -------
    heavy : array of int, shape (m,)
        Indices of the heavy atoms; dummy atoms are none.
    bonds : dict
        Pair (i, j), i < j, of places in ``heavy`` -> order.
    """
    heavy = np.nonzero(numbers_of(mol) > 1)[0]
    place = {int(index): k for k, index in enumerate(heavy)}
    bonds = {}
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if i in place and j in place:
            first, second = sorted((place[i], place[j]))
            bonds[first, second] = round(bond.GetBondTypeAsDouble())
    return heavy, bonds


def skeleton_molecule(numbers: NDArray[np.int64], positions: NDArray[np.float64], valences: Valences) -> Any:
    """A molecule of heavy atoms with bonds and hydrogens that are counted but not placed.

    Parameters
    ----------
    numbers : array of int, shape (n,)
    positions : array, shape (n, 3), angstrom
    valences : Valences

    Returns
    -------
    rdkit.Chem.Mol or None
        Sanitised, with a conformer; ``None`` if RDKit refuses it.
    """
    editable = unbonded(numbers, positions)
    for atom, count in zip(editable.GetAtoms(), valences.hydrogens, strict=True):
        atom.SetNumExplicitHs(int(count))
    add_bonds(editable, valences.bonds)
    return sanitised(editable)


def sanitised(editable: Any) -> Any:
    """The molecule of an ``RWMol``, ``None`` if RDKit refuses it."""
    Chem = import_rdkit()
    mol = editable.GetMol()
    try:
        Chem.SanitizeMol(mol)
    except (Chem.MolSanitizeException, ValueError):
        return None
    return mol


def perceive_molecule(numbers: NDArray[np.int64], positions: NDArray[np.float64]) -> Any:
    """Find the bonds of a neutral closed-shell molecule from its geometry alone.

    Hydrogens belong to the nearest heavy atom; bonds and their orders fill what valences are left, the likeliest ones
    by their lengths (:func:`halberd.potentials.simgen.valence.assign_valences`).

    Parameters
    ----------
    numbers : array of int, shape (n,)
        Atomic numbers, hydrogens included.
    positions : array, shape (n, 3), angstrom

    Returns
    -------
    rdkit.Chem.Mol or None
        With all atoms in the order they came, bonds, stereochemistry and a conformer. ``None`` if there is no such
        molecule, if it is in pieces, or if RDKit refuses it.
    """
    Chem = import_rdkit()
    numbers, positions = np.asarray(numbers), np.asarray(positions, dtype=np.float64)
    heavy, light = np.nonzero(numbers > 1)[0], np.nonzero(numbers == 1)[0]
    if not len(heavy) or not set(numbers.tolist()) <= set(VALENCE) or not np.isfinite(positions).all():
        return None
    parents, distances = hydrogen_parents(positions[light], positions[heavy])
    counts = np.bincount(parents, minlength=len(heavy))
    if distances.max(initial=0.0) > LONGEST_HYDROGEN_BOND or counts.max() > MOST_HYDROGENS:
        return None
    valences = assign_valences(numbers[heavy], positions[heavy], certain_hydrogens(counts))
    if valences is None or not np.array_equal(valences.hydrogens, counts) or not valences.is_connected():
        return None
    editable = unbonded(numbers, positions)
    add_bonds(editable, {(heavy[i], heavy[j]): order for (i, j), order in valences.bonds.items()})
    add_bonds(editable, dict.fromkeys(zip(light, heavy[parents], strict=True), 1))
    mol = editable.GetMol()
    try:
        Chem.SanitizeMol(mol)
        Chem.AssignStereochemistryFrom3D(mol)
    except (Chem.MolSanitizeException, ValueError, RuntimeError):
        return None
    return mol


def is_valid(mol: Any) -> bool:
    """Whether a molecule sanitises, is one piece, and has neither radicals nor charges."""
    Chem = import_rdkit()
    if mol is None:
        return False
    copy = Chem.Mol(mol)
    try:
        Chem.SanitizeMol(copy)
    except (Chem.MolSanitizeException, ValueError):
        return False
    if len(Chem.GetMolFrags(copy)) != 1:
        return False
    return all(not atom.GetNumRadicalElectrons() and not atom.GetFormalCharge() for atom in copy.GetAtoms())


def canonical_smiles(mol: Any) -> str:
    """Canonical SMILES without hydrogens and stereochemistry: which molecule this is."""
    return str(import_rdkit().MolToSmiles(without_hydrogens(mol)))


def without_hydrogens(mol: Any) -> Any:
    """The constitution of a molecule: heavy atoms with implicit hydrogens, no stereochemistry."""
    Chem = import_rdkit()
    copy = Chem.Mol(mol)
    # First: a hydrogen that defines the configuration of an imine would stay.
    Chem.RemoveStereochemistry(copy)
    return Chem.RemoveHs(copy)


def numbers_of(mol: Any) -> NDArray[np.int64]:
    """Atomic numbers of a molecule's atoms, shape (n,); 0 for dummy atoms."""
    return np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64)


def atoms_of(mol: Any) -> Atoms:
    """An ASE structure of a molecule's first conformer, with its properties in ``info``."""
    atoms = Atoms(numbers_of(mol), positions=mol.GetConformer().GetPositions())
    atoms.info.update(mol.GetPropsAsDict())
    return atoms
