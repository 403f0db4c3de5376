"""A fragment on the page: uploaded, with atoms to keep and places to grow from."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from halberd.plugins.molecules.bonding import (
    add_bonds,
    import_rdkit,
    numbers_of,
    perceive_molecule,
    sanitised,
    unbonded,
)
from halberd.plugins.molecules.files import read_bonded_all, read_molecules
from halberd.potentials.errors import ConfigurationError, DataError, GeometryError, HalberdError
from halberd.samplers.web.settings import MOST_BYTES, MOST_UPLOADED

#: Suffixes that are read.
READ = (".sdf", ".mol", ".pdb", ".xyz", ".extxyz")
#: angstrom, from an atom to where the first new one is wanted.
_REACH = 1.5
_LONGEST_NAME = 80
#: angstrom. Closer atoms are one, or nonsense; farther ones are no fragment.
_CLOSEST, _FARTHEST = 0.3, 100.0


@dataclasses.dataclass(frozen=True)
class Fragment:
    """Atoms with bonds, if they are known, and what is to be done with them.

    Attributes
    ----------
    name : str
        Of the file; shown, never used as a path.
    numbers : array of int, shape (n,)
    positions : array, shape (n, 3), angstrom
    bonds : dict or None
        Pair (i, j), i < j, -> order 1, 2 or 3; ``None`` if they could not be told.
    kept : tuple of int
        Heavy atoms that every molecule is to hold.
    anchors : tuple of int
        Those of them to grow from.
    """

    name: str
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    bonds: dict[tuple[int, int], int] | None
    kept: tuple[int, ...] = ()
    anchors: tuple[int, ...] = ()

    @property
    def heavy(self) -> list[int]:
        """Indices of all atoms that are not hydrogen."""
        return np.nonzero(self.numbers > 1)[0].tolist()

    @property
    def molecule(self) -> Any:
        """A whole molecule as RDKit has it; ``None`` if bonds are not known, or leave valences open."""
        mol = self.bonded
        return None if mol is None or any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()) else mol

    @property
    def bonded(self) -> Any:
        """As RDKit has it, sanitised; ``None`` if bonds are not known, or make none."""
        if self.bonds is None:
            return None
        editable = unbonded(self.numbers, self.positions)
        add_bonds(editable, self.bonds)
        return sanitised(editable)

    def chosen(self, kept: Sequence[int], anchors: Sequence[int]) -> Fragment:
        """The same with other atoms to keep and to grow from.

        Raises
        ------
        ConfigurationError
            If an index is none of a heavy atom, or an atom to grow from is not kept.
        """
        heavy = set(self.heavy)
        wrong = sorted({*kept, *anchors} - heavy)
        if wrong:
            raise ConfigurationError(f"Atom {wrong[0] + 1} is no heavy atom of the fragment.")
        loose = sorted(set(anchors) - set(kept))
        if loose:
            raise ConfigurationError(f"Atom {loose[0] + 1} is to be grown from, but is not kept.")
        return dataclasses.replace(self, kept=tuple(sorted(set(kept))), anchors=tuple(dict.fromkeys(anchors)))

    def chosen_as(self, before: Fragment) -> Fragment:
        """The same with the choice of another of the same atoms in the same order, hydrogens behind them left out."""
        if not np.array_equal(self.numbers[: len(before.numbers)], before.numbers):
            return self
        return self.chosen(before.kept, before.anchors)

    def near(self, index: int) -> list[int]:
        """Atoms bonded to one."""
        return [j if i == index else i for i, j in self.bonds or {} if index in (i, j)]

    def outlet(self, index: int) -> NDArray[np.float64]:
        """Where the first new atom at an atom is wanted, shape (3,), angstrom.

        In the place of a heavy neighbour that is not kept, else of a hydrogen, else away from the neighbours.
        """
        around, here = self.near(index), self.positions[index]
        gone = [k for k in around if self.numbers[k] > 1 and k not in self.kept]
        places = [*gone, *(k for k in around if self.numbers[k] == 1)]
        away = np.zeros(3)
        if places:
            away = self.positions[places[0]] - here
        elif around:
            away = here - self.positions[around].mean(axis=0)
        length = np.linalg.norm(away)
        return np.asarray(here + _REACH * (away / length if length > 1e-3 else np.array([0.0, 0.0, 1.0])))

    def write_scaffold(self, path: Path) -> None:
        """Write what is kept as the SDF file that generation takes, with a dummy atom at every place to grow from.

        Raises
        ------
        ConfigurationError
            If bonds are not known.
        """
        if self.bonds is None:
            raise ConfigurationError(
                f"Bonds of '{self.name}' are not known, as its hydrogens are not all there: hydrogenate it first, or "
                "upload an SDF file with bonds."
            )
        Chem = import_rdkit()
        stay = set(self.kept)
        stay |= {k for k in np.nonzero(self.numbers == 1)[0].tolist() if set(self.near(k)) & stay}
        order = sorted(stay)
        place = {old: new for new, old in enumerate(order)}
        marks = [self.outlet(index) for index in self.anchors]
        numbers = np.concatenate([self.numbers[order], np.zeros(len(marks), dtype=np.int64)])
        positions = np.concatenate([self.positions[order], np.reshape(marks, (-1, 3))])
        editable = unbonded(numbers, positions)
        add_bonds(editable, {(place[i], place[j]): o for (i, j), o in self.bonds.items() if {i, j} <= stay})
        path.write_text(Chem.MolToMolBlock(editable.GetMol(), kekulize=False) + "$$$$\n", encoding="utf-8")

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` takes."""
        return {
            "name": self.name,
            "symbols": [chemical_symbols[z] for z in self.numbers],
            "positions": self.positions.round(4).tolist(),
            "bonds": None if self.bonds is None else [[i, j, order] for (i, j), order in self.bonds.items()],
            "kept": list(self.kept),
            "anchors": list(self.anchors),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Fragment:
        """Of what :meth:`to_json` gave."""
        return cls(
            name=data["name"],
            numbers=np.array([chemical_symbols.index(symbol) for symbol in data["symbols"]], dtype=np.int64),
            positions=np.array(data["positions"], dtype=np.float64).reshape(-1, 3),
            bonds=None if data["bonds"] is None else {(i, j): order for i, j, order in data["bonds"]},
            kept=tuple(data["kept"]),
            anchors=tuple(data["anchors"]),
        )

    @classmethod
    def from_molecule(cls, mol: Any, name: str) -> Fragment:
        """Of a molecule with bonds and a conformer; everything is kept."""
        Chem = import_rdkit()
        mol = Chem.Mol(mol)
        try:
            Chem.Kekulize(mol, clearAromaticFlags=True)
        except Chem.KekulizeException as error:
            raise DataError(f"Aromatic bonds of '{name}' cannot be resolved: {error}") from error
        bonds = {}
        for bond in mol.GetBonds():
            i, j = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
            bonds[i, j] = max(1, min(3, round(bond.GetBondTypeAsDouble())))
        made = cls(name, numbers_of(mol), mol.GetConformer().GetPositions(), bonds)
        return dataclasses.replace(made, kept=tuple(made.heavy))

    @classmethod
    def from_upload(cls, name: str, data: bytes) -> Fragment:
        """Read a file that somebody sent.

        Parameters
        ----------
        name : str
            Its suffix tells the format; nothing else of it is used but to be shown.
        data : bytes

        Raises
        ------
        DataError, GeometryError
            If it is empty, too large, no text, of another format, damaged, or holds too many atoms, none, or charges.
        """
        shown = "".join(c for c in PurePosixPath(name.replace("\\", "/")).name if c.isprintable())[-_LONGEST_NAME:]
        suffix = PurePosixPath(shown).suffix.lower()
        if suffix not in READ:
            raise DataError(f"'{shown}' is of no format that is read here; there are {', '.join(READ)}.")
        text = _text_of(shown, data)
        with tempfile.TemporaryDirectory(prefix="halberd-") as folder:
            file = Path(folder) / f"upload{suffix}"
            file.write_text(text, encoding="utf-8")
            try:
                made = cls._from_file(file, shown)
            except HalberdError as error:
                raise type(error)(str(error).replace(str(file), shown)) from None
        _check(made)
        return made

    @classmethod
    def _from_file(cls, file: Path, name: str) -> Fragment:
        if file.suffix in (".sdf", ".mol"):
            mol, *others = read_bonded_all(file)
            name += f" (first of {1 + len(others)})" if others else ""
            if not mol.GetNumAtoms() or not mol.GetNumConformers() or not mol.GetConformer().Is3D():
                raise DataError(f"'{name}' has no coordinates in three dimensions.")
            charged = [atom for atom in mol.GetAtoms() if atom.GetFormalCharge()]
            if charged:
                raise DataError(
                    f"'{name}' holds a charge on atom {charged[0].GetIdx() + 1} ({charged[0].GetSymbol()}). Atoms here "
                    "are neutral: ions are to be neutralised, and nitro groups and the like cannot be taken."
                )
            if not all(atom.GetAtomicNum() for atom in mol.GetAtoms()):
                raise DataError(f"'{name}' holds dummy atoms; mark places to grow from on the page instead.")
            return cls.from_molecule(mol, name)
        if file.suffix != ".pdb":
            _check_count(file, name)
        atoms, *others = read_molecules(file)
        name += f" (first of {1 + len(others)})" if others else ""
        if len(atoms) > MOST_UPLOADED:  # before bonds are looked for
            raise DataError(_too_many(name, len(atoms)))
        mol = perceive_molecule(atoms.numbers, atoms.positions)
        if mol is not None:
            return cls.from_molecule(mol, name)
        made = cls(name, np.asarray(atoms.numbers, dtype=np.int64), np.array(atoms.positions), None)
        return dataclasses.replace(made, kept=tuple(made.heavy))


def _text_of(name: str, data: bytes) -> str:
    if not data.strip():
        raise DataError(f"'{name}' is empty.")
    if len(data) > MOST_BYTES:
        raise DataError(f"'{name}' has more than {MOST_BYTES // 1000} kB; send the fragment alone.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"'{name}' is no text file.")
    return text


def _check_count(file: Path, name: str) -> None:
    """Readers of XYZ trust its first line, whatever number it is."""
    first = next(iter(file.read_text(encoding="utf-8").split()), "")
    if first.isdecimal() and len(first) < 10:
        if int(first) > MOST_UPLOADED:
            raise DataError(_too_many(name, int(first)))
    else:
        raise DataError(f"'{name}' is no XYZ file: it does not begin with a number of atoms.")


def _too_many(name: str, count: int) -> str:
    return f"'{name}' holds {count} atoms; {MOST_UPLOADED} are the most. Send the fragment alone."


def _check(made: Fragment) -> None:
    if len(made.numbers) > MOST_UPLOADED:
        raise DataError(_too_many(made.name, len(made.numbers)))
    if not made.heavy:
        raise DataError(f"'{made.name}' holds no heavy atom.")
    if not np.isfinite(made.positions).all() or np.abs(made.positions).max() > _FARTHEST:
        raise GeometryError(
            f"'{made.name}' has positions that are not finite, or farther than {_FARTHEST:g} angstrom from the origin."
        )
    distances = np.linalg.norm(made.positions[:, None] - made.positions[None], axis=2)
    close = np.argwhere(np.triu(distances < _CLOSEST, 1))
    if len(close):
        i, j = close[0]
        raise GeometryError(f"Atoms {i + 1} and {j + 1} of '{made.name}' are {distances[i, j]:.2f} angstrom apart.")
