"""Fragments that generated molecules are built around, and that do not move."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from halberd.plugins.molecules.bonding import heavy_bonds, numbers_of, perceive_molecule
from halberd.plugins.molecules.files import read_bonded, read_molecules
from halberd.potentials.errors import DataError, GeometryError
from halberd.potentials.simgen.valence import VALENCE

#: Atoms closer than this part of the sum of their covalent radii clash.
_CLASH = 0.6


@dataclasses.dataclass(frozen=True)
class Scaffold:
    """Heavy atoms with bonds among them, their hydrogens, and where new atoms should attach.

    Attributes
    ----------
    numbers : array of int, shape (s,)
        Atomic numbers of the heavy atoms.
    positions : array, shape (s, 3), angstrom
    bonds : dict
        Pair (i, j), i < j, -> order.
    hydrogens : tuple of arrays, shape (h, 3), angstrom
        Places of the hydrogens of each heavy atom.
    anchors : array, shape (a, 3), angstrom
        Marks of places to grow from (dummy atoms of the file); may be empty.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    bonds: dict[tuple[int, int], int]
    hydrogens: tuple[NDArray[np.float64], ...]
    anchors: NDArray[np.float64]

    def known_bonds(self, shift: int) -> dict[tuple[int, int], int]:
        """Orders of all pairs of scaffold atoms, 0 where there is no bond, with indices moved up."""
        n = len(self.numbers)
        return {(i + shift, j + shift): self.bonds.get((i, j), 0) for i in range(n) for j in range(i + 1, n)}

    def is_part_of(self, mol: Any, first: int) -> bool:
        """Whether the heavy atoms from ``first`` on are bonded among themselves as in the scaffold."""
        n = len(self.numbers)
        for i in range(n):
            for j in range(i + 1, n):
                bond = mol.GetBondBetweenAtoms(first + i, first + j)
                if (bond is not None) != ((i, j) in self.bonds):
                    return False
        return True

    @property
    def open_valences(self) -> int:
        """Bonds that new atoms may form: hydrogens that may be replaced, and valences that nothing fills."""
        taken = np.zeros(len(self.numbers), dtype=int)
        for (i, j), order in self.bonds.items():
            taken[[i, j]] += order
        return int(sum(VALENCE[int(z)] for z in self.numbers) - taken.sum())

    @classmethod
    def from_file(cls, path: str) -> Scaffold:
        """Read a fragment, or several, from the first molecule of a file.

        Parameters
        ----------
        path : str
            SDF and MOL files bring bonds; dummy atoms (``*``) in them mark where to grow from. Of other files bonds
            are perceived, fragment by fragment, and all hydrogens must be there.

        Raises
        ------
        DataError
            If the file cannot be read, holds charges, or bonds cannot be perceived.
        GeometryError
            If atoms clash or positions are not finite.
        """
        if str(path).lower().endswith((".sdf", ".mol")):
            return cls._from_mol(read_bonded(path), str(path))
        atoms = read_molecules(path)[0]
        _check_geometry(atoms.numbers, atoms.positions, str(path))
        pieces = [perceive_molecule(atoms.numbers[piece], atoms.positions[piece]) for piece in _pieces(atoms)]
        if any(piece is None for piece in pieces):
            raise DataError(
                f"Bonds of scaffold '{path}' cannot be perceived: with its hydrogens it must be a neutral molecule, or "
                "several. Give an SDF file with bonds instead."
            )
        from rdkit import Chem

        whole = pieces[0]
        for piece in pieces[1:]:
            whole = Chem.CombineMols(whole, piece)
        return cls._from_mol(whole, str(path))

    @classmethod
    def _from_mol(cls, mol: Any, origin: str) -> Scaffold:
        from rdkit import Chem

        charged = [atom for atom in mol.GetAtoms() if atom.GetFormalCharge()]
        if charged:
            raise DataError(
                f"Scaffold '{origin}' holds a charge on atom {charged[0].GetIdx() + 1} ({charged[0].GetSymbol()}); "
                "halberd generates neutral molecules. Neutralise it."
            )
        if not mol.GetNumConformers() or not mol.GetConformer().Is3D():
            raise DataError(f"Scaffold '{origin}' has no coordinates in three dimensions.")
        mol = Chem.Mol(mol)
        try:
            Chem.Kekulize(mol, clearAromaticFlags=True)
        except Chem.KekulizeException as error:
            raise DataError(f"Aromatic bonds of scaffold '{origin}' cannot be resolved: {error}") from error
        positions = mol.GetConformer().GetPositions()
        numbers = numbers_of(mol)
        real = numbers > 0
        _check_geometry(numbers[real], positions[real], origin)
        heavy, bonds = heavy_bonds(mol)
        if not len(heavy):
            raise DataError(f"Scaffold '{origin}' has no heavy atom.")
        unknown = sorted({chemical_symbols[z] for z in numbers[heavy] if int(z) not in VALENCE})
        if unknown:
            raise DataError(f"Scaffold '{origin}' holds {', '.join(unknown)}, whose valence halberd does not know.")
        place = {int(atom): k for k, atom in enumerate(heavy)}
        hydrogens = [np.zeros((0, 3)) for _ in heavy]
        for bond in mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            for parent, light in ((i, j), (j, i)):
                if parent in place and numbers[light] == 1:
                    hydrogens[place[parent]] = np.concatenate([hydrogens[place[parent]], positions[light][None]])
        return cls(numbers[heavy], positions[heavy], bonds, tuple(hydrogens), positions[numbers == 0])


def _pieces(atoms: Any) -> list[NDArray[np.int64]]:
    """Atoms of each fragment, by distances."""
    from scipy.sparse.csgraph import connected_components

    radii = covalent_radii[atoms.numbers]
    bonded = atoms.get_all_distances() < 1.25 * (radii[:, None] + radii[None])
    labels = connected_components(bonded, directed=False)[1]
    return [np.nonzero(labels == label)[0] for label in range(labels.max() + 1)]


def _check_geometry(numbers: NDArray[np.int64], positions: NDArray[np.float64], origin: str) -> None:
    if not np.isfinite(positions).all():
        raise GeometryError(f"Scaffold '{origin}' has positions that are not finite.")
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    radii = covalent_radii[numbers]
    close = np.triu(distances < _CLASH * (radii[:, None] + radii[None]), 1)
    if close.any():
        i, j = np.argwhere(close)[0]
        raise GeometryError(
            f"Atoms {i + 1} ({chemical_symbols[numbers[i]]}) and {j + 1} ({chemical_symbols[numbers[j]]}) of scaffold "
            f"'{origin}' are {distances[i, j]:.2f} angstrom apart: they clash. Relax it first."
        )
