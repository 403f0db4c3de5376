"""What a structure says of its electrons, which reference calculations need and potentials ignore."""

from __future__ import annotations

from ase import Atoms

#: Per atom, as ASE keeps them, and of the whole, as keys of ``info``.
ARRAYS = ("initial_charges", "initial_magmoms")
INFO = ("charge", "spin", "multiplicity")


def tell(atoms: Atoms, source: Atoms) -> None:
    """Give a structure the charges and moments of another one of as many atoms, in place.

    Parameters
    ----------
    atoms : ase.Atoms
        Gets initial charges and magnetic moments, and ``charge``, ``spin`` and ``multiplicity``, where they are given.
    source : ase.Atoms
    """
    for name in ARRAYS:
        if name in source.arrays:
            atoms.set_array(name, source.arrays[name].copy())
    atoms.info.update({key: source.info[key] for key in INFO if key in source.info})


def bare(atoms: Atoms, like: Atoms | None = None) -> Atoms:
    """A structure without labels or anything else but its electrons, see :func:`tell`.

    Parameters
    ----------
    atoms : ase.Atoms
    like : ase.Atoms, optional
        The structure, of as many atoms, that says the charges and moments; ``atoms`` itself if omitted.
    """
    plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    tell(plain, atoms if like is None else like)
    return plain
