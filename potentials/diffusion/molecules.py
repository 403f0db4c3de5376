"""Molecules to learn from: complete graphs, made when they are wanted."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import ase.data
import numpy as np
import torch
from ase import Atoms

from halberd.potentials.errors import DataError
from halberd.potentials.sites.block_list import all_pairs
from halberd.potentials.training.graphs import CLOSEST


@dataclasses.dataclass(frozen=True)
class Molecules:
    """Molecules side by side, every one with its centre at the origin.

    Attributes
    ----------
    species : tensor, int64, shape (N,)
    positions : tensor, shape (N, 3), angstrom
    edge_index : tensor, int64, shape (2, E)
        All pairs of atoms of one molecule, both directions.
    frame : tensor, int64, shape (N,)
        Which of the M molecules an atom belongs to.
    n_atoms : tensor, int64, shape (M,)
    """

    species: torch.Tensor
    positions: torch.Tensor
    edge_index: torch.Tensor
    frame: torch.Tensor
    n_atoms: torch.Tensor

    @property
    def n_frames(self) -> int:
        """M."""
        return len(self.n_atoms)

    def to(self, device: torch.device | str, dtype: torch.dtype, labels: torch.dtype | None = None) -> Molecules:
        """Elsewhere; positions in the precision of labels, if that is another."""
        return Molecules(
            self.species.to(device),
            self.positions.to(device, labels or dtype),
            self.edge_index.to(device),
            self.frame.to(device),
            self.n_atoms.to(device),
        )


class MoleculeSet:
    """Molecules of some elements.

    Parameters
    ----------
    molecules : sequence of ase.Atoms
    atomic_numbers : sequence of int
        Of the species.

    Raises
    ------
    DataError
        If there are none, or one is a single atom, is periodic, has two atoms at one place, coordinates that are no
        numbers, or an element that is not among the species; names it.

    Attributes
    ----------
    n_edges : list of int
    """

    def __init__(self, molecules: Sequence[Atoms], atomic_numbers: Sequence[int]) -> None:
        if not len(molecules):
            raise DataError("There are no molecules to train on, or none to validate on. Give more.")
        species = np.full(len(ase.data.chemical_symbols), -1)
        species[list(atomic_numbers)] = np.arange(len(atomic_numbers))
        self._species, self._positions = [], []
        self._hydrogen = int(species[1])
        for number, atoms in enumerate(molecules):
            _check(number, atoms, species)
            self._species.append(torch.from_numpy(species[atoms.numbers]))
            self._positions.append(torch.from_numpy(atoms.positions - atoms.positions.mean(axis=0)))
        self.n_edges = [len(each) * (len(each) - 1) for each in self._species]

    def __len__(self) -> int:
        return len(self._species)

    def __getitem__(self, number: int) -> Molecules:
        species = self._species[number]
        count = len(species)
        return Molecules(
            species,
            self._positions[number],
            torch.stack(all_pairs(count)),
            torch.zeros(count, dtype=torch.int64),
            torch.tensor([count]),
        )

    @property
    def sizes(self) -> list[int]:
        """Atoms of every molecule."""
        return [len(each) for each in self._species]

    def size_table(self) -> dict[tuple[int, int], int]:
        """How many molecules have so many heavy atoms, and so many atoms in all."""
        heavy = [int((each != self._hydrogen).sum()) for each in self._species]
        return dict(collections.Counter(zip(heavy, self.sizes, strict=True)))

    def sigma_data(self) -> float:
        """Standard deviation of all coordinates, angstrom."""
        squares = sum(float(each.square().sum()) for each in self._positions)
        return (squares / sum(each.numel() for each in self._positions)) ** 0.5

    def neighbours(self) -> float:
        """Average number of other atoms in an atom's molecule."""
        return sum(self.n_edges) / sum(self.sizes)


def _check(number: int, atoms: Atoms, species: np.ndarray) -> None:
    which = f"Molecule {number} (counted from 0)"
    if len(atoms) < 2 or atoms.pbc.any():
        raise DataError(f"{which} is {'periodic' if atoms.pbc.any() else 'a single atom'}. Leave it out.")
    unknown = sorted({int(z) for z in atoms.numbers if species[z] < 0})
    if unknown:
        symbols = ", ".join(ase.data.chemical_symbols[z] for z in unknown)
        raise DataError(f"{which} holds {symbols}, which is not among the elements of the model. Leave it out.")
    if not np.isfinite(atoms.positions).all():
        raise DataError(f"{which} has positions that are no numbers. Leave it out.")
    distances = atoms.get_all_distances()[np.triu_indices(len(atoms), 1)]
    if distances.min() < CLOSEST:
        raise DataError(f"{which} has two atoms {distances.min():.2f} angstrom apart. Leave it out.")
