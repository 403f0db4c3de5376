"""Molecules with bonds: from skeletons and geometries to RDKit, and back to ASE."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from halberd.potentials.errors import missing_dependency
from halberd.potentials.valence import MOST_HYDROGENS, VALENCE, Valences, assign_valences

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
    Chem = import_rdkit()
    orders = [None, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE]
    editable = Chem.RWMol()
    for number, count in zip(numbers, valences.hydrogens, strict=True):
        atom = Chem.Atom(int(number))
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(int(count))
        editable.AddAtom(atom)
    for (first, second), order in valences.bonds.items():
        editable.AddBond(int(first), int(second), orders[order])
    mol = editable.GetMol()
    conformer = Chem.Conformer(len(numbers))
    conformer.SetPositions(np.ascontiguousarray(positions, dtype=np.float64))
    mol.AddConformer(conformer)
    try:
        Chem.SanitizeMol(mol)
    except (Chem.MolSanitizeException, ValueError):
        return None
    return mol


def perceive_molecule(numbers: NDArray[np.int64], positions: NDArray[np.float64]) -> Any:
    """Find the bonds of a neutral closed-shell molecule from its geometry alone.

    Hydrogens belong to the nearest heavy atom; bonds and their orders fill what valences are left, the likeliest ones
    by their lengths (:func:`halberd.potentials.valence.assign_valences`).

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
    counts = np.zeros(len(heavy), dtype=np.int64)
    parents = np.zeros(0, dtype=np.int64)
    if len(light):
        distances = np.linalg.norm(positions[light][:, None] - positions[heavy][None], axis=2)
        if distances.min(axis=1).max() > LONGEST_HYDROGEN_BOND:
            return None
        parents = distances.argmin(axis=1)
        np.add.at(counts, parents, 1)
    if counts.max() > MOST_HYDROGENS:
        return None
    known = np.full((len(heavy), MOST_HYDROGENS + 1), -50.0)
    known[np.arange(len(heavy)), counts] = 0.0
    valences = assign_valences(numbers[heavy], positions[heavy], known)
    if valences is None or not np.array_equal(valences.hydrogens, counts) or not valences.is_connected():
        return None
    orders = [None, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE]
    editable = Chem.RWMol()
    for number in numbers:
        atom = Chem.Atom(int(number))
        atom.SetNoImplicit(True)
        editable.AddAtom(atom)
    for (first, second), order in valences.bonds.items():
        editable.AddBond(int(heavy[first]), int(heavy[second]), orders[order])
    for place, parent in zip(light, parents, strict=True):
        editable.AddBond(int(place), int(heavy[parent]), Chem.BondType.SINGLE)
    mol = editable.GetMol()
    conformer = Chem.Conformer(len(numbers))
    conformer.SetPositions(np.ascontiguousarray(positions))
    mol.AddConformer(conformer)
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


def atoms_of(mol: Any) -> Atoms:
    """An ASE structure of a molecule's first conformer, with its properties in ``info``."""
    atoms = Atoms([atom.GetAtomicNum() for atom in mol.GetAtoms()], positions=mol.GetConformer().GetPositions())
    atoms.info.update(mol.GetPropsAsDict())
    return atoms
