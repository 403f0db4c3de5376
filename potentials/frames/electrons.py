"""What a structure says of its electrons, which reference calculations need and potentials ignore."""

from __future__ import annotations

from ase import Atoms

#: Per atom, as ASE keeps them, and of the whole, as keys of ``info``.
ARRAYS = ("initial_charges", "initial_magmoms")
INFO = ("charge", "spin", "multiplicity")


def bare(atoms: Atoms, like: Atoms | None = None) -> Atoms:
    """A structure without labels or anything else but its electrons.

    Parameters
    ----------
    atoms : ase.Atoms
    like : ase.Atoms, optional
        The structure, of as many atoms, that says the charges and moments; ``atoms`` itself if omitted.

    Returns
    -------
    ase.Atoms
        With initial charges and magnetic moments, and ``charge``, ``spin`` and ``multiplicity``, where they are given.
    """
    source = atoms if like is None else like
    plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    for name in ARRAYS:
        if name in source.arrays:
            plain.set_array(name, source.arrays[name].copy())
    plain.info.update({key: source.info[key] for key in INFO if key in source.info})
    return plain
