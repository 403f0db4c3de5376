"""Reference molecules: what generated atoms are compared with.

A set holds heavy-atom skeletons and how many hydrogens every atom carried. Descriptors are not kept: they are computed
for the model at hand, in seconds.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import ase.data
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from halberd.potentials.errors import DataError, did_you_mean
from halberd.potentials.files import replacing
from halberd.potentials.simgen.valence import hydrogen_parents

#: Name -> file in the package's ``data`` folder.
_SHIPPED = {"qm9": "references-qm9.npz", "qm9-small": "references-qm9-small.npz", "joined": "references-joined.npz"}
#: Angstrom. A hydrogen farther from every heavy atom belongs to none.
_LONGEST_HYDROGEN_BOND = 1.6


@dataclasses.dataclass(frozen=True)
class ReferenceSet:
    """Skeletons of reference molecules.

    Attributes
    ----------
    name : str
    numbers : tuple of int arrays, shape (n,)
        Atomic numbers, no hydrogen among them.
    positions : tuple of arrays, shape (n, 3), angstrom
    hydrogens : tuple of int arrays, shape (n,)
        Hydrogens that every atom carried.
    masks : tuple of bool arrays, shape (n,)
        Atoms to compare with; the others only shape environments.
    """

    name: str
    numbers: tuple[NDArray[np.int64], ...]
    positions: tuple[NDArray[np.float64], ...]
    hydrogens: tuple[NDArray[np.int64], ...]
    masks: tuple[NDArray[np.bool_], ...]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def n_atoms(self) -> int:
        """Atoms to compare with, all molecules together."""
        return int(sum(mask.sum() for mask in self.masks))

    @property
    def symbols(self) -> tuple[str, ...]:
        """Elements that occur, by atomic number."""
        return tuple(ase.data.chemical_symbols[z] for z in np.unique(np.concatenate(self.numbers)))

    @classmethod
    def from_atoms(
        cls, molecules: Iterable[Atoms], name: str = "references", masks: Sequence[NDArray[np.bool_]] | None = None
    ) -> ReferenceSet:
        """Strip molecules of their hydrogens and remember where these were.

        Parameters
        ----------
        molecules : iterable of ase.Atoms
            With hydrogens, in sensible geometries.
        name : str
        masks : sequence of bool arrays, optional
            Per molecule and heavy atom (in the order of the molecule): whether to compare with it. All if omitted.

        Raises
        ------
        DataError
            If there is no heavy atom, positions are not finite, a hydrogen belongs to nothing, or a mask does not
            fit.
        """
        numbers, positions, hydrogens, kept = [], [], [], []
        for k, atoms in enumerate(molecules):
            heavy = atoms.numbers > 1
            where = f"Molecule {k} ({atoms.get_chemical_formula()}) of reference set '{name}'"
            if not heavy.any():
                raise DataError(f"{where} has no heavy atom. Take it out.")
            if not np.isfinite(atoms.positions).all():
                raise DataError(f"{where} has positions that are not finite. Take it out.")
            parents, distances = hydrogen_parents(atoms.positions[~heavy], atoms.positions[heavy])
            if distances.max(initial=0.0) > _LONGEST_HYDROGEN_BOND:
                raise DataError(
                    f"{where} has a hydrogen {distances.max():.2f} angstrom from the nearest heavy atom. Mend the "
                    "geometry or take the molecule out."
                )
            counts = np.bincount(parents, minlength=int(heavy.sum()))
            mask = np.ones(len(counts), dtype=bool) if masks is None else np.asarray(masks[k], dtype=bool)
            if mask.shape != counts.shape:
                raise DataError(f"{where} has {len(counts)} heavy atoms, its mask {mask.shape}.")
            numbers.append(atoms.numbers[heavy].astype(np.int64))
            positions.append(atoms.positions[heavy].astype(np.float64))
            hydrogens.append(counts)
            kept.append(mask)
        if not kept or not any(mask.any() for mask in kept):
            raise DataError(f"Reference set '{name}' has no atom to compare with.")
        return cls(name, tuple(numbers), tuple(positions), tuple(hydrogens), tuple(kept))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the set as a compressed ``.npz`` file, positions to a thousandth of an angstrom.

        Raises
        ------
        OutputError
            If the place cannot be written.
        """
        with replacing(path) as temporary, open(temporary, "wb") as handle:
            np.savez_compressed(
                handle,
                name=np.array(self.name),
                sizes=np.array([len(each) for each in self.numbers]),
                numbers=np.concatenate(self.numbers).astype(np.uint8),
                positions=np.rint(np.concatenate(self.positions) * 1000).astype(np.int32),
                hydrogens=np.concatenate(self.hydrogens).astype(np.uint8),
                masks=np.concatenate(self.masks),
            )

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> ReferenceSet:
        """Read a set by the name of a shipped one, or from a file written by :meth:`save`.

        ``qm9`` (256 molecules drawn from QM9, 4 to 9 heavy atoms of C, N and O), ``qm9-small`` (its first 64) and
        ``joined`` (molecules of 10 to 20 heavy atoms, made by joining QM9 molecules and relaxing them) are shipped.

        Raises
        ------
        DataError
            If there is neither such a name nor such a file, or it holds something else.
        """
        path = Path(source)
        if str(source) in _SHIPPED:
            path = Path(str(resources.files("halberd.potentials") / "data" / _SHIPPED[str(source)]))
        if not path.is_file():
            raise DataError(
                f"There is no reference set '{source}'; shipped are {', '.join(_SHIPPED)}."
                f"{did_you_mean(str(source), _SHIPPED)} Or give a file of molecules."
            )
        try:
            with np.load(path) as data:
                cuts = np.cumsum(data["sizes"])[:-1]
                return cls(
                    str(data["name"]),
                    tuple(np.split(data["numbers"].astype(np.int64), cuts)),
                    tuple(np.split(data["positions"] / 1000.0, cuts)),
                    tuple(np.split(data["hydrogens"].astype(np.int64), cuts)),
                    tuple(np.split(data["masks"], cuts)),
                )
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"'{path}' is not a reference set of halberd: {error}.") from error


def shipped_references() -> tuple[str, ...]:
    """Names that :meth:`ReferenceSet.load` knows."""
    return tuple(_SHIPPED)
