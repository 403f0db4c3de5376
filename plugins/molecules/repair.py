"""How much was repaired: what a molecule was before hydrogens, force fields and relaxation had their say.

A finisher makes molecules of nearly anything. What a generator itself has made shows in how far heavy atoms still move,
how many bonds change, and how strained the unrelaxed geometry is.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from numpy.typing import NDArray

from halberd.plugins.molecules.bonding import numbers_of, unbonded

#: Property that holds the coordinates of before; files do not get properties with an underscore.
_RAW = "_raw"


def note_repair(mol: Any, raw: Any) -> None:
    """Give a finished molecule the properties ``moved_A`` and ``bonds_changed``, and remember what it was.

    Parameters
    ----------
    mol : rdkit.Chem.Mol
        With a conformer, hydrogens included.
    raw : rdkit.Chem.Mol
        The same atoms in the same order, with the bonds that were chosen before anything was relaxed, and a conformer.
    """
    before = raw.GetConformer().GetPositions()
    numbers = numbers_of(raw)
    mol.SetDoubleProp("moved_A", heavy_rmsd(numbers, before, mol.GetConformer().GetPositions()))
    mol.SetDoubleProp("bonds_changed", bonds_changed(raw, mol))
    mol.SetProp(_RAW, json.dumps(before.tolist()))


def raw_molecule(mol: Any) -> Any:
    """A molecule that :func:`note_repair` has seen as it was before relaxation: atoms in their places, no bonds."""
    atoms = unbonded(numbers_of(mol), np.array(json.loads(mol.GetProp(_RAW)))).GetMol()
    atoms.UpdatePropertyCache(strict=False)
    return atoms


def heavy_rmsd(numbers: NDArray[np.int64], first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Root mean square distance of heavy atoms in two geometries, superposed, angstrom."""
    heavy = numbers > 1
    one, other = (Atoms(numbers[heavy], positions=each[heavy]) for each in (first, second))
    minimize_rotation_and_translation(one, other)
    return float(np.sqrt(((one.positions - other.positions) ** 2).sum(1).mean()))


def bonds_changed(first: Any, second: Any) -> float:
    """Share of bonds between heavy atoms that only one of two molecules has, or that have another order."""
    one, other = (_bonds(each) for each in (first, second))
    every = {*one, *other}
    return sum(one.get(pair) != other.get(pair) for pair in every) / len(every) if every else 0.0


def _bonds(mol: Any) -> dict[tuple[int, int], float]:
    numbers = numbers_of(mol)
    ends = [(bond, sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))) for bond in mol.GetBonds()]
    return {(i, j): float(bond.GetBondTypeAsDouble()) for bond, (i, j) in ends if numbers[i] > 1 and numbers[j] > 1}
